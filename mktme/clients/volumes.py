"""Volumes and their users, as the commands take them: an image, a path of encryption, keys and folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pmem
from mktme.clients.daemon import read_key
from mktme.errors import ClientError
from mktme.filesystem import FileSystem
from mktme.fscrypt.policy import Policy
from mktme.lab.paths.subjects import PATHS
from pmem import dax
from pmem.geometry import Size

# Without a scheme of their own: what one of them wrote the others read.
PLACES = {"none": "none", "line": "line-file", "inline": "inline", "bounce": "bounce"}


@contextmanager
def volume_of(image: Path, create: Size | None = None) -> Iterator[dax.Volume]:
    """The volume in an image, closed in the end; made, with `create` bytes, if there is no image.

    Raises pmem's errors, NotAVolume among them.
    """
    new = create is not None and not image.exists()
    if not new and not image.exists():
        raise ClientError(f"there is no image {image}: --create SIZE makes one")
    with pmem.create(image, create) if new and create is not None else pmem.open(image) as device:
        try:
            volume = dax.make(device) if new else dax.mount(device)
        except dax.NotAVolume:
            raise ClientError(f"{image} holds no volume: --create makes one in a new image") from None
        with volume:
            yield volume


def system_of(volume: dax.Volume, path: str, users: Mapping[str, Path | None]) -> FileSystem:
    """A file system with the users' keys, each with a folder /USER that is encrypted under hers.

    `users`: a key file for each, None to ask for the key. On the path "none" there are no keys, and what is
    encrypted can't be read. Raises ClientError for a path that there isn't, a user's name that is no
    name of a folder, or a folder under another key; KeyFileError.
    """
    if path not in PLACES:
        raise ClientError(f"{path!r} is no path: there are {', '.join(PLACES)}")
    system = FileSystem(volume, PATHS[PLACES[path]].make(volume.device))
    for user, file in users.items():
        if not user or "/" in user or user in (".", ".."):
            raise ClientError(f"{user!r} is no user: the name of a folder is wanted")
        folder, identifier = f"/{user}", b""
        if path != "none":
            key = read_key(file, user)
            try:
                identifier = system.keyring.add(key)
            finally:
                key[:] = bytes(len(key))
        if not system.exists(folder):
            system.mkdir(folder)
            if identifier:
                system.set_policy(folder, Policy(identifier))
            continue
        policy = system.policy(folder)
        if policy is not None and path == "none":
            raise ClientError(f"the folder {folder} is encrypted: mount it with its key, on another path")
        if policy is None and identifier:
            raise ClientError(f"the folder {folder} isn't encrypted: mount it on the path none")
        if policy is not None and policy.key != identifier:
            raise ClientError(f"the folder {folder} is encrypted under another key than the one given")
    return system
