"""Steps to an error as published, for the same networks.

F. Dangel, J. Müller and M. Zeinhofer, "Kronecker-factored approximate curvature for
physics-informed neural networks", 2024.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from experiments.harness.markdown import table

from .numbers import median_cell

PUBLISHED = {
    "poisson2d": (
        ("Gauss–Newton by CG", "130", "653", "3.2e-7"),
        ("energy natural gradient, per layer", "", "540", "6.3e-8"),
    ),
    "heat": (
        ("Gauss–Newton by CG", "118", "", "6.2e-7"),
        ("energy natural gradient", "107", "", "3.1e-8"),
    ),
    "poisson5d": (
        ("Gauss–Newton by CG", "190", "", "6.1e-6"),
        ("energy natural gradient, 13,038 steps", "172", "", "5.6e-8"),
    ),
}


def published_table(found: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]]) -> str:
    """Published steps and errors, each problem's beside the medians of the methods here."""
    rows = []
    for experiment, published in PUBLISHED.items():
        rows += [[f"{experiment}, {name}, published", *numbers] for name, *numbers in published]
        for method, of_seeds in found[experiment].items():
            if method.startswith("gauss_newton"):
                names = ("steps to 0.0001", "steps to 1e-06", "l2_error")
                cells = [median_cell([row[name] for row in of_seeds]) for name in names]
                rows.append([f"{experiment}, {method}, here", *cells])
    return table(["", "1e-4", "1e-6", "final"], rows)
