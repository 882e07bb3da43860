"""Examples that are drawn anew in the course of a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import PyTree

from ._base import DatasetError


@dataclass(frozen=True, eq=False)
class Redrawn:
    """A training part of one batch, which is drawn anew every so many steps.

    What a step gets is a function of `seed` and its number alone.

    **Arguments:**

    - `draw`: makes the examples from a generator, arranged as the objective takes them.
    - `seed`: of all draws.
    - `every`: the steps for which a draw is used.

    **Raises:** `DatasetError` where `every` is no positive integer.
    """

    draw: Callable[[np.random.Generator], PyTree[np.ndarray]]
    seed: int
    every: int

    def __post_init__(self):
        if not isinstance(self.every, int) or isinstance(self.every, bool) or self.every < 1:
            raise DatasetError(
                f"`resample_every` must be a positive number of steps, or null, got {self.every!r}."
            )

    def at(self, step: int) -> PyTree[np.ndarray]:
        """The examples of step number `step`, from 0."""
        # A spawned key: `[seed, number]` would be the entropy of other seeds, too.
        sequence = np.random.SeedSequence(self.seed, spawn_key=(step // self.every,))
        return self.draw(np.random.default_rng(sequence))

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[PyTree[np.ndarray]]:
        """The first draw."""
        yield self.at(0)
