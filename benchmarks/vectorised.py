"""The cost of a vectorised sweep: `python -m benchmarks.vectorised [--folder FOLDER]`.

Times whole commands: `python train.py -m seed='range(0,16)' ...` with and without
`vectorised=true`, and the same runs as 16 commands. The figures are CPU seconds, user and system,
from start to end, on one core.
"""

import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .report import Report, parser

ROOT = Path(__file__).resolve().parent.parent
NAME = "vectorised"
SEEDS = 16
METHODS = {
    "natural gradient": (),
    "Adam": ("optimiser=adam",),
    "K-FAC": ("structure=kfac",),
}
SWEEP = "-m", f"seed=range(0,{SEEDS})"
WAYS = {
    "one command": ("seed=0",),
    "one after another": SWEEP,
    "as one program": (*SWEEP, "vectorised=true"),
}


def seconds_of(*arguments: str) -> float:
    """The CPU seconds of a command."""
    before = _cpu_seconds()
    with tempfile.TemporaryDirectory() as folder:
        where = f"hydra.run.dir={folder}/run", f"hydra.sweep.dir={folder}/sweep"
        command = [sys.executable, "train.py", "-q", *arguments, *where]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return _cpu_seconds() - before


def measure(method: str, rounds: int) -> list[dict[str, Any]]:
    """Times each kind of command twice: with an empty compilation cache, then with a filled one."""
    found: dict[str, dict[str, list[float]]] = {"empty": {}, "filled": {}}
    for _ in range(rounds):
        for way, arguments in WAYS.items():
            with tempfile.TemporaryDirectory() as cache:
                given = *arguments, *METHODS[method], f"compilation_cache={cache}"
                for state in found:
                    found[state].setdefault(way, []).append(seconds_of(*given))
    later = found["filled"]["one command"]  # of 16 commands, only the first has an empty cache
    return [_row(method, state, times, later) for state, times in found.items()]


def _row(
    method: str, cache: str, times: dict[str, list[float]], later: list[float]
) -> dict[str, Any]:
    first, alone, together = (times[way] for way in WAYS)
    commands = [a + (SEEDS - 1) * b for a, b in zip(first, later, strict=True)]
    return {
        "method": method,
        "cache": cache,
        f"{SEEDS} commands": _format_seconds(commands),
        "one after another": _format_seconds(alone),
        "as one program": _format_seconds(together),
        "over that of commands": _ratio(together, commands),
        "over one after another": _ratio(together, alone),
    }


def _format_seconds(seconds: list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in seconds)


def _ratio(these: list[float], those: list[float]) -> str:
    return f"{statistics.median(a / b for a, b in zip(these, those, strict=True)):.2f}"


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main(argv: list[str]) -> None:
    """Measure, print each table when it is ready, and write at the end if asked to."""
    options = parser(NAME, __doc__, rounds=2).parse_args(argv)
    report, rows = Report(NAME, options.folder), []
    for method in METHODS:
        found = measure(method, options.rounds)
        report.show(f"{method}, {SEEDS} seeds: processor seconds", found)
        rows += found
    report.write({"sweeps": rows}, rounds=options.rounds, seeds=SEEDS, table=rows)


if __name__ == "__main__":
    main(sys.argv[1:])
