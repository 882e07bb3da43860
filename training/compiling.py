"""Compiling a step before it is taken."""

from collections.abc import Callable
from typing import Any

import jax


def compile_for(
    fn: Callable[..., Any], *given: Any, out_shardings: Any = None
) -> tuple[Callable[..., Any], jax.stages.Compiled | None]:
    """`fn`, compiled for arguments of the shapes of `given`; its first argument is donated.

    With `JAX_DISABLE_JIT` nothing is compiled, so that a debugger can step through `fn`.

    **Returns:** the function to call, and the compiled program; None if nothing is compiled.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        # Traced nevertheless: `Stepper` collects the fields of its record while it is traced.
        jax.eval_shape(fn, *given)
        return fn, None
    jitted = jax.jit(fn, donate_argnums=0, out_shardings=out_shardings)
    program = jitted.lower(*given).compile()
    return program, program
