"""A small transformer on the characters of a text: structures against AdamW, Muon and SOAP.

`python -m experiments.characters [--text FILE]` writes `characters.json, .md, .png`.
"""

from pathlib import Path

from .harness.finals import compare
from .harness.finals_page import publish
from .harness.method import Method, settings
from .harness.optimisers import first_order, of_divergence
from .harness.page import parser
from .harness.problem import Problem

CONTEXT, STEPS, EVERY = 64, 1000, 25
OVERRIDES = ("dataset=text", "model=decoder", "batch_size=12", "validation=0.02")


def rivals() -> list[Method]:
    """First-order methods; the rate first grows, and then falls to zero at the last step."""
    grids = {
        "AdamW": ("adamw", (1e-3, 3e-3, 1e-2)),
        "Muon": ("muon", (1e-2, 3e-2, 1e-1)),
        "SOAP": ("soap", (3e-3, 1e-2, 3e-2)),
    }
    return [
        Method(
            name,
            first_order(optimiser),
            [{"learning_rate": rate, "until": STEPS} for rate in rates],
            STEPS,
            EVERY,
        )
        for name, (optimiser, rates) in grids.items()
    ]


def ours() -> list[Method]:
    """K-FAC and EKFAC with steps of a given divergence."""
    grid = settings("delta", 0.03, 0.1, 0.3)
    structures = {"K-FAC": "kfac", "EKFAC": "ekfac"}
    return [
        Method(name, of_divergence(f"structure={structure}", until=STEPS), grid, STEPS, EVERY)
        for name, structure in structures.items()
    ]


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    options = parser("characters", __doc__, runs="characters")
    options.add_argument("--text", type=Path, help="a text in UTF-8; default: a bundled one")
    arguments = options.parse_args()
    text, name = [], "bundled text"
    if arguments.text is not None:
        text, name = [f"dataset.path='{arguments.text.resolve()}'"], arguments.text.stem
    problem = Problem(name, (*OVERRIDES, *text), part="validation")
    finals = compare(problem, rivals(), ours(), arguments.runs)
    print(finals.table(CONTEXT), flush=True)
    publish("characters", [finals], arguments.folder, unit=CONTEXT, steps=STEPS, context=CONTEXT)


if __name__ == "__main__":
    main()
