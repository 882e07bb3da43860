from typing import Any

import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
from jaxtyping import Array, PyTree

from .._trees import vdot


class AbstractSymmetricSolver(lx.AbstractLinearSolver):
    """A solver for real symmetric positive definite operators: its state is its own transpose."""

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return state, options

    def assume_full_rank(self) -> bool:
        return True


class Elementwise(AbstractSymmetricSolver):
    """Diagonal systems leaf by leaf: `lineax.Diagonal` would copy all leaves into one vector."""

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> PyTree[Array]:
        del options
        ones = jtu.tree_map(lambda s: jnp.ones(s.shape, s.dtype), operator.in_structure())
        return operator.mv(ones)

    def compute(
        self, state: PyTree[Array], vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        del options
        x = jtu.tree_map(jnp.divide, vector, state)
        # One division per entry: |b − A x| ≤ eps |b|, entry by entry.
        eps = max(jnp.finfo(leaf.dtype).eps for leaf in jtu.tree_leaves(vector))
        stats = {"num_steps": 0, "residual": eps, "quadratic": -vdot(vector, x) / 2}
        return x, lx.RESULTS.successful, stats
