"""The targets of the comparison, and whether each is met."""

import math
from collections.abc import Mapping, Sequence

from experiments.harness.curves import Curve
from experiments.harness.levels import ratio, reached
from experiments.harness.markdown import table
from experiments.harness.method import label
from experiments.harness.tuning import Tried

from .problem import LEVELS

OURS = "K-FAC"
AIMS = {"Adam": 1 / 2, "Muon": 1.0, "SOAP": 1.0, "Shampoo": 1.0}
"""What K-FAC's processor seconds over those of a rival are to be at most, at every level."""


def verdict(curves: Mapping[str, Sequence[Curve]]) -> str:
    """States whether the target is met at every level, one line per rival."""
    lines = []
    for name, aim in AIMS.items():
        cells = []
        for level in LEVELS:
            ours, theirs = ([reached(c, level) for c in curves[who]] for who in (OURS, name))
            found = ratio(ours, theirs, "processor_seconds")
            if None in ours:
                cells.append(f"{level:g}: a run of {OURS} did not reach it, missed")
            elif found is None:
                cells.append(f"{level:g}: a run of {name} did not reach it")
            else:
                word = "met" if found.median <= aim else "missed"
                cells.append(f"{level:g}: {found.median:.2f}, {word}")
        lines.append(f"- at most {aim:g} of {name}'s: {'; '.join(cells)}.")
    return "\n".join(lines)


def soonest_table(tuned: Mapping[str, Sequence[Tried]]) -> str:
    """The fewest processor seconds to each level over all settings, on the tuning seed."""
    rows = []
    for name, tried in tuned.items():
        cells = []
        for level in LEVELS:
            first = min(tried, key=lambda each: each.seconds_to(level))
            seconds = first.seconds_to(level)
            known = math.isfinite(seconds)
            cells.append(f"{seconds:.1f}, {label(first.setting)}" if known else "–")
        rows.append([name, *cells])
    return table(["", *(f"{level:g}" for level in LEVELS)], rows)


def steps_of_hessian_free(curves: Mapping[str, Sequence[Curve]]) -> str:
    """The target of Hessian-free: at most a twentieth of Adam's steps to the first level."""
    level = LEVELS[0]
    hessian_free, adam = (
        [reached(curve, level) for curve in curves[name]] for name in ("Hessian-free", "Adam")
    )
    found = ratio(hessian_free, adam, "step")
    if found is None:
        return f"a run did not reach {level:g}"
    reads = "met" if found.median <= 1 / 20 else "missed"
    return f"1/{1 / found.median:.0f}, {reads}"
