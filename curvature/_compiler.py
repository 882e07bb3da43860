"""Two defects of XLA on processors, worked around when this module is imported.

Wrong sums in jaxlib 0.10.2, and slow convolutions in loops.
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
    """Turn off what makes jaxlib 0.10.2 return wrong sums on a processor (jax-ml/jax#39103).

    It leaves sums to a library that mixes up their axes for some shapes, in either precision: the
    gradient of a layer normalisation, for nine columns of 96 examples of eight positions, was off
    by 25 %. The versions before and after it are right. It is an option of the compiler, read once,
    when JAX starts; whoever has set it is obeyed.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if version.__version__ != _WRONG or _OPTION in flags:
        return
    # Nothing public says so; of this one version, it cannot change.
    from jax._src.xla_bridge import backends_are_initialized

    if backends_are_initialized():
        warnings.warn(
            f"jaxlib {_WRONG} gives wrong sums on processors (jax-ml/jax#39103), and JAX has "
            "computed something already, so that it is too late to prevent that: import "
            f"`curvature` first, set XLA_FLAGS={_OPTION}=, or install another jaxlib.",
            stacklevel=2,
        )
        return
    os.environ["XLA_FLAGS"] = f"{flags} {_OPTION}=".strip()


def convolve_fast_in_loops() -> None:
    """Let processors convolve with channels last, in loops too (jax-ml/jax#12868).

    XLA has a fast convolution on processors for arrays with channels last only. It rearranges the
    arrays of other convolutions, but not in the body of a loop. There it takes a slow path: the
    gradient of a small convnet took 18 times as long in a `scan` over micro-batches. So they are
    rearranged here, when JAX hands a convolution to XLA. The values are the same.
    """
    primitive = lax.conv_general_dilated_p
    # Nothing public gives the rule that is to be wrapped.
    from jax._src.interpreters import mlir as internal

    original = internal._platform_specific_lowerings["cpu"][primitive].rule

    def lower(ctx: Any, *operands: Any, dimension_numbers: Any, **params: Any) -> Any:
        if dimension_numbers == _channels_last(len(dimension_numbers.lhs_spec)):
            return original(ctx, *operands, dimension_numbers=dimension_numbers, **params)
        return mlir.lower_fun(_rearranged, multiple_results=False)(
            ctx, *operands, dimension_numbers=dimension_numbers, **params
        )

    mlir.register_lowering(primitive, lower, platform="cpu")


def _rearranged(
    images: Array, kernel: Array, *, dimension_numbers: lax.ConvDimensionNumbers, **params: Any
) -> Array:
    """The same convolution, of rearranged arrays."""
    given, last = dimension_numbers, _channels_last(images.ndim)
    found = lax.conv_general_dilated_p.bind(
        _moved(images, given.lhs_spec, last.lhs_spec),
        _moved(kernel, given.rhs_spec, last.rhs_spec),
        dimension_numbers=last,
        **params,
    )
    return _moved(found, last.out_spec, given.out_spec)


def _channels_last(ndim: int) -> lax.ConvDimensionNumbers:
    """Images are [n, ..., channels], kernels [..., in, out]."""
    images = (0, ndim - 1, *range(1, ndim - 1))
    return lax.ConvDimensionNumbers(images, (ndim - 1, ndim - 2, *range(ndim - 2)), images)


def _moved(array: Array, have: Sequence[int], want: Sequence[int]) -> Array:
    """With the axes in another order: those at the places `have` go to the places `want`."""
    places = dict(zip(want, have, strict=True))
    return lax.transpose(array, [places[axis] for axis in range(array.ndim)])


sum_correctly()
convolve_fast_in_loops()
