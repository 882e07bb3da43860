"""Keeps runs on disk, so that an interrupted comparison continues where it stopped."""

import json
from collections.abc import Callable
from pathlib import Path

import equinox as eqx

from .curves import Curve, Point

Made = tuple[Curve, eqx.Module]


def kept(file: Path, make: Callable[[], Made], like: eqx.Module) -> Made:
    """The result of `make()`: read from `file` if it exists, else computed and written there.

    **Arguments:** `file`, without `.json` and `.eqx`; `like`, a model with the structure of the
    result.
    """
    # `with_suffix` would replace all after a decimal point in the name.
    curve_file, model_file = (file.with_name(file.name + end) for end in (".json", ".eqx"))
    if not curve_file.exists():
        curve, model = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        eqx.tree_serialise_leaves(model_file, model)
        # The curve is written last: if this file exists, the run is complete.
        curve_file.write_text(json.dumps(curve), encoding="utf-8")
    points = json.loads(curve_file.read_text(encoding="utf-8"))
    return [Point(*point) for point in points], eqx.tree_deserialise_leaves(model_file, like)
