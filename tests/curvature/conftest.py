from collections.abc import Iterator

import pytest


@pytest.fixture
def as_installed() -> Iterator[None]:
    """Turns the runtime shape checks off for one test.

    A failed shape check would replace the error sentence that a user gets. The checks also double
    the time of a trace.
    """
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)
