"""fscrypt: Linux file-based encryption, its keys, policies and names."""

from mktme.fscrypt.fileinfo import FileInfo
from mktme.fscrypt.keyring import Keyring, Removal, Status
from mktme.fscrypt.names import NameCipher, NoKeyName
from mktme.fscrypt.policy import Context, Policy
from mktme.fscrypt.settings import Settings

__all__ = [
    "Context",
    "FileInfo",
    "Keyring",
    "NameCipher",
    "NoKeyName",
    "Policy",
    "Removal",
    "Settings",
    "Status",
]
