"""The arithmetic that comparisons share."""

import functools

import equinox as eqx
import jax
import numpy as np
import pytest

import models
from data import digits
from experiments.comparison import finals
from experiments.comparison.curves import Point
from experiments.comparison.finals import Finals, Found
from experiments.comparison.levels import Spread, best, ratio, reached, spread
from experiments.comparison.method import Method, label, rate
from experiments.comparison.problem import Problem
from experiments.comparison.store import kept
from experiments.comparison.tables import levels_table, tuning_table
from experiments.comparison.tuning import Tried, behind, lowest, tune
from experiments.structures import methods as structures
from tests.experiments.curves import LATE, LEVELS, NEVER, SOON, curve


def test_a_level_is_reached_at_the_first_loss_that_is_no_more():
    assert reached(LATE, 90) == Point(200, 4.0, 2.0, 90)
    assert reached(NEVER, 90) is None


def test_a_spread_is_of_all_seeds_or_of_none():
    points = [reached(seed, 80) for seed in (SOON, LATE, LATE)]
    assert spread(points, "step") == Spread(300, 2, 300)
    assert spread([*points, None], "step") is None


def test_a_ratio_is_of_the_same_seed():
    ours = [reached(SOON, 90), reached(SOON, 70)]
    theirs = [reached(LATE, 90), reached(LATE, 70)]
    assert ratio(ours, theirs, "step") == Spread((1 / 200 + 3 / 300) / 2, 1 / 200, 3 / 300)
    assert ratio(ours, [theirs[0], None], "step") is None


def test_the_best_rate_is_the_soonest_and_one_that_diverged_is_the_last():
    assert best([NEVER, LATE, SOON], 90) == 2
    assert best([NEVER, curve(200, 150), curve(200, 120)], 90) == 2


def test_the_tables_say_what_was_found():
    found = {"K-FAC": [SOON], "Adam": [LATE], "Muon": [SOON], "SOAP": [NEVER]}
    text = levels_table(found, LEVELS, "K-FAC")
    assert "| 90 | Adam | 200 (200 to 200) | 4 (4 to 4) | 2 (2 to 2) | 0.5 (0.5 to 0.5) |" in text
    assert "| 90 | SOAP | – | – | – | – |" in text
    tried = [Tried({"x": 0.1}, NEVER)]
    assert "| x 0.1 | – | – | – | 1000 | nan after 1 |" in tuning_table(tried, LEVELS)


def never_made(**setting):
    raise AssertionError(setting)


def test_the_setting_with_the_lowest_last_loss():
    curves = {"a 1": SOON, "a 2": LATE, "a 3": NEVER}
    method = Method(never_made, [{"a": 3}, {"a": 1}, {"a": 2}], [], 1, 1, scheduled=False)
    setting, tried = lowest(method, lambda setting: curves[label(setting)])
    assert setting == {"a": 1}
    assert [each.curve for each in tried] == [NEVER, SOON, LATE]


def test_a_method_is_tuned_one_choice_after_the_other():
    """Time by setting: b helps, c does not, and a falling rate ends before it gets to the level."""
    steps = {"a 1": 40, "a 2": 36, "a 2, b 1": 20, "a 2, b 1, c 1": 30}
    asked = []

    def run(setting, late):
        asked.append(label(setting))
        if "until" in setting:
            return [Point(0, 0, 0, 200.0), Point(1, 1, 1, 85.0)]
        taken = steps[label(setting)]
        points = [Point(0, 0, 0, 200.0), Point(taken, taken, float(taken), 69.0)]
        assert late(points[:1]) is False
        return points

    choices = [{"b": 1}, {"c": 1}]
    grid = [{"a": 1}, {"a": 2}]
    best_setting, tried = tune(
        Method(never_made, grid, choices, 1, 1, scheduled=False), run, LEVELS
    )
    assert best_setting == {"a": 2, "b": 1}
    assert [label(each.setting) for each in tried] == asked == list(steps)
    rates = [{"learning_rate": 0.5}]
    steps["learning_rate 0.5"] = 40
    tune(Method(never_made, rates, [], 1, 1, scheduled=True), run, LEVELS)
    assert asked[-1] == "learning_rate 1.0, until 30"


def test_a_method_without_a_choice_is_not_tuned():
    assert tune(Method(never_made, [{}], [], 1, 1, scheduled=False), never_made, LEVELS) == ({}, [])


def test_a_run_is_late_where_the_best_one_had_got_to_a_level_long_before():
    late = behind(SOON, LEVELS)  # 90 after 1 second, 80 after 2, 70 after 3
    assert not late(curve(200, 95))
    assert late(curve(200, 95, 91))
    assert not late(curve(200, 95, 90))
    assert late(curve(200, 89, 81, 81))
    assert not behind(NEVER, LEVELS)(curve(200, 100, 100))


def test_a_scheduled_rate_grows_and_falls():
    schedule = rate(2.0, 250)
    np.testing.assert_allclose([schedule(step) for step in (0, 25, 50, 150, 250)], [0, 1, 2, 1, 0])


def test_a_run_that_is_kept_is_not_made_again(tmp_path):
    model = eqx.nn.Linear(2, 3, key=jax.random.key(0))
    made = []

    def make(curve):
        made.append(curve)
        return curve, model

    for _ in range(2):
        for number, expected in {0.001: SOON, 0.003: LATE}.items():
            file = tmp_path / "runs" / f"adam_{number}_1"
            curve, read = kept(file, lambda curve=expected: make(curve), like=model)
            assert curve == expected
            assert eqx.tree_equal(read, model)
    assert made == [SOON, LATE]


def test_ours_are_compared_with_the_last_loss_of_each_rival_seed_by_seed():
    ends = {"Adam": [SOON, LATE], "Muon": [curve(200, 89), curve(200, 10)]}
    ours = {"K-FAC": [curve(200, 71, 60), curve(200, 150, 70)]}
    rivals, of_ours = ({n: Found({}, [], c) for n, c in each.items()} for each in (ends, ours))
    found = Finals(Problem("none", digits(), never_made, 10), rivals, of_ours, [])
    rows = [row.split(" | ") for row in found.table().splitlines()]
    assert rows[2][:2] == ["| **Adam**", "151.5 (3 to 300)"]
    # 69 and 70 are Adam's last losses, which come after 3 seconds of the processor.
    assert rows[3][:2] == ["| K-FAC to there", "2 (2 to 2)"]
    assert rows[3][-1] == "0.667 (0.667 to 0.667) |"
    assert rows[5][1:3] == ["1 of 2 seeds", "–"]
    assert rows[5][-1] == "– |"


@pytest.mark.slow
@pytest.mark.usefixtures("standard_promotion")  # optax multiplies floats by its step counts
def test_methods_end_below_the_last_loss_of_the_rivals(tmp_path, monkeypatch):
    monkeypatch.setattr(finals, "SEEDS", (0, 1))
    model = functools.partial(models.MLP, width=8, depth=1)
    adam = structures.rival(6)._replace(grid=[{"learning_rate": 1e-3}, {"learning_rate": 1e-2}])
    name = "K-FAC, rate by the model"
    ours = {name: structures.ours(30, batch_size=32)[name]._replace(choices=[])}
    problem = Problem("small", digits(), model, 200)
    for _ in range(2):
        found = finals.compare(problem, {"Adam": adam}, ours, tmp_path)
    assert found.rivals["Adam"].setting == {"learning_rate": 1e-2}
    for ends, soonest in zip(found.rivals["Adam"].curves, found.ours[name].curves):
        assert len(ends) == 7
        assert soonest[-1].loss <= ends[-1].loss < soonest[-2].loss
    assert len(list(tmp_path.iterdir())) == 2 * len({*tmp_path.glob("*.json")})
