"""The compile time of a step: `python -m benchmarks.compile_cost [--folder FOLDER] [--repeats N]`.

Measures the CPU seconds to trace and to compile one step. The figures are multiples of those of a
plain optax SGD step on the same model and batch, as medians over the repeats in one run. JAX's
caches are cleared before each repeat, and the persistent cache is off.
"""

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PRNGKeyArray, PyTree

import curvature as cv
import models

from .problems import Stacked, natural_gradient, sgd_step
from .report import Report, parser

NAME = "compile_cost"


@dataclass(frozen=True)
class Case:
    """A model and the shape of its inputs; without `compiled`, steps are traced only."""

    build: Callable[[PRNGKeyArray], Any]
    shape: tuple[int, ...]
    batch_size: int = 128
    compiled: bool = True

    def batch(self) -> tuple[Array, Array]:
        x_key, y_key = jax.random.split(jax.random.key(1))
        x = jax.random.uniform(x_key, (self.batch_size, *self.shape))
        return x, jax.random.randint(y_key, (self.batch_size,), 0, 10)


IMAGE = (8, 8)
CASES = {
    "784-128-10": Case(lambda key: eqx.nn.MLP(784, 10, 128, 1, key=key), (784,)),
    "convnet": Case(lambda key: models.ConvNet(IMAGE, 10, key=key), IMAGE),
    "transformer": Case(lambda key: models.TransformerEncoder(IMAGE, 10, key=key), IMAGE),
    "24-layer MLP": Case(lambda key: eqx.nn.MLP(64, 10, 64, 24, key=key), (64,)),
    "48 stacked layers": Case(lambda key: Stacked(64, 48, key=key), IMAGE),
    "24-block transformer": Case(
        lambda key: models.TransformerEncoder(IMAGE, 10, depth=24, key=key), IMAGE, compiled=False
    ),
}


def methods() -> dict[str, cv.NaturalGradient]:
    """The optimisers to measure; a function, so that importing this module creates no arrays."""
    return {
        "gauss_newton, CG": natural_gradient(cv.GaussNewton(), cv.CG(rtol=0.0, max_steps=10)),
        "empirical_fisher, sample space": natural_gradient(cv.EmpiricalFisher(), cv.SampleSpace()),
        "true_fisher 1, sample space": natural_gradient(cv.SampledFisher(1), cv.SampleSpace()),
    }


def measure(
    case: Case, repeats: int, methods: dict[str, cv.NaturalGradient]
) -> list[dict[str, Any]]:
    """One row per method: seconds, and multiples of those of an SGD step."""
    model, batch = case.build(jax.random.key(0)), case.batch()
    params, static = eqx.partition(model, eqx.is_array)
    steps: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "sgd": (lambda params, batch: sgd_step(params, static, batch), (params, batch))
    }
    for name, optimiser in methods.items():
        state = optimiser.init(model, batch=batch)
        steps[name] = (_step(optimiser, static), (params, batch, state, jax.random.key(0)))
    times = {name: [] for name in steps}
    for _ in range(repeats):
        for name, (step, arguments) in steps.items():
            times[name].append(_seconds(step, arguments, compiled=case.compiled))
    rows = []
    for name, seconds in times.items():
        trace, total = (statistics.median(kind) for kind in zip(*seconds, strict=True))
        pairs = list(zip(seconds, times["sgd"], strict=True))
        row = {
            "step": name,
            "trace, s": round(trace, 2),
            "all, s": round(total, 2),
            "trace, SGD": round(statistics.median(one[0] / sgd[0] for one, sgd in pairs), 1),
        }
        if case.compiled:
            row["all, SGD"] = round(statistics.median(one[1] / sgd[1] for one, sgd in pairs), 1)
        rows.append(row)
    return rows


def _step(optimiser: cv.NaturalGradient, static: PyTree) -> Callable[..., Any]:
    def step(params: PyTree, batch: Any, state: Any, key: PRNGKeyArray) -> Any:
        model, state, info = optimiser.step(eqx.combine(params, static), batch, state, key=key)
        return eqx.filter(model, eqx.is_array), state, info

    return step


def _seconds(
    step: Callable[..., Any], arguments: tuple[Any, ...], *, compiled: bool
) -> tuple[float, float]:
    """The CPU seconds of tracing, and those of tracing, lowering and compilation together."""
    jax.clear_caches()
    start = time.process_time()
    traced = jax.jit(lambda *args: step(*args)).trace(*arguments)  # a new function: no cache
    trace = time.process_time() - start
    if compiled:
        traced.lower().compile()
    return trace, time.process_time() - start


def main(argv: list[str]) -> None:
    """Measure, print each table when it is ready, and write at the end if asked to."""
    options = parser(NAME, __doc__)
    options.add_argument("--repeats", type=int, default=3, help="repeats of each measurement")
    options.add_argument("--cases", nargs="*", default=list(CASES), help="which models")
    given = options.parse_args(argv)
    report, found = Report(NAME, given.folder), {}
    jax.config.update("jax_enable_compilation_cache", False)
    for name in given.cases:
        found[name] = measure(CASES[name], given.repeats, methods())
        report.show(name, found[name])
    report.write({"cases": found}, repeats=given.repeats, cases=found)


if __name__ == "__main__":
    main(sys.argv[1:])
