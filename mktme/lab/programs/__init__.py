"""Real programs on encrypted files: SQLite, git and fio, on each path, against no encryption."""

from mktme.lab.programs.programs import PROGRAMS
from mktme.lab.programs.study import run, write_csv

__all__ = ["PROGRAMS", "run", "write_csv"]
