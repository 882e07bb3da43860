"""The cost of structures: `python -m benchmarks.structure_cost [--json FILE] [--rounds N]`.

Times whole steps with a structure of the Fisher matrix of one drawn target. The figures are
multiples of an SGD step and of a gradient on the same batch, inside one `lax.scan` over distinct
batches, after the first refreshes. Eigenvectors and Cholesky factors are computed at every tenth
step, A and G at every step. Further figures: the time that A and G add to a gradient, and the
compile time of a step. All times are from one run on one core; ratios are of times of the same
round.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

import curvature as cv
from training import machine

from . import compile_cost, stepping
from .problems import Problem, natural_gradient
from .tables import table, write_figures
from .timing import Rounds

EVERY = 10
# The number of batches is a multiple of `EVERY`: each scan has two refreshes.
PROBLEMS = (Problem(128, 128, 2 * EVERY), Problem(1024, 512, 2 * EVERY))
_OF = cv.SampledFisher(1)


def methods() -> dict[str, cv.NaturalGradient]:
    """The optimisers to measure; a function, so that importing this module creates no arrays."""
    return {
        "full, sample space": natural_gradient(_OF, cv.SampleSpace()),
        "diagonal": natural_gradient(cv.Diagonal(_OF), cv.Auto()),
        "kfac": natural_gradient(cv.KFAC(_OF, every=EVERY), cv.Auto()),
        "kfac, factored damping": natural_gradient(
            cv.KFAC(_OF, every=EVERY, damping="factored"), cv.Auto()
        ),
        "ekfac": natural_gradient(cv.EKFAC(_OF, every=EVERY), cv.Auto()),
        "block_diagonal": natural_gradient(cv.BlockDiagonal(_OF), cv.Auto()),
    }


def measure(problem: Problem, rounds: int) -> list[dict[str, Any]]:
    """One row per structure."""
    scans: dict[str, stepping.Thing] = {
        "sgd": stepping.scan_sgd(problem),
        "gradient": stepping.scan_gradient(problem),
    }
    optimisers = methods()
    for name, optimiser in optimisers.items():
        scans[name] = stepping.scan_steps(problem, optimiser).warm_up()
    times = Rounds(scans, rounds)
    return [
        {
            "structure": name,
            "SGD steps": times.ratio(name, "sgd"),
            "gradients": times.ratio(name, "gradient"),
        }
        for name in optimisers
    ]


def measure_factors(problem: Problem, rounds: int) -> dict[str, Any]:
    """The cost of A and G of K-FAC, in gradients, without the gradient itself."""
    never = cv.KFAC(_OF, every=10**6)
    scans: dict[str, stepping.Thing] = {
        "gradient": stepping.scan_gradient(problem),
        "factors": stepping.scan_curvature(problem, never).warm_up(),
    }
    times = Rounds(scans, rounds)
    beyond = times.combined(lambda of: (of("factors") - of("gradient")) / of("gradient"))
    return {"problem": problem.name, "factors, gradients": beyond}


def main(argv: list[str]) -> None:
    """Measure, print each row when it is ready, and write JSON at the end if asked to."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.structure_cost", description=__doc__
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of each measurement")
    options = parser.parse_args(argv)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])  # before the first array
    about, console = machine.describe(), Console()
    console.print(f"{about['processor']}; {about['versions']}")
    steps: dict[str, Any] = {}
    for problem in PROBLEMS:
        steps[problem.name] = measure(problem, options.rounds)
        console.print(table(f"A whole step: {problem.name}", steps[problem.name]))
    factors = [measure_factors(problem, options.rounds) for problem in PROBLEMS]
    console.print(table("What the factors of K-FAC add to a gradient", factors))
    case = "784-128-10"
    jax.config.update("jax_enable_compilation_cache", False)
    compiled = compile_cost.measure(compile_cost.CASES[case], 3, methods())
    console.print(table(f"Tracing and compilation: {case}", compiled))
    if options.json:
        write_figures(options.json, about, steps=steps, factors=factors, compiled=compiled)


if __name__ == "__main__":
    main(sys.argv[1:])
