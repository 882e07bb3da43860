"""Where an iterator stands, as JSON can write it."""

import base64
import json
from typing import Any

from ._base import DatasetError

_BYTES = "base64"


def written(state: Any, name: str) -> Any:
    """A copy of a state, of plain values; bytes, which some iterators have for it, too."""
    if isinstance(state, bytes):
        return {_BYTES: base64.b64encode(state).decode()}
    try:
        # A copy: an iterator may go on to change the state that it has handed out.
        return json.loads(json.dumps(state))
    except (TypeError, ValueError) as error:
        raise DatasetError(
            f"`get_state` of the iterator of the stream `{name}` must return what JSON can write, "
            f"or bytes: {error}."
        ) from error


def read(plain: Any) -> Any:
    """The state that was `written`."""
    if isinstance(plain, dict) and plain.keys() == {_BYTES}:
        return base64.b64decode(plain[_BYTES])
    return plain
