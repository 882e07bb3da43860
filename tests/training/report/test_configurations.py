"""Which runs have the same configuration, and the names of several configurations."""

import itertools
import random

import pytest

from training.report.configurations import configurations, distinguishing_keys
from training.report.runs import read_run


@pytest.fixture
def grouped(write_run):
    """Groups runs with the given configurations; returns the folder names of runs by label."""

    def group(*configs):
        runs = [read_run(write_run(str(number), config)) for number, config in enumerate(configs)]
        return {
            found.label: [run.folder.name for run in found.runs] for found in configurations(runs)
        }

    return group


def test_runs_are_grouped_by_all_but_the_seed(grouped):
    configs = [{"seed": s, "lr": lr} for lr in (0.1, 0.2) for s in (0, 1, 2)]
    assert grouped(*configs) == {"lr=0.1": ["0", "1", "2"], "lr=0.2": ["3", "4", "5"]}


def test_a_seed_equal_to_that_of_the_run_is_no_difference(grouped):
    follows = [{"seed": s, "dataset": {"seed": s, "n": 5}} for s in (0, 1)]
    assert grouped(*follows) == {"identity": ["0", "1"]}


def test_a_seed_that_is_not_that_of_the_run_is_a_difference(grouped):
    own = [{"seed": s, "dataset": {"seed": d}} for d in (3, 4) for s in (0, 1)]
    assert grouped(*own) == {"dataset.seed=3": ["0", "1"], "dataset.seed=4": ["2", "3"]}


def test_a_setting_without_effect_on_results_is_no_difference(grouped):
    plain = {"choices": {"curvature": "identity"}, "recorders": {}, "quiet": False}
    choices = {"curvature": "identity", "recorders": "a"}
    told = {"choices": choices, "recorders": {"a": {"b": 1}}, "quiet": True}
    assert grouped({"seed": 0, **plain}, {"seed": 1, **told}) == {"identity": ["0", "1"]}


def test_a_choice_of_a_group_is_named_instead_of_its_values(grouped):
    def config(curvature):
        node = {"_target_": f"curvature.{curvature}"}
        return {
            "curvature": node,
            "optimiser": {"curvature": node},
            "choices": {"curvature": curvature},
        }

    found = grouped(config("identity"), config("gauss_newton"))
    assert list(found) == ["curvature=identity", "curvature=gauss_newton"]


def test_a_repeated_value_is_named_by_the_key_nearest_the_top_level(grouped):
    def config(samples):
        return {"samples": samples, "curvature": {"samples": samples}}

    assert list(grouped(config(1), config(5))) == ["samples=1", "samples=5"]


def test_a_configuration_without_any_of_the_keys_is_named_by_this(grouped):
    assert list(grouped({}, {"l2": 0.1})) == ["no l2", "l2=0.1"]


def test_a_missing_key_is_not_named_if_others_are_present(grouped):
    choices = [
        {"optimiser": "adam"},
        {"optimiser": "sgd"},
        {"curvature": "identity", "optimiser": "natural_gradient"},
        {"curvature": "gauss_newton", "optimiser": "natural_gradient"},
    ]
    assert list(grouped(*({"choices": chosen} for chosen in choices))) == [
        "optimiser=adam",
        "optimiser=sgd",
        "curvature=identity, optimiser=natural_gradient",
        "curvature=gauss_newton, optimiser=natural_gradient",
    ]


def test_a_run_without_a_configuration_does_not_change_the_names(write_run):
    runs = [read_run(write_run(str(lr), {"lr": lr})) for lr in (1, 2)]
    unknown = write_run("unknown")
    (unknown / "config.yaml").unlink()
    labels = [found.label for found in configurations([*runs, read_run(unknown)])]
    assert labels == ["lr=1", "lr=2", "unknown configuration"]


@pytest.mark.parametrize("seed", range(10))
def test_the_keys_distinguish_all_and_no_smaller_set_does(seed):
    rng = random.Random(seed)
    keys = [f"k{number}" for number in range(6)]
    flats = [{key: str(rng.randrange(3)) for key in keys} for _ in range(7)]
    flats = [dict(items) for items in dict.fromkeys(tuple(flat.items()) for flat in flats)]

    def tells(chosen):
        return len({tuple(flat[key] for key in chosen) for flat in flats}) == len(flats)

    found = distinguishing_keys(flats)
    assert tells(found)
    fewer = itertools.combinations(keys, len(found) - 1)
    assert not any(tells(chosen) for chosen in fewer)


def test_a_sweep_of_one_key_at_a_time_is_named_by_all_its_keys():
    base = {f"k{number:02}": "0" for number in range(40)}
    flats = [base, *({**base, key: "1"} for key in base)]
    assert distinguishing_keys(flats) == list(base)


def test_no_key_can_be_removed_if_the_search_for_the_smallest_set_ends_early():
    rng = random.Random(1)
    keys = [f"k{number:02}" for number in range(60)]
    flats = [{key: str(rng.randrange(10) == 0) for key in keys} for _ in range(40)]

    def parts(chosen):
        return len({tuple(flat[key] for key in chosen) for flat in flats})

    found = distinguishing_keys(flats)
    assert parts(found) == len(flats)
    assert all(parts([k for k in found if k != key]) < len(flats) for key in found)
