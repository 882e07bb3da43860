"""Runs that are kept on disk, so that a comparison that was interrupted goes on where it was."""

import json
from collections.abc import Callable
from pathlib import Path

import equinox as eqx

from .curves import Curve, Point

Made = tuple[Curve, eqx.Module]


def kept(file: Path, make: Callable[[], Made], like: eqx.Module) -> Made:
    """What `make()` returned once: read from `file`, or made now and written there.

    **Arguments:** `file`, without `.json` and `.eqx`; `like`, a model of the structure of that
    which is returned.
    """
    # Not by `with_suffix`: names have numbers, and numbers have points.
    curve_file, model_file = (file.with_name(file.name + end) for end in (".json", ".eqx"))
    if not curve_file.exists():
        curve, model = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        eqx.tree_serialise_leaves(model_file, model)
        # Last: where it lies, the run is whole.
        curve_file.write_text(json.dumps(curve), encoding="utf-8")
    points = json.loads(curve_file.read_text(encoding="utf-8"))
    return [Point(*point) for point in points], eqx.tree_deserialise_leaves(model_file, like)
