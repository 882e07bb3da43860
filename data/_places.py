"""The position of an iterator in a form that JSON can store."""

import base64
import json
from typing import Any

from ._base import DatasetError

_BYTES = "base64"


def encode(state: Any, name: str) -> Any:
    """A copy of a state as plain values; some iterators return their state as bytes."""
    if isinstance(state, bytes):
        return {_BYTES: base64.b64encode(state).decode()}
    try:
        # A copy: an iterator may later change the object that it has returned.
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"`get_state` of the iterator of the stream `{name}` must return bytes, or a value "
            f"that JSON can write: {error}."
        ) from error


def decode(plain: Any) -> Any:
    """The state from which `encode` made `plain`."""
    if isinstance(plain, dict) and plain.keys() == {_BYTES}:
        return base64.b64decode(plain[_BYTES])
    return plain
