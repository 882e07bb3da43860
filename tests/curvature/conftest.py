from collections.abc import Iterator

import pytest


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Without the runtime shape checks.

    They would come before the sentence that a user gets, and double the time of a trace.
    """
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
