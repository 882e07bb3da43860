import abc
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree, Scalar, ScalarLike

from ._checks import instance_of, number, positive_int, scalar, takes_key
from ._devices import refuse_explicit
from ._precision import full_precision
from ._trees import widen
from .likelihoods import AbstractLoss
from .linearisation import (
    AbstractLinearisation,
    Example,
    Parts,
    example_keys,
    linearise,
    losses_of,
    penalised,
)

_COUPLED = (
    "The model holds an `eqx.nn.State` (as BatchNorm does), which couples the examples of a "
    "batch. A curvature is a sum over single examples, so it is not defined for this model. Use "
    "a layer that treats each example alone, such as `eqx.nn.LayerNorm` or `eqx.nn.GroupNorm`."
)


class Term(eqx.Module):
    """One term of an objective: a per-example map, a likelihood and a weight.

    - `outputs`: `(model, x_i) -> z_i`, one array for one example. If `outputs` has a parameter
      `key`, it is called as `outputs(model, x_i, key=...)`, with a different key per example.
    - `likelihood`: gives nll(z_i, y_i), the loss of the example with the target y_i.
    - `weight`: a number ≥ 0. The term adds weight/n Σ_i nll(z_i, y_i) to the loss. Its curvature
      has the same factor weight/n.
    """

    outputs: Callable[..., Array]
    likelihood: AbstractLoss
    weight: ScalarLike

    def __init__(
        self,
        outputs: Callable[..., Array],
        likelihood: AbstractLoss,
        weight: ScalarLike = 1.0,
    ):
        check_likelihood("Term", likelihood)
        number("Term(weight=...)", weight)
        self.outputs = outputs
        self.likelihood = likelihood
        self.weight = scalar(weight)

    @full_precision
    def example(self, model: PyTree, x: Any, key: PRNGKeyArray | None) -> Array:
        """The outputs z of one example."""
        z = self.outputs(model, x, key=key) if takes_key(self.outputs) else self.outputs(model, x)
        if not eqx.is_inexact_array(z):
            raise ValueError(
                "The outputs of a term must be one floating-point array per example, got "
                f"{jtu.tree_map(jnp.shape, z)}. Return a single array from the model, or write a "
                "`Term` whose `outputs` selects one."
            )
        if jnp.iscomplexobj(z):
            raise ValueError(
                f"The outputs of a term must be real, got an array of dtype {z.dtype}. Return its "
                "real and imaginary parts, or its absolute value."
            )
        return z


def check_objective(of: str, objective: object) -> None:
    """Raise unless `objective` is an objective; `of` is the class that takes it."""
    instead = ""
    if isinstance(objective, AbstractLoss):
        instead = f"Wrap it in an objective: `Supervised({type(objective).__name__}(...))`."
    wanted = "an objective, such as `Supervised(Categorical())`"
    instance_of(f"{of}(objective=...)", objective, AbstractObjective, wanted, instead)


def check_likelihood(of: str, likelihood: object) -> None:
    """Raise unless `likelihood` is an `AbstractLoss`; `of` is the class that takes it."""
    instance_of(
        f"{of}(likelihood=...)",
        likelihood,
        AbstractLoss,
        "a likelihood, such as `Categorical()` or `Gaussian()`",
        "For a loss of your own, subclass `AbstractLoss` and write the method `nll(z, y)`.",
    )


def call_model(model: Callable[..., Array], x: Any, *, key: PRNGKeyArray | None = None) -> Array:
    """`model(x)`, with `key` where the model takes one."""
    return model(x, key=key) if takes_key(model) else model(x)


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
    results equal those of the whole batch up to rounding; a product costs about 4/3 as much. With
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
            loss, _ = _of_terms(model, examples)
        else:
            loss, valid = parts.sum(lambda i: _of_terms(model, _part_of(examples, parts, i)))
            if not isinstance(valid, Tracer) and not valid.all():
                _of_terms(model, examples)  # raises the error that names the wrong targets
        weights = widen(eqx.filter(model, eqx.is_inexact_array))
        return penalised(loss, weights, _as_array(self.l2), None)

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
            return _of_terms(eqx.combine(params, frozen), some)

        def of_part(i: Int[Array, ""]) -> tuple[PyTree[Array], Bool[Array, ""]]:
            some = _part_of(examples, parts, i)
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
        l2, constant = _as_array(self.l2), None
        if l2 is not None:
            others = widen(eqx.filter(frozen, eqx.is_inexact_array))
            constant = penalised(jnp.zeros_like(l2), others, l2, None)
        return linearise(examples, treedef, params, l2, constant, self.micro_batch)

    def penalty(self, model: PyTree) -> Scalar | float:
        """½ l2 ‖w‖², the part of the loss that does not depend on the batch."""
        l2 = _as_array(self.l2)
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
            n = _leading_axis(inputs, targets, *weights)
            scale = _in_default_precision(term.weight) / n
            if weights:
                inputs, targets, scale = _weighted(inputs, targets, weights[0], scale)
            keys = example_keys(key, n, term=t, terms=len(terms))
            found.append(Example(term.example, term.likelihood, scale, inputs, targets, keys))
        return found, treedef

    def _parts(self, examples: Sequence[Example]) -> Parts:
        sizes = tuple(_leading_axis(each.inputs, each.targets) for each in examples)
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


class Objective(AbstractObjective):
    """A weighted sum of named terms; a batch is `{name: (inputs, targets)}`.

    Every term has its own examples; their number n may differ between terms.
    """

    by_name: dict[str, Term]
    l2: ScalarLike | None
    micro_batch: int | None = eqx.field(static=True)

    def __init__(
        self,
        terms: dict[str, Term],
        l2: ScalarLike | None = None,
        micro_batch: int | None = None,
    ):
        named = isinstance(terms, dict) and all(isinstance(term, Term) for term in terms.values())
        if not named or not terms:
            raise ValueError(
                "`Objective(terms=...)` must be a dictionary with at least one `Term`, got "
                f"{terms!r}."
            )
        self.by_name = dict(terms)
        self.l2 = _checked_l2(l2)
        self.micro_batch = _checked_micro_batch(micro_batch)

    def terms(self) -> PyTree[Term]:
        return self.by_name

    def examples(self, batch: PyTree) -> PyTree:
        return batch


class Supervised(AbstractObjective):
    """L = 1/n Σ_i nll(model(x_i), y_i); a batch is `(inputs, targets)`.

    A batch `(inputs, targets, weights)` has L = 1/n Σ_i weights_i nll(model(x_i), y_i). Every
    curvature has the same weights. An example with weight 0 has no effect, even if it holds NaN.
    To weight classes, pass `class_weights[targets]` as the weights.
    """

    likelihood: AbstractLoss
    l2: ScalarLike | None
    micro_batch: int | None = eqx.field(static=True)

    def __init__(
        self,
        likelihood: AbstractLoss,
        l2: ScalarLike | None = None,
        micro_batch: int | None = None,
    ):
        check_likelihood("Supervised", likelihood)
        self.likelihood = likelihood
        self.l2 = _checked_l2(l2)
        self.micro_batch = _checked_micro_batch(micro_batch)

    def terms(self) -> PyTree[Term]:
        return Term(call_model, self.likelihood)

    def examples(self, batch: PyTree) -> PyTree:
        return batch


class Autoencoding(AbstractObjective):
    """L = 1/n Σ_i nll(model(x_i), x_i), outputs and target ravelled; a batch is `(inputs, _)`.

    The second entry of the batch (the labels) is not used.
    """

    likelihood: AbstractLoss
    l2: ScalarLike | None
    micro_batch: int | None = eqx.field(static=True)

    def __init__(
        self,
        likelihood: AbstractLoss,
        l2: ScalarLike | None = None,
        micro_batch: int | None = None,
    ):
        check_likelihood("Autoencoding", likelihood)
        self.likelihood = likelihood
        self.l2 = _checked_l2(l2)
        self.micro_batch = _checked_micro_batch(micro_batch)

    def terms(self) -> PyTree[Term]:
        return Term(_ravelled, self.likelihood)

    def examples(self, batch: PyTree) -> PyTree:
        inputs, _, *weights = batch
        return inputs, jax.vmap(jnp.ravel)(inputs), *weights


def _ravelled(model: Callable[..., Array], x: Any, *, key: PRNGKeyArray | None = None) -> Array:
    return jnp.ravel(call_model(model, x, key=key))


def _checked_l2(l2: ScalarLike | None) -> ScalarLike | None:
    if l2 is None:
        return None
    number("l2=...", l2)
    return scalar(l2)


def _checked_micro_batch(micro_batch: int | None) -> int | None:
    if micro_batch is not None:
        positive_int("micro_batch=...", micro_batch)
    return micro_batch


def _as_array(l2: ScalarLike | None) -> Scalar | None:
    return None if l2 is None else _in_default_precision(l2)


def _in_default_precision(value: ScalarLike) -> Scalar:
    """A number from a field as an array; float64 if `jax_enable_x64` is set now, else float32."""
    return value if isinstance(value, jax.Array) else jnp.asarray(value, jnp.result_type(float))


def _of_terms(model: PyTree, examples: Sequence[Example]) -> tuple[Scalar, Bool[Array, ""]]:
    """The sum of the terms, and whether all targets lie in the domains of their likelihoods."""
    losses, valid = [], jnp.asarray(True)
    for fn, likelihood, scale, inputs, targets, keys in examples:
        z = widen(eqx.filter_vmap(fn, in_axes=(None, 0, 0))(model, inputs, keys))
        nll, in_domain = losses_of(likelihood, z, targets)
        valid &= in_domain
        losses.append(jnp.sum(scale.astype(nll.dtype) * nll))
    return jnp.asarray(sum(losses)), valid


def _part_of(examples: Sequence[Example], parts: Parts, i: Int[Array, ""]) -> list[Example]:
    """The examples of one part; repeated examples get a scale of 0."""
    of_terms = [
        (each.inputs, each.targets, each.keys, jnp.broadcast_to(each.scale, (n,)))
        for each, n in zip(examples, parts.sizes, strict=True)
    ]
    found = []
    for each, (some, counts) in zip(examples, parts.cut(of_terms, i), strict=True):
        inputs, targets, keys, scale = some
        scale = jnp.where(counts, scale, 0)
        found.append(each._replace(inputs=inputs, targets=targets, keys=keys, scale=scale))
    return found


def _weighted(
    inputs: PyTree, targets: PyTree, weights: Float[Array, " n"], scale: Scalar
) -> tuple[PyTree, PyTree, Float[Array, " n"]]:
    """The examples and their scales; a copy of a used example replaces each one of weight 0.

    The model is not evaluated at the replaced example, which may hold NaN: 0·NaN is NaN in the loss
    and in every derivative.
    """
    if weights.ndim != 1 or not jnp.issubdtype(weights.dtype, jnp.floating):
        raise ValueError(
            "The weights of a batch (inputs, targets, weights) must be one floating-point number "
            f"per example, got an array of shape {weights.shape} and dtype {weights.dtype}."
        )
    used = weights != 0
    rows = jnp.where(used, jnp.arange(len(weights)), jnp.argmax(used))
    inputs, targets = jtu.tree_map(lambda leaf: leaf[rows], (inputs, targets))
    # A negative weight becomes NaN, since its curvature would not be positive semidefinite.
    return inputs, targets, jnp.where(weights >= 0, weights, jnp.nan) * scale.astype(weights.dtype)


def _leading_axis(*parts: PyTree) -> int:
    shapes = [jnp.shape(leaf) for leaf in jtu.tree_leaves(parts)]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) != 1 or 0 in sizes:
        raise ValueError(
            "Inputs, targets and weights of a term must share one leading axis of at least one "
            f"example, got arrays of shapes {shapes}."
        )
    (n,) = sizes
    return n


def _refuse_coupled(model: PyTree) -> None:
    coupled = (eqx.nn.State, eqx.nn.StateIndex)
    leaves = jtu.tree_leaves(model, is_leaf=lambda x: isinstance(x, coupled))
    if any(isinstance(leaf, coupled) for leaf in leaves):
        raise ValueError(_COUPLED)


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
