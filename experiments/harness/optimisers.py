"""Optimisers that several experiments compare, as overrides of `python train.py`."""

from collections.abc import Callable, Sequence
from typing import Any

WARM_UP = 50
"""Steps over which a scheduled rate grows linearly."""

Overrides = Callable[..., Sequence[str]]


FIXED = {
    "muon": {"adam_learning_rate": "null"},  # the same rate for weights that are no matrices
    "sgd": {"momentum": "null"},
}
"""Arguments that differ from those of `conf/optimiser` in all settings."""


def first_order(optimiser: str) -> Overrides:
    """One of `conf/optimiser`, SGD without momentum.

    With `until`, the learning rate grows linearly for `WARM_UP` steps, and then falls to zero along
    a cosine, at step `until`.
    """

    def overrides(learning_rate: float, until: int | None = None, **choices: Any) -> list[str]:
        rate = learning_rate if until is None else _rising_and_falling(learning_rate, until)
        numbers = {"learning_rate": rate, **FIXED.get(optimiser, {}), **choices}
        return [f"optimiser={optimiser}", *_below("optimiser.transformation", numbers)]

    return overrides


def of_divergence(*structure: str, until: int) -> Overrides:
    """A structure of the Fisher matrix of drawn targets, with a KL bound on each step that falls.

    **Arguments:** `structure`, the overrides that choose it; `until`, the last step. The setting
    has `delta`, the KL divergence of the first step, in nats per example (that of the last step is
    a hundredth of it); `damping`, λ; and `samples`, the number of drawn targets per example.
    """

    def overrides(delta: float, damping: float = 0.1, samples: int = 1) -> list[str]:
        bound = {"init_value": delta, "end_value": delta / 100, "transition_steps": until}
        return [
            "curvature=true_fisher",
            f"samples={samples}",
            *structure,
            f"damping.value={damping}",
            "search=kl_trust_region",
            f"search.delta={_called('optax.linear_schedule', bound)}",
        ]

    return overrides


def martens_grosse(preconditioner: str) -> Overrides:
    """The damped inverse of a structure times the gradient; a model gives rate and momentum.

    The method of `conf/experiment/autoencoder_kfac.yaml`, for any dataset and model.

    **Arguments:** `preconditioner`, `kfac` or `ekfac`. The setting has `damping` and
    `minimum`, the first and the least λ; `samples`, the number of drawn targets per example;
    `examples`, to compute the structure from only the first of the batch; `inverse`, how the
    structure is damped; and further arguments of the structure.
    """

    def overrides(
        damping: float,
        minimum: float = 1e-3,
        samples: int = 1,
        examples: int | None = None,
        inverse: str | None = None,
        **choices: Any,
    ) -> list[str]:
        if inverse is not None:
            choices["damping"] = inverse
        of = _called("curvature.SampledFisher", {"samples": samples})
        where = "preconditioner"
        chosen = [f"preconditioner={preconditioner}"]
        if examples is not None:
            where = "preconditioner.of"
            chosen = [
                "preconditioner=first_examples",
                f"preconditioner.examples={examples}",
                f"preconditioner.of._target_=curvature.{preconditioner.upper()}",
            ]
        return [
            "curvature=gauss_newton",
            "solver=preconditioned",
            *chosen,
            *_below(where, {"of": of, "decay": 0.9, **choices}),
            "damping=levenberg_marquardt",
            *_below("damping", {"initial": damping, "minimum": minimum}),
            "momentum=quadratic",
            "search=armijo",
        ]

    return overrides


def _rising_and_falling(peak: float, until: int) -> str:
    shape = {"init_value": 0.0, "peak_value": peak, "warmup_steps": WARM_UP, "decay_steps": until}
    return _called("optax.warmup_cosine_decay_schedule", shape)


def _called(target: str, arguments: dict[str, Any]) -> str:
    """A node of the configuration that calls `target`, in the syntax of overrides."""
    named = {"_target_": target, **arguments}
    return "{" + ",".join(f"{name}:{value}" for name, value in named.items()) + "}"


def _below(node: str, numbers: dict[str, Any]) -> list[str]:
    return [f"{node}.{name}={value}" for name, value in numbers.items()]
