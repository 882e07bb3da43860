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
OF_TOKENS = {"decoder"}
"""The models whose inputs are integers from 0 to `CLASSES` − 1."""


@pytest.fixture(params=sorted(path.stem for path in CONF.glob("*.yaml")))
def name(request: pytest.FixtureRequest) -> str:
    """The name of each model in `conf/model`."""
    return request.param


@pytest.fixture(scope="session")
def example() -> Callable[..., jax.ShapeDtypeStruct]:
    """Gives the shape and type of one input of a model: eight tokens, or an image."""

    def example(
        name: str, image: Sequence[int] = (8, 8), dtype: jax.typing.DTypeLike = "float32"
    ) -> jax.ShapeDtypeStruct:
        if name in OF_TOKENS:
            return jax.ShapeDtypeStruct((image[0],), "int32")
        return jax.ShapeDtypeStruct(tuple(image), dtype)

    return example


@pytest.fixture(scope="session")
def build(example: Callable[..., jax.ShapeDtypeStruct]) -> Callable[..., eqx.Module]:
    """Builds a model from its YAML file; the sizes and `overrides` replace values of the file."""

    @functools.cache
    def maker(name: str, settings: str) -> Callable[..., eqx.Module]:
        config = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        make = hydra.utils.instantiate(config | yaml.safe_load(settings), _convert_="all")
        # Jitted, because outside of a program JAX compiles each operation separately.
        return eqx.filter_jit(make)

    def build(
        name: str, input_shape: Sequence[int] | None = None, *, seed: int = 0, **overrides: Any
    ) -> eqx.Module:
        shape = example(name).shape if input_shape is None else input_shape
        sizes = {"input_shape": list(shape), "output_size": CLASSES}
        return maker(name, yaml.safe_dump(sizes | overrides))(key=jax.random.key(seed))

    return build


@pytest.fixture(scope="session")
def built(build: Callable[..., eqx.Module]) -> Callable[..., eqx.Module]:
    """`build` with a cache, for tests that share a model; not to be called while JAX traces."""
    return functools.cache(build)
