"""The places where a weight enters a computation, linearly."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .graph import Graph, Node

# Operations that only change the shape or the precision. A weight is followed through them to its
# uses.
VIEWS = ("broadcast_in_dim", "convert_element_type", "reshape", "squeeze", "transpose")


@dataclass(frozen=True, eq=False)
class Use:
    """One place where a weight enters the computation of an example's outputs, linearly.

    - `views`: changes of the weight's shape and precision before the operation, in order.
    - `node`: the operation that takes the weight, as its argument `position`. The example's outputs
      depend on this use of the weight through the operation's result y alone.
    - `graph`: the graph that contains the operation.
    - `length`: L, if the operation is inside a `scan` over L slices of the weight; else None. With
      a `scan`, `views` and `node` are those of one slice.
    """

    views: tuple[Node, ...]
    node: Node
    position: int
    graph: Graph
    length: int | None

    def others(self, operands: Sequence[Any]) -> list[Any]:
        """The arguments of the node without the weight."""
        return [None if i == self.position else x for i, x in enumerate(operands)]

    def apply(self, weight: Array, operands: list[Any]) -> Array:
        """The operation's result y as a function of the weight (or of a slice of it)."""
        for view in self.views:
            (weight,) = view.bind(weight)
        arguments = [*operands]
        arguments[self.position] = weight
        return self.node.bind(*arguments)[0]

    def rows(self, weight: Array, deltas: Array, operands: list[Any]) -> Array:
        """The rows of the weight (or of a slice of it) for one example, [r, *weight.shape].

        **Arguments:** `deltas`, cotangents of y, [r, *y.shape].
        """
        _, pullback = jax.vjp(lambda w: self.apply(w, operands), weight)
        return jax.vmap(lambda delta: pullback(delta)[0])(deltas)


class AbstractMatrixUse(Use):
    """y = W a at every position: ∂z/∂W is the sum over positions of (∂z/∂y) aᵀ."""

    @property
    @abc.abstractmethod
    def transposed(self) -> bool:
        """Whether the weight is stored as [in, out], not as [out, in]."""

    @property
    @abc.abstractmethod
    def groups(self) -> int:
        """The number of matrices that are stacked vertically in W, each with its own inputs."""

    @property
    @abc.abstractmethod
    def positions(self) -> int:
        """The number of vectors a for one example, per group."""

    @property
    @abc.abstractmethod
    def out_axis(self) -> int:
        """The axis of y that holds the entries of W a."""

    @abc.abstractmethod
    def cotangents(self, delta: Array) -> Array:
        """A cotangent of y for one example, as [groups, positions, out]."""


class AbstractProduct(AbstractMatrixUse):
    """A matrix times vectors that are computed."""

    @abc.abstractmethod
    def inputs(self, operands: list[Any]) -> Array:
        """The vectors a of one example, as [groups, positions, in]."""

    def rows(self, weight: Array, deltas: Array, operands: list[Any]) -> Array:
        axes = "rgto,gti->rgio" if self.transposed else "rgto,gti->rgoi"
        matrices = jnp.einsum(axes, jax.vmap(self.cotangents)(deltas), self.inputs(operands))
        return matrices.reshape(-1, *weight.shape)


class Product(AbstractProduct):
    """A matrix times one vector, or times many: `eqx.nn.Linear`, alone or along a sequence."""

    def inputs(self, operands: list[Any]) -> Array:
        a, axis = operands[1 - self.position], self._contracted()[1 - self.position]
        return jnp.moveaxis(a, axis, -1).reshape(1, -1, a.shape[axis])

    @property
    def groups(self) -> int:
        return 1

    @property
    def out_axis(self) -> int:
        return 0 if self.position == 0 else len(self.node.results[0].shape) - 1

    def cotangents(self, delta: Array) -> Array:
        return jnp.moveaxis(delta, self.out_axis, -1).reshape(1, -1, delta.shape[self.out_axis])

    @property
    def transposed(self) -> bool:
        turned = any(view.name == "transpose" for view in self.views)
        return self._contracted()[self.position] == (1 if turned else 0)

    @property
    def positions(self) -> int:
        axis, a = self._contracted(), self.node.shapes[1 - self.position]
        return a.size // a.shape[axis[1 - self.position]]

    def _contracted(self) -> tuple[int, int]:
        ((lhs,), (rhs,)), _ = self.node.equation.params["dimension_numbers"]
        return lhs, rhs


class Convolution(AbstractProduct):
    """A matrix times the patches of an image: `eqx.nn.Conv*`, channels first.

    Every group of channels has a matrix of its own, [out / groups, in / groups · kernel], which is
    multiplied by the patches of that group alone.
    """

    @property
    def transposed(self) -> bool:
        return False

    @property
    def groups(self) -> int:
        return self.node.equation.params["feature_group_count"]

    @property
    def out_axis(self) -> int:
        return 1

    @property
    def positions(self) -> int:
        batch, _, *image = self.node.results[0].shape
        return batch * math.prod(image)

    def inputs(self, operands: list[Any]) -> Array:
        params = self.node.equation.params
        patches = jax.lax.conv_general_dilated_patches(
            operands[0],
            self.node.shapes[1].shape[2:],
            params["window_strides"],
            params["padding"],
            lhs_dilation=params["lhs_dilation"],
            rhs_dilation=params["rhs_dilation"],
            precision=jax.lax.Precision.HIGHEST,  # patches are copies: nothing may be rounded
        )
        return self._by_group(patches)  # the entries of one channel are adjacent

    def cotangents(self, delta: Array) -> Array:
        return self._by_group(delta)

    def _by_group(self, array: Array) -> Array:
        """[batch, channels, *image] as [groups, positions, channels of the group]."""
        positions = jnp.moveaxis(array, 1, -1).reshape(self.positions, self.groups, -1)
        return jnp.moveaxis(positions, 1, 0)


class Elementwise(Use):
    """y = W + x, x − W or W·x, with W repeated along some axes: a bias, a scale, positions."""
