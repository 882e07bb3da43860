import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Ratio:
    """A figure, usually a ratio of two times: median, smallest and largest over the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def over(cls, rounds: list[float]) -> "Ratio":
        """The figure for one value per round."""
        return cls(statistics.median(rounds), min(rounds), max(rounds))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f}–{self.high:.2f})"


class Rounds:
    """Wall times of several functions; each round times every function once.

    If the speed of the machine drifts, it changes all times of one round by about the same factor.
    Ratios are therefore of times of one round, and their median over the rounds is reported.
    """

    def __init__(self, things: dict[str, Callable[[], object]], rounds: int):
        for thing in things.values():
            jax.block_until_ready(thing())  # compiles
        self.seconds: dict[str, list[float]] = {name: [] for name in things}
        for _ in range(rounds):
            for name, thing in things.items():
                began = time.perf_counter()
                jax.block_until_ready(thing())
                self.seconds[name].append(time.perf_counter() - began)

    def median(self, name: str) -> float:
        """The median time in seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> Ratio:
        return self.combined(lambda of: of(name) / of(baseline))

    def combined(self, formula: Callable[[Callable[[str], float]], float]) -> Ratio:
        """The figure of a formula in the times of a round: `lambda of: of("a") / of("b")`."""
        count = len(next(iter(self.seconds.values())))
        values = [formula(lambda name, i=i: self.seconds[name][i]) for i in range(count)]
        return Ratio.over(values)
