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

    - `likelihood`: scores one example's outputs.
    - `scale`: weight/n, or that times the weight of each example, [n]: the factor of example i in
      every sum over this term's examples.
    - `outputs`, `targets`: z and y, leading axis n. A target outside the likelihood's domain has
      outputs of NaN.
    - `inputs`, `keys`: what the model takes, leading axis n; `keys` may be None.
    - `closed_over`: the other arrays that the outputs depend on, such as frozen weights.
    - `layers`: the computation of one example's outputs, traced and recognised once.
    - `counts`: in a part of a batch, which of its examples are no repetition; None for all. The
      others have a scale of 0.
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
        """√scale_i, the factor of an example's rows."""
        if self.counts is None:
            return jnp.sqrt(self.scale)
        # The derivative of √0 is infinite.
        return jnp.where(self.counts, jnp.sqrt(jnp.where(self.counts, self.scale, 1)), 0)

    @property
    def scales(self) -> Float[Array, " n"]:
        """`scale` of every example."""
        return jnp.broadcast_to(self.scale, (self.size,))

    @property
    def shares(self) -> Float[Array, " n"]:
        """scale_i over the sum of the scales of the batch, or 0 where all of them are 0."""
        total = jnp.sum(self.scales) if self.total is None else self.total
        return self.scales / jnp.where(total == 0, 1, total)

    @property
    def examples(self) -> PyTree[Array]:
        """Inputs and keys, leading axis n."""
        return self.inputs, self.keys

    def example(self, params: PyTree, x: Any, key: PRNGKeyArray | None) -> Array:
        """The outputs z of one example as a function of the trainable weights."""
        return self.layers.traced(params, (x, key), self.closed_over)

    def outputs_at(self, params: PyTree) -> Float[Array, "n *shape"]:
        """The outputs of all examples at other weights."""
        return jax.vmap(lambda x, key: self.example(params, x, key))(self.inputs, self.keys)

    def scored(self, z: Float[Array, "n *shape"]) -> tuple[Scalar, Float[Array, "n *shape"]]:
        """The term of the loss for outputs z, and its derivatives in them."""
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
    - `outputs`: the model's outputs, arranged as the batch is: an array [n, ...] per term.
    - `params`: the trainable weights it was made at; everything else of the model is None.
      Weights in half precision are float32 here, and so are all vectors of their space.
    - `terms`: the terms in the order of the flattened batch.
    - `cotangents`: ∂L/∂z per term, [n, ...]; ∇L is their pullback, plus `l2`·w.
    - `l2`: the strength of the penalty, or None.
    - `constant`: what the penalty of the frozen weights adds to the loss, or None.
    - `valid`: whether all targets lie in the domains of their likelihoods.
    - `whole`: whether it has all examples of the batch, or only the `first` of them.
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
        """How many examples of a term are held at a time, None for all."""

    @abc.abstractmethod
    def jvp(self, vector: PyTree[Array]) -> tuple[Array, ...]:
        """J v: the changes of all outputs, [n, ...] per term, for a change of the weights."""

    @abc.abstractmethod
    def vjp(self, cotangents: tuple[Array, ...]) -> PyTree[Array]:
        """Jᵀ applied to one cotangent [n, ...] per term: a pytree like the trainable weights."""

    @abc.abstractmethod
    def first(self, most: int) -> "AbstractLinearisation":
        """The same of the first `most` examples of each term alone."""

    @abc.abstractmethod
    def each(
        self, fn: Callable[["AbstractLinearisation", Any], Any], of_terms: Sequence[PyTree]
    ) -> "AbstractEach":
        """What `fn` makes of each part of the batch, to be added up.

        **Arguments:** `fn`, of a linearisation that is held and of the arrays of its examples;
        `of_terms`, arrays with a leading axis n, per term.
        """

    @abc.abstractmethod
    def over_terms(self, fn: Callable[[Sequence[LinearisedTerm]], PyTree[Array]]) -> PyTree[Array]:
        """`fn`, a sum over the examples of the terms that it is given, of all examples."""

    def damped(self, damping: Scalar) -> Scalar:
        """A λ plus the penalty's, which is another multiple of the identity."""
        return damping if self.l2 is None else damping + self.l2.astype(damping.dtype)

    def loss_at(self, params: PyTree[Array]) -> Scalar:
        """L at other weights, on the same examples."""

        def of_terms(terms: Sequence[LinearisedTerm]) -> Scalar:
            losses = []
            for term in terms:
                nll, _ = losses_of(term.likelihood, term.outputs_at(params), term.targets)
                losses.append(jnp.sum(term.scaled(nll)))
            return jnp.asarray(sum(losses))

        return penalised(self.over_terms(of_terms), params, self.l2, self.constant)


class AbstractEach(abc.ABC):
    """Something of each part of a batch."""

    @abc.abstractmethod
    def sum(self, fn: Callable[[Any], PyTree[Array]] = lambda found: found) -> PyTree[Array]:
        """Σ `fn` of what was found of each part."""


def losses_of(
    likelihood: AbstractLoss, z: Float[Array, "n *shape"], targets: PyTree[Array]
) -> tuple[Float[Array, " n"], Bool[Array, ""]]:
    """Every example's loss, NaN for a target outside the domain, and whether none is outside."""
    in_domain = domain_of(likelihood, z, targets)
    nll = jax.vmap(likelihood.nll)(z, targets)
    return jnp.where(in_domain, nll, jnp.nan), jnp.all(in_domain)


def domain_of(
    likelihood: AbstractLoss, z: Float[Array, "n *shape"], targets: PyTree[Array]
) -> Bool[Array, " n"]:
    """Whether each target lies in the domain of the likelihood.

    **Raises:** `ValueError` for one that does not, where the targets are not traced.
    """
    in_domain = jax.vmap(likelihood.in_domain)(z, targets)
    if not isinstance(in_domain, Tracer) and not in_domain.all():
        likelihood.check_targets(z.shape[1:], targets)
    return in_domain


def penalised(
    loss: Scalar, params: PyTree[Array], l2: Scalar | None, constant: Scalar | None
) -> Scalar:
    """The loss with ½ l2 ‖w‖²; `constant` is the share of the frozen weights, None for 0."""
    if l2 is None:
        return loss
    # Not by the norm, which has no derivative at zero.
    squared = vdot(params, params)
    loss += (l2.astype(squared.dtype) * squared / 2).astype(loss.dtype)
    return loss if constant is None else loss + constant.astype(loss.dtype)


def example_keys(
    key: PRNGKeyArray | None, n: int, *, term: int, terms: int
) -> Shaped[Array, "n ..."] | None:
    """One key per example of a term, the i-th a function of (key, i) and of the terms alone."""
    if key is None:
        return None
    # A key of a term, and from it those of the examples, would be two programs to compile.
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(n) * terms + term)
