import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import jax


@dataclass(frozen=True)
class Ratio:
    """A figure, mostly a quotient of two costs: median, smallest and largest of the rounds."""

    median: float
    low: float
    high: float

    @classmethod
    def over(cls, rounds: list[float]) -> "Ratio":
        """Of one value per round."""
        return cls(statistics.median(rounds), min(rounds), max(rounds))

    def __str__(self) -> str:
        return f"{self.median:.2f}"


class Rounds:
    """Wall times of several things, measured in turn, round after round.

    A machine whose speed drifts slows neighbours in a round alike: quotients are taken within a
    round, and the median over the rounds is what to quote.
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
        """Seconds."""
        return statistics.median(self.seconds[name])

    def ratio(self, name: str, baseline: str) -> Ratio:
        return self.combined(lambda of: of(name) / of(baseline))

    def combined(self, formula: Callable[[Callable[[str], float]], float]) -> Ratio:
        """A formula in the times of one round, e.g. `lambda of: (of("a") - of("b")) / of("c")`."""
        count = len(next(iter(self.seconds.values())))
        values = [formula(lambda name, i=i: self.seconds[name][i]) for i in range(count)]
        return Ratio.over(values)
