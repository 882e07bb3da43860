import abc
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree, Scalar, Shaped

from .._trees import vdot
from ..layers import Layers
from ..likelihoods import AbstractLoss


class LinearisedTerm(eqx.Module):
    """One term of an objective at the current weights, with its n examples.

    - `likelihood`: the loss of one example's outputs.
    - `scale`: weight/n, or weight/n times the weight of each example, [n]: the factor of example i
      in every sum over the examples of this term.
    - `outputs`, `targets`: z and y, leading axis n. If a target lies outside the domain of the
      likelihood, the outputs of that example are NaN.
    - `inputs`, `keys`: the arguments of the model, leading axis n; `keys` may be None.
    - `closed_over`: the other arrays on which the outputs depend, such as frozen weights.
    - `layers`: the computation of one example's outputs, traced and recognised once.
    - `counts`: in a part of a batch, False for an example that an earlier part had already. Such an
      example has a scale of 0. None if all examples count.
    - `total`: in a part of a batch, Σ_i scale_i of the whole batch.
    """

    likelihood: AbstractLoss
    scale: Float[Array, "*n"]
    targets: PyTree[Array]
    inputs: PyTree[Array]
    keys: Shaped[Array, "n ..."] | None
    closed_over: list[Any]
    layers: Layers = eqx.field(static=True)
    outputs: Any = None  # [n, *shape]; None before they are computed
    counts: Bool[Array, " n"] | None = None
    total: Scalar | None = None

    @property
    def size(self) -> int:
        """n, the number of examples."""
        return len(jtu.tree_leaves((self.inputs, self.targets))[0])

    @property
    def scale_root(self) -> Float[Array, "*n"]:
        """√scale_i, the factor of the rows of example i."""
        if self.counts is None:
            return jnp.sqrt(self.scale)
        # The derivative of √0 is infinite, so √ is not evaluated at the scales that are 0. The
        # outer `where` alone is not enough: the derivative would be 0·∞ = NaN.
        return jnp.where(self.counts, jnp.sqrt(jnp.where(self.counts, self.scale, 1)), 0)

    @property
    def scales(self) -> Float[Array, " n"]:
        """`scale` of every example."""
        return jnp.broadcast_to(self.scale, (self.size,))

    @property
    def shares(self) -> Float[Array, " n"]:
        """scale_i divided by the sum of the scales of the batch; 0 if all scales are 0."""
        total = jnp.sum(self.scales) if self.total is None else self.total
        return self.scales / jnp.where(total == 0, 1, total)

    @property
    def examples(self) -> PyTree[Array]:
        """Inputs and keys, leading axis n."""
        return self.inputs, self.keys

    def example(self, params: PyTree, x: Any, key: PRNGKeyArray | None) -> Array:
        """The outputs z of one example for the trainable weights `params`."""
        return self.layers.traced(params, (x, key), self.closed_over)

    def outputs_at(self, params: PyTree) -> Float[Array, "n *shape"]:
        """The outputs of all examples for other weights."""
        return jax.vmap(lambda x, key: self.example(params, x, key))(self.inputs, self.keys)

    def scored(self, z: Float[Array, "n *shape"]) -> tuple[Scalar, Float[Array, "n *shape"]]:
        """The term's part of the loss for outputs z, and its derivatives w.r.t. z."""
        nll, grad = jax.vmap(jax.value_and_grad(self.likelihood.nll))(z, self.targets)
        return jnp.sum(self.scaled(nll)), self.scaled(grad)

    def scaled(self, per_example: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Every example's array times its `scale`."""
        scale = self.scale.astype(per_example.dtype)
        if scale.ndim:
            scale = scale.reshape(-1, *[1] * (per_example.ndim - 1))
        return scale * per_example


class AbstractLinearisation(eqx.Module):
    """An objective and its model, linearised at the current weights.

    - `loss`: L = Σ_t Σ_i scale_i nll(z_i, y_i) + ½ l2 ‖w‖², a scalar.
    - `grad`: ∇L, with the structure of the trainable weights.
    - `outputs`: the model's outputs, with the structure of the batch: an array [n, ...] per term.
    - `params`: the trainable weights at which the model was linearised; all other leaves of the
      model are None. Half-precision weights are cast to float32, and so are all vectors with the
      structure of the weights.
    - `terms`: the terms in the order of the flattened batch.
    - `cotangents`: ∂L/∂z per term, [n, ...]; ∇L is their pullback, plus `l2`·w.
    - `l2`: the strength of the penalty, or None.
    - `constant`: the penalty of the frozen weights, a part of the loss, or None.
    - `valid`: whether all targets lie in the domains of their likelihoods.
    - `whole`: True if it has all examples of the batch; False after `first`, or for a part.
    """

    loss: eqx.AbstractVar[Scalar]
    grad: eqx.AbstractVar[PyTree[Array]]
    outputs: eqx.AbstractVar[PyTree[Array]]
    params: eqx.AbstractVar[PyTree[Array]]
    terms: eqx.AbstractVar[tuple[LinearisedTerm, ...]]
    cotangents: eqx.AbstractVar[tuple[Array, ...]]
    l2: eqx.AbstractVar[Scalar | None]
    constant: eqx.AbstractVar[Scalar | None]
    valid: eqx.AbstractVar[Bool[Array, ""]]
    whole: eqx.AbstractVar[bool]

    @property
    @abc.abstractmethod
    def micro_batch(self) -> int | None:
        """The most examples of a term whose intermediate values are held at once; None for all."""

    @abc.abstractmethod
    def jvp(self, vector: PyTree[Array]) -> tuple[Array, ...]:
        """J v, the tangents of all outputs, [n, ...] per term, for a tangent v of the weights."""

    @abc.abstractmethod
    def vjp(self, cotangents: tuple[Array, ...]) -> PyTree[Array]:
        """Jᵀ applied to one cotangent [n, ...] per term: a pytree like the trainable weights."""

    @abc.abstractmethod
    def first(self, most: int) -> "AbstractLinearisation":
        """The linearisation of only the first `most` examples of each term."""

    @abc.abstractmethod
    def each(
        self, fn: Callable[["AbstractLinearisation", Any], Any], of_terms: Sequence[PyTree]
    ) -> "AbstractPartResults":
        """Prepares the sum of `fn` over the parts of the batch; see `AbstractPartResults`.

        **Arguments:** `fn`, a function of the linearisation of one part and of the arrays of this
        part's examples; `of_terms`, arrays with a leading axis n, per term.
        """

    @abc.abstractmethod
    def over_terms(self, fn: Callable[[Sequence[LinearisedTerm]], PyTree[Array]]) -> PyTree[Array]:
        """`fn` of all examples; `fn` must be a sum over the examples of the terms it receives."""

    def damped(self, damping: Scalar) -> Scalar:
        """λ + l2: damping and penalty both add a multiple of the identity to C."""
        return damping if self.l2 is None else damping + self.l2.astype(damping.dtype)

    def loss_at(self, params: PyTree[Array]) -> Scalar:
        """L for other weights, on the same examples."""

        def of_terms(terms: Sequence[LinearisedTerm]) -> Scalar:
            losses = []
            for term in terms:
                nll, _ = losses_of(term.likelihood, term.outputs_at(params), term.targets)
                losses.append(jnp.sum(term.scaled(nll)))
            return jnp.asarray(sum(losses))

        return penalised(self.over_terms(of_terms), params, self.l2, self.constant)


class AbstractPartResults(abc.ABC):
    """The results of a function on each part of a batch, to be summed."""

    @abc.abstractmethod
    def sum(self, fn: Callable[[Any], PyTree[Array]] = lambda found: found) -> PyTree[Array]:
        """The sum over the parts of `fn` of each part's result."""


def losses_of(
    likelihood: AbstractLoss, z: Float[Array, "n *shape"], targets: PyTree[Array]
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """The loss of every example, NaN outside the domain; and whether all targets are inside."""
    in_domain = domain_of(likelihood, z, targets)
    nll = jax.vmap(likelihood.nll)(z, targets)
    return jnp.where(in_domain, nll, jnp.nan), jnp.all(in_domain)


def domain_of(
    likelihood: AbstractLoss, z: Float[Array, "n *shape"], targets: PyTree[Array]
) -> Bool[Array, " n"]:
    """Whether each target lies in the domain of the likelihood.

    **Raises:** `ValueError` if a target does not and the targets are not traced.
    """
    in_domain = jax.vmap(likelihood.in_domain)(z, targets)
    if not isinstance(in_domain, Tracer) and not in_domain.all():
        likelihood.check_targets(z.shape[1:], targets)
    return in_domain


def penalised(
    loss: Scalar, params: PyTree[Array], l2: Scalar | None, constant: Scalar | None
) -> Scalar:
    """The loss plus ½ l2 ‖w‖²; `constant` is the penalty of the frozen weights, None for 0."""
    if l2 is None:
        return loss
    # ‖w‖² directly, not the square of `norm`: the norm has no derivative at zero.
    squared = vdot(params, params)
    loss += (l2.astype(squared.dtype) * squared / 2).astype(loss.dtype)
    return loss if constant is None else loss + constant.astype(loss.dtype)


def example_keys(
    key: PRNGKeyArray | None, n: int, *, term: int, terms: int
) -> Shaped[Array, "n ..."] | None:
    """One key per example of a term; key i depends only on `key`, i, `term` and `terms`."""
    if key is None:
        return None
    # One `fold_in` of a combined index. A `fold_in` per term and then one per example would be two
    # programs to compile.
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n) * terms + term)
