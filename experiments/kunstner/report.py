"""The tables, as Markdown."""

from collections.abc import Sequence

from experiments.harness.markdown import table

from .newton import Iterate
from .scaling import DISTANCES, Scaling


def newton_table(found: dict[str, list[Iterate]]) -> str:
    """One row per step: the loss, and the deviation from Newton's iterate, of each problem."""
    header = ["step"] + [f"{name}, {what}" for name in found for what in ("loss", "deviation")]
    rows = []
    for of_step in zip(*found.values(), strict=True):
        cells = [(f"{it.loss:.6f}", f"{it.deviation:.0e}") for it in of_step]
        rows.append([str(of_step[0].step), *(text for pair in cells for text in pair)])
    return table(header, rows)


def scaling_table(found: Sequence[Scaling]) -> str:
    """One row per curvature and damping: at each distance, length, s* and the remaining loss."""
    header = ["curvature", "λ"]
    header += [f"τ={distance:g}: length / s* / left, at s*" for distance in DISTANCES]
    rows = []
    for start in range(0, len(found), len(DISTANCES)):
        group = found[start : start + len(DISTANCES)]
        cells = [
            f"{_short(s.length)} / {_short(s.best_step)} / "
            f"{_short(s.remaining)}, {_short(s.remaining_at_best)}"
            for s in group
        ]
        rows.append([group[0].curvature, f"{group[0].damping:g}", *cells])
    return table(header, rows)


def near_the_optimum(found: Sequence[Scaling]) -> str:
    """The remaining loss at the smallest distance, for Newton and for the best damping."""
    near = [s for s in found if s.distance == min(DISTANCES)]
    newton, *empirical = near
    asked, best = (
        min(getattr(s, n) for s in empirical) for n in ("remaining", "remaining_at_best")
    )
    return (
        f"At τ={min(DISTANCES):g} Newton's step leaves {_short(newton.remaining)} of the gap.\n"
        f"With the empirical Fisher, over all dampings, {_short(asked)} is left at least, and "
        f"{_short(best)} at the best step size, which one would have to know."
    )


def _short(value: float) -> str:
    """The value with three digits; 0 if it is below the rounding of the losses."""
    return "0" if abs(value) < 1e-11 else f"{value:.3g}"
