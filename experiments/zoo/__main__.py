"""`python -m experiments.zoo [--folder FOLDER]` writes `zoo.json` and `zoo.md`."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

import curvature as cv
from experiments.markdown import results_folder, table
from training import machine

from .problems import problems
from .training import Trained, train

TEMPLATE = Path(__file__).with_name("template.md")
SEEDS = [0, 1, 2, 3, 4]
STEPS = 100
CURVATURES = {
    "identity": cv.Identity(),
    "empirical_fisher": cv.EmpiricalFisher(),
    "true_fisher": cv.SampledFisher(samples=1),
    "exact_fisher": cv.ExactFisher(),
    "gauss_newton": cv.GaussNewton(),
    "divergence_hellinger": cv.Divergence(cv.SquaredHellinger()),
    "divergence_euclidean": cv.Divergence(cv.SquaredEuclidean()),
}


def main() -> None:
    """Train and write."""
    parser = argparse.ArgumentParser(prog="python -m experiments.zoo", description=__doc__)
    parser.add_argument(
        "--folder", type=results_folder, default="docs/results", help="where to write"
    )
    folder = parser.parse_args().folder
    rows = []
    for problem in problems():
        for name, curvature in CURVATURES.items():
            rows.append(_row(problem.name, name, train(problem, curvature, SEEDS, STEPS)))
            print(rows[-1], flush=True)
    _write(folder, rows)


def _row(model: str, curvature: str, trained: Trained) -> dict[str, Any]:
    return {
        "model": model,
        "curvature": curvature,
        "loss before": _round(np.median(trained.before)),
        "loss after": _round(np.median(trained.after)),
        "worst": _round(np.max(trained.after)),
        "rejected steps": int(trained.rejected.sum()),
        "worse than before": int(np.sum(~(trained.after < trained.before))),
    }


def _round(value: Any) -> float:
    return float(f"{value:.4g}")


def _write(folder: Path, rows: list[dict[str, Any]]) -> None:
    about = machine.describe()
    text = TEMPLATE.read_text(encoding="utf-8").format(
        python=about["python"],
        versions=machine.versions_in_one_line(about),
        table=table(list(rows[0]), [[str(value) for value in row.values()] for row in rows]),
    )
    (folder / "zoo.md").write_text(text, encoding="utf-8")
    results = {"machine": about, "seeds": SEEDS, "steps": STEPS, "rows": rows}
    (folder / "zoo.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
