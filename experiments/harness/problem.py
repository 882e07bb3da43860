"""The training problems of an experiment."""

from typing import Literal, NamedTuple


class Problem(NamedTuple):
    """What is trained.

    - `name`: the name in tables and folders.
    - `overrides`: those of `python train.py` that choose dataset, model, objective and batch size.
    - `part`: the part of the dataset on which the loss is compared.
    """

    name: str
    overrides: tuple[str, ...]
    part: Literal["train", "validation", "test"] = "train"
