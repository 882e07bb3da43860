"""The cost of structures: `python -m benchmarks.structure_cost [--folder FOLDER] [--rounds N]`.

Times whole steps with a structure of the Fisher matrix of one drawn target. The figures are
multiples of an SGD step and of a gradient on the same batch, inside one `lax.scan` over distinct
batches, after the first refreshes. Eigenvectors and Cholesky factors are computed at every tenth
step, A and G at every step. Further figures: the time that A and G add to a gradient, and the
compile time of a step. All times are from one run on one core; ratios are of times of the same
round.
"""

import sys
from typing import Any

import jax

import curvature as cv

from . import compile_cost, stepping
from .problems import Problem, natural_gradient
from .report import Report, parser
from .timing import Rounds

NAME = "structure_cost"
EVERY = 10
# The number of batches is a multiple of `EVERY`: each scan has two refreshes.
PROBLEMS = (Problem(128, 128, 2 * EVERY), Problem(1024, 512, 2 * EVERY))
COMPILED, REPEATS = "784-128-10", 3
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
    """Measure, print each table when it is ready, and write at the end if asked to."""
    options = parser(NAME, __doc__, rounds=7).parse_args(argv)
    report, steps = Report(NAME, options.folder), {}
    for problem in PROBLEMS:
        steps[problem.name] = measure(problem, options.rounds)
        report.show(f"A whole step: {problem.name}", steps[problem.name])
    factors = [measure_factors(problem, options.rounds) for problem in PROBLEMS]
    report.show("What the factors of K-FAC add to a gradient", factors)
    jax.config.update("jax_enable_compilation_cache", False)
    compiled = compile_cost.measure(compile_cost.CASES[COMPILED], REPEATS, methods())
    report.show(f"Tracing and compilation: {COMPILED}", compiled)
    report.write(
        {"steps": steps, "factors": factors, "compiled": compiled},
        rounds=options.rounds,
        every=EVERY,
        steps=steps,
        factors=factors,
        case=COMPILED,
        repeats=REPEATS,
        compiled=compiled,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
