from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import AbstractRecorder


class Figures(AbstractRecorder):
    """The report on the run alone, with its figures, in `FOLDER/report`, when it is over."""

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        del config, steps
        self._folder = folder

    def record(self, record: Mapping[str, Any]) -> None:
        del record

    def end(self, summary: Mapping[str, Any]) -> None:
        del summary
        # Here, because it takes a second to import what draws.
        from ..report import write_report

        write_report([self._folder])
