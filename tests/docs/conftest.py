import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from tests.launch.conftest import train as train


@pytest.fixture
def reader(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, standard_promotion: None
) -> Iterator[None]:
    """Run a page with JAX's default promotion, as a reader does.

    Afterwards `jax_enable_x64` is restored, and the modules that the page wrote are removed from
    `sys.modules`.
    """
    del standard_promotion
    monkeypatch.setenv("MPLBACKEND", "agg")
    x64 = jax.config.jax_enable_x64  # pyright: ignore[reportAttributeAccessIssue]
    with jax.numpy_rank_promotion("allow"):
        yield
    jax.config.update("jax_enable_x64", x64)
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the quick test of a page if the slow test of the whole page is selected."""
    whole = {item.nodeid for item in items if item.nodeid.endswith("-whole]")}
    parts = [item for item in items if item.nodeid.replace("]", "-whole]") in whole]
    if parts:
        config.hook.pytest_deselected(items=parts)
        items[:] = [item for item in items if item not in parts]
