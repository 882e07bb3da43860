import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import lineax as lx
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ..._checks import positive_int
from ..._precision import full_precision
from ...layers import AbstractMatrixUse, MatrixLayer, matrix_layers
from ...linearisation import AbstractLinearisation
from ...operators.blocks import (
    AbstractBlock,
    AbstractBlockRows,
    BlockOperator,
    DenseBlock,
    GroupRows,
    HeldRows,
    Joined,
    LayerRows,
    Ravelled,
    RowsBlock,
    TableRows,
)
from ...rows import TokenRows, rows_for
from .._base import AbstractPullback
from ._base import AbstractStructure
from ._captures import Capture, captures_of
from ._partition import Group, groups_of
from ._rest import blocks_of
from ._slices import joined_layout, of_slices
from ._tokens import TokenCapture

_TOO_LARGE = (
    "`BlockDiagonal(max_size={most})` got {found}: the smaller of the two matrices has {of:,} "
    "rows. Use a smaller batch, `KFAC`, or a higher bound."
)


class BlockDiagonal(AbstractStructure):
    """The exact diagonal blocks of C: one per module with weights, or one per slice if stacked.

    A block is for all trainable arrays with the same nearest enclosing `eqx.Module`, such as the
    weight and the bias of a `Linear`. An array in no module has a block of its own. Each block is
    solved by Cholesky's method with the smaller of two matrices: the block itself, or the Gram
    matrix of its rows, of which there are as many as rows A of C = AᵀA. So
    `BlockDiagonal(GaussNewton())` is the layer-wise Gauss–Newton method.

    **Arguments:** `of`, any pullback curvature; `max_size`, the most rows that the smaller matrix
    of a block may have.
    """

    of: AbstractPullback
    max_size: int = eqx.field(static=True)

    def __init__(self, of: AbstractPullback, max_size: int = 4096):
        positive_int("BlockDiagonal(max_size=...)", max_size)
        self.of, self.max_size = of, max_size

    @full_precision
    def operator(
        self, linearisation: AbstractLinearisation, *, key: PRNGKeyArray | None = None
    ) -> BlockOperator:
        C = self.of.operator(linearisation, key=key)
        m = C.layout().size
        groups = groups_of(linearisation)
        for group in groups:
            if (smaller := min(group.size, m)) > self.max_size:
                found = f"a block of {group.size:,} weights and {m:,} rows"
                raise ValueError(_TOO_LARGE.format(most=self.max_size, found=found, of=smaller))
        dense = [group for group in groups if group.size <= m]
        layers = _in_one_term(linearisation)
        wide = [group for group in groups if group.size > m]
        of_layer = [layers[group.leaves] for group in wide if group.leaves in layers]
        by_rows = [group for group in wide if group.leaves not in layers]
        blocks = [
            *_dense(linearisation, C.factors, dense),
            *_of_layers(linearisation, C.factors, of_layer),
            *_of_rows(linearisation, C.factors, by_rows),
        ]
        leaves = [part.leaves for part in (*dense, *of_layer, *by_rows)]
        return BlockOperator(blocks, leaves, jax.eval_shape(lambda: linearisation.params))


_Factors: TypeAlias = tuple[lx.AbstractLinearOperator, ...]


def _in_one_term(linearisation: AbstractLinearisation) -> dict[tuple[int, ...], MatrixLayer]:
    """The layers that exactly one term uses, keyed by the sorted numbers of their weights."""
    terms = [term.layers for term in linearisation.terms]
    return {
        tuple(sorted(layer.leaves)): layer
        for layer in matrix_layers(terms)
        if sum(of_term.uses[layer.weight] != () for of_term in terms) == 1
    }


def _dense(
    linearisation: AbstractLinearisation, S: _Factors, groups: Sequence[Group]
) -> list[AbstractBlock]:
    """Blocks that hold their own matrix."""
    matrices, _ = blocks_of(linearisation, S, groups, [])
    blocks = []
    for matrix, group in zip(matrices, groups, strict=True):
        layout = Ravelled(group.shapes)
        make = functools.partial(DenseBlock, layout=layout)
        blocks.append(of_slices(make, matrix, group.length, layout))
    return blocks


def _of_layers(
    linearisation: AbstractLinearisation, S: _Factors, layers: Sequence[MatrixLayer]
) -> list[AbstractBlock]:
    """Blocks that are solved with the Gram matrix of a layer's inputs and cotangents."""
    # The cotangents of the loss take one more pass, and only layers with one position use them.
    of_loss = linearisation.whole and any(_positions(linearisation, layer) == 1 for layer in layers)
    captures = captures_of(linearisation, S, layers, of_loss=of_loss)
    blocks = []
    for layer, (found,) in zip(layers, captures, strict=True):
        kind, arrays = _rows_of(found, layer)
        # Each group of a convolution is a layer, but all groups are one module and so one block.
        layout = joined_layout(replace(layer, groups=1), linearisation)
        blocks.append(_in_sample_space(kind, arrays, layout, layer.stack))
    return blocks


def _positions(linearisation: AbstractLinearisation, layer: MatrixLayer) -> int:
    """The number of input vectors of a layer for one example, over all its uses."""
    uses = [use for term in linearisation.terms for use in term.layers.uses[layer.weight] or ()]
    return sum(use.positions for use in uses if isinstance(use, AbstractMatrixUse))


def _rows_of(
    found: Capture, layer: MatrixLayer
) -> tuple[Callable[..., AbstractBlockRows], tuple[Array, ...]]:
    """A function that makes the rows of one slice, and its arguments for all slices."""
    if isinstance(found, TokenCapture):
        make = functools.partial(_table_rows, vocabulary=found.vocabulary)
        return make, (found.tokens, found.cotangents)
    if layer.groups == 1:
        of_loss = () if found.of_loss is None else (found.of_loss,)
        return LayerRows, (found.inputs, found.cotangents, *of_loss)
    inputs, cotangents = (
        array.reshape(layer.stack or 1, layer.groups, *array.shape[1:])
        for array in (found.inputs, found.cotangents)
    )
    return _group_rows, (inputs, cotangents)


def _group_rows(inputs: Array, cotangents: Array) -> GroupRows:
    return GroupRows(eqx.filter_vmap(LayerRows)(inputs, cotangents))


def _table_rows(tokens: Array, cotangents: Array, vocabulary: int) -> TableRows:
    return TableRows(TokenRows(tokens, cotangents, vocabulary))


def _of_rows(
    linearisation: AbstractLinearisation, S: _Factors, groups: Sequence[Group]
) -> list[AbstractBlock]:
    """Blocks that hold their rows and are solved with the Gram matrix of these rows.

    The rows of all groups are computed in one pass.
    """
    if not groups:
        return []
    leaves = jtu.tree_leaves(linearisation.params)
    wanted = sorted(j for group in groups for j in group.leaves)
    rows = rows_for(linearisation, S, wanted)  # ravelled, weight by weight
    ends = np.cumsum([leaves[j].size for j in wanted])
    of_weight = dict(zip(wanted, jnp.split(rows, ends[:-1], axis=1), strict=True))
    blocks = []
    for group in groups:
        parts = [of_weight[j].reshape(len(rows), group.length or 1, -1) for j in group.leaves]
        of_slice = jnp.swapaxes(jnp.concatenate(parts, axis=2), 0, 1)  # [L, m, p]
        layout = Ravelled(group.shapes)
        blocks.append(_in_sample_space(HeldRows, (of_slice,), layout, group.length))
    return blocks


def _in_sample_space(
    kind: Callable[..., AbstractBlockRows],
    arrays: tuple[Array, ...],
    layout: Joined | Ravelled,
    length: int | None,
) -> AbstractBlock:
    """A block for each slice of the arrays, with rows made by `kind`."""
    return of_slices(lambda of_slice: RowsBlock(kind(*of_slice), layout), arrays, length, layout)
