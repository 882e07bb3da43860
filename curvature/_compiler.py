"""A compiler whose sums are right, whichever jaxlib is installed: done by being imported."""

import os
import warnings

from jaxlib import version

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


sum_correctly()
