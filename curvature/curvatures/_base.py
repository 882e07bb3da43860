import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar, Shaped

from .._checks import instance_of
from .._precision import full_precision
from ..likelihoods import AbstractLoss, Coefficients
from ..linearisation import AbstractLinearisation, LinearisedTerm, example_keys
from ..operators import PullbackOperator


class AbstractCurvature(eqx.Module):
    """A metric C on the trainable weights, computed anew at every step.

    A curvature without state implements only `operator`. A curvature that carries an estimate from
    step to step also implements `init` and `update`.
    """

    @property
    def kind(self) -> str:
        """The class, with the settings on which the structure of the state depends.

        A step refuses the state of another kind.
        """
        return type(self).__name__

    @abc.abstractmethod
    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> lx.AbstractLinearOperator:
        """The metric C at the weights of the linearisation, from this batch alone.

        **Arguments:** `linearisation`, from `objective.linearise`; `key`, for curvatures that
        draw random numbers. The numbers are drawn once, in this method, so that all products use
        the same C.

        **Returns:** a lineax operator from the trainable weights to themselves, tagged positive
        semidefinite. C is a sum over examples with the scaling of the loss, weight_t/n_t.
        """

    def init(self, linearisation: AbstractLinearisation | None) -> PyTree[Array]:
        """The state before the first step; None unless a subclass carries a state.

        **Arguments:** `linearisation`, of arrays or shapes, or None if no batch was given. A
        curvature with a state raises an error for None.
        """
        del linearisation

    def update(
        self,
        linearisation: AbstractLinearisation,
        state: PyTree[Array],
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[lx.AbstractLinearOperator, PyTree[Array]]:
        """The metric to use at this step, and the next state.

        **Arguments:** `state`, from `init` or the last `update`; the others as in `operator`.
        """
        return self.operator(linearisation, key=key), state

    def refresh(
        self, operator: lx.AbstractLinearOperator, state: PyTree[Array], damping: Scalar
    ) -> tuple[lx.AbstractLinearOperator, PyTree[Array]]:
        """Recomputes the parts of the metric and of the state that depend on the λ of the step.

        Called after `update`, when λ is known. Changes nothing unless a subclass keeps inverses
        from step to step.

        **Arguments:** `operator`, `state`, from `update`; `damping`, λ including the part of the
        penalty.
        """
        del damping
        return operator, state


def check_curvature(name: str, of: object) -> None:
    """Raises an error if `of` is not a curvature; `name` is the argument as the user writes it."""
    instance_of(name, of, AbstractCurvature, "a curvature, such as `GaussNewton()`")


class AbstractPullback(AbstractCurvature):
    """C = Σ_t weight_t/n_t Σ_i J_iᵀ S_i S_iᵀ J_i: a metric on the outputs, pulled back.

    To write a curvature of this kind, subclass and implement `factor`, which returns S for *one*
    example.
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

        **Arguments:** `likelihood`, that of the example's term; `z`, the example's outputs; `y`,
        its target; `key`, its key, or None if `operator` was called without a key.

        **Returns:** S (c × r), c = `z.size`: a lineax operator between flat vectors, or an array.
        """

    @full_precision
    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> PullbackOperator:
        terms, factors = linearisation.terms, []
        for index, term in enumerate(terms):
            if factors:
                term = _depend_on(term, factors[-1])
            keys = example_keys(key, term.size, term=index, terms=len(terms))
            factors.append(self._factors(term, keys))
        coefficients = tuple(map(self._coefficients, terms))
        return PullbackOperator(linearisation, tuple(factors), coefficients)

    def _factors(
        self, term: LinearisedTerm, keys: Shaped[Array, "n ..."] | None
    ) -> lx.AbstractLinearOperator:
        def one(z: Array, y: Any, key: PRNGKeyArray | None) -> lx.AbstractLinearOperator:
            of_one = term.likelihood.unmasked(z, y)
            S = self.factor(of_one.likelihood, of_one.z, of_one.y, key=key)
            if isinstance(S, jax.Array | np.ndarray) and S.ndim == 2:
                S = lx.MatrixLinearOperator(jnp.asarray(S))
            if not isinstance(S, lx.AbstractLinearOperator) or S.out_size() != z.size:
                raise ValueError(
                    f"`{type(self).__name__}.factor` must return S (c × r) for one example, with "
                    f"c = {z.size} outputs here, as a lineax operator or an array; got {_of(S)}."
                )
            return of_one.restrict(S)

        return eqx.filter_vmap(one)(term.outputs, term.targets, keys)

    def _coefficients(self, term: LinearisedTerm) -> Coefficients | None:
        if not isinstance(self, AbstractCoveringPullback):
            return None

        def one(z: Array, y: Any) -> Coefficients | None:
            of_one = term.likelihood.unmasked(z, y)
            return self.coefficients(of_one.likelihood, of_one.z, of_one.y)

        return eqx.filter_vmap(one)(term.outputs, term.targets)


class AbstractCoveringPullback(AbstractPullback):
    """A pullback for which ∇_z nll(z, y) lies in the column space of S: S ρ = ∇_z nll(z, y).

    Then the gradient of the loss is a linear combination of the rows A of C = AᵀA: g = Aᵀρ. A solve
    in sample space then avoids the difference (g − …)/λ, which suffers from cancellation for
    small λ.
    """

    @abc.abstractmethod
    def coefficients(
        self, likelihood: AbstractLoss, z: Float[Array, "*shape"], y: PyTree[Array]
    ) -> Coefficients | None:
        """ρ with S ρ = ∇_z nll(z, y) for one example, or None if no closed form is known."""


def _of(S: Any) -> str:
    """The type of what `factor` returned, with its shape if it has one."""
    if isinstance(S, lx.AbstractLinearOperator):
        return f"a `{type(S).__name__}` of shape {(S.out_size(), S.in_size())}"
    return f"an array of shape {S.shape}" if hasattr(S, "shape") else f"a `{type(S).__name__}`"


def _depend_on(term: LinearisedTerm, factors: lx.AbstractLinearOperator) -> LinearisedTerm:
    """The same term, with a data dependency on the factors of the previous term.

    Without the dependency XLA may compute the factors of several terms at the same time. LAPACK
    decomposes the matrices of a batch on XLA's own threads, and waits on such a thread until they
    are done. If as many batches run at a time as there are threads, all of them wait forever
    (observed with jaxlib 0.10.2, two threads and two terms). Adding `0 * x` creates a data
    dependency that XLA does not remove.
    """
    made = [leaf.ravel()[:1] for leaf in jtu.tree_leaves(factors) if eqx.is_inexact_array(leaf)]
    if not made or not made[0].size:
        return term
    nothing = (0 * made[0][0]).astype(term.outputs.dtype)
    return eqx.tree_at(lambda t: t.outputs, term, term.outputs + nothing)


@jax.custom_jvp
def symmetric_root(matrix: Float[Array, "c c"]) -> Float[Array, "c c"]:
    """S = U √max(Λ, 0) Uᵀ for a symmetric matrix U Λ Uᵀ: negative eigenvalues are clipped to 0.

    For a matrix that is positive semidefinite, S Sᵀ is the matrix itself up to rounding. Costs
    O(c³) and holds c × c numbers per example.

    The derivative is custom: with it S Sᵀ has the right derivative. Automatic differentiation
    would give NaN where two eigenvalues are equal, from the eigendecomposition, and where an
    eigenvalue is zero, from the square root.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))[None, :]) @ vectors.T


@symmetric_root.defjvp
def _root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """In the basis U: δM_ij = F_ij δA_ij for M = max(A, 0), and (s_i + s_j) δS_ij = δM_ij.

    F holds the divided differences of max(·, 0) (Daleckii and Krein 1965). For two eigenvalues that
    are zero, F_ij = 0 is used, so that M stays zero to first order.
    """
    (matrix,), (change,) = primals, tangents
    values, vectors = jnp.linalg.eigh(matrix)
    kept = jnp.maximum(values, 0)
    gaps = values[:, None] - values[None, :]
    # In each quotient the inner `where` avoids a division by zero; the outer one sets the value.
    differences = (kept[:, None] - kept[None, :]) / jnp.where(gaps == 0, 1, gaps)
    both = (values[:, None] > 0).astype(values.dtype)
    F = jnp.where(gaps == 0, both, differences)
    roots = jnp.sqrt(kept)
    sums = roots[:, None] + roots[None, :]
    in_basis = F * (vectors.T @ change @ vectors)
    of_root = jnp.where(sums > 0, in_basis / jnp.where(sums > 0, sums, 1), 0)
    return (vectors * roots[None, :]) @ vectors.T, vectors @ of_root @ vectors.T


def output_hessian(fn: Any, z: Float[Array, "*shape"]) -> Float[Array, "c c"]:
    """∇² fn at z, for a scalar function of one example's outputs, in ravelled coordinates."""
    return jax.hessian(lambda flat: fn(flat.reshape(z.shape)))(z.ravel())


def require_key(
    curvature: object, key: PRNGKeyArray | None, *, draws: str = "targets"
) -> PRNGKeyArray:
    """Returns `key`, or raises an error that names the curvature; `draws` says what is drawn."""
    if key is None:
        raise ValueError(
            f"`{type(curvature).__name__}` draws {draws} and needs a key: pass `key=...` "
            "(for example `jax.random.key(0)`), got None."
        )
    return key


def require_method(curvature: object, likelihood: AbstractLoss, method: str) -> Any:
    """Returns `likelihood.method`, or raises an error that names the curvature."""
    found = getattr(likelihood, method, None)
    if found is None:
        raise ValueError(
            f"`{type(curvature).__name__}` needs `{type(likelihood).__name__}.{method}`, which "
            "does not exist. Subclass `AbstractLikelihood` to give the loss a distribution, or "
            "use `GaussNewton` or `EmpiricalFisher`, which need only `nll`."
        )
    return found
