import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Float, PRNGKeyArray, PyTree, Scalar, ScalarLike

from ._checks import number, takes_key
from ._precision import full_precision
from ._trees import add_scaled, vdot
from .likelihoods import AbstractLoss
from .linearisation import Linearisation, LinearisedTerm, example_keys, term_key, transpose

_COUPLED = (
    "The model holds an `eqx.nn.State` (as BatchNorm does), which couples the examples of a batch: "
    "a curvature is a sum over single examples and has no meaning then. Use a layer that treats "
    "each example alone, such as `eqx.nn.LayerNorm` or `eqx.nn.GroupNorm`."
)


class Term(eqx.Module):
    """One term of an objective: a per-example map, a likelihood and a weight.

    - `outputs`: `(model, x_i) -> z_i`, one array for one example. If it has a parameter `key`,
      it is called as `outputs(model, x_i, key=...)`, with a key of the example's own.
    - `likelihood`: scores `z_i` against the example's target.
    - `weight`: a number ≥ 0; the term adds weight/n Σ_i nll(z_i, y_i) to the loss, and the same
      multiple of its curvature to the curvature.
    """

    outputs: Callable[..., Array]
    likelihood: AbstractLoss
    weight: Scalar

    def __init__(
        self,
        outputs: Callable[..., Array],
        likelihood: AbstractLoss,
        weight: ScalarLike = 1.0,
    ):
        number("Term(weight=...)", weight)
        self.outputs = outputs
        self.likelihood = likelihood
        self.weight = jnp.asarray(weight)

    @full_precision
    def example(self, model: PyTree, x: Any, key: PRNGKeyArray | None) -> Array:
        """The outputs z of one example."""
        z = self.outputs(model, x, key=key) if takes_key(self.outputs) else self.outputs(model, x)
        if not eqx.is_inexact_array(z):
            raise ValueError(
                "The outputs of a term must be one floating-point array per example, got "
                f"{jtu.tree_map(jnp.shape, z)}. Return a single array from the model, or write a "
                "`Term` whose `outputs` picks it out."
            )
        return z


def call_model(model: Callable[..., Array], x: Any, *, key: PRNGKeyArray | None = None) -> Array:
    """`model(x)`, with `key` where the model takes one."""
    return model(x, key=key) if takes_key(model) else model(x)


class AbstractObjective(eqx.Module):
    """A weighted sum of terms, L = Σ_t weight_t/n_t Σ_i nll_t(z_i, y_i) + ½ l2 ‖w‖².

    A concrete objective says what its terms are and how a batch falls into their examples; the
    loss and the linearisation are written here, once, for all of them.

    `l2` is a number ≥ 0, or None for no such term. w are all floating-point arrays of the model,
    frozen ones too. It is a part of the loss, unlike a damping: it moves the minimum.
    """

    l2: eqx.AbstractVar[Scalar | None]

    @abc.abstractmethod
    def terms(self) -> PyTree[Term]:
        """The terms, as a pytree: `Linearisation.outputs` has its structure."""

    @abc.abstractmethod
    def examples(self, batch: PyTree) -> PyTree:
        """`batch` as a pair (inputs, targets), with leading axis n, in the place of each term."""

    @full_precision
    def loss(self, model: PyTree, batch: PyTree, *, key: PRNGKeyArray | None = None) -> Scalar:
        """The loss on a batch.

        **Arguments:** `model`, any Equinox model; `batch`, see the class; `key`, for models that
        take one (dropout): each example gets a key of its own.

        **Returns:** L, a scalar.
        """
        _refuse_coupled(model)
        terms, pairs, _ = self._flatten(batch)
        losses = []
        for index, (term, (inputs, targets)) in enumerate(zip(terms, pairs, strict=True)):
            keys = example_keys(term_key(key, index), _leading_axis(inputs, targets))
            z = eqx.filter_vmap(term.example, in_axes=(None, 0, 0))(model, inputs, keys)
            losses.append(_scale(term, z) * jnp.sum(jax.vmap(term.likelihood.nll)(z, targets)))
        return jnp.asarray(sum(losses)) + self.penalty(model)

    @full_precision
    def linearise(
        self,
        model: PyTree,
        batch: PyTree,
        *,
        trainable: PyTree = eqx.is_inexact_array,
        key: PRNGKeyArray | None = None,
    ) -> Linearisation:
        """Linearises the outputs of all terms at the model's trainable weights, once.

        **Arguments:** as [`loss`][]; `trainable` is an Equinox filter specification: what it
        leaves out is frozen, and no part of the gradient or of a curvature.

        **Returns:** a [`Linearisation`][], whose `loss` is that of [`loss`][] with the same key.
        """
        _refuse_coupled(model)
        terms, pairs, treedef = self._flatten(batch)
        params, frozen = eqx.partition(model, trainable)
        _check_trainable(params)
        sizes = [_leading_axis(*pair) for pair in pairs]
        keys = [example_keys(term_key(key, t), n) for t, n in enumerate(sizes)]
        examples = [eqx.Partial(_example, term, frozen) for term in terms]

        def outputs(params: PyTree) -> tuple[Array, ...]:
            return tuple(
                eqx.filter_vmap(example, in_axes=(None, 0, 0))(params, inputs, key)
                for example, (inputs, _), key in zip(examples, pairs, keys, strict=True)
            )

        zs, jvp = jax.linearize(outputs, params)
        losses, cotangents = [], []
        for term, z, (_, targets) in zip(terms, zs, pairs, strict=True):
            nll, grad = jax.vmap(jax.value_and_grad(term.likelihood.nll))(z, targets)
            losses.append(_scale(term, z) * jnp.sum(nll))
            cotangents.append(_scale(term, z) * grad)
        grad = transpose(jvp, params)(tuple(cotangents))
        return Linearisation(
            loss=jnp.asarray(sum(losses)) + self.penalty(model),
            grad=grad if self.l2 is None else add_scaled(grad, self.l2, params),
            cotangents=tuple(cotangents),
            outputs=jtu.tree_unflatten(treedef, zs),
            params=params,
            terms=tuple(
                LinearisedTerm(term.likelihood, _scale(term, z), z, targets, example, inputs, key)
                for term, z, (inputs, targets), example, key in zip(
                    terms, zs, pairs, examples, keys, strict=True
                )
            ),
            jvp=jvp,
        )

    def penalty(self, model: PyTree) -> Scalar | float:
        """½ l2 ‖w‖², what the loss has beside its terms."""
        if self.l2 is None:
            return 0.0
        # Not by the norm, which has no derivative at zero.
        weights = eqx.filter(model, eqx.is_inexact_array)
        squared = vdot(weights, weights)
        return self.l2.astype(squared.dtype) * squared / 2

    def _flatten(self, batch: PyTree) -> tuple[list[Term], list[tuple[Any, Any]], Any]:
        terms, treedef = jtu.tree_flatten(self.terms(), is_leaf=lambda x: isinstance(x, Term))
        try:
            pairs = treedef.flatten_up_to(self.examples(jtu.tree_map(jnp.asarray, batch)))
        except (ValueError, TypeError):
            pairs = None
        if pairs is None or not all(isinstance(p, tuple | list) and len(p) == 2 for p in pairs):
            wanted = jtu.tree_unflatten(treedef, ["(inputs, targets)"] * len(terms))
            raise ValueError(
                f"A batch of `{type(self).__name__}` must be {wanted}, got "
                f"{jtu.tree_map(lambda x: f'array{jnp.shape(x)}', batch)}."
            )
        return terms, pairs, treedef


class Objective(AbstractObjective):
    """A weighted sum of named terms; a batch is `{name: (inputs, targets)}`.

    Every term has examples of its own, of its own number n.
    """

    by_name: dict[str, Term]
    l2: Scalar | None

    def __init__(self, terms: dict[str, Term], l2: ScalarLike | None = None):
        if not terms or not all(isinstance(term, Term) for term in terms.values()):
            raise ValueError(
                "`Objective(terms=...)` must be a dictionary with at least one `Term`, got "
                f"{terms!r}."
            )
        self.by_name = dict(terms)
        self.l2 = _strength(l2)

    def terms(self) -> PyTree[Term]:
        return self.by_name

    def examples(self, batch: PyTree) -> PyTree:
        return batch


class Supervised(AbstractObjective):
    """L = 1/n Σ_i nll(model(x_i), y_i); a batch is `(inputs, targets)`."""

    likelihood: AbstractLoss
    l2: Scalar | None

    def __init__(self, likelihood: AbstractLoss, l2: ScalarLike | None = None):
        self.likelihood = likelihood
        self.l2 = _strength(l2)

    def terms(self) -> PyTree[Term]:
        return Term(call_model, self.likelihood)

    def examples(self, batch: PyTree) -> PyTree:
        return batch


class Autoencoding(AbstractObjective):
    """L = 1/n Σ_i nll(model(x_i), x_i), outputs and target ravelled; a batch is `(inputs, _)`.

    The second half of the batch (the labels) is not looked at.
    """

    likelihood: AbstractLoss
    l2: Scalar | None

    def __init__(self, likelihood: AbstractLoss, l2: ScalarLike | None = None):
        self.likelihood = likelihood
        self.l2 = _strength(l2)

    def terms(self) -> PyTree[Term]:
        return Term(_ravelled, self.likelihood)

    def examples(self, batch: PyTree) -> PyTree:
        inputs, _ = batch
        return inputs, jax.vmap(jnp.ravel)(inputs)


def _ravelled(model: Callable[..., Array], x: Any, *, key: PRNGKeyArray | None = None) -> Array:
    return jnp.ravel(call_model(model, x, key=key))


def _example(term: Term, frozen: PyTree, params: PyTree, x: Any, key: PRNGKeyArray | None) -> Array:
    return term.example(eqx.combine(params, frozen), x, key)


def _strength(l2: ScalarLike | None) -> Scalar | None:
    if l2 is None:
        return None
    number("l2=...", l2)
    return jnp.asarray(l2)


def _scale(term: Term, z: Float[Array, "n *shape"]) -> Scalar:
    """weight/n in the dtype of the outputs."""
    return term.weight.astype(z.dtype) / z.shape[0]


def _leading_axis(inputs: PyTree, targets: PyTree) -> int:
    shapes = [jnp.shape(leaf) for leaf in jtu.tree_leaves((inputs, targets))]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "Inputs and targets of a term must share one leading axis of at least one example, "
            f"got arrays of shapes {shapes}."
        )
    (n,) = sizes
    return n


def _refuse_coupled(model: PyTree) -> None:
    coupled = (eqx.nn.State, eqx.nn.StateIndex)
    leaves = jtu.tree_leaves(model, is_leaf=lambda x: isinstance(x, coupled))
    if any(isinstance(leaf, coupled) for leaf in leaves):
        raise ValueError(_COUPLED)


def _check_trainable(params: PyTree) -> None:
    leaves = jtu.tree_leaves(params)
    if not leaves:
        raise ValueError("`trainable=...` selects no array of the model: nothing is to be trained.")
    if wrong := [leaf for leaf in leaves if not eqx.is_inexact_array(leaf)]:
        raise ValueError(
            "`trainable=...` must select floating-point arrays alone, got "
            f"{wrong[0]!r}. Start from `eqx.is_inexact_array`."
        )
