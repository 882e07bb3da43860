from typing import Any

import optimistix as optx
from jaxtyping import PyTree


class AbstractFixedSearch(optx.AbstractSearch[PyTree, Any, Any, Any]):
    """A search that does not use the loss, and therefore accepts every step."""


def evaluates(search: optx.AbstractSearch) -> bool:
    """Whether the search uses the loss; a fixed learning rate does not."""
    return not isinstance(search, optx.LearningRate | AbstractFixedSearch)
