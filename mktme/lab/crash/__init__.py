"""Power failures at every moment of a program, and what a restart finds."""

from mktme.errors import CrashError
from mktme.lab.crash import atomicity, hazards, scripts
from mktme.lab.crash.explorer import LIMIT, Failure, Result, explore, explore_log, reproduce
from mktme.lab.crash.scripts import Script
from mktme.lab.crash.worlds import room, world, zeroed

__all__ = [
    "LIMIT",
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
