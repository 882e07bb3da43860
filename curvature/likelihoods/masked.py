from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Bool, Float, PyTree, Scalar

from ._base import AbstractLoss, Unmasked
from ._metric import Metric


class Masked(AbstractLoss):
    """A loss over some positions of each example: nll(z, (y, mask)) = Σ_{t: mask_t} nll(z_t, y_t).

    `mask` is boolean, True where a position counts. Its axes are the leading axes of `z` and `y`:
    for `Categorical` the shape is [...] if `z` is [..., c]; for `Bernoulli` and `Gaussian` it is
    the shape of `z`, or leading axes of that shape. A masked position adds nothing to the loss, to
    the gradient or to a curvature, even if its output or its target is NaN.

    `likelihood` is the loss of a position. It must sum the losses over leading axes, and must be
    defined for z = 0; both hold for the likelihoods of this package.

    A `Masked` is not a distribution, since only the target determines which positions count. For a
    given target, [`AbstractLoss.unmasked`][] returns the distribution; curvatures use that.

        >>> import curvature as cv, jax.numpy as jnp
        >>> y, mask = jnp.asarray([2, -100]), jnp.asarray([True, False])
        >>> round(float(cv.Masked(cv.Categorical()).nll(jnp.zeros((2, 4)), (y, mask))), 4)  # log 4
        1.3863
    """

    likelihood: AbstractLoss

    def __check_init__(self):
        if not isinstance(self.likelihood, AbstractLoss) or isinstance(self.likelihood, Masked):
            raise ValueError(
                "`Masked(likelihood)` takes a likelihood without a mask, such as `Categorical()`, "
                f"got {self.likelihood}."
            )

    def nll(self, z: Float[Array, "*shape"], y: tuple[PyTree[Array], Array]) -> Scalar:
        return self._sum(self.likelihood.nll, z, y)

    def in_domain(
        self, z: Float[Array, "*shape"], y: tuple[PyTree[Array], Array]
    ) -> Bool[Array, ""]:
        z, y, mask = self._positions(z, y)
        return jnp.all(jax.vmap(self.likelihood.in_domain)(z, y) | ~mask)

    def domain(self, z_shape: tuple[int, ...], y: PyTree) -> str:
        return f"{self.likelihood.domain(z_shape, y[0])} where its mask is true"

    def metrics(self) -> tuple[Metric, ...]:
        """The metrics of the likelihood, over the positions that count."""
        return tuple(
            metric._replace(
                example=partial(self._sum, metric.example), weight=partial(self._sum, metric.weight)
            )
            for metric in self.likelihood.metrics()
        )

    def unmasked(self, z: Float[Array, "*shape"], y: tuple[PyTree[Array], Array]) -> Unmasked:
        y, mask = _pair(z, y)
        # Masked entries may be NaN and are replaced before `nll`. To mask only the loss would leave
        # NaN in the derivatives, since 0·NaN is NaN.
        visible = jnp.broadcast_to(_trailing(mask, z), z.shape)
        filled = jtu.tree_map(
            lambda leaf: jnp.where(_trailing(mask, leaf), leaf, _filler(mask, leaf)), y
        )
        return Unmasked(self.likelihood, jnp.where(visible, z, 0), filled, visible)

    def _positions(
        self, z: Float[Array, "*shape"], y: tuple[PyTree[Array], Array]
    ) -> tuple[Float[Array, "k ..."], PyTree[Array], Bool[Array, " k"]]:
        """Outputs and targets of the k positions and the mask; masked entries are finite."""
        mask = jnp.asarray(y[1])
        example = self.unmasked(z, y)
        z, y = jtu.tree_map(
            lambda leaf: leaf.reshape(-1, *leaf.shape[mask.ndim :]), (example.z, example.y)
        )
        return z, y, mask.ravel()

    def _sum(
        self,
        function: Callable[[Array, Any], Scalar],
        z: Float[Array, "*shape"],
        y: tuple[PyTree[Array], Array],
    ) -> Scalar:
        """Σ_{t: mask_t} function(z_t, y_t)."""
        z, y, mask = self._positions(z, y)
        return jnp.sum(jnp.where(mask, jax.vmap(function)(z, y), 0))


def _pair(z: Float[Array, "*shape"], y: Any) -> tuple[PyTree[Array], Bool[Array, "*positions"]]:
    if not isinstance(y, tuple | list) or len(y) != 2:
        raise ValueError(
            "`Masked(likelihood).nll(z, y)` takes a pair (target, mask) as its target, got one "
            "array. Without a mask, use the likelihood itself."
        )
    target, mask = jtu.tree_map(jnp.asarray, y[0]), jnp.asarray(y[1])
    if mask.dtype != bool:
        raise ValueError(
            f"`Masked(likelihood).nll(z, (y, mask))` takes a boolean mask, got {mask.dtype}. A "
            "mask cannot weight its entries: pass `mask != 0`."
        )
    shapes = [z.shape, *(leaf.shape for leaf in jtu.tree_leaves(target))]
    if any(shape[: mask.ndim] != mask.shape for shape in shapes):
        raise ValueError(
            "`Masked(likelihood).nll(z, (y, mask))` takes a mask over the leading axes of outputs "
            f"and target, got outputs of shape {z.shape}, a target of "
            f"{', '.join(map(str, shapes[1:]))} and a mask of {mask.shape}."
        )
    return target, mask


def _trailing(mask: Bool[Array, "*positions"], like: Array) -> Bool[Array, "..."]:
    """The mask with trailing axes of size one, so that it broadcasts against `like`."""
    return mask.reshape(mask.shape + (1,) * (like.ndim - mask.ndim))


def _filler(mask: Bool[Array, "*positions"], y: Array) -> Array:
    """A target in the domain: the label 0, the number 0, or the uniform probabilities 1/c."""
    return jnp.asarray(1 / y.shape[-1] if y.ndim > mask.ndim else 0).astype(y.dtype)
