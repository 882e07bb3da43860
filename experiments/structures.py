"""All structures of the Fisher matrix on small networks: steps and seconds to Adam's last loss.

`python -m experiments.structures [PROBLEM ...]` writes `structures.json, .md, .png`.
"""

from .harness.finals import compare
from .harness.finals_page import publish
from .harness.method import Method, Setting, settings
from .harness.optimisers import first_order, martens_grosse, of_divergence
from .harness.page import parser
from .harness.problem import Problem

MNIST = ("dataset=mnist10k", "model.width=128", "model.depth=1")
PROBLEMS = {
    "convnet": (("model=convnet",), 128, 220),
    "transformer": (("model=transformer",), 128, 220),
    "mnist10k, batch 128": (MNIST, 128, 310),
    "mnist10k, batch 2000": (MNIST, 2000, 100),
}
"""The overrides, the batch size, and the steps: 20 epochs of the digits, 5 and 25 of `mnist10k`."""
STRUCTURES = {
    "full": [],
    "K-FAC": ["structure=kfac"],
    "K-FAC, factored damping": ["structure=kfac", "structure.damping=factored"],
    "EKFAC": ["structure=ekfac"],
    "layer by layer": ["structure=block_diagonal"],
    "diagonal": ["structure=diagonal"],
    "low rank": ["structure=low_rank"],
}
BY_MODEL = {"K-FAC, rate by the model": "kfac", "EKFAC, rate by the model": "ekfac"}
RATES = (3e-3, 1e-2, 3e-2, 1e-1)
MORE: Setting = {"samples": 4}
MOST_ROWS = 4096
"""The most examples times samples of *layer by layer*, see `conf/structure/block_diagonal.yaml`."""


def rivals(steps: int) -> list[Method]:
    """Adam with a constant rate, and with a rate that falls to zero at the last step."""
    constant = settings("learning_rate", *RATES)
    falling = [setting | {"until": steps} for setting in constant]
    return [Method("Adam", first_order("adam"), [*constant, *falling], steps, _every(steps))]


def ours(steps: int, batch_size: int) -> list[Method]:
    """Every structure with steps of a given divergence; two with the rate of a quadratic model."""
    too_many = MORE["samples"] * batch_size > MOST_ROWS
    by_divergence = [
        Method(
            name,
            of_divergence(*structure, until=steps),
            settings("delta", 0.1, 0.3, 0.03),
            steps,
            _every(steps),
            choices=[
                {"damping": 0.01},
                *([] if name == "layer by layer" and too_many else [MORE]),
            ],
        )
        for name, structure in STRUCTURES.items()
    ]
    by_model = [
        Method(
            name,
            martens_grosse(structure),
            settings("damping", 0.1, 1.0, 0.01),
            steps,
            _every(steps),
            choices=[MORE],
        )
        for name, structure in BY_MODEL.items()
    ]
    return [*by_divergence, *by_model]


def _every(steps: int) -> int:
    """The steps between two evaluations: about fifty evaluations in a run."""
    return max(1, steps // 50)


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    options = parser("structures", __doc__, runs="structures")
    options.add_argument(
        "problems", nargs="*", default=list(PROBLEMS), metavar="PROBLEM", help=f"of {[*PROBLEMS]}"
    )
    arguments = options.parse_args()
    if unknown := set(arguments.problems) - set(PROBLEMS):
        options.error(f"there are the problems {[*PROBLEMS]}, got {sorted(unknown)}")
    found = []
    for name in arguments.problems:
        overrides, batch_size, steps = PROBLEMS[name]
        problem = Problem(name, (*overrides, f"batch_size={batch_size}"))
        finals = compare(problem, rivals(steps), ours(steps, batch_size), arguments.runs)
        print(f"{name}\n{finals.table()}", flush=True)
        found.append(finals)
    publish("structures", found, arguments.folder, most_rows=f"{MOST_ROWS:,}")


if __name__ == "__main__":
    main()
