"""Whole steps with exact solves in sample space, compared with an SGD step and a lower bound."""

import dataclasses
from dataclasses import dataclass
from typing import Any

import curvature as cv

from . import stepping
from .problems import Images, Problem, natural_gradient
from .timing import Rounds


@dataclass(frozen=True)
class Kind:
    """A curvature of the table.

    - `rank`: columns of S per example for ten classes.
    - `covered`: whether the gradient is a combination of the rows.
    - `tutorial`: the cost of its step at batch 2 as published, in SGD steps (Gebotys 2021,
      "Natural gradients in JAX"); None where there is no figure.
    - `aims`: the cost that we want, in SGD steps, by the size of the batch.
    """

    curvature: cv.AbstractCurvature
    rank: int
    covered: bool
    tutorial: float | None
    aims: dict[int, float]


KINDS = {
    "empirical_fisher": Kind(cv.EmpiricalFisher(), 1, True, 7, {2: 2.0, 128: 1.9, 512: 1.9}),
    "true_fisher, 1 sample": Kind(
        cv.SampledFisher(1), 1, False, 1300, {2: 2.0, 128: 2.1, 512: 2.2}
    ),
    "true_fisher, 5 samples": Kind(cv.SampledFisher(5), 5, False, 3700, {2: 2.3, 128: 9.0}),
    "exact_fisher": Kind(cv.ExactFisher(), 9, True, None, {2: 2.1, 128: 32.0}),
}


def optimiser(curvature: cv.AbstractCurvature) -> cv.NaturalGradient:
    """A step with an exact solve."""
    return natural_gradient(curvature, cv.SampleSpace())


def measure(problem: Problem, rounds: int) -> list[dict[str, Any]]:
    """One row per curvature: the measured, published and least cost, in SGD steps."""
    kinds = {name: kind for name, kind in KINDS.items() if _fits(problem, kind)}
    scanned, called = {"sgd": stepping.scan_sgd(problem)}, {"sgd": stepping.call_sgd(problem)}
    for name, kind in kinds.items():
        scanned[name] = stepping.scan_steps(problem, optimiser(kind.curvature))
        called[name] = stepping.call_steps(problem, optimiser(kind.curvature))
    in_scan, in_calls = Rounds(scanned, rounds), Rounds(called, rounds)
    return [
        {
            "curvature": name,
            "scan, SGD steps": in_scan.ratio(name, "sgd"),
            "aim": kind.aims.get(problem.batch_size),
            "floor, SGD steps": round(floor(problem, kind), 2),
            "calls, SGD steps": in_calls.ratio(name, "sgd"),
            "tutorial, SGD steps": kind.tutorial if problem.batch_size == 2 else None,
        }
        for name, kind in kinds.items()
    ]


def _fits(problem: Problem, kind: Kind) -> bool:
    """Whether m ≤ 2000; the largest problem, with 512 examples, is measured only for m = 512."""
    return kind.rank * problem.batch_size <= 2000


def floor(problem: Problem, kind: Kind) -> float:
    """A lower bound on the cost of a step, in SGD steps, from operations and memory traffic.

    There are n examples, m = n·rank rows, and P weights (784 × h and h × 10). An SGD step makes two
    products per weight and example, forward and for the gradient (4nP operations), and reads the
    weights twice and writes them once (12P bytes). The step in sample space has one combination of
    rows instead of the gradient, at the same cost. In addition it needs

    - n²(784 + h) for the products of the layers' inputs (half of all, by symmetry),
    - m²(h + 10 + 2) for the products of the cotangents, and to multiply and add the two,
    - 2n²(h + 10) for A v, if the gradient is not a combination of rows,
    - m³/3 + 2m² per right-hand side for Cholesky's method.

    The step reads and writes no weight more often than SGD. If memory traffic limits SGD (as at
    batch 2, where the operations add 1 %), the bound is 1.
    """
    n, h, out = problem.batch_size, problem.hidden, 10
    m, weights = n * kind.rank, 784 * problem.hidden + problem.hidden * 10
    added = n**2 * (784 + h) + m**2 * (h + out + 2) + m**3 / 3
    added += 2 * m**2 if kind.covered else 4 * m**2 + 2 * n**2 * (h + out)
    return 1 + added / (4 * n * weights)


def measure_ways(problem: Images, rounds: int) -> dict[str, Any]:
    """Steps with rows from the structure of the layers, and with rows computed per example."""
    step = optimiser(KINDS["empirical_fisher"].curvature)
    times = Rounds(
        {
            "sgd": stepping.scan_sgd(problem),
            "layers": stepping.scan_steps(problem, step),
            "examples": stepping.scan_steps(dataclasses.replace(problem, opaque=True), step),
        },
        rounds,
    )
    return {
        "problem": problem.name,
        "layer by layer, SGD steps": times.ratio("layers", "sgd"),
        "per example, SGD steps": times.ratio("examples", "sgd"),
    }


def measure_memory(problem: Problem) -> dict[str, Any]:
    """The memory that XLA allocates for a gradient step and for one in sample space, in MiB."""
    gradient = stepping.scan_sgd(problem).memory()
    step = stepping.scan_steps(problem, optimiser(cv.EmpiricalFisher())).memory()
    gram = 4 * problem.batch_size**2
    return {
        "problem": problem.name,
        "SGD, MiB": round(gradient / 2**20, 1),
        "empirical_fisher, MiB": round(step / 2**20, 1),
        "share of 1.5 SGD + Gram": round(step / (1.5 * gradient + gram), 2),
    }
