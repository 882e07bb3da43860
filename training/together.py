"""Several runs as one program: traced and compiled once, with one copy of the data."""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from data import Stream

from . import folder as files
from ._base import Run
from .compiling import compile_for
from .log import Log
from .mesh import ON_ONE_DEVICE
from .preflight import preflight
from .program import AbstractProgram
from .run import lock_folder, run_program
from .sources import batch_shapes, evaluator_of, source
from .stepper import Fixed, Stepper
from .summary import Summary
from .writer import Writer


def train_together(runs: Sequence[Run], folders: Sequence[Path]) -> list[Summary]:
    """Train several runs as one program, each in a folder of its own.

    Every run gets the same results as by `train`, up to rounding, and the same files, so it can be
    resumed alone. A run that diverges ends with its summary while the others go on. Signals stop
    all runs after the same step. The console shows the first run only; each run has its own
    `train.log`.

    **Arguments:** `runs`: any two are `alike`; `folders`: one for each.

    **Returns:** the summaries, as `train` does.

    **Raises:** as `train`; and `ValueError` for runs that are not alike, or on several devices.
    """
    first, *others = runs
    if first.settings.devices not in (None, 1):
        raise ValueError(
            f"Runs in one program share one device, got `devices={first.settings.devices}`. "
            "Leave `devices` out."
        )
    if isinstance(first.dataset, Stream):
        raise ValueError(
            "Runs in one program share the data on the device, and the stream "
            f"`{first.dataset.name}` can feed only one run. Train each run on its own."
        )
    for run in others:
        if run.dataset is not first.dataset or not alike(run, first):
            raise ValueError(
                "`train_together(runs, ...)` takes runs on the same dataset that differ only in "
                f"seeds and in the values of arrays, but `{run.label}` and `{first.label}` "
                "differ in more."
            )
    found = preflight(first)
    is_vmapped = uses_vmap()
    needs = found.needs.of_runs(len(runs), at_once=len(runs) if is_vmapped else 1)
    for folder in folders:
        files.check_folder(folder, resume=False)
    steppers = _steppers(runs)
    with contextlib.ExitStack() as stack:
        writers = []
        for run, folder, stepper in zip(runs, folders, steppers, strict=True):
            evaluator = evaluator_of(run.dataset, run.optimiser.objective, ON_ONE_DEVICE)
            records = stack.enter_context(lock_folder(folder, resume=False))
            log = stack.enter_context(Log(quiet=run.settings.quiet or run is not first))
            writers.append(Writer(run, folder, stepper, evaluator, records, log, runs=len(runs)))
        program = Together(steppers, is_vmapped=is_vmapped)
        return run_program(program, writers, found._replace(needs=needs))


def alike(run: Run, other: Run) -> bool:
    """Whether one program can train both: all is equal except seeds and the values of arrays.

    The datasets are not compared. With a stream the answer is no: only one run can read a stream.
    """
    return not isinstance(run.dataset, Stream) and _common_part(run) == _common_part(other)


def uses_vmap() -> bool:
    """Whether the steps of the runs are taken by `vmap`; else one after the other, in a loop.

    Under `vmap`, a `cond` computes both of its branches, and an iterative solver goes on until the
    last run has converged. A loop avoids both, and on a CPU it is seldom slower. For 16 runs of an
    MLP on the digits, the time of a step, as a fraction of the time in 16 programs of one run, was:

    | optimiser              | loop       | `vmap`     |
    |------------------------|------------|------------|
    | exact natural gradient | 0.56       | 0.65       |
    | CG                     | 0.69       | 0.88       |
    | K-FAC                  | 0.7 to 0.8 | 0.7 to 0.8 |
    | Adam                   | 0.70       | 0.55       |

    On other devices the launch of a kernel takes time, and `vmap` needs only as many launches as
    one run.
    """
    return jax.default_backend() != "cpu"


class Together(AbstractProgram):
    """The program that takes a step of several runs.

    Arrays that differ between the runs (weights, states, keys, batches, the optimisers' numbers)
    have a leading axis of runs; the data have none.

    **Arguments:** `steppers`: of runs that are alike, not compiled; `is_vmapped`: see `uses_vmap`.
    """

    def __init__(self, steppers: Sequence[Stepper], *, is_vmapped: bool):
        self._steppers, self._is_vmapped = steppers, is_vmapped
        own = [(stepper.fixed.optimiser, stepper.fixed.key) for stepper in steppers]
        leaves = [stepper.leaves for stepper in steppers]
        # Jitted: one program stacks all arrays; otherwise every `stack` would be its own program.
        self._leaves, self._own = jax.jit(_stack)(list(zip(leaves, own, strict=True)))
        self._data = steppers[0].fixed.data
        self._given: PyTree[Array] = None
        self._joined: PyTree[Array] = None
        self._of_run = jax.jit(lambda leaves, number: [leaf[number] for leaf in leaves])

    def compile(self, given: PyTree[jax.ShapeDtypeStruct]) -> None:
        runs = len(self._steppers)
        given = jax.tree.map(lambda s: jax.ShapeDtypeStruct((runs, *s.shape), s.dtype), given)
        arguments = self._leaves, self._own, self._data, given
        self._run, self._compiled = compile_for(self._step_all, *arguments)

    def step(self, given: Sequence[PyTree[Array]]) -> Float[Array, "runs fields"]:
        # All steps of an epoch get the same arrays of indices: stack them only once.
        if given[0] is not self._given:
            self._given, self._joined = given[0], _stack(given)
        self._leaves, packed = self._run(self._leaves, self._own, self._data, self._joined)
        return packed

    def read(self, packed: Float[Array, "runs fields"]) -> list[dict[str, Any]]:
        # Only the first stepper was traced, so only it has the names of the fields.
        return [self._steppers[0].read(of_run) for of_run in jax.device_get(packed)]

    def copy_to_steppers(self) -> None:
        for number, stepper in enumerate(self._steppers):
            stepper.replace(self._of_run(self._leaves, number))

    @property
    def compiled(self) -> jax.stages.Compiled | None:
        return self._compiled

    @property
    def counted_runs(self) -> int:
        return len(self._steppers) if self._is_vmapped else 1  # XLA counts a loop once

    @property
    def solves(self) -> bool:
        return self._steppers[0].solves

    def _step_all(
        self,
        leaves: list[Array],
        own: tuple[PyTree[Array], PRNGKeyArray],
        data: PyTree[Array],
        given: PyTree[Array],
    ) -> tuple[list[Array], Float[Array, "runs fields"]]:
        def of_run(of_one: Any) -> tuple[list[Array], Float[Array, " fields"]]:
            leaves, (optimiser, key), step_input = of_one
            return self._steppers[0].step_function(leaves, Fixed(optimiser, key, data), step_input)

        of_all = leaves, own, given
        return jax.vmap(of_run)(of_all) if self._is_vmapped else jax.lax.map(of_run, of_all)


def _stack(trees: Sequence[PyTree[Array]]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _common_part(run: Run) -> Any:
    """Everything that must be equal in runs of one program."""
    leaves, treedef = jax.tree.flatten((run.model, run.optimiser))
    shapes = [(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") else leaf for leaf in leaves]
    return treedef, shapes, dataclasses.replace(run.settings, seed=0)


def _steppers(runs: Sequence[Run]) -> list[Stepper]:
    """The steppers of the runs before their first step; all share the arrays of the data."""
    batch = batch_shapes(runs[0].dataset, runs[0].model, runs[0].settings.batch_size)
    data, draw = source(runs[0].dataset)

    @eqx.filter_jit  # traced once for all runs
    def init(optimiser: Any, model: eqx.Module) -> Any:
        return optimiser.init(model, batch=batch)

    return [
        Stepper(
            run.optimiser, run.model, init(run.optimiser, run.model), data, run.settings.seed, draw
        )
        for run in runs
    ]
