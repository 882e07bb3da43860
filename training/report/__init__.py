"""Compares the results of runs: a table, figures, and one page that needs no network."""

from .runs import ReportError as ReportError
from .table import console_table as console_table
from .write import Report as Report, write_report as write_report
