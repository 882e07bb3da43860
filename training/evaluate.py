"""Loss and metrics of a model over a whole part of a dataset."""

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

import curvature as cv

from .metrics import metrics
from .terms import examples, terms

CHUNK = 1024
"""Examples evaluated at a time: bounds the memory, whatever the size of the part."""


def evaluate(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]
) -> dict[str, float]:
    """The loss and the metrics of `model`, in inference mode, over all examples of `part`.

    Every example counts the same: the mean is taken once, in float64, over one number per
    example, so that neither the last short chunk nor the precision of the model bends it.
    One trace per shape of `part`, whatever the weights.

    **Arguments:** `objective`, which must not need a key in inference mode; `model`; `part`, a
    batch of the objective's structure whose leaves share one leading axis n.

    **Returns:** `{"loss": ...}` and each term's metrics, such as `"accuracy"`; in an objective
    of several terms `"name/accuracy"`.
    """
    finish = {
        _key(name, metric.name): metric.finish
        for name, term in terms(objective).items()
        for metric in metrics(term.likelihood)
    }
    values = per_example(objective, model, part)
    means = {name: float(np.mean(np.asarray(v), dtype=np.float64)) for name, v in values.items()}
    return {"loss": means["loss"]} | {name: finish[name](means[name]) for name in finish}


@eqx.filter_jit
def per_example(
    objective: cv.AbstractObjective, model: eqx.Module, part: PyTree[Array]
) -> dict[str, Float[Array, " n"]]:
    """The loss and the metrics, before they are finished, of each of the n examples."""
    model = eqx.nn.inference_mode(model)

    def single(example: PyTree[Array]) -> dict[str, Array]:
        batch = jax.tree.map(lambda array: array[None], example)
        values = {"loss": objective.loss(model, batch)}
        pairs = jax.tree.map(lambda array: array[0], examples(objective, batch))
        for name, term in terms(objective).items():
            x, y = pairs[name]
            z = term.example(model, x, None)
            for metric in metrics(term.likelihood):
                values[_key(name, metric.name)] = metric.example(z, y)
        return values

    return jax.lax.map(single, part, batch_size=CHUNK)


def _key(term: str, metric: str) -> str:
    return f"{term}/{metric}" if term else metric
