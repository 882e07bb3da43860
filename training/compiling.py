"""Compiling a step before it is taken."""

from collections.abc import Callable
from typing import Any

import jax


def compiled_for(
    fn: Callable[..., Any], *given: Any, out_shardings: Any = None
) -> tuple[Callable[..., Any], jax.stages.Compiled | None]:
    """`fn`, compiled for arguments like `given`; what it is given first, it may use up.

    With `JAX_DISABLE_JIT` nothing is compiled, so that a debugger can look into a step.

    **Returns:** what is to be called, and the program, None where there is none.
    """
    if jax.config.jax_disable_jit:  # pyright: ignore[reportAttributeAccessIssue]
        jax.eval_shape(fn, *given)  # traced all the same: who has written it learns from that
        return fn, None
    jitted = jax.jit(fn, donate_argnums=0, out_shardings=out_shardings)
    program = jitted.lower(*given).compile()
    return program, program
