"""The parts of the configuration that a run uses; overrides of other parts are refused."""

import copy

import pytest
from omegaconf import OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from launch.unused import ROOTS, is_used, used_paths
from tests.selection import slow_but

PATHS = [
    *("samples", "seed", "x64", "model", "model.width", "optimiser", "objective", "likelihood"),
    *("curvature", "solver", "damping", "damping.value", "search", "search.slope"),
]
CHOICES = [
    (curvature, optimiser, objective)
    for curvature in ("true_fisher", "gauss_newton", "divergence", "divergence_euclidean")
    for optimiser in ("natural_gradient", "adam")
    for objective in ("supervised", "joint")
]


def _read(config):
    """The resolved configuration of a run, or the text of the error if it cannot be resolved."""
    try:
        return {name: _resolved(config[name]) for name in ROOTS if name in config}
    except OmegaConfBaseException as error:
        return str(error)


def _resolved(value):
    return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value


QUICK_CHOICES = [
    ("true_fisher", "natural_gradient", "supervised"),
    ("divergence", "adam", "joint"),
    ("gauss_newton", "natural_gradient", "joint"),
]


@pytest.mark.parametrize(("curvature", "optimiser", "objective"), slow_but(QUICK_CHOICES, CHOICES))
def test_a_key_is_used_if_and_only_if_a_change_of_it_changes_the_run(
    curvature, optimiser, objective, compose
):
    overrides = f"curvature={curvature}", f"optimiser={optimiser}", f"objective={objective}"
    config = compose(*overrides)
    before, paths = _read(config), used_paths(config)
    for path in PATHS:
        changed = copy.deepcopy(config)
        with open_dict(changed):
            OmegaConf.update(changed, path, "changed", merge=False)
        assert is_used(path, paths) == (_read(changed) != before), path


def test_references_are_followed_through_resolvers_and_to_parents():
    config = OmegaConf.create(
        {
            "optimiser": {"a": "${oc.create:${first}}", "b": {"c": "${..d}"}, "d": "x ${third.e}"},
            "first": "${second}",
            "second": 1,
            "third": {"e": 2, "f": 3},
            "fourth": "${fifth}",
            "fifth": 4,
        }
    )
    used = {path for path in config if is_used(path, used_paths(config))}
    assert used == {"optimiser", "first", "second", "third"}
    assert is_used("third.e", used_paths(config))
    assert not is_used("third.f", used_paths(config))


USED = [
    ["samples=5"],
    ["curvature=gauss_newton", "seed=1", "solver=cg", "solver.rtol=0.1"],
    ["optimiser=adam", "likelihood=categorical", "optimiser.transformation.learning_rate=0.1"],
    ["-m", "curvature=identity,true_fisher", "samples=5"],
    ["-m", "curvature=true_fisher", "samples=1,5"],
    ["-m", "seed=0,1", "optimiser=natural_gradient,adam", "damping.value=0.5"],
    ["average=exponential", "average.decay=0.5", "optimiser=adam"],
    ["-m", "average=none,uniform", "optimiser=natural_gradient,sgd", "batch_size=64"],
    ["structure=diagonal", "structure.decay=0.5", "samples=5"],
    ["-m", "structure=full,diagonal", "samples=5"],
    ["hydra.job.name=other"],
]


@pytest.mark.parametrize("arguments", slow_but([USED[0], USED[4]], USED), ids=" ".join)
def test_used_overrides_are_accepted(arguments, train, standard_promotion):
    def task(job):
        return {"status": "finished", "exit_code": 0}

    done = train(*arguments, "model=linear", task=task)
    assert done.code == 0, done.err


UNUSED = [
    (["curvature=gauss_newton", "samples=5"], "samples=5", "curvature=gauss_newton"),
    (["optimiser=adam", "samples=5"], "samples=5", "optimiser=adam"),
    (["optimiser=sgd", "damping.value=0.5"], "damping.value=0.5", "optimiser=sgd"),
    (["optimiser=adam", "curvature=identity"], "curvature=identity", "optimiser=adam"),
    (["-m", "curvature=identity,gauss_newton", "samples=5"], "samples=5", "curvature=identity"),
    (["-m", "curvature=identity,true_fisher", "samples=1,5"], "samples=1,5", "curvature=identity"),
    (["-m", "optimiser=adam,sgd", "solver=cg,auto"], "solver=cg,auto", "optimiser=adam"),
    (["average=uniform", "optimiser=sgd", "solver=cg"], "solver=cg", "optimiser=sgd"),
    (["-m", "optimiser=adam,natural_gradient", "samples=range(1,4)"], "samples=", "optimiser=adam"),
]


@pytest.mark.parametrize(
    ("arguments", "override", "choice"),
    slow_but([UNUSED[0], UNUSED[5], UNUSED[7]], UNUSED),
    ids=lambda x: " ".join(x),
)
def test_unused_overrides_are_refused(arguments, override, choice, train):
    done = train(*arguments)
    assert done.code == 2
    assert done.err.startswith(f"`{override}")
    assert f"by `{choice}`" in done.err
    assert not done.made
