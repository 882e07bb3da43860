"""Examples that are drawn again during a run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import PyTree

from ._base import DatasetError


@dataclass(frozen=True, eq=False)
class Redrawn:
    """A training part of one batch, which is drawn again after every `every` steps.

    The batch of a step depends only on `seed` and the number of the step.

    **Arguments:**

    - `draw`: makes the examples from a generator, arranged as the objective takes them.
    - `seed`: of all draws.
    - `every`: the number of steps for which a draw is used.

    **Raises:** `DatasetError` if `every` is not a positive integer.
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
        # `spawn_key`, because `[seed, number]` as entropy is also the entropy of some other seeds.
        sequence = np.random.SeedSequence(self.seed, spawn_key=(step // self.every,))
        return self.draw(np.random.default_rng(sequence))

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[PyTree[np.ndarray]]:
        """The first draw."""
        yield self.at(0)
