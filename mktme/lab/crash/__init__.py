"""Power failures at every moment of a program, and what a restart finds."""

from mktme.lab.crash.explorer import Failure, Result, explore, reproduce
from mktme.lab.crash.worlds import world

__all__ = ["Failure", "Result", "explore", "reproduce", "world"]
