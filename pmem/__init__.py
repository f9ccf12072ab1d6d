"""Persistent memory over a memory-mapped image file. Knows nothing of encryption."""

from pmem.device import Device, create, open
from pmem.domain import Domain, Pending
from pmem.errors import (
    DeviceBusy,
    DeviceChanged,
    DeviceClosed,
    DeviceDenied,
    DeviceExists,
    DeviceFailed,
    DeviceFull,
    DeviceInvalid,
    DeviceLocked,
    DeviceNotFound,
    DimmMissing,
    DomainError,
    HealthInvalid,
    LabelInvalid,
    PmemError,
    PoisonError,
    RangeError,
    ReadOnlyDevice,
    SizeError,
)
from pmem.geometry import LINE, PAGE, XPLINE, parse_size
from pmem.granularity import StoreGranularity
from pmem.topology import InterleaveSet

__all__ = [
    "LINE",
    "PAGE",
    "XPLINE",
    "Device",
    "DeviceBusy",
    "DeviceChanged",
    "DeviceClosed",
    "DeviceDenied",
    "DeviceExists",
    "DeviceFailed",
    "DeviceFull",
    "DeviceInvalid",
    "DeviceLocked",
    "DeviceNotFound",
    "DimmMissing",
    "Domain",
    "DomainError",
    "HealthInvalid",
    "InterleaveSet",
    "LabelInvalid",
    "Pending",
    "PmemError",
    "PoisonError",
    "RangeError",
    "ReadOnlyDevice",
    "SizeError",
    "StoreGranularity",
    "create",
    "open",
    "parse_size",
]
