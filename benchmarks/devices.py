"""Savings and traffic of 8 devices: `python -m benchmarks.devices [--folder FOLDER]`.

Compiles steps with the batch on a mesh of eight CPU devices. The devices are simulated on one
machine, so nothing is timed. The figures are: the operations per device, divided by those of a step
on a single device; the temporary memory of both; the number of array exchanges between devices; and
the bytes that a device receives in them. The operations are XLA's count, which does not include
LAPACK's factorisations.
"""

import math
import os
import re
import sys
from collections.abc import Callable
from typing import Any

os.environ.setdefault("JAX_NUM_CPU_DEVICES", "8")

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
import optimistix as optx
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

import curvature as cv
import models
from training.cost import flops

from .report import Report, parser
from .tables import mebibytes

DEVICES, BATCH = 8, 512
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
NAME = "devices"
OBJECTIVE = cv.Supervised(cv.Categorical())
IN_PARTS = cv.Supervised(cv.Categorical(), micro_batch=128)


def _natural(*parts: Any, objective: cv.AbstractObjective = OBJECTIVE) -> cv.NaturalGradient:
    return cv.NaturalGradient(objective, *parts, damping=1e-2, search=optx.LearningRate(1e-3))


SAMPLED = cv.SampledFisher(1)
METHODS: dict[str, Callable[[], cv.AbstractOptimiser]] = {
    "SGD": lambda: cv.FirstOrder(OBJECTIVE, optax.sgd(1e-3)),
    "Gauss–Newton, CG": lambda: _natural(cv.GaussNewton(), cv.CG(max_steps=5)),
    "the same, micro-batches of 128": lambda: _natural(
        cv.GaussNewton(), cv.CG(max_steps=5), objective=IN_PARTS
    ),
    "sampled Fisher by rows": lambda: _natural(SAMPLED, cv.SampleSpace()),
    "exact Fisher by rows": lambda: _natural(cv.ExactFisher(), cv.SampleSpace()),
    "K-FAC": lambda: _natural(cv.KFAC(SAMPLED)),
    "K-FAC, factored damping": lambda: _natural(cv.KFAC(SAMPLED, damping="factored")),
    "EKFAC": lambda: _natural(cv.EKFAC(SAMPLED)),
    "exact blocks": lambda: _natural(cv.BlockDiagonal(SAMPLED)),
    "diagonal": lambda: _natural(cv.Diagonal(SAMPLED)),
    "low rank, 10": lambda: _natural(cv.LowRank(SAMPLED, 10)),
}


def compiled(optimiser: cv.AbstractOptimiser, put: Callable[..., Any]) -> jax.stages.Compiled:
    """A step on a batch of images, compiled from shapes only."""
    model = eqx.filter_eval_shape(models.MLP, (28, 28), 10, width=256, key=jax.random.key(0))
    images = jax.ShapeDtypeStruct((BATCH, 28, 28), jnp.float32)
    batch = images, jax.ShapeDtypeStruct((BATCH,), jnp.int32)
    state = eqx.filter_eval_shape(optimiser.init, model, batch=batch)
    arrays, static = eqx.partition((model, state), _is_shape)

    def step(arrays: PyTree, batch: Any, key: Any) -> PyTree:
        model, state = eqx.combine(arrays, static)
        return eqx.filter(optimiser.step(model, batch, state, key=key), eqx.is_array)

    key = jax.eval_shape(lambda: jax.random.key(0))
    return jax.jit(step).lower(put(arrays), put(batch, "examples"), put(key)).compile()


def _is_shape(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def exchanges(program: jax.stages.Compiled) -> dict[str, Any]:
    """The number of array exchanges between devices by kind, and the MiB that each device receives.

    The body of a loop counts once.
    """
    counts: dict[str, int] = dict.fromkeys(COLLECTIVES, 0)
    nbytes = 0
    for line in (program.as_text() or "").splitlines():
        found = re.search(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(", line)
        if found is None:
            continue
        counts[str(found[2])] += 1
        nbytes += sum(_nbytes(*each) for each in re.findall(r"(\w+)\[([\d,]*)\]", found[1]))
    return {**counts, "MiB exchanged": round(nbytes / 2**20, 2)}


def _nbytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype) or 8)
    return math.prod(map(int, filter(None, shape.split(",")))) * bits // 8


def measure(name: str) -> dict[str, Any]:
    """One row."""
    mesh = jax.make_mesh((DEVICES,), ("examples",), (jax.sharding.AxisType.Auto,))

    def on_mesh(tree: PyTree, *axes: str) -> PyTree:
        where = NamedSharding(mesh, PartitionSpec(*axes))
        return jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree
        )

    alone = compiled(METHODS[name](), lambda tree, *axes: tree)
    with jax.set_mesh(mesh):
        shared = compiled(METHODS[name](), on_mesh)
    return {
        "step": name,
        "operations": round(flops(shared) / flops(alone), 3),
        "temporaries, MiB": f"{mebibytes(shared):.1f} ({mebibytes(alone):.1f})",
        **exchanges(shared),
    }


def main(argv: list[str]) -> None:
    """Count, print, and write if asked to."""
    options = parser(NAME, __doc__).parse_args(argv)
    report = Report(NAME, options.folder, cores=None)
    title = f"784-256-256-10, batch {BATCH}, {DEVICES} devices"
    rows = [measure(name) for name in METHODS]
    report.show(title, rows)
    report.write({"steps": rows}, title=title, table=rows)


if __name__ == "__main__":
    main(sys.argv[1:])
