"""The targets of the study, and whether each is met."""

import math
from collections.abc import Sequence

from .outcome import Outcome, Run
from .report import cost, diverged, final_accuracies, gain, row

LEAST_ACCURACY = 85.0
MOST_COST = 3.0
SMALL, LARGE = "Batch 128", "Batch 2000"
FIRST_ORDER = ("adam", "sgd", "adam, averaged", "sgd, averaged")


def all_of(
    small: dict[str, Outcome], large: dict[str, Outcome], defaults: dict[str, Outcome]
) -> str:
    """One line per target."""
    every_run = [
        (name, run)
        for outcomes in (small, large, defaults)
        for name, outcome in outcomes.items()
        if name not in FIRST_ORDER
        for run in outcome.runs
    ]
    lines = [
        steps(SMALL, small, "exact_fisher", "adam", 1),
        steps(SMALL, small, "exact_fisher", "adam, averaged", 1),
        steps(LARGE, large, "exact_fisher", "adam", 0.5),
        seconds(SMALL, small, "true_fisher 1"),
        accuracy(SMALL, small, "exact_fisher"),
        accuracy(LARGE, large, "exact_fisher"),
        none_diverges(every_run),
        lowest_default(defaults),
    ]
    return "\n".join(lines)


def steps(where: str, outcomes: dict[str, Outcome], name: str, baseline: str, share: float) -> str:
    """Target: at most `share` of the baseline's steps to the baseline's final training loss."""
    total = outcomes[baseline].runs[0].train[-1].step
    median = row(outcomes[name], outcomes[baseline])["median steps"]
    reached = "never reaches it" if median is None else f"takes {median:g} of {total} steps"
    met = median is not None and median <= share * total
    return (
        f"- {where}: the final training loss of {baseline}, tuned, in at most "
        f"{share:g} times its steps: {name} {reached}. {_word(met)}"
    )


def seconds(where: str, outcomes: dict[str, Outcome], name: str) -> str:
    """Target: at most three times Adam's processor seconds."""
    found = cost(outcomes[name], outcomes["adam"])
    return (
        f"- {where}: at most {MOST_COST:g} times Adam's processor seconds: "
        f"{name} takes {found.median:.2f} ({found.low:.2f} to {found.high:.2f}) times. "
        f"{_word(found.median <= MOST_COST)}"
    )


def accuracy(where: str, outcomes: dict[str, Outcome], name: str) -> str:
    """Target: not below the baseline's accuracy, up to the standard error of the difference."""
    mean, error = gain(outcomes[name], next(iter(outcomes.values())))
    return (
        f"- {where}: a final test accuracy no lower than Adam's "
        f"within one standard error of the paired difference: {name} has {mean:+.2f} ± {error:.2f} "
        f"points. {_word(mean + error >= 0)}"
    )


def none_diverges(runs: Sequence[tuple[str, Run]]) -> str:
    """Target: no run ends at the loss of a uniform guess, log 10, or above."""
    found = [name for name, run in runs if diverged(run)]
    return (
        f"- No seed of any curvature diverges, ends above log 10 = {math.log(10):.2f}: of "
        f"{len(runs)} runs, {', '.join(found) or 'none'} did. {_word(not found)}"
    )


def lowest_default(outcomes: dict[str, Outcome]) -> str:
    """Target: the accuracy of all seeds is above 85 %."""
    least = {name: min(final_accuracies(outcome)) for name, outcome in outcomes.items()}
    worst = min(least, key=least.__getitem__)
    return (
        f"- With the program's defaults every curvature has at least {LEAST_ACCURACY:g} % after "
        f"two epochs at batch 128: the worst, {worst}, has {least[worst]:.2f} % at its worst seed. "
        f"{_word(least[worst] >= LEAST_ACCURACY)}"
    )


def _word(met: bool) -> str:
    return "**Met.**" if met else "**Missed.**"
