"""Two people on one encrypted volume: who has the key sees files, who hasn't sees that there are some.

    python examples/two_users.py

Both see the same image, each with a keyring of her or his own.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import mktme
import pmem
from mktme.fscrypt import Keyring, Policy
from mktme.stack import Bounce, Line
from pmem import dax


def main() -> None:
    """Alice writes, Bob looks; then Alice takes her key away."""
    with tempfile.TemporaryDirectory() as folder, pmem.create(Path(folder) / "pool.img", "64MiB") as device:
        volume = dax.make(device)
        # Alice's files are encrypted line by line by the memory controller, Bob's way goes through
        # bounce pages: the format on the medium is the same.
        alice = mktme.FileSystem(volume, Line(mktme.Controller(device)), keyring=Keyring(volume.uuid))
        bob = mktme.FileSystem(volume, Bounce(device), keyring=Keyring(volume.uuid))

        key = bytearray(range(64))  # a real one is drawn: os.urandom(64)
        identifier = alice.keyring.add(key)
        alice.mkdir("/alice")
        alice.set_policy("/alice", Policy(identifier))
        with alice.create("/alice/diary.txt") as file:
            file.write(0, b"Nobody can read this.")
        print("Alice sees", [entry.name for entry in alice.list("/alice")])

        (entry,) = bob.list("/alice")
        size = bob.stat(f"/alice/{entry.name}").size
        print(f"Bob sees a name of {len(entry.name)} characters, and a file of {size} bytes")
        try:
            bob.open(f"/alice/{entry.name}")
        except PermissionError as error:
            print("Bob can't open it:", type(error).__name__)
        try:
            bob.create("/alice/mine.txt")
        except PermissionError as error:
            print("Bob can't make files there:", type(error).__name__)

        bob.keyring.add(key)  # Alice trusts Bob
        with bob.open("/alice/diary.txt") as file:
            print("With the key Bob reads", file.read())

        with alice.open("/alice/diary.txt") as file:
            removal = alice.keyring.remove(identifier)
            print("Alice removes her key; still open:", [path for _, path in removal.busy])
            print("An open file goes on:", file.read(0, 6))
        print("Closed, the key is", alice.keyring.status(identifier).state)
        (entry,) = alice.list("/alice")
        alice.unlink(f"/alice/{entry.name}")  # deleting takes no key
        print("Left in the directory:", alice.list("/alice"))
        volume.close()


if __name__ == "__main__":
    main()
