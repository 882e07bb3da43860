import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import hydra
import jax
import pytest
import yaml

CONF = Path(__file__).parents[2] / "conf" / "model"
CLASSES = 10


@pytest.fixture(params=sorted(path.stem for path in CONF.glob("*.yaml")))
def name(request: pytest.FixtureRequest) -> str:
    """Every model of conf/model."""
    return request.param


@pytest.fixture(scope="session")
def build() -> Callable[..., eqx.Module]:
    """A model as its YAML file says, but for the sizes and what is overridden."""

    @functools.cache
    def maker(name: str, settings: str) -> Callable[..., eqx.Module]:
        config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        make = hydra.utils.instantiate(config | yaml.safe_load(settings), _convert_="all")
        # As one program: a model that is made operation by operation compiles each of them.
        return eqx.filter_jit(make)

    def build(
        name: str, input_shape: Sequence[int] = (8, 8), *, seed: int = 0, **overrides: Any
    ) -> eqx.Module:
        sizes = {"input_shape": list(input_shape), "output_size": CLASSES}
        return maker(name, yaml.safe_dump(sizes | overrides))(key=jax.random.key(seed))

    return build


@pytest.fixture(scope="session")
def built(build: Callable[..., eqx.Module]) -> Callable[..., eqx.Module]:
    """`build`, for tests that share a model; not under a trace."""
    return functools.cache(build)
