import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int, PyTree, ScalarLike

from .._trees import select


class Average(eqx.Module):
    """The exponential average of a pytree over steps, with the bias of its start corrected.

        (1 − β) Σ_s β^(t−s) x_s / (1 − β^t),    s = 1 … t

    The correction is that of Kingma and Ba 2015, section 3. Each array is averaged in its own
    precision.

    - `total`: (1 − β) Σ_s β^(t−s) x_s.
    - `steps`: t. A value that is not finite is not counted.
    """

    total: PyTree[Array]
    steps: Int[Array, ""]

    @staticmethod
    def zeros(shapes: PyTree[Array | jax.ShapeDtypeStruct]) -> "Average":
        """The average before the first value: zeros with the shapes and dtypes of `shapes`."""
        total = jtu.tree_map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return Average(total, jnp.zeros((), jnp.int32))

    def update(self, value: PyTree[Array], decay: ScalarLike) -> "Average":
        """The average with one more value.

        **Arguments:** `value`, x. If an entry of x is not finite, or the sum of its entries
        overflows, the average and its count do not change; `decay`, β in [0, 1).
        """
        value = jtu.tree_map(lambda x, total: x.astype(total.dtype), value, self.total)

        def mixed(total: Array, x: Array) -> Array:
            # Not total + (1 − β)(x − total): rounding would leave a part of a large `total`.
            beta = jnp.asarray(decay, total.dtype)
            return beta * total + (1 - beta) * x

        new = Average(jtu.tree_map(mixed, self.total, value), self.steps + 1)
        # A sum is finite only if all its terms are. XLA compiles a sum in a third of the time that
        # it takes for `jnp.all(jnp.isfinite(x))`.
        sums = [jnp.sum(x) for x in jtu.tree_leaves(value)]
        return select(jnp.isfinite(sum(sums[1:], sums[0])), new, self)

    def value(self, decay: ScalarLike) -> PyTree[Array]:
        """The average; NaN if no value was finite so far. `decay` must be that of the updates."""

        def corrected(total: Array) -> Array:
            # `expm1` gives 1 − β^t without cancellation. At t = 0 this is 0/0.
            steps = self.steps.astype(total.dtype)
            return total / -jnp.expm1(steps * jnp.log(jnp.asarray(decay, total.dtype)))

        return jtu.tree_map(corrected, self.total)
