"""What the loop takes steps of: one run, or several at once."""

import abc
from collections.abc import Sequence
from typing import Any

import jax
from jaxtyping import Array, Float, PyTree

from .stepper import Stepper


class AbstractProgram(abc.ABC):
    """The compiled step of one run, or of several runs that are at the same step."""

    @abc.abstractmethod
    def compile(self, given: PyTree[jax.ShapeDtypeStruct]) -> None:
        """Compile for `Given.arrays` of one run, of these shapes."""

    @abc.abstractmethod
    def step(self, given: Sequence[PyTree[Array]]) -> Float[Array, "..."]:
        """Take one step of every run, without waiting for it.

        **Arguments:** `given`: for each run what `Stepper.step` takes.
        """

    @abc.abstractmethod
    def read(self, packed: Float[Array, "..."]) -> Sequence[dict[str, Any]]:
        """Wait for a step; return what `Stepper.read` does, for each run."""

    @abc.abstractmethod
    def copy_to_steppers(self) -> None:
        """Copy the latest arrays to each run's `Stepper`, where they can be read."""

    @property
    @abc.abstractmethod
    def compiled(self) -> jax.stages.Compiled | None:
        """The compiled step; None where JAX is told to compile nothing."""

    @property
    @abc.abstractmethod
    def counted_runs(self) -> int:
        """The number of runs whose operations XLA counts in `compiled`."""

    @property
    @abc.abstractmethod
    def solves(self) -> bool:
        """As `Stepper.solves`."""


class SingleRun(AbstractProgram):
    """The program of one run: the compiled step of its stepper."""

    def __init__(self, stepper: Stepper):
        self._stepper = stepper

    def compile(self, given: PyTree[jax.ShapeDtypeStruct]) -> None:
        self._stepper.compile(given)

    def step(self, given: Sequence[PyTree[Array]]) -> Float[Array, " fields"]:
        (arrays,) = given
        return self._stepper.step(arrays)

    def read(self, packed: Float[Array, " fields"]) -> list[dict[str, Any]]:
        return [self._stepper.read(packed)]

    def copy_to_steppers(self) -> None:
        """Does nothing: the stepper takes the steps itself, so it has the latest arrays."""

    @property
    def compiled(self) -> jax.stages.Compiled | None:
        return self._stepper.compiled

    @property
    def counted_runs(self) -> int:
        return 1

    @property
    def solves(self) -> bool:
        return self._stepper.solves
