"""`mktme mount` and `mktme serve`: volumes and images for real programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mktme.clients import nbd
from mktme.clients.daemon import read_key
from mktme.clients.volumes import PLACES, system_of, volume_of
from mktme.errors import ClientError

KeyFile = Annotated[
    list[Path] | None,
    typer.Option("--key", metavar="FILE", help="Its key: a file of 16 to 64 bytes that only you can read."),
]


def mount(
    image: Annotated[Path, typer.Argument(metavar="VOLUME", help="An image with a volume.")],
    mountpoints: Annotated[
        list[Path], typer.Argument(metavar="MOUNTPOINT", help="Empty folders, one for each user.")
    ],
    user: Annotated[
        list[str] | None,
        typer.Option("--as", metavar="USER", help="Whose folder; made, and encrypted, if it isn't there."),
    ] = None,
    key: KeyFile = None,
    path: Annotated[str, typer.Option(help=f"Where it is encrypted: {', '.join(PLACES)}.")] = "line",
    create: Annotated[
        str, typer.Option(metavar="SIZE", help='If there is no image, make one of this size ("1GiB").')
    ] = "",
) -> None:
    """Mount a volume, for cp, git, rsync, sqlite3 and the like; until it is unmounted, or a signal comes.

    Each user has a folder in the volume, encrypted under her key (fscrypt's format, AES-256-XTS), and sees
    that alone. Without --key it is asked for. Without --as the whole volume is mounted, on the path none.
    Events are told on standard error, as JSON lines. The status is 0 after an unmount or a signal.

    For example:

    (umask 077; head -c 64 /dev/urandom > alice.key)

    mktme mount pool.img /mnt/alice --as alice --key alice.key --path line --create 1GiB

    mktme mount pool.img /mnt/alice /mnt/bob --as alice --key alice.key --as bob --key bob.key
    """
    from mktme.clients import fuse  # its library is optional

    users, keys = user or [], key or []
    if len(set(users)) < len(users):
        raise typer.BadParameter("a user is named twice", param_hint="--as")
    if len(mountpoints) != max(1, len(users)):
        raise typer.BadParameter(
            f"{len(users)} users and {len(mountpoints)} mountpoints: give each user one, in the same order",
            param_hint="MOUNTPOINT",
        )
    if keys and (path == "none" or len(keys) != len(users)):
        raise typer.BadParameter(
            f"{len(keys)} keys for {len(users)} users on the path {path}: give one for each, in the same "
            "order, or none on the path none",
            param_hint="--key",
        )
    if not users and path != "none":
        raise ClientError(
            "a volume without a user is mounted on the path none: give --as USER, or --path none"
        )
    files: dict[str, Path | None] = dict.fromkeys(users, None)
    files.update(zip(users, keys, strict=False))
    for name, file in files.items():
        if file is not None:  # refused before an image is made
            secret = read_key(file, name)
            secret[:] = bytes(len(secret))
    with volume_of(image, create or None) as volume:
        system = system_of(volume, path, files)
        folders = [f"/{name}" for name in users] or ["/"]
        fuse.serve(
            [fuse.Mount(system, point, folder) for point, folder in zip(mountpoints, folders, strict=True)]
        )


def serve(
    image: Annotated[Path, typer.Argument(metavar="IMAGE", help="The disk's sectors.")],
    socket: Annotated[Path, typer.Option(metavar="PATH", help="A Unix socket, made while it serves.")],
    key: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A file with the disk's key, that only you can read."),
    ] = None,
    cipher: Annotated[str, typer.Option(help=f"One of {', '.join(nbd.CIPHERS)}.")] = "aes-xts-plain64",
    unit: Annotated[int, typer.Option(help="Bytes of a data unit: 512, 1024, 2048, 4096.")] = 512,
) -> None:
    """Serve an image as a network block device, encrypted by an inline engine; until a signal comes.

    Clients connect to the Unix socket by NBD: qemu-io, nbdcopy, fio --ioengine=nbd. The image has the bytes
    that dm-crypt would store with that cipher, in sectors from 0 on. Flush and FUA make durable, trim gives
    file space back. Events are told on standard error, as JSON lines. The status is 0 after a signal.

    For example:

    truncate -s 1G disk.img; (umask 077; head -c 64 /dev/urandom > disk.key)

    mktme serve disk.img --socket disk.sock --key disk.key

    nbdcopy file 'nbd+unix:///?socket=disk.sock'
    """
    secret = read_key(key, "the disk")
    try:
        nbd.serve(image, socket, secret, cipher=cipher, unit=unit)
    finally:
        secret[:] = bytes(len(secret))
