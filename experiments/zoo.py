"""Every model with every curvature, with the default settings of a run.

`python -m experiments.zoo` writes `zoo.json, .md`.
"""

import math
import statistics
from pathlib import Path
from typing import Any

from .harness.command import summary
from .harness.curves import records
from .harness.markdown import table
from .harness.method import Method
from .harness.page import parser, write
from .harness.problem import Problem
from .harness.runs import SEEDS, Runs

MODELS = {
    "mlp": (),
    "convnet": ("model=convnet",),
    "transformer": ("model=transformer",),
    "autoencoder": ("model=autoencoder", "likelihood=bernoulli", "objective=autoencoding"),
    "joint": ("dataset=digits_joint", "model=classifying_autoencoder", "objective=joint"),
}
CURVATURES = (
    *("identity", "empirical_fisher", "true_fisher", "exact_fisher", "gauss_newton"),
    *("divergence_hellinger", "divergence_euclidean"),
)
STEPS = 100


def method(curvature: str) -> Method:
    """The default settings with a curvature."""
    return Method(curvature, lambda: [f"curvature={curvature}"], [{}], STEPS, STEPS)


def row(model: str, curvature: str, runs: list[Path]) -> dict[str, Any]:
    """The numbers of a model with a curvature, over the seeds."""
    ends = [summary(run) for run in runs]
    before = [_finite_or_infinite(records(run)[0]["loss"]) for run in runs]
    after = [_finite_or_infinite(end["train_loss"]) for end in ends]
    return {
        "model": model,
        "curvature": curvature,
        "loss before": _round(statistics.median(before)),
        "loss after": _round(statistics.median(after)),
        "worst": _round(max(after)),
        "rejected steps": sum(end["rejected"] for end in ends),
        "worse than before": sum(not b > a for b, a in zip(before, after, strict=True)),
    }


def _finite_or_infinite(loss: float | None) -> float:
    return math.inf if loss is None else loss


def _round(value: float) -> float:
    return float(f"{value:.4g}")


def main() -> None:
    """Train and write; runs that are already on disk are not repeated."""
    arguments = parser("zoo", __doc__, runs="zoo").parse_args()
    rows = []
    for model, overrides in MODELS.items():
        runs = Runs(Problem(model, overrides), arguments.runs)
        for curvature in CURVATURES:
            made = runs.run_seeds(method(curvature), {}, SEEDS)
            rows.append(row(model, curvature, made))
            print(rows[-1], flush=True)
    cells = [[str(value) for value in each.values()] for each in rows]
    write(
        "zoo",
        arguments.folder,
        {"seeds": SEEDS, "steps": STEPS, "rows": rows},
        table=table(list(rows[0]), cells),
        steps=STEPS,
    )


if __name__ == "__main__":
    main()
