"""Power failures at every moment of a program, and what a restart finds."""

from mktme.errors import CrashError
from mktme.lab.crash import atomicity, hazards, scripts
from mktme.lab.crash.explorer import LIMIT, Failure, Result, explore, explore_log, reproduce
from mktme.lab.crash.scripts import Script
from mktme.lab.crash.worlds import room, world, zeroed

SCHEMA = "mktme-crash/1"  # of results files: what was found in every state of a program
EXPERIMENTS_SCHEMA = "mktme-crash-experiments/1"  # and of what encryption does to atomic stores

__all__ = [
    "EXPERIMENTS_SCHEMA",
    "LIMIT",
    "SCHEMA",
    "CrashError",
    "Failure",
    "Result",
    "Script",
    "atomicity",
    "explore",
    "explore_log",
    "hazards",
    "reproduce",
    "room",
    "scripts",
    "world",
    "zeroed",
]
