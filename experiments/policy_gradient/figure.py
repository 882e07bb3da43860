"""Mean returns of all seeds against environment steps."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from jaxtyping import Float

from .curves import SOURCE, TARGET

COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#999999")


def draw(found: dict[str, Float[np.ndarray, "seeds updates"]], path: Path) -> None:
    """Draw one line per method, the mean over the seeds, in a band of ± two standard errors."""
    figure, axes = plt.subplots(figsize=(8, 4.6))
    for colour, (name, returns) in zip(COLOURS, found.items(), strict=True):
        steps = np.arange(returns.shape[1]) * SOURCE.time_steps / 1000
        mean = returns.mean(axis=0)
        band = 2 * returns.std(axis=0, ddof=1) / np.sqrt(len(returns))
        axes.plot(steps, mean, color=colour, label=name)
        axes.fill_between(steps, mean - band, mean + band, color=colour, alpha=0.2, linewidth=0)
    axes.axhline(TARGET, color="black", linewidth=0.8, linestyle=":")
    axes.set(
        xlabel="environment steps, thousands",
        ylabel="mean return (at most 500)",
        xlim=(0, None),
        ylim=(0, 510),
    )
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)
