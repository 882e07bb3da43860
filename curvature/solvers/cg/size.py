import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, PyTree, Scalar

from ..._trees import vdot, work_dtype


def size_of(b: PyTree[Array]) -> tuple[Scalar, Scalar]:
    """A power of two near ‖b‖, so that dividing by it is exact, and ‖b‖ over it.

    It is 1 where ‖b‖ is moderate, as it is nearly always: the loop then ends after one turn. Where
    b is zero (or all of it subnormal), or not finite, so is ‖b‖ over it.
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
