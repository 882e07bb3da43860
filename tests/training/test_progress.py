import io
import math
from pathlib import Path

import pytest
from rich.console import Console

from training.log import Log
from training.progress import LINES, describe, progress, report

RECORD = {"loss": 0.5, "damping": 0.01, "solver_steps": 10, "seconds": 1.0, "accepted": True}


def follow(total, *, terminal, first=1):
    file = io.StringIO()
    log = Log()
    log.console = Console(file=file, force_terminal=terminal, width=100)
    with progress(log, "[mine]", total) as display:
        for step in range(first, total + 1):
            display.update(RECORD | {"step": step})
    return file.getvalue()


@pytest.mark.parametrize("total", [1, 2, 9, 10, 11, 99, 110, 12345])
def test_a_pipe_gets_few_plain_lines_with_the_first_and_the_last_step(total):
    lines = follow(total, terminal=False).splitlines()
    assert lines.pop(0) == "[mine]: compiling"
    assert min(total, LINES // 2) <= len(lines) <= LINES + 2
    assert lines[0].startswith(f"[mine] 1/{total}  loss 0.5  damping 0.01  solver steps 10")
    assert lines[-1].startswith(f"[mine] {total}/{total} ")
    assert "\x1b" not in "".join(lines)


def test_the_lines_of_a_resumed_run_begin_at_its_first_step():
    lines = follow(100, terminal=False, first=95).splitlines()
    assert lines[1].startswith("[mine] 95/100")
    assert lines[-1].startswith("[mine] 100/100")


def test_a_terminal_gets_a_bar_that_ends_at_the_last_step():
    text = follow(300, terminal=True)
    assert "compiling" in text
    last = text[text.rindex("[mine]") :]
    for part in ("300/300", "loss 0.5", "damping 0.01", "solver steps 10", "1.0 s"):
        assert part in last


def test_a_damping_of_nan_is_left_out_and_a_rejection_is_shown():
    text = describe(RECORD | {"damping": math.nan, "accepted": False})
    assert text == "loss 0.5  1.0 s  (rejected)"


def test_the_report_is_short_and_plain():
    file = io.StringIO()
    summary = {
        "status": "diverged",
        "reason": "Stopped [because].",
        "exit_code": 1,
        "curvature": "mine",
        "seed": 0,
        "steps": 110,
        "epochs": 10.0,
        "seconds": 2.0,
        "compile_seconds": 1.0,
        "train_loss": 0.25,
        "test_loss": math.nan,
        "test": {"accuracy": 0.975},
        "rejected": 20,
        "parameters": 3,
    }
    log = Log()
    log.console = Console(file=file)
    report(log, summary, Path("a folder"))
    assert file.getvalue().splitlines() == [
        "mine diverged after 110 steps (10 epochs) in 2.0 s, 20 rejected",
        "Stopped [because].",
        "train loss 0.25  test loss nan  test accuracy 0.975",
        "output a folder",
    ]
