import jax.numpy as jnp
from jaxtyping import Array, Float, Scalar

from .._devices import replicate, round_up_to_devices
from ._base import AbstractPart, Slab, row_products
from .width import block_width


class DensePart(AbstractPart):
    """A matrix that is multiplied by one vector per example, y_i = W a_i: its rows are Δ_ik ⊗ a_i.

    The product of two rows is (Δ_ik·Δ_jl)(a_i·a_j). So AAᵀ = (ΔΔᵀ) ∘ (aaᵀ) is computed without
    forming A, in O(m² out + n² in) operations instead of O(m² in·out). All columns of S share the
    n × n products of the inputs. With a bias of the same layer, y_i = W a_i + b, the rows of W and
    b together are Δ_ik ⊗ [a_i, 1], and AAᵀ = (ΔΔᵀ) ∘ (aaᵀ + 1).

    One entry per term; None if the term does not use the matrix:

    - `deltas`: Δ_ik, the cotangents of y for the columns of S.
    - `images`: γ_i, the cotangents of y for the vector to project, v = Σ_i γ_i ⊗ a_i; None if there
      is no such vector.
    - `products`: aaᵀ, or aaᵀ + 1 with a bias, for every pair of terms (t, s) with s ≤ t.
    """

    deltas: tuple[Float[Array, "_r _n _out"] | None, ...]
    images: tuple[Float[Array, "_n _out"] | None, ...]
    products: dict[tuple[int, int], Float[Array, "_n _n2"]]

    def __init__(
        self,
        deltas: tuple[Float[Array, "_r _n _out"] | None, ...],
        images: tuple[Float[Array, "_n _out"] | None, ...],
        inputs: tuple[Float[Array, "_n _in"] | None, ...],
        *,
        bias: bool,
    ):
        self.deltas, self.images = deltas, images
        self.products = {
            (t, s): (symmetric_product(a) if t == s else _products(a, b)) + float(bias)
            for t, a in enumerate(inputs)
            for s, b in enumerate(inputs[: t + 1])
            if a is not None and b is not None
        }

    def block(self, a: Slab, b: Slab) -> Float[Array, "ra na rb nb"] | None:
        first, second = self.deltas[a.term], self.deltas[b.term]
        if first is None or second is None:
            return None
        inputs = self.products[a.term, b.term][slice(*a.examples), slice(*b.examples)]
        outputs = row_products(a.of(first), b.of(second))
        return outputs * replicate(inputs)[None, :, None, :]

    def project(self) -> tuple[tuple[Float[Array, "_r _n"] | None, ...], Scalar]:
        # (Δ_ik ⊗ a_i)·v = Δ_ik·Σ_j (a_i·a_j) γ_j: forming v would take one more matrix product.
        shares, squares = [], []
        for t, (delta, image) in enumerate(zip(self.deltas, self.images, strict=True)):
            if delta is None or image is None:
                shares.append(None)
                continue
            seen = jnp.zeros_like(image)
            for s, other in enumerate(self.images):
                if other is not None:
                    product = self.products[t, s] if t >= s else self.products[s, t].T
                    seen += product @ other
            shares.append(jnp.einsum("rno,no->rn", delta, seen))
            squares.append(jnp.vdot(image, seen))
        return tuple(shares), jnp.asarray(sum(squares))


def symmetric_product(a: Float[Array, "n in"]) -> Float[Array, "n n"]:
    """The product aaᵀ; blocks above the diagonal are copies of those below."""
    n = len(a)
    if n <= block_width(n):
        return _products(a, a)
    half = round_up_to_devices(n // 2, n)
    first, second = symmetric_product(a[:half]), symmetric_product(a[half:])
    below = _products(a[half:], a[:half])
    return jnp.block([[first, below.T], [below, second]])


def _products(a: Float[Array, "n in"], b: Float[Array, "n2 in"]) -> Float[Array, "n n2"]:
    return replicate(row_products(a[None], b[None])[0, :, 0])
