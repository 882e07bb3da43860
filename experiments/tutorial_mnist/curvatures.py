"""The Fisher matrices that are compared."""

from typing import NamedTuple

import curvature as cv


class Fisher(NamedTuple):
    """A curvature of the library, and the overrides of a run that uses it."""

    curvature: cv.AbstractCurvature
    overrides: tuple[str, ...]


CURVATURES = {
    "empirical_fisher": Fisher(cv.EmpiricalFisher(), ("curvature=empirical_fisher",)),
    "true_fisher 1": Fisher(cv.SampledFisher(samples=1), ("curvature=true_fisher",)),
    "true_fisher 5": Fisher(cv.SampledFisher(samples=5), ("curvature=true_fisher", "samples=5")),
    "exact_fisher": Fisher(cv.ExactFisher(), ("curvature=exact_fisher",)),
}
