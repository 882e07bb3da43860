"""Refuses a run that cannot work, before anything is compiled or written."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax

import curvature as cv

from . import hosts
from ._base import Run
from .device import memory
from .fit import check_fit, one_line
from .memory import Needs, needs_of
from .sources import batch_shapes


class Found(NamedTuple):
    """The results of the checks before a run.

    - `plan`: how the optimiser will solve for its steps; None if it solves no linear system.
    - `needs`: the memory that the run needs.
    """

    plan: cv.Plan | None
    needs: Needs


def preflight(run: Run) -> Found:
    """Check that model, objective, optimiser and dataset fit each other, by shapes alone.

    **Raises:** `ValueError`, one sentence.
    """
    _check_processes(run)
    check_fit(run)
    found = _check_step(run)
    if found.plan is not None:
        _check_memory(found.plan)
    return found


def describe_run(run: Run, found: Found, runs: int = 1) -> str:
    """One line on a run: parameters, rows, solver, memory, and what a step costs in gradients.

    The structures of curvatures in the optimiser are named first. The memory is that of all `runs`
    of the program.
    """
    what = f"{run.parameters:,} parameters; no linear solve, a step costs one gradient"
    if found.plan is not None:
        what = f"{''.join(_structures(run.optimiser))}{found.plan}"
    memory = "memory" if runs == 1 else f"memory of all {runs} runs of the program"
    return f"{run.label}: {what}; {memory} {found.needs}"


def memory_warning(run: Run, found: Found) -> str | None:
    """A sentence if the run may not fit the device, with remedies; else None."""
    available = memory()
    if found.needs.total <= available:
        return None
    return (
        f"The run may need more memory than the {available / 2**30:,.3g} GiB of the device. Use "
        "`micro_batch=auto`, a smaller `batch_size`, or a smaller model."
    )


def fitting_micro_batch(run_of: Callable[[int | None], Run]) -> int | None:
    """The largest micro-batch with which `Needs.upper_bound` of a run fits the device.

    It is a power of two, or None for the whole batch.

    **Arguments:** `run_of`: makes the run with a given micro-batch.

    **Raises:** `ValueError` if no micro-batch is small enough, and as `preflight`.
    """
    run, available = run_of(None), memory()
    check_fit(run)
    if _needs(run).upper_bound <= available:
        return None
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
    largest = max(leaf.shape[0] for leaf in jax.tree.leaves(batch))
    # Bisection over the exponent: 2^fits fits, 2^beyond does not.
    fits, beyond = -1, math.ceil(math.log2(largest))
    while beyond - fits > 1:
        middle = (fits + beyond) // 2
        if _needs(run_of(2**middle)).upper_bound <= available:
            fits = middle
        else:
            beyond = middle
    if fits < 0:
        raise ValueError(
            "`micro_batch=auto` found no size that fits: with 1 the run needs "
            f"{_needs(run_of(1))}, the step perhaps three times that, and the device has "
            f"{available / 2**30:,.3g} GiB. Use a smaller model, another solver, or less data."
        )
    return 2**fits


def _structures(optimiser: cv.AbstractOptimiser) -> Iterator[str]:
    """Each structure in the optimiser, with its role: curvature or preconditioner."""

    def is_structure(part: Any) -> bool:
        return isinstance(part, cv.AbstractStructure)

    for path, part in jax.tree.leaves_with_path(optimiser, is_leaf=is_structure):
        if is_structure(part):
            names = [getattr(entry, "name", "") for entry in path]
            role = "preconditioner" if "preconditioner" in names else "curvature"
            yield f"{role} {type(part).__name__} of {type(part.of).__name__}, "


def _check_processes(run: Run) -> None:
    """Refuse settings that read whole arrays, because each of several processes has only a part."""
    if hosts.count() == 1:
        return
    if run.settings.stop_at_nan:
        raise ValueError(
            f"`stop_at_nan=true` needs a single process, got {hosts.count()}. Start one process, "
            "or leave it out."
        )
    for name, recorder in run.recorders.items():
        if recorder.arrays_every is not None:
            raise ValueError(
                f"The recorder `{name}` reads whole arrays every {recorder.arrays_every} steps, "
                f"which needs a single process, got {hosts.count()}. For tensorboard, set "
                "`recorders.tensorboard.histograms_every=null`."
            )


def _check_memory(plan: cv.Plan) -> None:
    available = memory()
    if plan.nbytes is not None and plan.nbytes > available:
        raise ValueError(
            f"`{type(plan.solver).__name__}` needs about {plan.nbytes / 2**30:,.3g} GiB for "
            f"{plan.parameters:,} parameters, and the device has {available / 2**30:,.3g} GiB. "
            "Use `solver=cg`, a smaller model, or a smaller batch."
        )


def _check_step(run: Run) -> Found:
    """Trace one step: parts that do not fit together raise their own errors."""
    needs = _needs(run)
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
    with one_line():
        return Found(run.optimiser.plan(run.model, batch, key=jax.random.key(0)), needs)


def _needs(run: Run) -> Needs:
    with one_line():
        return needs_of(run)
