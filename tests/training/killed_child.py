"""A run that is killed in a process of its own."""

import os
import signal
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import equinox as eqx
import jax

import curvature as cv
from data import digits, held_out
from tests.training.streams import stream_of
from training import Run, Settings, train

STEPS, BATCH_SIZE, EVERY = 100, 32, 25
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir")


def run(folder: Path, kind: str) -> Run:
    """A run with every kind of state: damping, momentum, warm start, drawn targets.

    Of all solvers, CG has the program that is traced and compiled in the shortest time.
    """
    optimiser = cv.NaturalGradient(
        cv.Supervised(cv.Categorical()),
        curvature=cv.SampledFisher(samples=1),
        damping=cv.LevenbergMarquardt(1.0),
        solver=cv.CG(max_steps=5),
        momentum=cv.WarmStart(0.9, of=cv.Spring(0.5)),
    )
    net = eqx.nn.Sequential(
        [eqx.nn.Lambda(jax.numpy.ravel), eqx.nn.MLP(64, 10, 16, 1, key=jax.random.key(0))]
    )
    settings = Settings(
        seed=3,
        batch_size=BATCH_SIZE,
        epochs=3,
        max_steps=STEPS,
        checkpoint_seconds=0.005,
        validation=0.1,
        evaluate_every=EVERY,
    )
    dataset = held_out(digits(), settings.validation)
    if kind != "memory":
        files = folder.with_name("files")
        dataset = stream_of(dataset, kind, settings.seed, BATCH_SIZE, files)
    return Run(net, optimiser, dataset, settings, {"name": "killed"}, "killed")


def kill_at(event: int, folder: Path) -> None:
    """Let this process kill itself at operation number `event` on files below `folder`."""
    count = 0

    def hook(name: str, arguments: tuple) -> None:
        nonlocal count
        if name in OPERATIONS and str(arguments[0]).startswith(str(folder)):
            count += 1
            if count == event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def train_to_be_killed(folder: Path, kind: str, event: int | None, said: Connection) -> None:
    """Train on data of a kind, `memory` or one of `KINDS`; all output is sent to `said`.

    With `event`, the process kills itself at this operation on the files of its folder, including
    checkpoints.
    """
    for stream in (sys.stdout, sys.stderr):
        os.dup2(said.fileno(), stream.fileno())
    jax.config.update("jax_disable_most_optimizations", True)  # as `conftest.py` does
    if event is not None:
        kill_at(event, folder)
    train(run(folder, kind), folder, resume=folder.exists())
