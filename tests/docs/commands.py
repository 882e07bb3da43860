"""Finds the shell commands of the pages, and checks them without training."""

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

from launch.command import make_importable, parse
from launch.composer import Composer
from launch.folders import register_resolvers
from launch.job import planned_job
from launch.runs import build
from launch.unused import refuse_unused
from tests.docs.pages import ROOT

DOWNLOADED = {"mnist", "mnist10k", "fashion_mnist"}
USER_DATASETS = {"arrays", "csv"}
TRAIN = ["python", "train.py"]
EXTRAS = set(
    tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][
        "optional-dependencies"
    ]
)
OTHER_PROGRAMS = {"cd", "eval", "git", "mkdocs", "module", "pip", "pytest", "source", "tensorboard"}


def lines(text: str) -> list[list[str]]:
    """The words of each command; comments are removed, and continued lines are joined."""
    joined = text.replace("\\\n", " ")
    words = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [each for each in words if each]


def trainings(words: list[str]) -> Iterator[list[str]]:
    """The arguments of every `python train.py` in a command, also inside a quoted word."""
    for index, word in enumerate(words):
        if words[index : index + 2] == TRAIN:
            rest = words[index + 2 :]
            yield rest[: rest.index("&&")] if "&&" in rest else rest
        elif " ".join(TRAIN) in word:
            yield from trainings(shlex.split(word))


def check(words: list[str]) -> None:
    """Raise an error if an extra, a module or the program is unknown, or training is refused."""
    for extra in re.findall(r"\.\[([\w,]+)\]", " ".join(words)):
        assert set(extra.split(",")) <= EXTRAS, f"there is no extra `{extra}`"
    for index, word in enumerate(words):
        if words[index - 1] == "-m" and words[index - 2] == "python":
            assert importlib.util.find_spec(word), f"there is no module `{word}`"
    for arguments in trainings(words):
        check_training(arguments)
    first = next(word for word in words if "=" not in word)  # skip environment variables
    known = {*OTHER_PROGRAMS, "python", "srun", "mpirun", "sbatch"}
    assert first in known, f"`{first}` is no command that the tests know: {words}"


def check_training(arguments: list[str]) -> None:
    """Raise the errors that `python train.py` would report before it trains."""
    command = parse([argument for argument in arguments if argument != "-q"])
    if command.shell_completion or command.help or command.cfg:
        return
    make_importable(command)
    register_resolvers("docs")
    composer = Composer(command)
    composition = composer.composition(command.overrides, multirun=command.multirun)
    refuse_unused(composition, composer)
    # Of a sweep, all jobs were composed above; building the first four is enough.
    for composed in composition.jobs[:4]:
        if composed.resume is not None:  # the page does not make the run that is resumed
            continue
        job = planned_job(composed, multirun=composition.multirun)
        if _is_available(job.config["choices"]["dataset"], job.config["dataset"].get("path")):
            build(job, shapes_only=True)


def _is_available(dataset: str, path: str | None) -> bool:
    if dataset in USER_DATASETS:
        return Path(str(path)).exists()
    return dataset not in DOWNLOADED
