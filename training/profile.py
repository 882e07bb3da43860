"""A trace of a few steps, for JAX's profiler."""

from pathlib import Path

import jax

PROFILE = "profile"
WARM_UP = 10
"""Steps before the trace begins, where a run has so many."""


class Profile:
    """Traces `steps` steps into `folder/profile`; nothing where that is None.

    Beside the profiler's own file it holds `perfetto_trace.json.gz`, which https://ui.perfetto.dev
    shows.
    """

    def __init__(self, folder: Path, steps: int | None, total: int):
        self._folder, self._steps = folder / PROFILE, steps
        self._first = 0 if steps is None else max(0, min(WARM_UP, total - steps))
        self._is_on = False

    def is_edge(self, steps: int) -> bool:
        """Whether the trace begins or ends after so many steps, none of which may be in flight."""
        return self._steps is not None and steps in (self._first, self._first + self._steps)

    def __call__(self, steps: int) -> None:
        """Start or stop, if that is due after so many steps."""
        if not self.is_edge(steps):
            return
        if steps == self._first:
            jax.profiler.start_trace(self._folder, create_perfetto_trace=True)
            self._is_on = True
        else:
            self.stop()

    def stop(self) -> None:
        """Stop, if it is on."""
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
