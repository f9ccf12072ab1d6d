"""The places where bytes are encrypted on their way to the medium."""

from mktme.stack.bounce import Bounce
from mktme.stack.direct import FileMap, Plain
from mktme.stack.engine import BlockDevice
from mktme.stack.inline import Inline
from mktme.stack.keyslots import CryptoProfile
from mktme.stack.line import Line

__all__ = ["BlockDevice", "Bounce", "CryptoProfile", "FileMap", "Inline", "Line", "Plain"]
