"""K-FAC as Martens and Grosse have it."""

import curvature as cv


def martens_grosse(
    objective: cv.AbstractObjective,
    structure: cv.AbstractCurvature,
    damping: float,
    minimum: float = 1e-3,
) -> cv.NaturalGradient:
    """The gradient times the damped inverse of a structure, with the rate and momentum of a model.

    The model is quadratic, by the Gauss–Newton matrix, and exact along the direction and the last
    step. Levenberg and Marquardt's rule moves λ (Martens and Grosse 2015, sections 6.4, 6.5 and 7).

    **Arguments:** `damping` and `minimum`, the first and the least λ.
    """
    return cv.NaturalGradient(
        objective,
        cv.GaussNewton(),
        cv.Preconditioned(),
        preconditioner=structure,
        damping=cv.LevenbergMarquardt(initial=damping, minimum=minimum),
        momentum=cv.QuadraticMomentum(),
    )
