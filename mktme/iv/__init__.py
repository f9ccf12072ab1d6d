"""IV schemes and their registry."""

from mktme.iv import address as address
from mktme.iv.scheme import Scheme, find, register, schemes

__all__ = ["Scheme", "find", "register", "schemes"]
