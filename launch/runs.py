"""Builds the objects of a run from a job's plain configuration."""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax

from data import Dataset, Stream, first_of, held_out
from environments import OnPolicy
from running import MODEL_STREAM, Settings
from training import Run, Summary, fitting_micro_batch, hosts, train, train_together
from training.program_cache import AUTO, use_cache

from .errors import ConfigError
from .instantiation import failure_sentence, instantiate
from .job import Job

# With a structure, the optimiser's `curvature` is the structure, and `curvature.of` the curvature.
_WIRED = {"curvature.of": "curvature", "curvature": "structure"}


def run(jobs: Sequence[Job]) -> list[Summary]:
    """Train a job, or several in one program; returns their summaries."""
    runs, folders = [build(job) for job in jobs], [job.folder for job in jobs]
    if len(jobs) > 1:
        return train_together(runs, folders)
    return [train(runs[0], folders[0], resume=jobs[0].resume)]


def build(job: Job, *, shapes_only: bool = False) -> Run:
    """Everything that the job's training run needs.

    **Arguments:**

    - `job`: what to build.
    - `shapes_only`: make the model's arrays `jax.ShapeDtypeStruct`s: this is enough to check a run,
        and compiles nothing.

    **Raises:** `ConfigError` or `ValueError` for values that cannot be used, and
    `data.DatasetError` for a dataset that is not available; each message is one sentence.
    """
    if job.chooses_micro_batch:
        if hosts.count() > 1:
            raise ConfigError(
                f"`micro_batch=auto` needs a single process, got {hosts.count()}. Give a number, "
                "or null."
            )
        micro_batch = fitting_micro_batch(
            lambda most: _build(job.with_micro_batch(most), shapes_only=True)
        )
        job = job.with_micro_batch(micro_batch)
    return _build(job, shapes_only=shapes_only)


def _build(job: Job, *, shapes_only: bool) -> Run:
    config = job.config
    for name in ("x64", "debug", "vectorised"):
        value = config.get(name, False)  # runs of earlier versions have not all of these
        if not isinstance(value, bool):
            raise ConfigError(f"`{name}` must be true or false, got {value!r}.")
    settings = Settings(
        **{
            field.name: config[field.name]
            for field in dataclasses.fields(Settings)
            if field.name in config
        }
    )
    use_cache(config.get("compilation_cache", AUTO))  # runs of earlier versions have no such key
    # Set even if false: the jobs of a sweep share one process, and an earlier job may have set it.
    jax.config.update("jax_enable_x64", config["x64"])
    dataset = _dataset_of(
        json.dumps(config["dataset"]), settings.validation, settings.train_examples
    )
    # An average wraps the optimiser.
    optimiser = "average" if config.get("average") else "optimiser"
    structured = config["choices"].get("structure", "full") != "full"
    return Run(
        model=_model(config["model"], dataset, settings.seed, shapes_only=shapes_only),
        optimiser=_optimiser(optimiser, json.dumps(config[optimiser]), structured, config["x64"]),
        dataset=dataset,
        settings=settings,
        config=config,
        label=job.label,
        recorders={
            name: instantiate(f"recorders.{name}", recorder)
            for name, recorder in config.get("recorders", {}).items()
        },
    )


def _dataset_of(
    config: str, validation: float, train_examples: int | None
) -> Dataset | Stream | OnPolicy:
    dataset = _parts_of(config, validation, train_examples)
    if isinstance(dataset, Stream):  # the next run needs a new stream, at its beginning
        _parts_of.cache_clear()
        _dataset.cache_clear()
    return dataset


@functools.lru_cache(maxsize=1)
def _dataset(config: str) -> Dataset | Stream | OnPolicy:
    # Cached: the check before the launch and every job of a sweep use the same dataset.
    return instantiate("dataset", json.loads(config))


# Cached, because only runs with equal optimisers can share a program, and two transformations of
# optax are never equal: their functions are new closures at each call.
@functools.lru_cache
def _optimiser(key: str, config: str, structured: bool, x64: bool) -> Any:
    del x64  # only a key of the cache: the optimiser's arrays have this precision
    return instantiate(key, json.loads(config), _WIRED if structured else None)


@functools.lru_cache(maxsize=1)
def _parts_of(
    config: str, validation: float, train_examples: int | None
) -> Dataset | Stream | OnPolicy:
    """The dataset with its validation part held out, and cut to `train_examples`."""
    dataset = _dataset(config)
    if validation:
        dataset = held_out(_no_environment(dataset, "validation"), validation)
    if train_examples is not None:
        dataset = first_of(_no_environment(dataset, "train_examples"), train_examples)
    return dataset


def _no_environment(dataset: Dataset | Stream | OnPolicy, name: str) -> Dataset | Stream:
    if isinstance(dataset, Dataset | Stream):
        return dataset
    raise ConfigError(f"`{name}` needs a dataset; `{dataset.name}` is an environment.")


def _model(
    config: dict[str, Any], dataset: Dataset | Stream | OnPolicy, seed: int, *, shapes_only: bool
) -> eqx.Module:
    sizes = {"input_shape": list(dataset.input_shape), "output_size": dataset.output_size}
    filled = {name: size for name, size in sizes.items() if config.get(name, size) is None}
    make = _maker(json.dumps({**config, **filled}))

    # An argument, not a constant: with a constant, each seed would need its own program.
    key = jax.random.fold_in(jax.random.key(seed), MODEL_STREAM)
    try:
        if shapes_only:
            return eqx.filter_eval_shape(make, key=key)
        return make(key=key)
    except TypeError as error:
        raise ConfigError(failure_sentence("model", {**config, **filled}, error)) from error


@functools.lru_cache(maxsize=1)
def _maker(config: str) -> Callable[..., eqx.Module]:
    """Makes a model from a key, as one program; cached, so that it is traced once for all seeds."""
    make = instantiate("model", json.loads(config))
    return eqx.filter_jit(lambda *, key: make(key=key))  # the call checks its arguments
