import equinox as eqx
import jax.numpy as jnp
import jax.tree_util as jtu
from jaxtyping import Array, Int, PRNGKeyArray, PyTree, Scalar, ScalarLike

from .._checks import fraction, scalar
from .._trees import add_scaled, cast_like, widen, work_dtype
from ..objective import AbstractObjective
from ..solvers import Plan
from ._base import (
    AbstractEvaluatedElsewhere,
    AbstractOptimiser,
    Info,
    Mask,
    as_filter,
    check_state,
    select,
    trainable_mask,
)


class AveragedState(eqx.Module):
    """The state of the optimiser, the average w̄, and the number of steps in w̄."""

    optimiser: PyTree[Array]
    average: PyTree[Array]
    count: Int[Array, ""]
    mask: Mask = eqx.field(static=True)


class Averaged(AbstractEvaluatedElsewhere):
    """Any optimiser, evaluated at the average w̄ of the weights w₁ … w_t after accepted steps.

        w̄_t = Σ_s β^(t−s) w_s / Σ_s β^(t−s),    s = 1 … t

    β is `decay`: w̄ is the exponential average without bias towards its start. If `decay` is None,
    β = 1 and w̄ is the mean of all weights so far (Polyak & Juditsky 1992, "Acceleration of
    stochastic approximation by averaging"). Until a step is accepted, w̄ is the initial weights.

    The average does not change the steps of the optimiser, only the model that is evaluated and
    saved. It costs the memory of one copy of the trainable weights.

    **Arguments:** `optimiser`; `decay`, a number in (0, 1), or None.

        >>> import curvature as cv, jax.numpy as jnp, optax
        >>> objective = cv.Supervised(cv.Gaussian())
        >>> opt = cv.Averaged(cv.FirstOrder(objective, optax.sgd(0.1)), decay=0.999)
    """

    objective: AbstractObjective
    optimiser: AbstractOptimiser
    decay: ScalarLike | None

    def __init__(self, optimiser: AbstractOptimiser, decay: ScalarLike | None):
        if decay is not None:
            instead = "; use None for the mean of all weights"
            fraction("Averaged(decay=...)", decay, positive=True, instead=instead)
        self.objective = optimiser.objective
        self.optimiser = optimiser
        self.decay = None if decay is None else scalar(decay)

    def init(
        self,
        model: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        batch: PyTree | None = None,
    ) -> AveragedState:
        return AveragedState(
            optimiser=self.optimiser.init(model, trainable, batch),
            # In float32 at least: in half precision a small change would round to none.
            average=jtu.tree_map(
                lambda leaf: jnp.array(leaf, work_dtype(leaf), copy=True),
                eqx.filter(model, trainable),
            ),
            count=jnp.zeros((), jnp.int32),
            mask=trainable_mask(model, trainable),
        )

    @eqx.filter_jit
    def step(
        self,
        model: PyTree,
        batch: PyTree,
        state: AveragedState,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[PyTree, AveragedState, Info]:
        check_state(self, state, AveragedState)
        model, inner, info = self.optimiser.step(model, batch, state.optimiser, key=key)
        params = widen(eqx.filter(model, as_filter(model, state.mask)))
        count = state.count + 1
        change = add_scaled(params, jnp.asarray(-1), state.average)
        average = add_scaled(state.average, self._share(count), change)
        new_state = AveragedState(
            optimiser=inner,
            average=select(info.accepted, average, state.average),
            count=jnp.where(info.accepted, count, state.count),
            mask=state.mask,
        )
        return model, cast_like(new_state, state), info

    def plan(
        self,
        model: PyTree,
        batch: PyTree,
        trainable: PyTree = eqx.is_inexact_array,
        *,
        key: PRNGKeyArray | None = None,
    ) -> Plan | None:
        return self.optimiser.plan(model, batch, trainable, key=key)

    def evaluated(self, model: PyTree, state: AveragedState) -> PyTree:
        params, frozen = eqx.partition(model, as_filter(model, state.mask))
        return eqx.combine(cast_like(state.average, params), frozen)

    def _share(self, count: Int[Array, ""]) -> Scalar:
        """The share of w_t in w̄_t, 1 / Σ_s β^(t−s) = (1 − β)/(1 − β^t); 1 for t = 1.

        This is accurate. An exponential average that is divided by 1 − β^t afterwards, as usual,
        loses digits in 1 − β^t.
        """
        t = count.astype(jnp.result_type(float))
        if self.decay is None:
            return 1 / t
        decay = jnp.asarray(self.decay, t.dtype)
        return (1 - decay) / -jnp.expm1(t * jnp.log(decay))
