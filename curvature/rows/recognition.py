"""Which weights have a structure that their rows can be built from, read off the computation."""

import abc
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from .graph import Graph, Node, Value

# Changes of shape alone, through which a weight is followed to where it is used.
_VIEWS = ("broadcast_in_dim", "reshape", "squeeze", "transpose")


@dataclass(frozen=True, eq=False)
class Use:
    """The one place where a weight enters the computation of an example's outputs.

    - `views`: changes of the weight's shape on the way, in order.
    - `node`: the operation that takes it, as its argument `position`. The example's outputs see
      the weight through this operation's result y alone.
    """

    views: tuple[Node, ...]
    node: Node
    position: int

    def others(self, operands: Sequence[Array]) -> list[Array | None]:
        """The arguments of the node without the weight."""
        return [None if i == self.position else x for i, x in enumerate(operands)]

    def apply(self, weight: Array, operands: list[Any]) -> Array:
        """The operation y as a function of the weight, for given other arguments."""
        for view in self.views:
            (weight,) = view.bind(weight)
        taken = [*operands]
        taken[self.position] = weight
        return self.node.bind(*taken)[0]


class AbstractMatrixUse(Use):
    """y = W a at every position: ∂z/∂W is the sum over positions of (∂z/∂y) aᵀ."""

    @property
    @abc.abstractmethod
    def transposed(self) -> bool:
        """Whether the weight is held as [in, out], not as [out, in]."""

    @property
    @abc.abstractmethod
    def positions(self) -> int:
        """How many vectors a there are for one example."""

    @abc.abstractmethod
    def inputs(self, operands: list[Any]) -> Array:
        """The vectors a of one example, as [positions, in]."""

    @abc.abstractmethod
    def cotangents(self, delta: Array) -> Array:
        """A cotangent of y for one example, as [positions, out]."""


class Product(AbstractMatrixUse):
    """A matrix times one vector, or times many: `eqx.nn.Linear`, alone or along a sequence."""

    def inputs(self, operands: list[Any]) -> Array:
        a, axis = operands[1 - self.position], self._contracted()[1 - self.position]
        return jnp.moveaxis(a, axis, -1).reshape(-1, a.shape[axis])

    def cotangents(self, delta: Array) -> Array:
        axis = 0 if self.position == 0 else delta.ndim - 1
        return jnp.moveaxis(delta, axis, -1).reshape(-1, delta.shape[axis])

    @property
    def transposed(self) -> bool:
        contracted = self._contracted()[self.position]
        return contracted == (1 if self.views else 0)

    @property
    def positions(self) -> int:
        axis, a = self._contracted(), self.node.shapes[1 - self.position]
        return a.size // a.shape[axis[1 - self.position]]

    def _contracted(self) -> tuple[int, int]:
        ((lhs,), (rhs,)), _ = self.node.equation.params["dimension_numbers"]
        return lhs, rhs


class Convolution(AbstractMatrixUse):
    """A matrix times the patches of an image: `eqx.nn.Conv*`, channels first, in one group."""

    @property
    def transposed(self) -> bool:
        return False

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
            precision=jax.lax.Precision.HIGHEST,  # to copy is all that is asked
        )
        return jnp.moveaxis(patches, 1, -1).reshape(-1, patches.shape[1])

    def cotangents(self, delta: Array) -> Array:
        return jnp.moveaxis(delta, 1, -1).reshape(-1, delta.shape[1])


class Elementwise(Use):
    """y = W + x, x − W or W·x, with W repeated along some axes: a bias, a scale, positions."""


class Unused:
    """A weight that an example's outputs do not depend on."""


def recognise(graph: Graph, weight: Value) -> Use | Unused | None:
    """The structure of a weight's use, or None where there is none to rely on.

    The rules look at the computation, not at layers: a weight is recognised where the *whole*
    computation takes it exactly once, through changes of shape alone, in one of the operations
    above. Then ∂z/∂W = ∂z/∂y ∂y/∂W is exact, whatever surrounds it. A weight that is taken more
    often (a layer called twice, a tied or a normalised weight, a derivative of the model), that
    enters a loop, a branch or a custom rule, or that is itself an output, is not recognised.
    """
    views: list[Node] = []
    value = weight
    while not graph.is_output(value):
        uses = graph.uses(value)
        if not uses and not views:
            return Unused()
        if len(uses) != 1:
            return None
        (node,) = uses
        if node.name not in _VIEWS:
            return _classify(tuple(views), node, node.position(value))
        views.append(node)
        (value,) = node.outputs
    return None


def _classify(views: tuple[Node, ...], node: Node, position: int) -> Use | None:
    params = node.equation.params
    dtypes = {value.dtype for value in (*node.shapes, *node.results)}
    if len(dtypes) > 1:
        return None
    match node.name:
        case "add" | "add_any" | "sub" | "mul":
            return Elementwise(views, node, position)
        case "dot_general":
            contracted, batched = params["dimension_numbers"]
            matrix = len(node.shapes[position].shape) == 2
            turned = [view.equation.params.get("permutation") for view in views]
            seen = turned in ([], [(1, 0)])
            if matrix and seen and not any(batched) and len(contracted[0]) == 1:
                return Product(views, node, position)
        case "conv_general_dilated":
            numbers = params["dimension_numbers"]
            rank = tuple(range(len(numbers.lhs_spec)))
            plain = numbers.lhs_spec == numbers.rhs_spec == numbers.out_spec == rank
            groups = params["feature_group_count"] * params["batch_group_count"]
            if position == 1 and not views and plain and groups == 1:
                return Convolution(views, node, position)
    return None
