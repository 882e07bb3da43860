from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.tree_util as jtu
import optimistix as optx
from jaxtyping import Array, Bool, Int, PRNGKeyArray, PyTree, Scalar

from .._checks import positive_int
from .._trees import add_scaled
from ._base import RESULTS, AbstractOptimiser, Info

_OTHER_FN = (
    "`optimistix.minimise(fn, Minimiser(optimiser, ...), params, args=...)`: the value of `fn` "
    "is not the loss that `optimiser` minimises. Pass `fn=minimiser.fn` or a function with the "
    "same value, and put a model with dropout into inference mode."
)


class MinimiserState(eqx.Module):
    """The optimiser's state, fn(y), and how the latest step ended."""

    optimiser: PyTree[Array]
    f: Scalar
    steps: Int[Array, ""]
    rejected: Int[Array, ""]  # in a row
    terminate: Bool[Array, ""]
    result: optx.RESULTS
    reason: RESULTS


class Minimiser(optx.AbstractMinimiser):
    """Any optimiser as a solver for `optimistix.minimise`, every step on the same, full batch.

        params, frozen = eqx.partition(model, eqx.is_inexact_array)
        solver = cv.Minimiser(optimiser, rtol=1e-6, atol=1e-6)
        solution = optx.minimise(solver.fn, solver, params, args=(frozen, batch))
        model = eqx.combine(solution.value, frozen)

    - `fn(params, args)` is the loss of the optimiser's objective: `solver.fn`, or any function with
      the same value (such as one with `aux`). The curvature is made from the objective, since a
      function does not reveal its terms. Both values are compared at every iterate, and another
      `fn` raises an error. This costs a forward pass per step, which also gives f' below.
    - `args` is (frozen, batch): the rest of the model, and the batch.
    - It has converged if a step was accepted and, in the `norm`, |y' − y| < atol + rtol |y|
      and |f' − f| < atol + rtol |f| (Cauchy); or if the gradient is exactly zero. As for every
      solver with this criterion, a step that is short for another reason, such as a large damping,
      also counts as convergence.
    - A rejected step does not count as convergence. If the loss or the gradient is not finite, or
      after `max_rejections` rejected steps in a row, the result is `nonlinear_divergence`.
      `RESULTS[solution.stats["reason"]]` is how the last step ended, empty if it was accepted.
    - With `options={"key": key}`, step t, counted from 0, has the key `fold_in(key, t)`.
    - With optimistix's default adjoint, the implicit one, the minimum is differentiable in `args`.

    **Arguments:**

    - `optimiser`: any `AbstractOptimiser`.
    - `rtol`, `atol`, `norm`: for the convergence criterion.
    - `verbose`: True prints every step. A callable is called with keyword arguments, each a pair
      of a name and a value, as by optimistix's own solvers.
    - `max_rejections`: see above.
    """

    optimiser: AbstractOptimiser
    rtol: float
    atol: float
    norm: Callable[[PyTree], Scalar]
    verbose: Callable[..., None]
    max_rejections: int = eqx.field(static=True)

    def __init__(
        self,
        optimiser: AbstractOptimiser,
        rtol: float,
        atol: float,
        norm: Callable[[PyTree], Scalar] = optx.max_norm,
        verbose: bool | Callable[..., None] = False,
        max_rejections: int = 20,
    ):
        self.optimiser = optimiser
        self.rtol = rtol
        self.atol = atol
        self.norm = norm
        self.verbose = verbose if callable(verbose) else (_print if verbose else _print_nothing)
        self.max_rejections = max_rejections

    def __check_init__(self):
        positive_int("Minimiser(max_rejections=...)", self.max_rejections)

    def fn(self, params: PyTree[Array], args: tuple[PyTree, PyTree]) -> Scalar:
        """The loss to pass to `optimistix.minimise`, for args = (frozen, batch)."""
        frozen, batch = _split_args(args)
        return self.optimiser.objective.loss(eqx.combine(params, frozen), batch)

    def init(
        self,
        fn: Callable[..., tuple[Scalar, PyTree]],
        y: PyTree[Array],
        args: Any,
        options: dict[str, Any],
        f_struct: PyTree[jax.ShapeDtypeStruct],
        aux_struct: PyTree[jax.ShapeDtypeStruct],
        tags: frozenset[object],
    ) -> MinimiserState:
        del f_struct, aux_struct, tags
        _key(options)
        frozen, batch = _split_args(args)
        f, _ = fn(y, args)
        return MinimiserState(
            optimiser=self.optimiser.init(eqx.combine(y, frozen), _is_given(y), batch),
            f=f,
            steps=jnp.zeros((), jnp.int32),
            rejected=jnp.zeros((), jnp.int32),
            terminate=jnp.zeros((), bool),
            result=optx.RESULTS.successful,
            reason=RESULTS.successful,
        )

    def step(
        self,
        fn: Callable[..., tuple[Scalar, PyTree]],
        y: PyTree[Array],
        args: Any,
        options: dict[str, Any],
        state: MinimiserState,
        tags: frozenset[object],
    ) -> tuple[PyTree[Array], MinimiserState, PyTree]:
        del tags
        frozen, batch = _split_args(args)
        key = _key(options)
        key = None if key is None else jax.random.fold_in(key, state.steps)
        model = eqx.combine(y, frozen)
        model, optimiser_state, info = self.optimiser.step(model, batch, state.optimiser, key=key)
        new_y = eqx.filter(model, _is_given(y))
        new_y = eqx.error_if(new_y, _differ(state.f, info.loss), _OTHER_FN)
        f, aux = fn(new_y, args)
        self._report(state, f, info)
        stationary = info.result == RESULTS.stationary
        lost = (info.result == RESULTS.nonfinite_loss) | (info.result == RESULTS.nonfinite_gradient)
        rejected = jnp.where(info.accepted | stationary, 0, state.rejected + 1)
        new_state = MinimiserState(
            optimiser=optimiser_state,
            f=f,
            steps=state.steps + 1,
            rejected=rejected,
            terminate=stationary | (info.accepted & self._is_small(y, new_y, state.f, f)),
            result=optx.RESULTS.where(
                lost | (rejected >= self.max_rejections),
                optx.RESULTS.nonlinear_divergence,
                optx.RESULTS.successful,
            ),
            reason=info.result,
        )
        return new_y, new_state, aux

    def terminate(
        self,
        fn: Callable[..., tuple[Scalar, PyTree]],
        y: PyTree[Array],
        args: Any,
        options: dict[str, Any],
        state: MinimiserState,
        tags: frozenset[object],
    ) -> tuple[Bool[Array, ""], optx.RESULTS]:
        del fn, y, args, options, tags
        return state.terminate, state.result

    def postprocess(
        self,
        fn: Callable[..., tuple[Scalar, PyTree]],
        y: PyTree[Array],
        aux: PyTree,
        args: Any,
        options: dict[str, Any],
        state: MinimiserState,
        tags: frozenset[object],
        result: optx.RESULTS,
    ) -> tuple[PyTree[Array], PyTree, dict[str, Any]]:
        del fn, args, options, tags, result
        return y, aux, {"reason": state.reason}

    def _is_small(self, y: PyTree[Array], new_y: PyTree[Array], f: Scalar, new_f: Scalar) -> Array:
        """Whether the changes of y and of f are both within the tolerances."""

        def size(old: PyTree[Array], new: PyTree[Array]) -> Scalar:
            change = add_scaled(new, jnp.asarray(-1), old)
            return self.norm(
                jtu.tree_map(lambda d, o: d / (self.atol + self.rtol * jnp.abs(o)), change, old)
            )

        return (size(y, new_y) < 1) & (size(f, new_f) < 1)

    def _report(self, state: MinimiserState, f: Scalar, info: Info) -> None:
        self.verbose(
            num_steps=("Step", state.steps),
            loss=("Loss", info.loss),
            new_loss=("Loss after the step", f),
            grad_norm=("Gradient norm", info.grad_norm),
            step_norm=("Step norm", info.step_norm),
            damping=("Damping", info.damping),
            solver_steps=("Solver steps", info.solver_steps),
            accepted=("Accepted", info.accepted),
        )


def _split_args(args: Any) -> tuple[PyTree, PyTree]:
    if not isinstance(args, tuple) or len(args) != 2:
        raise ValueError(
            "`optimistix.minimise(..., Minimiser(...), params, args=...)` must be given "
            "`args=(frozen, batch)`, with `params, frozen = eqx.partition(model, "
            f"eqx.is_inexact_array)`, got {jtu.tree_structure(args)}."
        )
    return args


def _key(options: dict[str, Any]) -> PRNGKeyArray | None:
    if unknown := options.keys() - {"key"}:
        raise ValueError(
            "`optimistix.minimise(..., Minimiser(...), options=...)` takes only the option "
            f"`key`, got {sorted(unknown)}."
        )
    return options.get("key")


def _is_given(y: PyTree[Array]) -> PyTree[bool]:
    """A filter for the whole model that selects the weights in `y`."""
    return jtu.tree_map(lambda leaf: leaf is not None, y, is_leaf=lambda leaf: leaf is None)


def _differ(f: Scalar, loss: Scalar) -> Bool[Array, ""]:
    """Whether the two values differ by more than another order of summation explains."""
    eps = max(jnp.finfo(f.dtype).eps, jnp.finfo(loss.dtype).eps)
    f, loss = f.astype(loss.dtype), loss
    # Differences below eps are ignored: a loss that started at order one has no correct digits
    # there. NaN compares as False, so a NaN does not count as different.
    return jnp.abs(f - loss) > eps**0.5 * jnp.maximum(jnp.abs(f), jnp.abs(loss)) + eps


def _print(**values: tuple[str, Any]) -> None:
    line = ", ".join(f"{name}: {{}}" for name, _ in values.values())
    jax.debug.print(line, *(value for _, value in values.values()))


def _print_nothing(**values: tuple[str, Any]) -> None:
    del values
