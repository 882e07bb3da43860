"""The settings of a run that do not depend on what it trains."""

import dataclasses
import math
from typing import Literal, TypeAlias, TypeGuard, get_args

Devices: TypeAlias = int | Literal["all"] | None
Sharding: TypeAlias = Literal["replicated", "fsdp"]

MAX_SEED = 2**32 - 1
MODEL_STREAM = 2**32 - 1
"""Folded into the key of the seed for the weights; steps fold in their numbers, all smaller."""
OPTIONAL = ("batch_size", "max_steps", "evaluate_every", "train_examples", "profile_steps")
POSITIVE = (
    *("batch_size", "epochs", "max_steps", "max_rejections"),
    *("evaluate_every", "train_examples", "keep_checkpoints", "profile_steps"),
)
_KEEPING = ("checkpoint_seconds", "keep_checkpoints", "quiet", "debug", "compilation_cache")
ASIDE = ("resume", "recorders", "profile_steps", "vectorised", *_KEEPING)
"""Keys of a configuration that do not affect the results of a run."""
CHANGEABLE = (
    *("resume", "epochs", "max_steps", "max_rejections", "devices", "sharding"),
    *_KEEPING,
)
"""Keys that may change when a run is resumed: its length, its devices, what it keeps and prints."""
UNCHECKED = (*CHANGEABLE, "vectorised")
"""Keys that may differ between a checkpoint and a resumed run, which never shares a program."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """How long and on which batches to train.

    **Arguments:**

    - `seed`: seeds the order of the data and the key of every step; from 0 to 2³² − 1.
    - `batch_size`: examples per step; the last short batch of an epoch is dropped. None: every step
        uses the whole training part, and is an epoch; or the batches that a stream yields.
    - `epochs`, `max_steps`: whichever comes first ends the run. An epoch of a stream is a pass.
    - `max_rejections`: the run stops as diverged after this many rejected steps in a row.
    - `evaluate_every`: the number of steps between two evaluations of the validation part and of
        the test part. None: the validation part at the end of each epoch, the test part only at
        the end.
    - `evaluate_train`: evaluate the whole training part at these steps, too.
    - `evaluate_test`: False: evaluate the test part only at the end, whatever `evaluate_every` is.
    - `train_examples`: train on only this many examples, the first ones; None: on all.
    - `validation`: the fraction of the training part that is held out as the validation part, whose
        loss chooses the best state; 0: none, and the training loss chooses the best state.
    - `checkpoint_seconds`: the time between two checkpoints, in seconds.
    - `keep_checkpoints`: how many of the newest checkpoints are kept, beside the best.
    - `quiet`: print only warnings.
    - `profile_steps`: the number of steps to trace with JAX's profiler; None: none.
    - `devices`: the number of devices that share every batch, or `all`; None: one, or with several
        processes all. The results do not depend on this number, up to rounding.
    - `sharding`: of weights and data on several devices, `replicated` or `fsdp`, see `Placement` in
        `training.mesh`.
    - `stop_at_nan`: end at the first step that is rejected because of a NaN or an infinity, and
        report where it comes from.

    **Raises:** `ValueError` for a value of the wrong type or out of range.
    """

    seed: int
    batch_size: int | None
    epochs: int
    max_steps: int | None = None
    max_rejections: int = 20
    evaluate_every: int | None = None
    evaluate_train: bool = False
    evaluate_test: bool = True
    train_examples: int | None = None
    validation: float = 0.0
    checkpoint_seconds: float = 60.0
    keep_checkpoints: int = 2
    quiet: bool = False
    profile_steps: int | None = None
    stop_at_nan: bool = False
    devices: Devices = None
    sharding: Sharding = "replicated"

    def __post_init__(self):
        if not is_int(self.seed) or not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"`seed` must be an integer from 0 to {MAX_SEED}, got {self.seed!r}.")
        for name in POSITIVE:
            value = getattr(self, name)
            if value is None and name in OPTIONAL:
                continue
            if not is_int(value) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        seconds, validation = self.checkpoint_seconds, self.validation
        if not _is_number(seconds) or not math.isfinite(seconds) or seconds <= 0:
            raise ValueError(
                f"`checkpoint_seconds` must be a positive, finite number, got {seconds!r}."
            )
        if not _is_number(validation) or not 0 <= validation < 1:
            raise ValueError(f"`validation` must be a fraction in [0, 1), got {validation!r}.")
        devices = self.devices
        if devices not in (None, "all") and (not is_int(devices) or devices < 1):
            raise ValueError(
                f"`devices` must be a positive integer, `all` or null, got {devices!r}."
            )
        if self.sharding not in get_args(Sharding):
            raise ValueError(
                f"`sharding` must be one of {', '.join(get_args(Sharding))}, got {self.sharding!r}."
            )
        for name in ("evaluate_train", "evaluate_test", "quiet", "stop_at_nan"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"`{name}` must be true or false, got {value!r}.")


def is_int(value: object) -> TypeGuard[int]:
    """Whether `value` is an integer; in Python `bool` is a subclass of `int`, but not counted."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool)
