"""`python -m experiments.policy_gradient [--folder FOLDER]`: `policy_gradient.json, .md, .png`."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from experiments.markdown import results_folder, table
from training import machine

from . import figure
from .curves import SOURCE, best, curves, reached
from .methods import METHODS, Method

TEMPLATE = Path(__file__).with_name("template.md")
SEEDS = tuple(range(10))
TUNING_SEEDS = (100, 101, 102)


def main() -> None:
    """Tune, run, draw and write."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.policy_gradient", description=__doc__
    )
    parser.add_argument(
        "--folder", type=results_folder, default="docs/results", help="where to write"
    )
    folder = parser.parse_args().folder
    chosen, tuning, found = {}, [], {}
    for method in METHODS:
        setting = method.settings[0]
        if len(method.settings) > 1:
            tried = curves(method, method.settings, TUNING_SEEDS, method.updates)
            setting = method.settings[best(tried)]
            tuning += [
                _row(f"{method.name}, {_written(method, numbers)}", returns)
                for numbers, returns in zip(method.settings, tried, strict=True)
            ]
        chosen[method.name] = _written(method, setting)
        (found[method.name],) = curves(method, [setting], SEEDS, method.updates)
        print(chosen[method.name], _row(method.name, found[method.name]), flush=True)
    figure.draw(found, folder / "policy_gradient.png")
    rows = [{**_row(name, found[name]), "setting": chosen[name]} for name in found]
    _write(folder, rows, tuning, found)


def _written(method: Method, setting: tuple[float, ...]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in zip(method.names, setting))


def _row(name: str, returns: Float[np.ndarray, "seeds updates"]) -> dict[str, Any]:
    counts = [np.inf if (count := reached(seed)) is None else count for seed in returns]
    median = float(np.median(counts))
    return {
        "method": name,
        "steps to 475": reached(returns.mean(axis=0)),
        "median of seeds": median if np.isfinite(median) else None,
        "return in the end": round(float(returns[:, -5:].mean()), 1),
    }


def _write(
    folder: Path,
    rows: list[dict[str, Any]],
    tuning: list[dict[str, Any]],
    found: dict[str, Float[np.ndarray, "seeds updates"]],
) -> None:
    about = machine.describe()
    text = TEMPLATE.read_text(encoding="utf-8").format(
        python=about["python"],
        versions=machine.versions_in_one_line(about),
        time_steps=SOURCE.time_steps,
        tuning_seeds=f"{TUNING_SEEDS[0]}–{TUNING_SEEDS[-1]}",
        seeds=f"{SEEDS[0]}–{SEEDS[-1]}",
        table=_table(rows),
        verdict=_verdict(rows),
        tuning=_table(tuning),
    )
    (folder / "policy_gradient.md").write_text(text, encoding="utf-8")
    results = {
        "machine": about,
        "results": rows,
        "tuning": tuning,
        "returns": {name: np.round(returns, 1).tolist() for name, returns in found.items()},
    }
    (folder / "policy_gradient.json").write_text(
        json.dumps(results, ensure_ascii=False) + "\n", encoding="utf-8"
    )


def _verdict(rows: list[dict[str, Any]]) -> str:
    """Whether the target is met: at most half the environment steps of plain policy gradient."""
    lines = []
    for natural in rows[:2]:
        for plain in rows[2:]:
            ours, theirs = natural["steps to 475"], plain["steps to 475"]
            if ours is None or theirs is None:
                lines.append(f"- {natural['method']} : {plain['method']}: one never got there.")
                continue
            ratio = ours / theirs
            reads = "at most half, as was aimed at" if ratio <= 0.5 else "the aim, half, is missed"
            lines.append(f"- {natural['method']} : {plain['method']} = {ratio:.2f} ({reads})")
    return "\n".join(lines)


def _table(rows: list[dict[str, Any]]) -> str:
    header, lines = list(rows[0]), []
    for row in rows:
        cells = ["never" if row[name] is None else row[name] for name in header]
        lines.append([f"{cell:,.6g}" if isinstance(cell, float | int) else cell for cell in cells])
    return table(header, lines)


if __name__ == "__main__":
    main()
