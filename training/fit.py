"""Checks that the parts of a run fit each other: model, objective, dataset and batch size."""

import contextlib
from collections.abc import Iterator
from typing import Any, get_args

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

import curvature as cv
from data import Dataset, Rows, Stream, StreamPart

from ._base import Run
from .chunks import has_random_access, head
from .device import shapes_on_device
from .evaluate import REFERENCE, chunk_size, per_example
from .finite import check_inputs
from .terms import examples, terms


def check_fit(run: Run) -> None:
    """Check that model, objective, batch size and dataset fit each other.

    **Raises:** `ValueError`, one sentence.
    """
    if isinstance(run.dataset, Stream):
        _check_length(run, run.dataset)
    _check_batch_size(run)
    _check_first_examples(run)
    if isinstance(run.dataset, Dataset | Stream):
        _check_examples(run, run.dataset)


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
    settings = run.settings
    if settings.evaluate_train and settings.evaluate_every and not has_random_access(stream.train):
        raise ValueError(
            f"`evaluate_train=true` would read the training part of the stream `{stream.name}` "
            "during the run, which reads it at the same time. Leave it out: the training part is "
            "evaluated at the end of the run."
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


def _check_first_examples(run: Run) -> None:
    """Refuse a curvature of the first examples that asks for more than a batch has."""

    def is_wanted(part: Any) -> bool:
        return isinstance(part, cv.FirstExamples)

    parts = jax.tree.leaves(run.optimiser, is_leaf=is_wanted)
    batch_size = run.settings.batch_size or run.dataset.num_train
    for part in filter(is_wanted, parts):
        if batch_size is not None and part.examples > batch_size:
            raise ValueError(
                f"`FirstExamples(examples=...)` must be at most the batch size, {batch_size}, got "
                f"{part.examples}."
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


@contextlib.contextmanager
def one_line() -> Iterator[None]:
    """Cut the message of a `ValueError` or `NotImplementedError` to its first line."""
    try:
        yield
    except (ValueError, NotImplementedError) as error:
        raise ValueError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
