import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree, Scalar

from ..._trees import vdot, work_dtype


def size_of(b: PyTree[Array]) -> tuple[Scalar, Scalar]:
    """A power of two s near ‖b‖, and ‖b‖/s. Dividing by a power of two is exact.

    If ‖b‖² neither over- nor underflows, s = 1 and the loop ends after one turn; this is nearly
    always the case. If b is zero or not finite, so is ‖b‖/s. A b with only subnormal entries counts
    as zero.
    """
    dtype = work_dtype(b)
    largest = float(jnp.finfo(dtype).max) ** 0.5
    step = 2.0 ** (jnp.finfo(dtype).maxexp // 2 - 4)

    def turn(carry: tuple[Array, Scalar, Scalar, Scalar]) -> tuple[Array, Scalar, Scalar, Scalar]:
        count, size, _, _ = carry
        small = jtu.tree_map(lambda v: v / size.astype(v.dtype), b)
        squared = vdot(small, small)
        factor = jnp.where(squared > largest, step, jnp.where(squared < 1 / largest, 1 / step, 1))
        return jnp.where(factor == 1, 3, count + 1), size * factor.astype(dtype), size, squared

    one, zero = jnp.ones((), dtype), jnp.zeros((), dtype)
    start = jnp.zeros((), jnp.int32), one, one, zero
    _, _, size, squared = jax.lax.while_loop(lambda carry: carry[0] < 3, turn, start)
    return size, jnp.sqrt(squared)
