"""A laboratory for encrypted persistent memory: an MKTME-like memory controller in software."""

from mktme import crypto, fscrypt, iv, pconfig
from mktme.array import EncryptedArray
from mktme.controller import Controller
from mktme.errors import (
    BackendError,
    BioError,
    CountersExhausted,
    CrashError,
    EncryptedNameError,
    GeneralProtection,
    IvReuseWarning,
    KeyIDError,
    KeyMaterialError,
    KeyringError,
    KeyslotBusy,
    KeyslotTimeout,
    KeyTableFull,
    KeyUnavailable,
    MappingError,
    MktmeError,
    PoisonError,
    PolicyError,
    RegionError,
    RegionUnmapped,
    RekeyError,
    SchemeError,
    StoreLogError,
)
from mktme.filesystem import EncryptedFile, FileSystem
from mktme.keys import Key
from mktme.mapping import metadata_bytes
from mktme.region import Region

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BioError",
    "Controller",
    "CountersExhausted",
    "CrashError",
    "EncryptedArray",
    "EncryptedFile",
    "EncryptedNameError",
    "FileSystem",
    "GeneralProtection",
    "IvReuseWarning",
    "Key",
    "KeyIDError",
    "KeyMaterialError",
    "KeyTableFull",
    "KeyUnavailable",
    "KeyringError",
    "KeyslotBusy",
    "KeyslotTimeout",
    "MappingError",
    "MktmeError",
    "PoisonError",
    "PolicyError",
    "Region",
    "RegionError",
    "RegionUnmapped",
    "RekeyError",
    "SchemeError",
    "StoreLogError",
    "crypto",
    "fscrypt",
    "iv",
    "metadata_bytes",
    "pconfig",
]
