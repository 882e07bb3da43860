import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, Int, PyTree, Scalar

from .._trees import add_scaled
from ._base import AbstractLinearisation, AbstractPartResults, LinearisedTerm, domain_of, penalised
from ._parts import Parts
from .held import Linearisation, first_of, linearised


class ChunkedLinearisation(AbstractLinearisation):
    """A linearisation part by part: every product linearises the parts again, one after another.

    The intermediate values of at most `most` examples of a term are held at once. Inputs, outputs
    and cotangents are held for all examples. A product with C takes one more forward pass than with
    `Linearisation`. The other fields are those of `AbstractLinearisation`.
    """

    loss: Scalar
    grad: PyTree[Float[Array, "..."]]
    outputs: PyTree[Float[Array, "..."]]
    params: PyTree[Float[Array, "..."]]
    terms: tuple[LinearisedTerm, ...]
    cotangents: tuple[Float[Array, "..."], ...]
    l2: Scalar | None
    constant: Scalar | None
    valid: Bool[Array, ""]
    most: int = eqx.field(static=True)
    whole: bool = eqx.field(static=True, default=True)

    @property
    def micro_batch(self) -> int:
        return self.most

    def jvp(self, vector: PyTree[Array]) -> tuple[Array, ...]:
        parts = _parts(self.terms, self.most)

        def of_part(i: Int[Array, ""]) -> tuple[tuple[()], tuple[Array, ...]]:
            return (), self._part(parts, i).jvp(vector)

        return tuple(parts.join(parts.sum(of_part)[1]))

    def vjp(self, cotangents: tuple[Array, ...]) -> PyTree[Array]:
        return self.each(_vjp_of_part, cotangents).sum()

    def first(self, most: int) -> "ChunkedLinearisation":
        if all(term.size <= most for term in self.terms):
            return self
        terms = tuple(first_of(term, most) for term in self.terms)
        treedef = jtu.tree_structure(self.outputs)
        some = chunked(terms, treedef, self.params, self.l2, self.constant, self.most)
        return dataclasses.replace(some, whole=False)

    def each(
        self, fn: Callable[[AbstractLinearisation, Any], Any], of_terms: Sequence[PyTree]
    ) -> "_RecomputedResults":
        return _RecomputedResults(self, fn, of_terms)

    def over_terms(self, fn: Callable[[Sequence[LinearisedTerm]], PyTree[Array]]) -> PyTree[Array]:
        parts = _parts(self.terms, self.most)
        return parts.sum(lambda i: (fn(_terms_of(self.terms, parts, i)), ()))[0]

    def _part(self, parts: Parts, i: Int[Array, ""]) -> Linearisation:
        terms = _terms_of(self.terms, parts, i)
        part = linearised(terms, jtu.tree_structure(self.outputs), self.params, None, None)
        return dataclasses.replace(part, whole=False)


def _vjp_of_part(part: AbstractLinearisation, of_part: Sequence[Array]) -> PyTree[Array]:
    # Repeated examples get a cotangent of 0. `counts` is never None in a part of a batch.
    counted = [
        jnp.where(term.counts.reshape(-1, *[1] * (cotangent.ndim - 1)), cotangent, 0)
        for term, cotangent in zip(part.terms, of_part, strict=True)
        if term.counts is not None
    ]
    return part.vjp(tuple(counted))


class _RecomputedResults(AbstractPartResults):
    """Computes the results of the parts one after another, again for every sum."""

    def __init__(
        self,
        linearisation: ChunkedLinearisation,
        fn: Callable[[AbstractLinearisation, Any], Any],
        of_terms: Sequence[PyTree],
    ):
        self._linearisation, self._fn, self._of_terms = linearisation, fn, of_terms

    def sum(self, fn: Callable[[Any], PyTree[Array]] = lambda found: found) -> PyTree[Array]:
        whole = self._linearisation
        parts = _parts(whole.terms, whole.most)

        def of_part(i: Int[Array, ""]) -> tuple[PyTree[Array], tuple[()]]:
            of_terms = [some for some, _ in parts.cut(self._of_terms, i)]
            return fn(self._fn(whole._part(parts, i), of_terms)), ()

        return parts.sum(of_part)[0]


def chunked(
    terms: tuple[LinearisedTerm, ...],
    treedef: Any,
    params: PyTree[Array],
    l2: Scalar | None,
    constant: Scalar | None,
    most: int,
) -> ChunkedLinearisation:
    """Linearises the terms at `params` part by part; the arguments are those of `linearised`."""
    parts = _parts(terms, most)

    def of_part(i: Int[Array, ""]) -> tuple[PyTree[Array], PyTree[Array]]:
        part = linearised(_terms_of(terms, parts, i), treedef, params, None, None)
        return part.grad, tuple(term.outputs for term in part.terms)

    grad, outputs = parts.sum(of_part)
    losses, cotangents, done, valid = [], [], [], jnp.asarray(True)
    for term, z in zip(terms, parts.join(outputs), strict=True):
        valid &= jnp.all(domain_of(term.likelihood, z, term.targets))
        loss, cotangent = term.scored(z)
        losses.append(loss)
        cotangents.append(cotangent)
        done.append(dataclasses.replace(term, outputs=z))
    return ChunkedLinearisation(
        loss=penalised(jnp.asarray(sum(losses)), params, l2, constant),
        grad=grad if l2 is None else add_scaled(grad, l2, params),
        outputs=jtu.tree_unflatten(treedef, [term.outputs for term in done]),
        params=params,
        terms=tuple(done),
        cotangents=tuple(cotangents),
        l2=l2,
        constant=constant,
        valid=valid,
        most=most,
    )


def _parts(terms: Sequence[LinearisedTerm], most: int) -> Parts:
    return Parts(tuple(term.size for term in terms), most)


def _terms_of(
    terms: Sequence[LinearisedTerm], parts: Parts, i: Int[Array, ""]
) -> tuple[LinearisedTerm, ...]:
    """The terms with only the examples of one part."""
    of_examples = [
        (term.inputs, term.targets, term.keys, term.outputs, term.scales) for term in terms
    ]
    found = []
    for term, (some, counts) in zip(terms, parts.cut(of_examples, i), strict=True):
        inputs, targets, keys, outputs, scale = some
        found.append(
            dataclasses.replace(
                term,
                inputs=inputs,
                targets=targets,
                keys=keys,
                outputs=outputs,
                scale=jnp.where(counts, scale, 0),
                counts=counts,
                total=jnp.sum(term.scales),
            )
        )
    return tuple(found)
