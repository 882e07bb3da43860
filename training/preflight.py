"""Refusing a run that cannot work, before anything is compiled or written."""

import functools
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, PyTree

import curvature as cv
from data import Dataset

from ._base import Run
from .device import memory, shapes_on_device
from .evaluate import REFERENCE, per_example
from .sources import batch_shapes
from .terms import examples, terms


def preflight(run: Run) -> cv.Plan | None:
    """Check that model, objective, optimiser and dataset fit each other, by shapes alone.

    **Returns:** how the optimiser will solve for its steps; None where it does not.

    **Raises:** `ValueError`, one sentence.
    """
    _check_batch_size(run)
    if isinstance(run.dataset, Dataset):
        _check_examples(run, run.dataset)
    plan = _check_step(run)
    if plan is not None:
        _check_memory(plan)
    return plan


def in_one_line(run: Run, plan: cv.Plan | None) -> str:
    """What will run: parameters, rows, solver, its memory, and what a step costs in gradients."""
    if plan is not None:
        return f"{run.label}: {plan}"
    return f"{run.label}: {run.parameters:,} parameters; nothing is solved, a step is one gradient"


def _check_memory(plan: cv.Plan) -> None:
    available = memory()
    if plan.nbytes is not None and plan.nbytes > available:
        raise ValueError(
            f"`{type(plan.solver).__name__}` needs about {plan.nbytes / 2**30:,.3g} GiB for "
            f"{plan.parameters:,} parameters, and the device has {available / 2**30:,.3g}: take "
            "`solver=cg`, a smaller model, or a smaller batch."
        )


def _check_examples(run: Run, dataset: Dataset) -> None:
    _check_model(run, dataset)
    for name, part in (("training", dataset.train), ("test", dataset.test)):
        pairs = examples(run.optimiser.objective, part)
        for term_name, term in terms(run.optimiser.objective).items():
            inputs, targets = pairs[term_name]
            x = shapes_on_device(jax.tree.map(lambda array: array[0], inputs))
            z = eqx.filter_eval_shape(term.example, eqx.nn.inference_mode(run.model), x, None)
            check_targets(term.likelihood, z, targets, name)


def _check_batch_size(run: Run) -> None:
    batch_size, available = run.settings.batch_size, run.dataset.num_train
    if batch_size is None:
        return
    if available is None:
        raise ValueError(
            "`batch_size` must be null (all examples at every step) for the dataset "
            f"`{run.dataset.name}`, whose terms have different numbers of training examples, got "
            f"{batch_size}."
        )
    if batch_size > available:
        raise ValueError(
            f"`batch_size` must be at most the number of training examples, {available}, "
            f"got {batch_size}."
        )


def _check_model(run: Run, dataset: Dataset) -> None:
    objective = run.optimiser.objective
    parts = [(objective, dataset.test)]
    if dataset.reference is not None:
        parts.append((REFERENCE, dataset.reference))
    try:
        for scored_by, part in parts:
            eqx.filter_eval_shape(_evaluate, scored_by, run.model, shapes_on_device(part))
    except ValueError as error:
        raise ValueError(_first_line(error)) from error
    except Exception as error:  # whatever a model raises on an input it was not made for
        raise ValueError(
            f"The model does not take the inputs of the dataset `{dataset.name}`, which have "
            f"shape {dataset.input_shape}: {_first_line(error)}"
        ) from error


def _evaluate(objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]) -> Any:
    # The loss itself says what is wrong with the structure of a batch.
    return objective.loss(eqx.nn.inference_mode(model), part), per_example(objective, model, part)


def _check_step(run: Run) -> cv.Plan | None:
    """Trace one step: parts that do not go together say so themselves."""
    key = jax.random.key(0)
    try:
        batch = batch_shapes(run.dataset, run.model, run.settings.batch_size)
        state = eqx.filter_eval_shape(run.optimiser.init, run.model)
        eqx.filter_eval_shape(run.optimiser.step, run.model, batch, state, key=key)
        return run.optimiser.plan(run.model, batch, key=key)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(_first_line(error)) from error


@functools.singledispatch
def check_targets(
    likelihood: cv.AbstractLoss, z: jax.ShapeDtypeStruct, targets: Any, part: str
) -> None:
    """Refuse targets that `likelihood` cannot score; of other classes of loss nothing is known.

    **Arguments:** `z`: the outputs for one example; `targets`, with a leading axis; `part`: of
    the dataset, for the sentence.

    **Raises:** `ValueError`.
    """
    del likelihood, z, targets, part


@check_targets.register
def _(likelihood: cv.Categorical, z: jax.ShapeDtypeStruct, targets: Any, part: str) -> None:
    del likelihood
    if not np.issubdtype(targets.dtype, np.integer):
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or high >= z.shape[-1]:
        raise ValueError(
            f"`Categorical` needs labels from 0 to {z.shape[-1] - 1} for a model with "
            f"{z.shape[-1]} outputs, but those of the {part} part run from {low} to {high}."
        )


@check_targets.register
def _(likelihood: cv.Bernoulli, z: jax.ShapeDtypeStruct, targets: Any, part: str) -> None:
    del likelihood, z
    low, high = float(targets.min()), float(targets.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"`Bernoulli` needs targets from 0 to 1, but those of the {part} part run from "
            f"{low:g} to {high:g}."
        )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
