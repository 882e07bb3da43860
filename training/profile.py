"""A trace of a few steps, for JAX's profiler."""

from pathlib import Path

import jax

PROFILE = "profile"
WARM_UP = 10
"""Steps before the trace begins; fewer if the run is too short."""


class Profile:
    """Traces `steps` steps into `folder/profile`; does nothing if `steps` is None.

    The folder gets the profiler's own file, and `perfetto_trace.json.gz` for
    https://ui.perfetto.dev.
    """

    def __init__(self, folder: Path, steps: int | None, total: int):
        self._folder, self._steps = folder / PROFILE, steps
        self._first = 0 if steps is None else max(0, min(WARM_UP, total - steps))
        self._is_on = False

    def is_edge(self, steps: int) -> bool:
        """Whether the trace begins or ends after `steps` steps; then none may be in flight."""
        return self._steps is not None and steps in (self._first, self._first + self._steps)

    def __call__(self, steps: int) -> None:
        """Start or stop the trace, if that is due after `steps` steps."""
        if not self.is_edge(steps):
            return
        if steps == self._first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._is_on = True
        else:
            self.stop()

    def stop(self) -> None:
        """Stop the trace, if it is on."""
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
