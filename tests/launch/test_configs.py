"""Every file under conf/ composes and instantiates, and every experiment trains."""

import json
import sys
from pathlib import Path

import hydra
import pytest
import yaml
from omegaconf import OmegaConf

from launch.instantiation import instantiate
from launch.job import planned_job
from launch.unused import is_used, used_paths
from tests.selection import slow_but

CONF = Path(__file__).parents[2] / "conf"
PATHS = [path.relative_to(CONF) for path in sorted(CONF.glob("*/**/*.yaml"))]
# Hydra's own groups are not parts of a run; see test_launchers.py.
PATHS = [path for path in PATHS if path.parts[0] != "hydra"]
FILES = [(path.parts[0], "/".join(path.with_suffix("").parts[1:])) for path in PATHS]
EXPERIMENTS = [name for group, name in FILES if group == "experiment"]
DOWNLOADED = {"mnist", "mnist10k", "fashion_mnist"}
USER_DATASETS = {"arrays", "csv"}
"""Datasets from a file of the user, which does not exist here; see test_own_data.py."""
BY_ADAM = {"cartpole_plain"}
QUICK = {"wine"}
OPTIONS = {group: [name for of, name in FILES if of == group] for group, _ in FILES}
# Some options of these groups exclude options of other groups, so each is composed on its own.
ALONE = "curvature", "objective", "optimiser", "solver"
BESIDE = [group for group in OPTIONS if group not in (*ALONE, "experiment")]
CHOICES = [
    {group: OPTIONS[group][k % len(OPTIONS[group])] for group in BESIDE}
    for k in range(max(len(OPTIONS[group]) for group in BESIDE))
]
CHOICES += [{group: option} for group in ALONE for option in OPTIONS[group]]
QUICK_CHOICES = [CHOICES[0], {"curvature": "averaged"}, {"optimiser": "adam"}]


def test_there_are_yaml_files_for_all_groups():
    assert len({group for group, _ in FILES}) == 15
    assert not [path for path in CONF.rglob("*") if path.is_file() and path.suffix != ".yaml"]


@pytest.mark.parametrize(
    "choices", slow_but(QUICK_CHOICES, CHOICES), ids=lambda choices: "-".join(choices.values())
)
def test_every_option_composes_and_instantiates(choices, compose):
    overrides = [f"{group}={option}" for group, option in choices.items()]
    job = planned_job(compose(*overrides), multirun=False)
    for group, option in choices.items():
        assert job.config["choices"][group] == option
        if group == "dataset" and option in DOWNLOADED | USER_DATASETS:
            assert callable(hydra.utils.get_method(job.config[group]["_target_"]))
        elif group == "recorders":
            assert instantiate(group, job.config[group][option]) is not None
        else:
            is_none = (group, option) == ("preconditioner", "none")
            assert (instantiate(group, job.config[group]) is None) == is_none


@pytest.mark.parametrize("name", slow_but(QUICK, EXPERIMENTS))
def test_every_key_that_an_experiment_sets_is_used(name, compose):
    raw = OmegaConf.to_container(OmegaConf.load(CONF / "experiment" / f"{name}.yaml"))
    defaults = raw.pop("defaults", [])
    chosen = [next(iter(entry)).removeprefix("override /") for entry in defaults]
    paths = used_paths(compose(f"experiment={name}"))
    assert all(is_used(key, paths) for key in [*chosen, *raw])


# In their published sizes, these take too long to compile or to train.
SMALLER = {
    "text_decoder": ["model.depth=1", "model.width=16"],
    "digits_transformer": ["model.depth=1", "model.width=16"],
    "autoencoder": ["model.sizes=[32,8]"],
    "autoencoder_kfac": ["model.sizes=[32,8]"],
}


@pytest.mark.parametrize("name", slow_but(QUICK, EXPERIMENTS))
def test_experiment_trains(name, compose, train, request):
    if name in BY_ADAM:  # optax multiplies floats by its integer step counts
        request.getfixturevalue("standard_promotion")
    arguments = [f"experiment={name}", "max_steps=2", "hydra.run.dir=run", *SMALLER.get(name, [])]
    composed = compose(f"experiment={name}")
    if composed.batch_size is not None:
        arguments.append("batch_size=20")
    if composed.hydra.runtime.choices["dataset"] in DOWNLOADED:
        arguments.append("dataset=digits")
    done = train(*arguments)
    assert done.code == 0, done.err
    summary = json.loads((done.folder / "run" / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["steps"] == 2
    assert summary["rejected"] == 0
    # The value of a policy gradient's loss has no meaning, so its mean return is checked instead.
    assert summary["test"].get("mean_return", summary["test_loss"]) > 0


IN_BOTH = [("structure", "diagonal"), ("preconditioner", "diagonal")]
STRUCTURES = [name for name in OPTIONS["structure"] if name != "full"]
# Each structure has one of its roles, in turn; the diagonal one has both.
ROLES = [(("structure", "preconditioner")[k % 2], name) for k, name in enumerate(STRUCTURES)]
ROLES += [role for role in IN_BOTH if role not in ROLES]


@pytest.mark.parametrize(
    ("role", "name"),
    slow_but(IN_BOTH[:1], ROLES),
)
def test_structure_trains_in_either_role(role, name, train):
    arguments = "model=linear", "batch_size=20", "max_steps=2", "hydra.run.dir=run"
    done = train(f"{role}={name}", "solver=auto", *arguments)
    assert done.code == 0, done.err
    said = "preconditioner" if role == "preconditioner" else "curvature"
    assert (f"{said} Diagonal of SampledFisher" in done.out) == (name == "diagonal")
    summary = json.loads((done.folder / "run" / "summary.json").read_text())
    assert summary["steps"] == 2
    assert summary["rejected"] == 0


def test_a_run_in_micro_batches_has_the_results_of_whole_batches(train):
    """It also prints that the rows of the solve still need all examples of a batch at once."""
    ends = []
    for name, override in (("whole", "micro_batch=null"), ("parts", "micro_batch=8")):
        arguments = "model=linear", "batch_size=20", "max_steps=2", f"hydra.run.dir={name}"
        done = train(override, *arguments)
        assert done.code == 0, done.err
        assert ("whatever `micro_batch` is" in done.out) == (name == "parts")
        summary = json.loads((done.folder / name / "summary.json").read_text())
        ends.append([summary["train_loss"], summary["test_loss"]])
    assert ends[1] == pytest.approx(ends[0], rel=1e-5)


def test_a_micro_batch_that_auto_has_chosen_is_stored(train, monkeypatch):
    """A run that is resumed on another machine then has the same micro-batch."""
    monkeypatch.setattr(sys.modules["training.preflight"], "memory", lambda: 8 * 2**20)
    arguments = "model.width=256", "batch_size=1024", "epochs=1", "hydra.run.dir=run"
    done = train("optimiser=sgd", "micro_batch=auto", *arguments)
    assert done.code == 0, done.err
    config = yaml.safe_load((done.folder / "run" / "config.yaml").read_text())
    assert config["micro_batch"] == config["optimiser"]["objective"]["micro_batch"] < 1024
    monkeypatch.setattr(sys.modules["training.preflight"], "memory", lambda: 2**30)
    assert train("resume=run", "epochs=2").code == 0


@pytest.mark.parametrize("name", slow_but(["heat"], ["poisson2d", "heat", "poisson5d"]))
def test_points_are_drawn_from_the_seed_of_the_run(name, compose):
    job = planned_job(compose(f"dataset={name}", "seed=3"), multirun=False)
    assert job.config["dataset"]["seed"] == 3


@pytest.mark.slow
def test_a_resumed_run_resamples_the_points_of_an_uninterrupted_run(train):
    arguments = "experiment=poisson2d", "dataset.resample_every=2", "evaluate_every=null"
    for folder, steps in (("whole", 5), ("parts", 3)):
        done = train(*arguments, f"epochs={steps}", f"hydra.run.dir={folder}")
        assert done.code == 0, done.err
    assert train("resume=parts", "epochs=5").code == 0
    whole, parts = ((done.folder / name / "model.eqx") for name in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["poisson2d", "heat"])
def test_a_physics_informed_network_finds_the_solution(name, train):
    done = train(f"experiment={name}", "evaluate_every=null", "hydra.run.dir=run")
    assert done.code == 0, done.err
    summary = json.loads((done.folder / "run" / "summary.json").read_text())
    assert summary["test"]["l2_error"] < 1e-6
