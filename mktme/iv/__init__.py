"""IV schemes and their registry."""

from mktme.iv import address as address
from mktme.iv import amd as amd
from mktme.iv import counter as counter
from mktme.iv import dmcrypt as dmcrypt
from mktme.iv import logical as logical
from mktme.iv.coordinates import COORDINATES
from mktme.iv.scheme import Scheme, define, find, register, schemes, unregister

__all__ = ["COORDINATES", "Scheme", "define", "find", "register", "schemes", "unregister"]
