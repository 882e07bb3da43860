"""One training run, from a built model to its folder of results."""

import time
from pathlib import Path

import jax
import jax.numpy as jnp
from rich.console import Console

from . import folder as files
from ._base import Run as Run, Tally
from .checkpoint import Checkpoints
from .cost import cost_of
from .evaluate import AbstractEvaluator
from .exit_codes import ExitCode
from .loop import Loop
from .preflight import preflight
from .progress import progress, report, say
from .records import Records
from .signals import StopSignals
from .sources import evaluator_of, source
from .stepper import Stepper
from .summary import Outcome, Summary, summarise


def train(run: Run, folder: Path, *, resume: bool = False) -> Summary:
    """Train, evaluate, and leave everything in `folder`.

    Ctrl-C, a signal of the scheduler and a run that diverges are outcomes, not exceptions;
    see `Summary.status` and `Summary.exit_code`.

    **Arguments:**

    - `run`: what to train.
    - `folder`: gets `config.yaml`, `metrics.jsonl`, `checkpoints/`, `model.eqx`, `summary.json`.
    - `resume`: continue the run in `folder` at its newest checkpoint, bit for bit as if it had
        not stopped; without a checkpoint, from the beginning.

    **Returns:** the summary, which is also in `folder/summary.json` (there NaN is null).

    **Raises:** `ValueError`, with nothing written, for a run that cannot work, a folder that
    cannot be used or a damaged checkpoint. What a step raises is raised again, after a summary
    with the status `failed`.
    """
    plan = preflight(run)
    files.check_folder(folder, resume=resume)
    (data, draw), state = source(run.dataset), run.optimiser.init(run.model)
    stepper = Stepper(run.optimiser, run.model, state, data, run.settings.seed, draw)
    evaluator = evaluator_of(run.dataset, run.optimiser.objective)
    checkpoints = Checkpoints(folder / files.CHECKPOINTS)
    tally = checkpoints.restore(stepper) if resume else Tally()
    console = Console()
    if plan is not None:
        say(console, f"{run.label}: {plan}")
    with _open(run, folder, tally, resume=resume) as records, StopSignals() as stop:
        try:
            with progress(console, run.label, run.total_steps) as display:
                _compile(run, stepper, tally)
                cost = cost_of(run, stepper.compiled)
                outcome = Loop(
                    run, stepper, tally, cost, records, checkpoints, evaluator, display, stop
                )()
            files.write_model(folder, stepper.evaluated)
            summary = _evaluated(run, evaluator, stepper, tally, outcome)
        except KeyboardInterrupt:
            reason = "Stopped by Ctrl-C before the running step or evaluation was over."
            summary = summarise(run, tally, Outcome("interrupted", ExitCode.INTERRUPTED, reason))
        except Exception as error:
            reason = str(error).partition("\n")[0] or type(error).__name__
            outcome = Outcome("failed", ExitCode.FAILED, reason)
            files.write_summary(folder, summarise(run, tally, outcome))
            raise
        files.write_summary(folder, summary)
    report(console, summary, folder)
    return summary


def _open(run: Run, folder: Path, tally: Tally, *, resume: bool) -> Records:
    """Take possession of the folder."""
    if resume:
        records = Records.resume(folder / files.METRICS, tally.steps)
    else:
        files.make_folder(folder)
        records = Records.create(folder / files.METRICS)
    files.write_config(folder, run.config)
    return records


def _compile(run: Run, stepper: Stepper, tally: Tally) -> None:
    began = time.perf_counter()
    shape = run.steps_per_epoch, run.settings.batch_size
    stepper.compile(None if shape[1] is None else jax.ShapeDtypeStruct(shape, jnp.int32))
    seconds = time.perf_counter() - began
    tally.seconds += seconds
    tally.compile_seconds += seconds


def _evaluated(
    run: Run, evaluator: AbstractEvaluator, stepper: Stepper, tally: Tally, outcome: Outcome
) -> Summary:
    """The summary with losses, unless a scheduler is waiting for this process to be gone."""
    if outcome.exit_code is ExitCode.RESUMABLE:
        return summarise(run, tally, outcome)
    model = stepper.evaluated
    train, test = evaluator.train(model), evaluator.test(model)
    return summarise(run, tally, outcome, train=train, test=test)
