"""The average of a metric over the steps."""

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, Float, Int, PyTree, Scalar

from ...operators import DenseOperator

_MOST = 8192

_TOO_MANY = (
    f"`NaturalGradient(metric_decay=...)` averages a dense matrix, for at most {_MOST:,} trainable "
    "weights, got {found:,}. Leave it out, and raise the samples or the batch size instead."
)


class MetricAverage(eqx.Module):
    """What the metrics C_s of the steps s = 1 … t add up to, (1 − β) Σ_s β^(t−s) C_s, and t."""

    total: Float[Array, "P P"]
    steps: Int[Array, ""]


def no_average(params: PyTree[Array]) -> MetricAverage:
    """The average before the first step.

    **Raises:** `ValueError` where there are too many weights for a dense matrix.
    """
    leaves = jtu.tree_leaves(params)
    size = sum(leaf.size for leaf in leaves)
    if size > _MOST:
        raise ValueError(_TOO_MANY.format(found=size))
    return MetricAverage(
        jnp.zeros((size, size), jnp.result_type(*leaves)), jnp.zeros((), jnp.int32)
    )


def averaged_with(
    average: MetricAverage, operator: lx.AbstractLinearOperator, decay: Scalar
) -> tuple[MetricAverage, DenseOperator]:
    """The average with one more metric, and it as an operator, without its bias towards zero.

    **Arguments:** `operator`, C_t; `decay`, β in (0, 1).
    """
    total, beta = average.total, decay.astype(average.total.dtype)
    total = total + (1 - beta) * (operator.as_matrix().astype(total.dtype) - total)
    steps = average.steps + 1
    weight = -jnp.expm1(steps.astype(total.dtype) * jnp.log(beta))  # 1 − βᵗ
    return MetricAverage(total, steps), DenseOperator(total / weight, operator.in_structure())
