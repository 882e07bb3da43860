"""Adam, and natural gradients with every structure; the settings of each to try."""

import functools
from collections.abc import Callable

import curvature as cv
from experiments.comparison.method import Method, Setting
from experiments.comparison.ours import martens_grosse, of_divergence
from experiments.comparison.rivals import adam

OBJECTIVE = cv.Supervised(cv.Categorical())


def of_model(
    structure: Callable[[cv.AbstractPullback], cv.AbstractCurvature],
    damping: float,
    samples: int = 1,
) -> cv.NaturalGradient:
    """The step of Martens and Grosse 2015: rate and momentum from the Gauss–Newton model."""
    return martens_grosse(OBJECTIVE, structure(cv.SampledFisher(samples)), damping)


def _full(of: cv.AbstractPullback) -> cv.AbstractPullback:
    return of


STRUCTURES = {
    "full": _full,
    "K-FAC": cv.KFAC,
    "K-FAC, factored damping": functools.partial(cv.KFAC, damping="factored"),
    "EKFAC": cv.EKFAC,
    "layer by layer": cv.BlockDiagonal,
    "diagonal": cv.Diagonal,
    "low rank": functools.partial(cv.LowRank, rank=20),
}
MOST_ROWS = cv.BlockDiagonal(cv.SampledFisher()).max_size
"""Layer by layer does not try more drawn targets than make so many rows."""
BY_MODEL = {"K-FAC, rate by the model": cv.KFAC, "EKFAC, rate by the model": cv.EKFAC}


def rival(steps: int) -> Method:
    """Adam with a constant rate, and with a rate that falls to zero at the last step."""
    rates = (1e-3, 3e-3, 1e-2, 3e-2)
    grid: list[Setting] = [{"learning_rate": peak} for peak in rates]
    grid += [{"learning_rate": peak, "until": steps} for peak in rates]
    return Method(
        functools.partial(adam, OBJECTIVE),
        grid,
        [],
        every=_every(steps),
        steps=steps,
        scheduled=False,
    )


def ours(steps: int, batch_size: int) -> dict[str, Method]:
    """All structures with steps of a given divergence, and two with the step of `of_model`.

    **Arguments:** `steps`, the number of Adam's steps, and the most of ours; `batch_size`, that of
    training.
    """
    sampled: Setting = {"samples": 4}
    by_divergence = Method(
        of_divergence,
        grid=[{"until": steps, "delta": delta} for delta in (0.1, 0.3, 0.03)],
        choices=[{"damping": 0.01}, sampled, {"until": steps // 2}],
        every=_every(steps),
        steps=steps,
        scheduled=False,
    )
    by_model = by_divergence._replace(
        grid=[{"damping": damping} for damping in (0.1, 1.0, 0.01)], choices=[sampled]
    )
    found = {
        name: by_divergence._replace(make=functools.partial(of_divergence, OBJECTIVE, structure))
        for name, structure in STRUCTURES.items()
    }
    if 4 * batch_size > MOST_ROWS:
        fewer = [choice for choice in by_divergence.choices if choice != sampled]
        found["layer by layer"] = found["layer by layer"]._replace(choices=fewer)
    return found | {
        name: by_model._replace(make=functools.partial(of_model, structure))
        for name, structure in BY_MODEL.items()
    }


def _every(steps: int) -> int:
    """The steps between two evaluations: about fifty evaluations in as many steps as Adam's."""
    return max(1, steps // 50)
