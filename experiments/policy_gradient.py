"""Plain and natural policy gradient on the cart-pole, compared by environment steps.

`python -m experiments.policy_gradient` writes `policy_gradient.json, .md, .png`.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

from .harness.curves import records
from .harness.lines import COLOURS
from .harness.markdown import table
from .harness.method import Method, Setting, label, settings
from .harness.optimisers import Overrides, first_order
from .harness.page import parser, write
from .harness.problem import Problem
from .harness.runs import Runs

TARGET, AIM = 475.0, 0.7
"""The return to reach; and the largest share of Adam's environment steps to it that is aimed at."""
SEEDS, TUNING_SEEDS = tuple(range(20)), tuple(range(100, 106))
CARTPOLE = Problem("cartpole", (), part="test")
TIME_STEPS = 5000
"""The environment steps of an update, as in `conf/experiment/cartpole.yaml`."""

Returns = Float[np.ndarray, " updates"]


def natural(delta: float, damping: float, products: int) -> list[str]:
    """Natural policy gradient within a KL divergence, by so many steps of CG."""
    return [
        "experiment=cartpole",
        f"search.delta={delta}",
        f"damping.value={damping}",
        f"solver.max_steps={products}",
    ]


def plain(optimiser: str) -> Overrides:
    """Plain policy gradient by a first-order method."""

    def overrides(learning_rate: float) -> list[str]:
        return ["experiment=cartpole_plain", *first_order(optimiser)(learning_rate)]

    return overrides


TRPO: Setting = {"delta": 0.01, "damping": 0.1, "products": 10}
TUNED: list[Setting] = [
    {"delta": delta, "damping": damping, "products": 30}
    for damping in (0.1, 0.01)
    for delta in (0.01, 0.02, 0.03)
]
ADAM = settings("learning_rate", 0.01, 0.02, 0.03, 0.045, 0.06, 0.1)
SGD = settings("learning_rate", 0.3, 1.0, 2.0, 3.0, 5.0, 8.0)
NATURAL = (
    Method("natural, constants of TRPO", natural, [TRPO], 40, 40),
    Method("natural, tuned", natural, TUNED, 40, 40),
)
PLAIN = (
    Method("plain, Adam", plain("adam"), ADAM, 40, 40),
    Method("plain, SGD", plain("sgd"), SGD, 80, 80),
)


def reached(returns: Returns, level: float = TARGET) -> float:
    """The environment steps until the return is at least `level` for the first time; ∞ if never."""
    found = np.flatnonzero(returns >= level)
    # The index is the number of updates before this batch. The steps of the batch itself are not
    # counted: they measure the policy, but no update has used them yet.
    return float(found[0]) * TIME_STEPS if len(found) else math.inf


def best(tried: Mapping[int, Float[np.ndarray, "seeds updates"]]) -> int:
    """The setting whose mean over the seeds reaches 475 first; if none, the highest at the end."""
    means = {number: returns.mean(axis=0) for number, returns in tried.items()}
    return min(means, key=lambda number: (reached(means[number]), -means[number][-5:].mean()))


def row(name: str, setting: Setting, returns: Float[np.ndarray, "seeds updates"]) -> dict[str, Any]:
    """The numbers of a method."""
    return {
        "method": name,
        "steps to 450": reached(returns.mean(axis=0), 450.0),
        "steps to 475": reached(returns.mean(axis=0)),
        "median of seeds": statistics.median(map(reached, returns)),
        "return in the end": round(float(returns[:, -5:].mean()), 1),
        "setting": label(setting),
    }


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """The shares of the environment steps, and whether that of the tuned methods is as aimed at."""
    lines, natural, plain = [], rows[: len(NATURAL)], rows[len(NATURAL) :]
    for ours in natural:
        for theirs in plain:
            ratio = ours["steps to 475"] / theirs["steps to 475"]
            share = "one never got there" if not math.isfinite(ratio) else f"{ratio:.2f}"
            lines.append(f"- {ours['method']} : {theirs['method']} = {share}")
    by_mean, by_median = (
        natural[-1][name] / plain[0][name] for name in ("steps to 475", "median of seeds")
    )
    met = "met" if by_mean <= AIM else "missed"
    aim = (
        f"At most {AIM:g} of Adam's was aimed at, both tuned: {met}. By the medians of the seeds "
        f"the share is {by_median:.2f}."
    )
    return "\n".join([*lines, "", aim])


def draw(found: Mapping[str, Float[np.ndarray, "seeds updates"]], path: Path) -> None:
    """Draw one line per method, the mean over the seeds, in a band of ± two standard errors."""
    figure, axes = plt.subplots(figsize=(8, 4.6), layout="constrained")
    for colour, (name, returns) in zip(COLOURS, found.items(), strict=False):
        steps = np.arange(returns.shape[1]) * TIME_STEPS / 1000
        mean = returns.mean(axis=0)
        band = 2 * returns.std(axis=0, ddof=1) / np.sqrt(len(returns))
        axes.plot(steps, mean, color=colour, label=name)
        axes.fill_between(steps, mean - band, mean + band, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(TARGET, color="black", linewidth=0.8, linestyle=":")
    axes.set(xlabel="environment steps, thousands", ylabel="mean return (at most 500)")
    axes.set(xlim=(0, None), ylim=(0, 510))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _table(rows: Sequence[dict[str, Any]]) -> str:
    def cell(value: Any) -> str:
        if not isinstance(value, float):
            return str(value)
        return f"{value:,.6g}" if math.isfinite(value) else "never"

    return table(list(rows[0]), [[cell(value) for value in each.values()] for each in rows])


def main() -> None:
    """Tune, run, draw and write; runs that are already on disk are not repeated."""
    arguments = parser("policy_gradient", __doc__, runs="policy_gradient").parse_args()
    runs = Runs(CARTPOLE, arguments.runs)

    def returns(method: Method, setting: Setting, seeds: Sequence[int]) -> np.ndarray:
        folders = runs.run_seeds(method, setting, seeds)
        return np.array([[each["mean_return"] for each in records(folder)] for folder in folders])

    rows, tuning, found = [], [], {}
    for method in (*NATURAL, *PLAIN):
        setting = method.grid[0]
        if len(method.grid) > 1:
            tried = {n: returns(method, each, TUNING_SEEDS) for n, each in enumerate(method.grid)}
            setting = method.grid[best(tried)]
            tuning += [row(method.name, method.grid[n], each) for n, each in tried.items()]
        found[method.name] = returns(method, setting, SEEDS)
        rows.append(row(method.name, setting, found[method.name]))
        print(rows[-1], flush=True)
    draw(found, arguments.folder / "policy_gradient.png")
    kept = {name: np.round(each, 1).tolist() for name, each in found.items()}
    write(
        "policy_gradient",
        arguments.folder,
        {"results": rows, "tuning": tuning, "returns": kept},
        time_steps=TIME_STEPS,
        tuning_seeds=f"{TUNING_SEEDS[0]} to {TUNING_SEEDS[-1]}",
        seeds=f"{SEEDS[0]} to {SEEDS[-1]}",
        table=_table(rows),
        verdict=verdict(rows),
        tuning=_table(tuning),
    )


if __name__ == "__main__":
    main()
