"""The error against the known solution."""

from pathlib import Path

from experiments.harness.curves import Curve, read_curve


def error_curve(run: Path) -> Curve:
    """The L2 error during a run, evaluated on points that are not those of training."""
    return read_curve(run, "test", "l2_error")
