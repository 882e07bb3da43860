import abc
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .._checks import instance_of
from .._devices import refuse_explicit
from .._precision import full_precision
from .._trees import widen
from ..likelihoods import AbstractLoss
from ..linearisation import (
    AbstractLinearisation,
    Example,
    Parts,
    example_keys,
    linearise,
    penalised,
)
from ._examples import leading_axis, loss_of, part_of, weighted
from ._settings import as_array, in_default_precision
from ._term import Term

_COUPLED = (
    "The model holds an `eqx.nn.State` (as BatchNorm does), which couples the examples of a "
    "batch. A curvature is a sum over single examples, so it is not defined for this model. Use "
    "a layer that treats each example alone, such as `eqx.nn.LayerNorm` or `eqx.nn.GroupNorm`."
)


class AbstractObjective(eqx.Module):
    """A weighted sum of terms, L = Σ_t weight_t/n_t Σ_i nll_t(z_i, y_i) + ½ l2 ‖w‖².

    A subclass defines the terms and how a batch is divided into their examples. The loss and the
    linearisation are implemented here for all subclasses.

    `l2` is a number ≥ 0, or None for no penalty. w are all floating-point arrays of the model,
    including frozen ones. The penalty is a part of the loss, so it moves the minimum; damping does
    not.

    `micro_batch` is a positive integer, or None. With an integer, the batch is divided into parts
    with at most so many examples of each term. Loss, gradient and products with a curvature are
    sums over the parts, so the memory for intermediate values does not grow with the batch. The
    results equal those of the whole batch up to rounding; a product costs about 5/4 as much. With
    None the batch is one part.
    """

    l2: eqx.AbstractVar[ScalarLike | None]
    micro_batch: eqx.AbstractVar[int | None]

    @abc.abstractmethod
    def terms(self) -> PyTree[Term]:
        """The terms, as a pytree; `Linearisation.outputs` has the same structure."""

    @abc.abstractmethod
    def examples(self, batch: PyTree) -> PyTree:
        """The examples of each term: a pytree like `terms()` with a tuple in place of each term.

        The tuple is (inputs, targets) or (inputs, targets, weights). All arrays of a tuple have a
        leading axis n.
        """

    @full_precision
    def loss(self, model: PyTree, batch: PyTree, *, key: PRNGKeyArray | None = None) -> Scalar:
        """The loss on a batch.

        **Arguments:** `model`, any Equinox model; `batch`, see the class; `key`, for models that
        take a key (dropout): each example gets a different key derived from it.

        **Returns:** L, a scalar. While JAX traces, no error can be raised: if a target lies outside
        the domain of its likelihood, L is NaN.

        **Raises:** `ValueError` for such a target when JAX is not tracing.
        """
        _refuse_coupled(model)
        examples, _ = self._examples(batch, model, key)
        parts = self._parts(examples)
        if parts.count == 1:
            loss, _ = loss_of(model, examples)
        else:
            loss, valid = parts.sum(lambda i: loss_of(model, part_of(examples, parts, i)))
            if not isinstance(valid, Tracer) and not valid.all():
                loss_of(model, examples)  # raises the error that names the wrong targets
        weights = widen(eqx.filter(model, eqx.is_inexact_array))
        return penalised(loss, weights, as_array(self.l2), None)

    @full_precision
    def loss_and_gradient(
        self,
        params: PyTree[Array],
        frozen: PyTree,
        batch: PyTree,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Scalar, Bool[Array, ""], PyTree[Array]]:
        """The loss, whether all targets lie in their domains, and the gradient w.r.t. `params`.

        **Arguments:** `params`, `frozen`, the two parts of the model, see `equinox.partition`.
        """
        model = eqx.combine(params, frozen)
        _refuse_coupled(model)
        examples, _ = self._examples(batch, model, key)
        parts = self._parts(examples)

        def of_terms(params: PyTree, some: Sequence[Example]) -> tuple[Scalar, Bool[Array, ""]]:
            return loss_of(eqx.combine(params, frozen), some)

        def of_part(i: Int[Array, ""]) -> tuple[PyTree[Array], Bool[Array, ""]]:
            some = part_of(examples, parts, i)
            (loss, valid), grad = jax.value_and_grad(of_terms, has_aux=True)(params, some)
            return (loss, grad), valid

        def penalty(params: PyTree) -> Scalar:
            return jnp.asarray(self.penalty(eqx.combine(params, frozen)))

        if parts.count == 1:
            (loss, valid), grad = jax.value_and_grad(of_terms, has_aux=True)(params, examples)
        else:
            (loss, grad), of_parts = parts.sum(of_part)
            valid = jnp.all(of_parts)
        if self.l2 is not None:
            of_penalty, pull = jax.value_and_grad(penalty)(params)
            loss += of_penalty.astype(loss.dtype)
            grad = jtu.tree_map(jnp.add, grad, pull)
        return loss, valid, grad

    @full_precision
    def linearise(
        self,
        model: PyTree,
        batch: PyTree,
        *,
        trainable: PyTree = eqx.is_inexact_array,
        key: PRNGKeyArray | None = None,
    ) -> AbstractLinearisation:
        """Linearises the outputs of all terms at the model's trainable weights, once.

        **Arguments:** as for [`loss`][]; `trainable` is an Equinox filter specification. Weights
        that it does not select are frozen: gradient and curvature do not include them.

        **Returns:** an [`AbstractLinearisation`][]; its `loss` equals [`loss`][] for the same key.
        """
        _refuse_coupled(model)
        params, frozen = eqx.partition(model, trainable)
        check_trainable(params)

        def of_params(fn: Callable[..., Array]) -> Callable[..., Array]:
            return lambda params, x, key: fn(eqx.combine(params, frozen), x, key)

        examples, treedef = self._examples(batch, model, key)
        examples = [example._replace(fn=of_params(example.fn)) for example in examples]
        l2, constant = as_array(self.l2), None
        if l2 is not None:
            others = widen(eqx.filter(frozen, eqx.is_inexact_array))
            constant = penalised(jnp.zeros_like(l2), others, l2, None)
        return linearise(examples, treedef, params, l2, constant, self.micro_batch)

    def penalty(self, model: PyTree) -> Scalar | float:
        """½ l2 ‖w‖², the part of the loss that does not depend on the batch."""
        l2 = as_array(self.l2)
        if l2 is None:
            return 0.0
        weights = widen(eqx.filter(model, eqx.is_inexact_array))
        return penalised(jnp.zeros_like(l2), weights, l2, None)

    def _examples(
        self, batch: PyTree, model: PyTree, key: PRNGKeyArray | None
    ) -> tuple[list[Example], Any]:
        """The examples of every term with their keys; `fn` takes the whole model."""
        terms, parts, treedef = self._flatten(batch)
        found = []
        for t, (term, (inputs, targets, *weights)) in enumerate(zip(terms, parts, strict=True)):
            n = leading_axis(inputs, targets, *weights)
            scale = in_default_precision(term.weight) / n
            if weights:
                inputs, targets, scale = weighted(inputs, targets, weights[0], scale)
            keys = example_keys(key, n, term=t, terms=len(terms))
            found.append(Example(term.example, term.likelihood, scale, inputs, targets, keys))
        return found, treedef

    def _parts(self, examples: Sequence[Example]) -> Parts:
        sizes = tuple(leading_axis(each.inputs, each.targets) for each in examples)
        return Parts(sizes, max(sizes) if self.micro_batch is None else self.micro_batch)

    def _flatten(self, batch: PyTree) -> tuple[list[Term], list[tuple[Any, ...]], Any]:
        terms, treedef = jtu.tree_flatten(self.terms(), is_leaf=lambda x: isinstance(x, Term))
        batch = jtu.tree_map(jnp.asarray, batch)
        refuse_explicit(batch)
        try:
            pairs = treedef.flatten_up_to(self.examples(batch))
        except (ValueError, TypeError):
            pairs = None
        if pairs is None or not all(
            isinstance(p, tuple | list) and len(p) in (2, 3) for p in pairs
        ):
            wanted = jtu.tree_unflatten(treedef, ["(inputs, targets)"] * len(terms))
            raise ValueError(
                f"A batch of `{type(self).__name__}` must be {wanted}, got "
                f"{jtu.tree_map(lambda x: f'array{jnp.shape(x)}', batch)}."
            )
        return terms, pairs, treedef


def check_objective(of: str, objective: object) -> None:
    """Raise unless `objective` is an objective; `of` is the class that takes it."""
    instead = ""
    if isinstance(objective, AbstractLoss):
        instead = f"Wrap it in an objective: `Supervised({type(objective).__name__}(...))`."
    wanted = "an objective, such as `Supervised(Categorical())`"
    instance_of(f"{of}(objective=...)", objective, AbstractObjective, wanted, instead)


def check_trainable(params: PyTree) -> None:
    """Raise unless `params` holds at least one array, and all are real and floating-point."""
    leaves = jtu.tree_leaves(params)
    if not leaves:
        raise ValueError(
            "`trainable=...` selects no array of the model. Select at least one floating-point "
            "array."
        )
    if wrong := [leaf for leaf in leaves if not eqx.is_inexact_array(leaf)]:
        raise ValueError(
            f"`trainable=...` must select only floating-point arrays, got {wrong[0]!r}. Start "
            "from `eqx.is_inexact_array`."
        )
    if wrong := [leaf for leaf in leaves if jnp.iscomplexobj(leaf)]:
        raise ValueError(
            f"The trainable weights must be real, got an array of dtype {wrong[0].dtype}. Store "
            "its real and imaginary parts as two real arrays."
        )


def _refuse_coupled(model: PyTree) -> None:
    coupled = (eqx.nn.State, eqx.nn.StateIndex)
    leaves = jtu.tree_leaves(model, is_leaf=lambda x: isinstance(x, coupled))
    if any(isinstance(leaf, coupled) for leaf in leaves):
        raise ValueError(_COUPLED)
