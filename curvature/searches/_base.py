from typing import Any

import optimistix as optx
from jaxtyping import PyTree


class AbstractFixedSearch(optx.AbstractSearch[PyTree, Any, Any, Any]):
    """A search that never looks at the loss, and so accepts whatever it becomes."""


def evaluates(search: optx.AbstractSearch) -> bool:
    """Whether the search looks at the loss at all: a fixed learning rate does not."""
    return not isinstance(search, optx.LearningRate | AbstractFixedSearch)
