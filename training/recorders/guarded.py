from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..log import Log
from ._base import AbstractRecorder


class Guarded:
    """Several recorders, whose errors do not end the run.

    A recorder that raises is reported in one line of warning, and not called again.
    """

    def __init__(self, recorders: Mapping[str, AbstractRecorder], log: Log):
        self._recorders, self._log = dict(recorders), log

    def tell(
        self, event: Callable[[AbstractRecorder], None], only: Sequence[str] | None = None
    ) -> None:
        """Call `event` with each recorder, or only with those whose names are in `only`."""
        for name in list(self._recorders if only is None else only):
            try:
                event(self._recorders[name])
            except Exception as error:  # whatever somebody's recorder raises
                del self._recorders[name]
                reason = " ".join(str(error).split())
                self._log.warn(
                    f"The recorder `{name}` failed and is no longer used: "
                    f"{type(error).__name__}: {reason}"
                )

    def needing_arrays(self, step: int) -> list[str]:
        """The names of those that want the arrays of step number `step`."""
        return [name for name, r in self._recorders.items() if _needs_arrays(r, step)]


def _needs_arrays(recorder: Any, step: int) -> bool:
    return recorder.arrays_every is not None and step % recorder.arrays_every == 0
