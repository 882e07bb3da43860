"""The cost of a step: `python -m benchmarks.step_cost [--folder FOLDER] [--rounds N]`.

For each curvature, a whole step is timed, with an exact solve in sample space and with ten products
of conjugate gradients. The figures are multiples of a hand-written jitted SGD step and of a
gradient of the loss on the same batch. Steps run inside one `lax.scan` over distinct batches, which
has no dispatch overhead, and as one call per step from Python, as in the training loop. For exact
solves, a lower bound on the cost and the cost in the JAX tutorial on natural gradients are given,
too. Further tables: rows from the structure of the layers and rows per example, memory, steps of
many seeds under `vmap`, the cost of one product, and the time that the training loop adds to a
step. All ratios are of times of one round of one run.
"""

import sys
from typing import Any

import curvature as cv

from . import exact_solves, loop_cost, many_seeds, stepping
from .problems import IMAGES, PROBLEMS, Problem, natural_gradient
from .report import Report, parser
from .timing import Rounds

NAME = "step_cost"
PRODUCTS = 10
_REFUSES = cv.SampleSpace(max_rows=1)  # `Auto` then chooses CG, or a division

CURVATURES: dict[str, cv.AbstractCurvature] = {
    "identity": cv.Identity(),
    "empirical_fisher": cv.EmpiricalFisher(),
    "true_fisher, 1 sample": cv.SampledFisher(1),
    "true_fisher, 5 samples": cv.SampledFisher(5),
    "exact_fisher": cv.ExactFisher(),
    "gauss_newton": cv.GaussNewton(),
}


def optimiser(curvature: cv.AbstractCurvature) -> cv.NaturalGradient:
    """The step to measure: a solve with `PRODUCTS` products, then the update."""
    cg = cv.CG(rtol=0.0, max_steps=PRODUCTS)
    return natural_gradient(curvature, cv.Auto(cg=cg, sample_space=_REFUSES))


def measure(problem: Problem, rounds: int) -> list[dict[str, Any]]:
    """One row per curvature: multiples of an SGD step and of a gradient."""
    scanned = {"sgd": stepping.scan_sgd(problem), "gradient": stepping.scan_gradient(problem)}
    called = {"sgd": stepping.call_sgd(problem)}
    for name, curvature in CURVATURES.items():
        scanned[name] = stepping.scan_steps(problem, optimiser(curvature))
        called[name] = stepping.call_steps(problem, optimiser(curvature))
    in_scan, in_calls = Rounds(scanned, rounds), Rounds(called, rounds)
    return [
        {
            "curvature": name,
            "scan, SGD steps": in_scan.ratio(name, "sgd"),
            "scan, gradients": in_scan.ratio(name, "gradient"),
            "calls, SGD steps": in_calls.ratio(name, "sgd"),
        }
        for name in CURVATURES
    ]


def measure_product(problem: Problem, rounds: int) -> dict[str, Any]:
    """One product with the Gauss–Newton matrix, in gradients."""
    few, many = 2, 2 + PRODUCTS
    times = Rounds(
        {
            "gradient": stepping.scan_gradient(problem),
            "few": stepping.scan_products(problem, few),
            "many": stepping.scan_products(problem, many),
        },
        rounds,
    )
    return {
        "problem": problem.name,
        "one product, gradients": times.combined(
            lambda of: (of("many") - of("few")) / (many - few) / of("gradient")
        ),
    }


def main(argv: list[str]) -> None:
    """Measure, print each table when it is ready, and write at the end if asked to."""
    options = parser(NAME, __doc__, rounds=15)
    options.add_argument("--cores", type=int, default=1, help="cores to use")
    given = options.parse_args(argv)
    report, rounds = Report(NAME, given.folder, cores=given.cores), given.rounds
    exact, steps = {}, {}
    for problem in PROBLEMS:
        exact[problem.name] = exact_solves.measure(problem, rounds)
        report.show(f"A whole step, solved exactly: {problem.name}", exact[problem.name])
    ways = [exact_solves.measure_ways(problem, rounds) for problem in IMAGES]
    report.show("Rows by the layers, and example by example", ways)
    memory = [exact_solves.measure_memory(PROBLEMS[-1])]
    report.show("Memory", memory)
    seeds = [many_seeds.measure(rounds)]
    report.show("Steps of many seeds under vmap", seeds)
    for problem in PROBLEMS:
        steps[problem.name] = measure(problem, rounds)
        report.show(
            f"A whole step, CG with {PRODUCTS} products: {problem.name}", steps[problem.name]
        )
    products = [measure_product(problem, rounds) for problem in PROBLEMS[1:]]
    report.show("A product with Gauss–Newton", products)
    loop = [
        loop_cost.measure(PROBLEMS[1], name, optimiser(CURVATURES[name]), rounds)
        for name in ("identity", "gauss_newton")
    ]
    report.show(f"What the training loop adds to a step: {PROBLEMS[1].name}", loop)
    figures = {"exact": exact, "ways": ways, "memory": memory, "seeds": seeds}
    figures |= {"steps": steps, "products": products, "loop": loop}
    report.write(
        figures, rounds=rounds, products_of_cg=PRODUCTS, loop_problem=PROBLEMS[1].name, **figures
    )


if __name__ == "__main__":
    main(sys.argv[1:])
