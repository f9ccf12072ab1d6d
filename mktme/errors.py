"""The errors of the encrypting memory: one small family, each also the fitting built-in."""

from __future__ import annotations

import errno
import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import pmem.errors

P = ParamSpec("P")
R = TypeVar("R")


class MktmeError(Exception):
    """Any error of this package."""


class BackendError(MktmeError, ValueError):
    """A backend that doesn't exist, or that this processor can't run."""


class KeyMaterialError(MktmeError, ValueError):
    """Key material that its algorithm can't take, or a key that has been cleared."""


class KeyIDError(MktmeError, LookupError):
    """A KeyID outside of the table, or one that holds no key."""


class KeyTableFull(MktmeError, RuntimeError):
    """Every KeyID holds a key."""


class MappingError(MktmeError, ValueError):
    """A range that can't be mapped: misaligned, outside of the device, or mapped already."""


class RegionUnmapped(MktmeError, ValueError):
    """The region's mapping has been removed, or forgotten at a power cycle."""


class RegionError(MktmeError, IndexError, ValueError):
    """An access outside of a region, or with the wrong kind of index, dtype or buffer."""


class SchemeError(MktmeError, ValueError):
    """An IV scheme that doesn't exist, or that can't serve this path."""


class CountersExhausted(MktmeError, OverflowError):
    """A write counter has no next value."""


class PoisonError(MktmeError, pmem.errors.PoisonError):
    """A line whose MAC doesn't match: a machine check in hardware. `line` is its number."""


class PolicyError(MktmeError, ValueError):
    """An encryption policy, context or setting of fscrypt that can't be."""


class KeyUnavailable(MktmeError, PermissionError):
    """fscrypt lacks the master key: it was never added, or has been removed. `errno` is ENOKEY."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = getattr(errno, "ENOKEY", errno.EACCES)  # Linux alone has the first


class KeyringError(MktmeError, ValueError):
    """A call on a keyring that its keys or files don't allow now, or that makes no sense."""


class EncryptedNameError(MktmeError, ValueError):
    """A file name or link target that can't be encrypted, or that doesn't decrypt to one."""


class StoreLogError(MktmeError, ValueError):
    """A store log that can't be read, or that can't be written."""


class RekeyError(MktmeError, ValueError):
    """A range that can't be given another key, or a journal that belongs to something else."""


class TimingError(MktmeError, ValueError):
    """A modelled machine that can't be."""


class TraceError(MktmeError, ValueError):
    """A trace that can't be read or replayed."""


class ViewError(MktmeError, OSError):
    """Memory whose pages are decrypted at first touch isn't to be had here."""


class ClientError(MktmeError, ValueError):
    """A real program can't be served like that."""


class LibraryMissing(ClientError, ImportError):
    """A library that is optional isn't installed."""


class CrashError(MktmeError, ValueError):
    """A power failure, or an exploration of them, that can't be."""


class IvReuseWarning(UserWarning):
    """A user's IV scheme gives two data units the same IV."""


REFUSALS = (MktmeError, pmem.errors.PoisonError)  # what the way of the bytes can raise below a request


def release(error: BaseException) -> None:
    """Let go of what the finished frames of an error hold: a poisoned line's kept error would
    otherwise keep the device from being closed.
    """
    traceback.clear_frames(error.__traceback__)


def releasing(method: Callable[P, R]) -> Callable[P, R]:
    """A decorator: refusals that leave a method hold nothing of it."""

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except REFUSALS as error:
            release(error)
            raise

    return call


class GeneralProtection(MktmeError, ValueError):
    """#GP: the processor refuses the instruction itself."""


class BioError(MktmeError, ValueError):
    """A block request that the device, or its key, can't have."""


class KeyslotBusy(MktmeError, OSError):
    """A key that requests are in flight under can't be evicted (EBUSY)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.EBUSY


class KeyslotTimeout(MktmeError, TimeoutError):
    """Requests stayed in flight, and no keyslot came free, for too long (ETIMEDOUT)."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.errno = errno.ETIMEDOUT
