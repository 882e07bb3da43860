"""`python -m experiments.characters [--text FILE]`: `characters.json, .md, .png`."""

import functools
from pathlib import Path

import data
import models
from experiments.comparison.finals import compare
from experiments.comparison.page import parser, publish
from experiments.comparison.problem import Problem

from .methods import RIVALS, STEPS, ours

CONTEXT = 64


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    arguments = parser("characters", __doc__)
    arguments.add_argument("--text", type=Path, help="a text in UTF-8; default: a bundled one")
    chosen = arguments.parse_args()
    dataset = data.held_out(data.text(chosen.text, CONTEXT), fraction=0.02)
    model = functools.partial(models.TransformerDecoder, width=128, depth=4)
    name = "bundled text" if chosen.text is None else chosen.text.stem
    problem = Problem(name, dataset, model, batch_size=12, part="validation")
    finals = compare(problem, RIVALS, ours(), chosen.runs)
    print(finals.table(CONTEXT), flush=True)
    publish(
        [finals],
        Path(__file__).with_name("template.md"),
        chosen.folder,
        unit=CONTEXT,
        steps=STEPS,
        context=CONTEXT,
        characters=dataset.output_size,
    )


if __name__ == "__main__":
    main()
