"""The same file encrypted in three places: what each costs, in time and in bytes."""

from mktme.lab.paths.study import run, write_csv
from mktme.lab.paths.subjects import DEFAULT, PATHS
from mktme.lab.paths.workloads import GROUPS

__all__ = ["DEFAULT", "GROUPS", "PATHS", "run", "write_csv"]
