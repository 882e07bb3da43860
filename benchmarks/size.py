"""Memory and time of a step on a large model: `python -m benchmarks.size [--folder FOLDER]`.

The model is a net of equal layers in a `scan`; the batch has 8 examples. One step is made. Memory
is XLA's count, in vectors of the size of all weights. The compile time is that of a smaller net
with many layers and with one.
"""

import sys
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import optax
import optimistix as optx

import curvature as cv

from .problems import OBJECTIVE, Stacked, natural_gradient
from .report import Report, parser

NAME = "size"
BATCH = 8
FLOAT = 4
SCANNED = 256, 48
"""The width and the number of layers of the net that is only compiled."""

METHODS: dict[str, Callable[[], cv.AbstractOptimiser]] = {
    "SGD": lambda: cv.FirstOrder(OBJECTIVE, optax.sgd(1e-3)),
    "Adam": lambda: cv.FirstOrder(OBJECTIVE, optax.adam(1e-3)),
    "Gauss–Newton, 5 steps of CG": lambda: natural_gradient(cv.GaussNewton(), cv.CG(max_steps=5)),
    "K-FAC, factored damping": lambda: cv.NaturalGradient(
        OBJECTIVE,
        cv.KFAC(cv.SampledFisher(1), damping="factored"),
        damping=1e-2,
        search=optx.LearningRate(1e-3),
    ),
    "K-FAC": lambda: cv.NaturalGradient(
        OBJECTIVE,
        cv.KFAC(cv.SampledFisher(1)),
        damping=1e-2,
        search=optx.LearningRate(1e-3),
    ),
}


class Step:
    """A step on a model of equal layers, compiled from shapes so that no other array exists."""

    def __init__(self, width: int, depth: int, optimiser: cv.AbstractOptimiser):
        self._width, self._depth, self._optimiser = width, depth, optimiser
        began = time.process_time()
        arrays, self._static = eqx.partition(eqx.filter_eval_shape(self._begin), _is_array)
        jitted = jax.jit(self._step, donate_argnums=0)
        self._compiled = jitted.lower(arrays, self._batch(), jax.random.key(0)).compile()
        self.compilation = time.process_time() - began
        self.parameters = sum(
            leaf.size
            for leaf in jax.tree.leaves(eqx.filter_eval_shape(self._model))
            if _is_array(leaf)
        )
        found = self._compiled.memory_analysis()
        assert found is not None, "XLA says so on every platform"
        self.arguments, self.temporaries = found.argument_size_in_bytes, found.temp_size_in_bytes

    def __call__(self) -> float:
        """Makes one step and returns its seconds."""
        arrays = eqx.filter(eqx.filter_jit(self._begin)(), eqx.is_array)
        batch = jax.block_until_ready(self._batch())
        began = time.perf_counter()
        jax.block_until_ready(self._compiled(arrays, batch, jax.random.key(0)))
        return time.perf_counter() - began

    def _model(self) -> Stacked:
        return Stacked(self._width, self._depth, key=jax.random.key(0))

    def _begin(self) -> tuple[Stacked, Any]:
        model = self._model()
        return model, self._optimiser.init(model, batch=self._batch())

    def _batch(self) -> Any:
        x_key, y_key = jax.random.split(jax.random.key(1))
        x = jax.random.uniform(x_key, (BATCH, self._width))
        return x, jax.random.randint(y_key, (BATCH,), 0, 10)

    def _step(self, arrays: Any, batch: Any, key: Any) -> Any:
        model, state = eqx.combine(arrays, self._static)
        model, state, info = self._optimiser.step(model, batch, state, key=key)
        return eqx.filter((model, state), eqx.is_array), eqx.filter(info, eqx.is_array)


def _is_array(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def measure(name: str, width: int, depth: int) -> dict[str, Any]:
    """One row."""
    step = Step(width, depth, METHODS[name]())
    unit = FLOAT * step.parameters
    seconds = step()
    return {
        "step": name,
        "parameters": f"{step.parameters:,}",
        "weights and state, P": round(step.arguments / unit, 2),
        "beside them, P": round(step.temporaries / unit, 2),
        "in all, GiB": round((step.arguments + step.temporaries) / 2**30, 2),
        "seconds of the step": round(seconds, 1),
    }


def measure_compilation(name: str, width: int, depth: int) -> dict[str, Any]:
    """The processor seconds to trace and compile a step, for all layers and for one."""
    one, step = (Step(width, layers, METHODS[name]()) for layers in (1, depth))
    return {
        "step": name,
        f"{depth} layers, s": round(step.compilation, 1),
        "one layer, s": round(one.compilation, 1),
    }


def main(argv: list[str]) -> None:
    """Measure, print each row when it is ready, and write at the end if asked to."""
    options = parser(NAME, __doc__)
    options.add_argument("--width", type=int, default=2048)
    options.add_argument("--depth", type=int, default=24)
    options.add_argument("--steps", nargs="*", default=list(METHODS), help="which")
    given = options.parse_args(argv)
    report, rows, compiled = Report(NAME, given.folder), [], []
    jax.config.update("jax_enable_compilation_cache", False)
    Step(1, 1, METHODS["SGD"]())  # the costs of the first compilation of a process
    for name in given.steps:
        compiled.append(measure_compilation(name, *SCANNED))
        report.show("Compilation: {1} layers of {0}".format(*SCANNED), compiled[-1:])
    for name in given.steps:
        rows.append(measure(name, given.width, given.depth))
        report.show(f"{given.depth} layers of {given.width}", rows[-1:])
    report.write(
        {"steps": rows, "compilation": compiled},
        width=given.width,
        depth=given.depth,
        batch=BATCH,
        table=rows,
        scanned_width=SCANNED[0],
        scanned_depth=SCANNED[1],
        compilation=compiled,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
