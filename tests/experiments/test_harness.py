"""The harness of the experiments: its arithmetic, tuning, tables and runs."""

import json
import math

import equinox as eqx
import numpy as np
import pytest

from experiments.harness import finals
from experiments.harness.command import compose, make_initial_model, read_model, run_once
from experiments.harness.curves import Point, read_curve, records
from experiments.harness.finals import Finals, Found
from experiments.harness.finals_page import publish
from experiments.harness.levels import Spread, ratio, reached, spread
from experiments.harness.method import Method, label, settings
from experiments.harness.optimisers import first_order, martens_grosse
from experiments.harness.problem import Problem
from experiments.harness.runs import Runs
from experiments.harness.tables import levels_table, tuning_table
from experiments.harness.tuning import Tried, lowest, soonest
from tests.experiments.curves import LATE, LEVELS, NEVER, SOON, curve

# Optax multiplies floats by its integer step counts.
pytestmark = pytest.mark.usefixtures("standard_promotion")
SMALL = Problem("small", ("model.width=8", "model.depth=1", "batch_size=200"))


def test_a_level_is_reached_at_the_first_loss_of_at_most_the_level():
    assert reached(LATE, 90) == Point(200, 4.0, 2.0, 90)
    assert reached(NEVER, 90) is None


def test_there_is_no_spread_if_a_seed_did_not_reach_the_level():
    points = [reached(seed, 80) for seed in (SOON, LATE, LATE)]
    assert spread(points, "step") == Spread(300, 2, 300)
    assert spread([*points, None], "step") is None
    assert spread([SOON[-1], NEVER[-1]], "value") == Spread(math.inf, 69, math.inf)


def test_a_ratio_compares_runs_of_the_same_seed():
    ours = [reached(SOON, 90), reached(SOON, 70)]
    theirs = [reached(LATE, 90), reached(LATE, 70)]
    assert ratio(ours, theirs, "step") == Spread((1 / 200 + 3 / 300) / 2, 1 / 200, 3 / 300)
    assert ratio(ours, [theirs[0], None], "step") is None


def test_the_numbers_of_a_setting_are_means_over_the_seeds():
    other = [point._replace(processor_seconds=3 * point.processor_seconds) for point in SOON]
    both = Tried({}, [SOON, other])
    assert both.seconds_to(80) == (2 + 6) / 2
    assert both.last_loss == 69
    assert Tried({}, [SOON, NEVER]).seconds_to(80) == math.inf
    assert Tried({}, [SOON, NEVER]).last_loss == math.inf


def test_the_tables_show_levels_times_and_settings():
    found = {"K-FAC": [SOON], "Adam": [LATE], "Muon": [SOON], "SOAP": [NEVER]}
    text = levels_table(found, LEVELS, "K-FAC")
    assert "| 90 | Adam | 200 (200 to 200) | 4 (4 to 4) | 2 (2 to 2) | 0.5 (0.5 to 0.5) |" in text
    assert "| 90 | SOAP | – | – | – | – |" in text
    table = tuning_table([Tried({"x": 0.1}, [NEVER]), Tried({"x": 1}, [SOON])], LEVELS)
    assert "| x 0.1 | – | – | – | 1000 | inf after 1 |" in table
    assert "| x 1 | 1.0 | 2.0 | 3.0 | 1000 | 69 after 3 |" in table


def method(grid, choices=(), *, scheduled=False):
    return Method("none", list, grid, 1, 1, choices, scheduled)


def test_the_setting_with_the_lowest_last_loss():
    curves = {"a 1": SOON, "a 2": LATE, "a 3": NEVER}
    grid = settings("a", 3, 1, 2)
    setting, tried = lowest(method(grid), lambda s: Tried(s, [curves[label(s)]]))
    assert setting == {"a": 1}
    assert [each.setting for each in tried] == grid


def test_a_method_is_tuned_one_choice_after_the_other():
    """Choice b helps, and choice c does not. Runs with a falling rate do not reach the level."""
    steps = {"a 1": 40, "a 2": 36, "a 2, b 1": 20, "a 2, b 1, c 1": 30, "learning_rate 0.5": 40}
    asked = []

    def attempt(setting):
        asked.append(label(setting))
        taken = steps.get(label(setting))
        if taken is None:
            return Tried(setting, [[Point(1, 1, 1, 85.0)]])
        return Tried(setting, [[Point(taken, taken, float(taken), 69.0)]])

    of_both = method(settings("a", 1, 2), [{"b": 1}, {"c": 1}])
    best, tried = soonest(of_both, attempt, LEVELS)
    assert best == {"a": 2, "b": 1}
    assert [label(each.setting) for each in tried] == asked == list(steps)[:4]
    soonest(method(settings("learning_rate", 0.5), scheduled=True), attempt, LEVELS)
    assert asked[-2:] == ["learning_rate 0.5, until 30", "learning_rate 1.0, until 30"]


def test_a_method_without_a_choice_is_not_tuned():
    def never(setting):
        raise AssertionError(setting)

    assert soonest(method([{}]), never, LEVELS) == ({}, [])
    assert lowest(method([{}]), never) == ({}, [])


def found_for(ends, ours):
    rivals, of_ours = ({n: Found({}, [], c) for n, c in each.items()} for each in (ends, ours))
    return Finals(SMALL, rivals, of_ours, [])


def test_a_rival_is_timed_when_it_first_reaches_its_last_loss():
    found = found_for({"Adam": [curve(200, 50, 60, 50)]}, {"K-FAC": [curve(200, 100, 40)]})
    rows = [row.split(" | ") for row in found.table().splitlines()]
    assert rows[2][1] == "1 (1 to 1)"
    assert rows[3][-1] == "2 (2 to 2) |"


def test_a_rival_that_diverged_has_no_loss_to_reach():
    found = found_for({"Adam": [curve(200, math.nan)]}, {"K-FAC": [curve(200, 100, 40)]})
    rows = [row.split(" | ") for row in found.table().splitlines()]
    assert rows[2][1:4] == ["–", "–", "–"]
    assert rows[3][1] == "0 of 1 seeds"


def test_ours_are_compared_with_the_last_loss_of_each_rival_seed_by_seed():
    ends = {"Adam": [SOON, LATE], "Muon": [curve(200, 89), curve(200, 10)]}
    found = found_for(ends, {"K-FAC": [curve(200, 71, 60), curve(200, 150, 70)]})
    rows = [row.split(" | ") for row in found.table().splitlines()]
    assert rows[2][:2] == ["| **Adam**", "151.5 (3 to 300)"]
    # Adam's last losses are 69 and 70; its runs reach them after 3 processor seconds.
    assert rows[3][:2] == ["| K-FAC to there", "2 (2 to 2)"]
    assert rows[3][-1] == "0.667 (0.667 to 0.667) |"
    assert rows[5][1:3] == ["1 of 2 seeds", "–"]
    assert rows[5][-1] == "– |"


def test_a_page_has_the_tables_the_numbers_and_a_figure(tmp_path):
    found = found_for({"Adam": [LATE, LATE]}, {"K-FAC": [SOON, SOON]})
    publish("structures", [found], tmp_path, most_rows="4,096")
    assert found.table() in (tmp_path / "structures.md").read_text()
    results = json.loads((tmp_path / "structures.json").read_text())
    assert results["problems"]["small"]["Adam"]["curves"][0][-1] == [300, 6.0, 3.0, 70.0]
    assert (tmp_path / "structures.png").stat().st_size > 10_000


def adam(rates=(1e-3, 1e-2)):
    grid = settings("learning_rate", *rates)
    return Method("Adam", first_order("adam"), grid, steps=6, every=4)


def test_a_run_of_the_command_line_is_made_only_once(tmp_path):
    runs = Runs(SMALL, tmp_path)
    folder = runs.run(adam(), {"learning_rate": 0.01}, 3)
    points = read_curve(folder, "train")
    assert [point.step for point in points] == [4, 6]
    assert 0 < points[0].seconds < points[1].seconds
    summary = json.loads((folder / "summary.json").read_text())
    assert points[-1].value == summary["train_loss"]
    assert read_curve(folder, "test", "accuracy")[-1].value == summary["test"]["accuracy"]
    assert len(records(folder)) == 6
    assert not eqx.tree_equal(make_initial_model(folder), read_model(folder))
    written = (folder / "summary.json").stat().st_mtime_ns
    assert runs.run(adam(), {"learning_rate": 0.01}, 3) == folder
    assert (folder / "summary.json").stat().st_mtime_ns == written
    assert runs.run(adam()._replace(steps=2), {"learning_rate": 0.01}, 3) != folder


def test_runs_of_one_program_have_the_results_of_single_runs(tmp_path):
    rate = {"learning_rate": 0.01}
    alone = [Runs(SMALL, tmp_path / "alone").run(adam(), rate, seed) for seed in (1, 2, 3)]
    runs = Runs(SMALL, tmp_path / "together")
    first = runs.run(adam(), rate, 2)
    together = runs.run_seeds(adam(), rate, (1, 2, 3))
    assert together[1] == first
    for one, other in zip(alone, together, strict=True):
        assert one.name == other.name
        ends = [read_curve(folder, "train")[-1].value for folder in (one, other)]
        np.testing.assert_allclose(*ends, rtol=1e-5)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in together]
    assert [each.get("vectorised") for each in summaries] == [2, None, 2]


def test_a_run_that_was_interrupted_is_made_again_as_a_whole(tmp_path):
    overrides = [*SMALL.overrides, "optimiser=adam", "max_steps=3", "epochs=3"]
    folder = run_once(tmp_path / "run", overrides)
    end = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(end | {"status": "interrupted"}))
    (folder / "metrics.jsonl").write_text("")
    run_once(folder, overrides)
    assert len(records(folder)) == 3
    assert json.loads((folder / "summary.json").read_text())["status"] == "finished"


def test_a_run_that_diverged_has_no_last_loss(tmp_path):
    overrides = [*SMALL.overrides, "max_steps=3", "epochs=3", "evaluate_every=1"]
    folder = run_once(tmp_path / "run", overrides)
    end = json.loads((folder / "summary.json").read_text())
    assert math.isfinite(read_curve(folder, "test")[-1].value)
    (folder / "summary.json").write_text(json.dumps(end | {"status": "diverged"}))
    assert math.isnan(read_curve(folder, "test")[-1].value)
    assert math.isfinite(read_curve(folder, "test")[-2].value)


def test_a_changed_default_makes_another_run(tmp_path, monkeypatch):
    runs, composed = Runs(SMALL, tmp_path), compose(["model.width=8"])
    folder = runs.run(adam(), {"learning_rate": 0.01}, 3)
    monkeypatch.setattr(
        "experiments.harness.runs.compose", lambda overrides: composed | {"x64": True}
    )
    assert runs.run(adam(), {"learning_rate": 0.01}, 3) != folder


def test_a_run_that_is_refused_is_an_error(tmp_path, capsys):
    with pytest.raises(RuntimeError, match=r"`python train\.py model\.width=0 .* exit code 2"):
        run_once(tmp_path / "run", ["model.width=0"])
    with pytest.raises(RuntimeError, match=r"`python train\.py model\.wdth=8` is refused"):
        compose(["model.wdth=8"])
    assert "`MLP(width=...)`" in capsys.readouterr().err


def test_a_scheduled_rate_grows_and_falls(tmp_path):
    method = Method("Adam", first_order("adam"), [], steps=120, every=120)
    folder = Runs(SMALL, tmp_path).run(method, {"learning_rate": 0.01, "until": 100}, 0)
    steps = np.array([record["step_norm"] for record in records(folder)])
    assert len(steps) == 100
    assert steps[0] == 0
    assert steps[-1] < 1e-3 * steps.max()


@pytest.mark.slow
def test_methods_are_compared_with_the_last_loss_of_the_rivals(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.harness.runs.SEEDS", (0, 1))
    grid = settings("damping", 0.1)
    ours = Method("K-FAC", martens_grosse("kfac"), grid, 20, 1, [{"samples": 4}])
    found = finals.compare(SMALL, [adam()], [ours], tmp_path)
    assert found.rivals["Adam"].setting == {"learning_rate": 1e-2}
    for ends, soon in zip(found.rivals["Adam"].curves, found.ours["K-FAC"].curves, strict=True):
        point = reached(soon, ends[-1].value)
        assert point is not None
        assert point.step <= 6
    # Tuning: two rates of Adam and two settings of K-FAC, on one seed. Then: both on two seeds.
    assert len({path.parent for path in tmp_path.rglob("summary.json")}) == 2 + 2 + 2 * 2
