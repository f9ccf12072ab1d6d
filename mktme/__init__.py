"""A laboratory for encrypted persistent memory: an MKTME-like memory controller in software."""

from mktme import crypto, iv, pconfig
from mktme.array import EncryptedArray
from mktme.controller import Controller
from mktme.errors import (
    BackendError,
    GeneralProtection,
    KeyIDError,
    KeyMaterialError,
    KeyTableFull,
    MappingError,
    MktmeError,
    RegionError,
    RegionUnmapped,
    SchemeError,
)
from mktme.keys import Key
from mktme.region import Region

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "Controller",
    "EncryptedArray",
    "GeneralProtection",
    "Key",
    "KeyIDError",
    "KeyMaterialError",
    "KeyTableFull",
    "MappingError",
    "MktmeError",
    "Region",
    "RegionError",
    "RegionUnmapped",
    "SchemeError",
    "crypto",
    "iv",
    "pconfig",
]
