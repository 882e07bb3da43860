"""Refuses a run that cannot work, before anything is compiled or written."""

import contextlib
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, get_args

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

import curvature as cv
from data import Dataset, Rows, Stream, StreamPart

from . import hosts
from ._base import Run
from .chunks import head
from .device import memory, shapes_on_device
from .evaluate import REFERENCE, chunk_size, per_example
from .finite import check_inputs
from .memory import Needs, needs_of
from .sources import batch_shapes
from .terms import examples, terms


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
    _check_fit(run)
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
    _check_fit(run)
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


def _check_fit(run: Run) -> None:
    if isinstance(run.dataset, Stream):
        _check_length(run, run.dataset)
    _check_batch_size(run)
    if isinstance(run.dataset, Dataset | Stream):
        _check_examples(run, run.dataset)


def _check_memory(plan: cv.Plan) -> None:
    available = memory()
    if plan.nbytes is not None and plan.nbytes > available:
        raise ValueError(
            f"`{type(plan.solver).__name__}` needs about {plan.nbytes / 2**30:,.3g} GiB for "
            f"{plan.parameters:,} parameters, and the device has {available / 2**30:,.3g} GiB. "
            "Use `solver=cg`, a smaller model, or a smaller batch."
        )


def _check_length(run: Run, stream: Stream) -> None:
    if isinstance(stream.train, Rows):
        if run.settings.batch_size is None:
            raise ValueError(
                f"`batch_size` must be a number for the dataset `{stream.name}`, got null. This "
                "dataset is read batch by batch."
            )
    elif stream.num_batches is None and run.settings.max_steps is None:
        raise ValueError(
            f"`max_steps` must be set for the stream `{stream.name}`, because it does not say "
            "how many batches an epoch has."
        )


def _check_examples(run: Run, dataset: Dataset | Stream) -> None:
    """Check the model by shapes, and inputs and targets by values; of a stream, the first few."""
    objective = run.optimiser.objective
    parts = {name: getattr(dataset, name) for name in get_args(StreamPart)}
    if isinstance(dataset, Stream):
        most = chunk_size(objective)
        parts = {
            name: None if part is None else head(dataset, name, most)
            for name, part in parts.items()
        }
    _check_model(run, dataset, parts["test"])
    for name, scored_by, part in (
        ("the training part", objective, parts["train"]),
        ("the validation part", objective, parts["validation"]),
        ("the test part", objective, parts["test"]),
        ("the reference", REFERENCE, dataset.reference),
    ):
        if part is not None:
            check_inputs(scored_by, part, name)
            _check_targets(run.model, scored_by, part, name)
    _check_outputs(run, dataset, parts["test"])


def _check_outputs(run: Run, dataset: Dataset | Stream, test: PyTree[Array]) -> None:
    """Refuse a model with more or fewer outputs than the targets have classes or numbers.

    The check of the labels does not find this: ten classes are valid for a model of 64 outputs.
    """
    objective = run.optimiser.objective
    if not isinstance(objective, cv.Supervised):
        return
    z = _outputs(run.model, objective.terms(), examples(objective, test)[""][0])
    if z.shape and z.shape[-1] != dataset.output_size:
        raise ValueError(
            f"The model has {z.shape[-1]} outputs per example, but the dataset `{dataset.name}` "
            f"needs {dataset.output_size}. Use a model with this `output_size`. For a model that "
            "reconstructs its inputs, use `objective=autoencoding` and `likelihood=bernoulli`."
        )


def _outputs(model: eqx.Module, term: cv.Term, inputs: PyTree[Array]) -> jax.ShapeDtypeStruct:
    x = shapes_on_device(jax.tree.map(lambda array: array[0], inputs))
    return eqx.filter_eval_shape(term.example, eqx.nn.inference_mode(model), x, None)


def _check_targets(
    model: eqx.Module, objective: cv.AbstractObjective, part: PyTree[Array], source: str
) -> None:
    pairs = examples(objective, part)
    for name, term in terms(objective).items():
        inputs, targets = pairs[name]
        z = _outputs(model, term, inputs)
        term.likelihood.check_targets(z.shape, targets, source=source)


def _check_batch_size(run: Run) -> None:
    batch_size, available = run.settings.batch_size, run.dataset.num_train
    if batch_size is None:
        return
    if isinstance(run.dataset, Stream) and available is None:
        run.dataset.like(batch_size)
        return
    if available is None:
        raise ValueError(
            "`batch_size` must be null (all examples at every step) for the dataset "
            f"`{run.dataset.name}`, got {batch_size}. Its terms have different numbers of "
            "training examples."
        )
    if batch_size > available:
        raise ValueError(
            f"`batch_size` must be at most the number of training examples, {available}, "
            f"got {batch_size}."
        )


def _check_model(run: Run, dataset: Dataset | Stream, test: PyTree[Array]) -> None:
    objective = run.optimiser.objective
    parts = [(objective, test)]
    if dataset.reference is not None:
        parts.append((REFERENCE, dataset.reference))
    try:
        for scored_by, part in parts:
            eqx.filter_eval_shape(_evaluate, scored_by, run.model, shapes_on_device(part))
    except ValueError as error:
        raise ValueError(_first_line(error)) from error
    except Exception as error:  # a model may raise anything on a wrong input
        raise ValueError(
            f"The model does not accept the inputs of the dataset `{dataset.name}`, which have "
            f"shape {dataset.input_shape}: {_first_line(error)}"
        ) from error


def _evaluate(objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]) -> Any:
    # The loss raises the error for a batch of the wrong structure.
    return objective.loss(eqx.nn.inference_mode(model), part), per_example(objective, model, part)


def _check_step(run: Run) -> Found:
    """Trace one step: parts that do not fit together raise their own errors."""
    needs = _needs(run)
    batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
    with _one_line():
        return Found(run.optimiser.plan(run.model, batch, key=jax.random.key(0)), needs)


def _needs(run: Run) -> Needs:
    with _one_line():
        return needs_of(run)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raise ValueError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
