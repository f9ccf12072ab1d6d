"""Studies: grids of cells, run on all cores or on a cluster, whose results stream to a Parquet dataset."""

from mktme.lab.study.dataset import Dataset
from mktme.lab.study.grid import Cell, Study, StudyError, read
from mktme.lab.study.run import Outcome, run

__all__ = ["Cell", "Dataset", "Outcome", "Study", "StudyError", "read", "run"]
