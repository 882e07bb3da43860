"""The number of operations of a computation, estimated from its shapes."""

import math
from typing import Any

from jax.extend import core


def operations(jaxpr: core.Jaxpr) -> int:
    """The floating-point operations of a computation, to within a small factor.

    Matrix products, convolutions, factorisations and triangular solves have their own counts; a
    multiplication with its addition counts as 2. Any other operation counts as 1 per entry of its
    result. A loop of unknown length counts as one iteration, and a `cond` as its longest branch.
    """
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: core.JaxprEqn) -> int:
    params, made = equation.params, sum(math.prod(_shape(result)) for result in equation.outvars)
    match equation.primitive.name:
        case "dot_general":
            ((contracted, _), _), shape = params["dimension_numbers"], _shape(equation.invars[0])
            return 2 * made * math.prod(shape[axis] for axis in contracted)
        case "conv_general_dilated":
            kernel, out = _shape(equation.invars[1]), params["dimension_numbers"].rhs_spec[0]
            return 2 * made * math.prod(kernel) // max(kernel[out], 1)
        case "cholesky":
            return made * _shape(equation.invars[0])[-1] // 3
        case "triangular_solve":
            return made * _shape(equation.invars[0])[-1]
        case "eigh":
            return 9 * made * _shape(equation.invars[0])[-1]
    inner = [operations(jaxpr) for jaxpr in core.jaxprs_in_params(params)]
    if not inner:
        return made
    turns = params["length"] if equation.primitive.name == "scan" else 1
    return turns * (max(inner) if equation.primitive.name == "cond" else sum(inner))


def _shape(variable: Any) -> tuple[int, ...]:
    return variable.aval.shape
