"""Workarounds for two defects of XLA on CPUs; importing this module applies both.

The defects: wrong sums in jaxlib 0.10.2, and slow convolutions in loops.
"""

import os
import warnings
from collections.abc import Sequence
from typing import Any

from jax import lax
from jax.interpreters import mlir
from jaxlib import version
from jaxtyping import Array

_WRONG = "0.10.2"
_OPTION = "--xla_cpu_experimental_ynn_fusion_type"


def sum_correctly() -> None:
    """Turn off the XLA option that makes jaxlib 0.10.2 return wrong sums on a CPU (jax#39103).

    This jaxlib passes sums to a library that confuses their axes for some shapes, in float32 and in
    float64 (jax-ml/jax#39103). For nine columns of 96 examples of eight positions, the gradient of
    a layer normalisation was wrong by 25 %. The versions before and after 0.10.2 are correct.

    XLA reads the option once, when JAX initialises its backends. If the user has set the option in
    XLA_FLAGS, that value is kept.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if version.__version__ != _WRONG or _OPTION in flags:
        return
    # There is no public function for this. The private one is used with this one version of
    # jaxlib only, so it cannot change.
    from jax._src.xla_bridge import backends_are_initialized

    if backends_are_initialized():
        warnings.warn(
            f"jaxlib {_WRONG} computes wrong sums on processors (jax-ml/jax#39103). `curvature` "
            "prevents this only before JAX's first computation, and JAX has computed something "
            f"already. Import `curvature` first, set XLA_FLAGS={_OPTION}=, or install another "
            "jaxlib.",
            stacklevel=2,
        )
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_OPTION}=".strip()


def convolve_fast_in_loops() -> None:
    """Transpose convolutions to channels-last on CPUs, in loops too (jax-ml/jax#12868).

    On CPUs, XLA has a fast convolution only for channels-last arrays. XLA transposes the arrays of
    other convolutions, but not in the body of a loop. There it uses a slow implementation: the
    gradient of a small convnet took 18 times as long in a `scan` over micro-batches. This function
    therefore changes the lowering rule of the convolution, which now transposes the arrays before
    XLA receives them. The values are the same.
    """
    primitive = lax.conv_general_dilated_p
    # There is no public function that returns the original lowering rule.
    from jax._src.interpreters import mlir as internal

    original = internal._platform_specific_lowerings["cpu"][primitive].rule

    def lower(ctx: Any, *operands: Any, dimension_numbers: Any, **params: Any) -> Any:
        # This also ends the recursion: the transposed convolution is lowered by this rule, too.
        if dimension_numbers == _channels_last(len(dimension_numbers.lhs_spec)):
            return original(ctx, *operands, dimension_numbers=dimension_numbers, **params)
        return mlir.lower_fun(_rearrange, multiple_results=False)(
            ctx, *operands, dimension_numbers=dimension_numbers, **params
        )

    mlir.register_lowering(primitive, lower, platform="cpu")


def _rearrange(
    images: Array, kernel: Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any
) -> Array:
    """The same convolution, computed with channels-last arrays."""
    given, last = dimension_numbers, _channels_last(images.ndim)
    found = lax.conv_general_dilated_p.bind(
        _move_axes(images, given.lhs_spec, last.lhs_spec),
        _move_axes(kernel, given.rhs_spec, last.rhs_spec),
        dimension_numbers=last,
        **params,
    )
    return _move_axes(found, last.out_spec, given.out_spec)


def _channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    """The channels-last layout: images are [n, ..., channels], kernels [..., in, out]."""
    images = (0, ndim - 1, *range(1, ndim - 1))
    return lax.ConvDimensionNumbers(images, (ndim - 1, ndim - 2, *range(ndim - 2)), images)


def _move_axes(array: Array, have: Sequence[int], want: Sequence[int]) -> Array:
    """Transposes the array: axis `have[i]` moves to position `want[i]`."""
    places = dict(zip(want, have, strict=True))
    return lax.transpose(array, [places[axis] for axis in range(array.ndim)])


sum_correctly()
convolve_fast_in_loops()
