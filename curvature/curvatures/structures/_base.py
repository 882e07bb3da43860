import equinox as eqx

from .._base import AbstractCurvature, AbstractPullback

_NO_PULLBACK = (
    "`{structure}(of=...)` must be a pullback of a metric on the outputs, such as `GaussNewton()` "
    "or `SampledFisher()`, got `{found}`: use `{found}` without a structure (on the command line "
    "`structure=full`, `preconditioner=none`), or take the structure of a pullback."
)


class AbstractStructure(AbstractCurvature):
    """The part of a pullback curvature that a structure keeps.

    A subclass makes operators that know their damped inverse, `AbstractInvertibleOperator`.

    **Raises:** `ValueError` where `of` is no pullback: the identity has nothing to leave out, and
    what wraps a curvature (a structure, an average, a part of the batch) has no factor of its own.
    """

    of: eqx.AbstractVar[AbstractPullback]

    def __check_init__(self):
        if not isinstance(self.of, AbstractPullback):
            raise ValueError(
                _NO_PULLBACK.format(structure=type(self).__name__, found=type(self.of).__name__)
            )


def no_batch(structure: AbstractStructure) -> ValueError:
    """The error for a state that was asked for without a batch."""
    return ValueError(
        f"`{type(structure).__name__}(of)` has a state whose shape depends on the weights: pass a "
        "batch, `opt.init(model, batch=batch)`; shapes are enough."
    )
