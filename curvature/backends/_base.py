import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from .._precision import full_precision
from ..likelihoods import AbstractLoss, Coefficients
from ..linearisation import Linearisation, LinearisedTerm, example_keys, term_key
from ..operators import PullbackOperator


class AbstractCurvature(eqx.Module):
    """A metric on the trainable weights, made anew at every step."""

    @abc.abstractmethod
    def operator(
        self, linearisation: Linearisation, *, key: PRNGKeyArray | None = None
    ) -> lx.AbstractLinearOperator:
        """The metric C at the weights of the linearisation.

        **Arguments:** `linearisation`, from `objective.linearise`; `key`, for curvatures that
        draw random numbers: they are drawn here, once, so that the operator does not change from
        one product to the next.

        **Returns:** a lineax operator from the trainable weights to themselves, tagged positive
        semidefinite. It is a sum over examples with the scaling of the loss, weight_t/n_t.
        """


class AbstractPullback(AbstractCurvature):
    """C = Σ_t weight_t/n_t Σ_i J_iᵀ S_i S_iᵀ J_i: a metric on the outputs, pulled back.

    To write a curvature of this kind, subclass and say what S is for *one* example.
    """

    @abc.abstractmethod
    def factor(
        self,
        likelihood: AbstractLoss,
        z: Float[Array, "*shape"],
        y: PyTree[Array],
        *,
        key: PRNGKeyArray | None,
    ) -> lx.AbstractLinearOperator | Float[Array, "c r"]:
        """The factor S of the metric M = S Sᵀ on one example's outputs.

        **Arguments:** `likelihood`, of the example's term; `z`, the outputs; `y`, the target;
        `key`, the example's own (None if none was given).

        **Returns:** S (c × r), c = `z.size`: a lineax operator between flat vectors, or an array.
        """

    @full_precision
    def operator(
        self, linearisation: Linearisation, *, key: PRNGKeyArray | None = None
    ) -> PullbackOperator:
        terms, factors = linearisation.terms, []
        for index, term in enumerate(terms):
            if factors:
                term = _after(term, factors[-1])
            factors.append(self._factors(term, term_key(key, index)))
        coefficients = tuple(map(self._coefficients, terms))
        return PullbackOperator(linearisation, tuple(factors), coefficients)

    def _factors(self, term: LinearisedTerm, key: PRNGKeyArray | None) -> lx.AbstractLinearOperator:
        def one(z: Array, y: Any, key: PRNGKeyArray | None) -> lx.AbstractLinearOperator:
            S = self.factor(term.likelihood, z, y, key=key)
            if isinstance(S, jax.Array | np.ndarray) and S.ndim == 2:
                S = lx.MatrixLinearOperator(jnp.asarray(S))
            if not isinstance(S, lx.AbstractLinearOperator) or S.out_size() != z.size:
                raise ValueError(
                    f"`{type(self).__name__}.factor` must return S (c × r) for one example, with "
                    f"c = {z.size} outputs here, as a lineax operator or an array; got {S}."
                )
            return S

        keys = example_keys(key, term.size)
        return eqx.filter_vmap(one)(term.outputs, term.targets, keys)

    def _coefficients(self, term: LinearisedTerm) -> Coefficients | None:
        if not isinstance(self, AbstractCoveringPullback):
            return None
        return eqx.filter_vmap(lambda z, y: self.coefficients(term.likelihood, z, y))(
            term.outputs, term.targets
        )


class AbstractCoveringPullback(AbstractPullback):
    """A pullback whose S covers the gradient: there is ρ with S ρ = ∇_z nll(z, y).

    Then the gradient of the loss is a combination of the rows of C = AᵀA, g = Aᵀρ, and a solve
    in sample space does without the difference (g − …)/λ, which cancels for small λ.
    """

    @abc.abstractmethod
    def coefficients(
        self, likelihood: AbstractLoss, z: Float[Array, "*shape"], y: PyTree[Array]
    ) -> Coefficients | None:
        """ρ with S ρ = ∇_z nll(z, y) for one example, or None where no closed form is known."""


def _after(term: LinearisedTerm, factors: lx.AbstractLinearOperator) -> LinearisedTerm:
    """The same term, whose factors cannot be computed before those of the term before it.

    LAPACK decomposes the matrices of a batch on XLA's own threads and waits for them there: as many
    batches at a time as there are threads wait for ever (seen with jaxlib 0.10.2, two threads and
    two terms). Zero times a number is what XLA does not leave out.
    """
    made = [leaf.ravel()[:1] for leaf in jtu.tree_leaves(factors) if eqx.is_inexact_array(leaf)]
    if not made or not made[0].size:
        return term
    nothing = (0 * made[0][0]).astype(term.outputs.dtype)
    return eqx.tree_at(lambda t: t.outputs, term, term.outputs + nothing)


def symmetric_root(matrix: Float[Array, "c c"]) -> Float[Array, "c c"]:
    """S = U √max(Λ, 0) Uᵀ for a symmetric matrix U Λ Uᵀ: negative eigenvalues are clipped to 0.

    For a matrix that is positive semidefinite, S Sᵀ is the matrix itself up to rounding. Costs
    O(c³) and holds c × c numbers per example.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]) @ vectors.T


def output_hessian(fn: Any, z: Float[Array, "*shape"]) -> Float[Array, "c c"]:
    """∇² fn at z, for a scalar function of one example's outputs, in ravelled coordinates."""
    return jax.hessian(lambda flat: fn(flat.reshape(z.shape)))(z.ravel())


def needed_key(curvature: object, key: PRNGKeyArray | None) -> PRNGKeyArray:
    """`key`, or an error that says who needs one."""
    if key is None:
        raise ValueError(
            f"`{type(curvature).__name__}` draws targets and needs a key: pass `key=...` "
            "(for example `jax.random.key(0)`), got None."
        )
    return key


def needs(curvature: object, likelihood: AbstractLoss, method: str) -> Any:
    """`likelihood.method`, or an error that says which curvature asks for it."""
    found = getattr(likelihood, method, None)
    if found is None:
        raise ValueError(
            f"`{type(curvature).__name__}` needs `{type(likelihood).__name__}.{method}`, which is "
            "not there: give the loss a distribution by subclassing `AbstractLikelihood`, or use "
            "`GaussNewton` or `EmpiricalFisher`, which need `nll` alone."
        )
    return found
