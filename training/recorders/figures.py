from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ._base import AbstractRecorder


class Figures(AbstractRecorder):
    """Writes the report on this run, with figures, to `FOLDER/report` when the run is over."""

    def begin(self, folder: Path, config: Mapping[str, Any], steps: int) -> None:
        del config, steps
        self._folder = folder

    def record(self, record: Mapping[str, Any]) -> None:
        del record

    def end(self, summary: Mapping[str, Any]) -> None:
        del summary
        # Imported here, because the plotting libraries take a second to import.
        from ..report import write_report

        write_report([self._folder])
