"""A laboratory for encrypted persistent memory: an MKTME-like memory controller in software."""

from mktme import crypto, iv, pconfig
from mktme.array import EncryptedArray
from mktme.controller import Controller
from mktme.errors import (
    BackendError,
    CountersExhausted,
    GeneralProtection,
    IvReuseWarning,
    KeyIDError,
    KeyMaterialError,
    KeyTableFull,
    MappingError,
    MktmeError,
    PoisonError,
    RegionError,
    RegionUnmapped,
    SchemeError,
)
from mktme.keys import Key
from mktme.mapping import metadata_bytes
from mktme.region import Region

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Controller",
    "CountersExhausted",
    "EncryptedArray",
    "GeneralProtection",
    "IvReuseWarning",
    "Key",
    "KeyIDError",
    "KeyMaterialError",
    "KeyTableFull",
    "MappingError",
    "MktmeError",
    "PoisonError",
    "Region",
    "RegionError",
    "RegionUnmapped",
    "SchemeError",
    "crypto",
    "iv",
    "metadata_bytes",
    "pconfig",
]
