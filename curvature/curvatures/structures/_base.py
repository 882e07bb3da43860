import equinox as eqx

from .._base import AbstractCurvature, AbstractPullback, check_curvature

_NO_PULLBACK = (
    "`{structure}(of=...)` must be a pullback of a metric on the outputs, such as "
    "`GaussNewton()` or `SampledFisher()`, got `{found}`. Use `{found}` without a structure (on "
    "the command line `structure=full`, `preconditioner=none`), or use the structure with a "
    "pullback."
)


class AbstractStructure(AbstractCurvature):
    """A structured approximation of a pullback curvature, such as its diagonal.

    The operators of a subclass are `AbstractInvertibleOperator`s: they have a damped inverse.

    **Raises:** `ValueError` if `of` is not a pullback. The identity has no entries to leave out. A
    wrapper of a curvature (a structure, an average, a part of the batch) has no factor S of its
    own.
    """

    of: eqx.AbstractVar[AbstractPullback]

    def __check_init__(self):
        check_curvature(f"{type(self).__name__}(of=...)", self.of)
        if not isinstance(self.of, AbstractPullback):
            raise ValueError(
                _NO_PULLBACK.format(structure=type(self).__name__, found=type(self.of).__name__)
            )


def no_batch(structure: AbstractStructure) -> ValueError:
    """The error for `init` without a batch."""
    return ValueError(
        f"The state of `{type(structure).__name__}(of)` has a shape that depends on the weights. "
        "Pass a batch, `opt.init(model, batch=batch)`, or a batch of shapes."
    )
