"""The numbers that say how a run goes, whatever it trains."""

import dataclasses
import math
from typing import TypeGuard

MAX_SEED = 2**32 - 1
MODEL_STREAM = 2**32 - 1
"""Folded into the seed for the weights; the steps fold in their numbers, which end before it."""
OPTIONAL = ("batch_size", "max_steps", "evaluate_every")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and on which batches to train.

    **Arguments:**

    - `seed`: seeds the order of the data and the key of every step; from 0 to 2³² − 1.
    - `batch_size`: examples per step; the last short batch of an epoch is dropped. None: the whole
        training part at every step, which is an epoch then.
    - `epochs`, `max_steps`: whichever comes first ends the run.
    - `max_rejections`: the run stops as diverged after so many rejected steps in a row.
    - `evaluate_every`: the test part is evaluated after every so many steps, and at the end; None:
        at the end alone.
    - `checkpoint_seconds`: the time between two checkpoints, in seconds.

    **Raises:** `ValueError` for a value of the wrong type or out of range.
    """

    seed: int
    batch_size: int | None
    epochs: int
    max_steps: int | None = None
    max_rejections: int = 20
    evaluate_every: int | None = None
    checkpoint_seconds: float = 60.0

    def __post_init__(self):
        if not _is_int(self.seed) or not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"`seed` must be an integer from 0 to {MAX_SEED}, got {self.seed!r}.")
        for name in ("batch_size", "epochs", "max_steps", "max_rejections", "evaluate_every"):
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if not _is_int(value) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        seconds = self.checkpoint_seconds
        is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
        if not is_number or not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(
                f"`checkpoint_seconds` must be a positive, finite number, got {seconds!r}."
            )


def _is_int(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
