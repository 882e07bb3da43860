"""Compares runs: `python -m training.report FOLDER...`, run folders and folders of them."""

import argparse
import sys
from pathlib import Path

from running.exit_codes import ExitCode

from ..log import say
from ..progress import wide_console
from . import ReportError, console_table, write_report


def main() -> int:
    """Write the report, print its table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.report", description=__doc__)
    parser.add_argument("folders", metavar="FOLDER", type=Path, nargs="+")
    folders = parser.parse_args().folders
    try:
        report = write_report(folders)
    except ReportError as error:
        print(error, file=sys.stderr)
        return ExitCode.BAD_CONFIGURATION
    except OSError as error:
        print(f"The report cannot be written: {error}.", file=sys.stderr)
        return ExitCode.FAILED
    console = wide_console()
    console.print(console_table(report.table))
    say(console, f"report {report.page}")
    return ExitCode.FINISHED


if __name__ == "__main__":
    sys.exit(main())
