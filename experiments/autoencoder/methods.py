"""The optimisers that are compared, and the settings of each to try on the tuning seed."""

from experiments.harness.method import Method, Setting, settings
from experiments.harness.optimisers import first_order, martens_grosse

CHEAPER: list[Setting] = [{"examples": 500}, {"examples": 250}, {"every": 20}]
STEADIER: list[Setting] = [{"decay": 0.8}, {"decay": 0.95}, {"minimum": 3e-4}]
LESS_OFTEN: list[Setting] = [{"precondition_frequency": 20}, {"max_dim": 512}]


def _ours(name: str, structure: str, choices: list[Setting]) -> Method:
    grid = settings("damping", 0.01, 0.03, 0.1, 0.003, 0.001)
    return Method(name, martens_grosse(structure), grid, steps=130, every=2, choices=choices)


def _rival(
    name: str, rates: tuple[float, ...], steps: int, every: int, choices: list[Setting]
) -> Method:
    grid = settings("learning_rate", *rates)
    optimiser = first_order(name.lower())
    return Method(name, optimiser, grid, steps, every, choices, scheduled=True)


METHODS = (
    _ours("K-FAC", "kfac", [*CHEAPER, {"inverse": "factored"}, *STEADIER]),
    _ours("EKFAC", "ekfac", CHEAPER),
    _rival("Adam", (3e-3, 5e-3, 2e-3, 1e-2), 2600, 20, []),
    _rival("Muon", (1e-2, 2e-2, 5e-2), 800, 10, []),
    _rival("SOAP", (1e-2, 2e-2, 5e-2), 700, 10, LESS_OFTEN),
    _rival("Shampoo", (1e-2, 2e-2, 5e-2), 800, 10, LESS_OFTEN),
    Method("Hessian-free", lambda: ["experiment=autoencoder"], [{}], steps=50, every=1),
)
