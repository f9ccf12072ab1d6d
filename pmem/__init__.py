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
    DomainError,
    PmemError,
    RangeError,
    ReadOnlyDevice,
    SizeError,
)
from pmem.geometry import LINE, PAGE, XPLINE, parse_size
from pmem.granularity import StoreGranularity

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
    "Domain",
    "DomainError",
    "Pending",
    "PmemError",
    "RangeError",
    "ReadOnlyDevice",
    "SizeError",
    "StoreGranularity",
    "create",
    "open",
    "parse_size",
]
