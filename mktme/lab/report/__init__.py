"""Reports: results files as one page that people look at."""

from mktme.lab.report.page import require, write
from mktme.lab.report.results import ReportError, Results, load

__all__ = ["ReportError", "Results", "load", "require", "write"]
