import numpy as np
import pytest

from training.report.curves import POINTS, Curve, curve, mean_curve
from training.report.runs import read_run


def test_a_long_curve_is_reduced_to_the_means_of_its_stretches(write_run):
    losses = [float(n) for n in range(3 * POINTS - 1)]
    losses[1] = None
    found = curve(read_run(write_run("run", losses=tuple(losses))), "step", "loss")
    assert len(found.x) == POINTS
    np.testing.assert_array_equal(found.x[[0, 1, -1]], [3, 6, 3 * POINTS - 1])
    np.testing.assert_allclose(found.y[[0, 1, -1]], [1.0, 4.0, np.mean(losses[-2:])])


def test_seconds_are_counted_without_compilation(write_run):
    known = curve(read_run(write_run("known")), "seconds", "loss")
    np.testing.assert_array_equal(known.x, [0.5, 1.5, 2.5])
    unknown = curve(read_run(write_run("unknown", unfinished=True)), "seconds", "loss")
    np.testing.assert_array_equal(unknown.x, [0.0, 1.0, 2.0])


def test_the_mean_is_over_the_interval_that_all_curves_cover():
    def line(stop, slope):
        x = np.arange(1.0, stop)
        return Curve(x, slope * x)

    found = mean_curve([line(5, 1.0), line(11, 3.0)])
    assert (found.x[0], found.x[-1]) == (1.0, 4.0)
    np.testing.assert_allclose(found.y, 2 * found.x)


@pytest.mark.parametrize("count", [0, 1])
def test_the_mean_of_fewer_than_two_is_none(count):
    assert mean_curve([Curve(np.arange(3.0), np.arange(3.0))] * count) is None
