"""The keyring: derivation against the vectors, claims against a model, eviction, isolation."""

from __future__ import annotations

import copy
import errno
import gc
import json
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

import pmem
from mktme.controller import Controller
from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import (
    EncryptedNameError,
    KeyMaterialError,
    KeyringError,
    KeyUnavailable,
    MktmeError,
    PolicyError,
)
from mktme.fscrypt import kdf, modes, policy
from mktme.fscrypt.fileinfo import FileInfo
from mktme.fscrypt.keyring import Keyring, Removal, Status
from mktme.fscrypt.names import NoKeyName, padded_length
from mktme.fscrypt.policy import Context, Policy
from mktme.iv.compiled import Binding
from mktme.iv.scheme import find

FILE = json.loads((Path(__file__).parents[1] / "vectors/fscrypt.json").read_text())
VECTORS = [v for v in FILE["vectors"] if v["op"] == "encrypt"]
UUID = bytes(range(16))
PAIRS = {  # a mode, and the policy in which it stands
    "AES-256-XTS": (1, 4), "AES-256-CTS-CBC": (1, 4), "AES-128-CBC-ESSIV": (5, 6),
    "AES-128-CTS-CBC": (5, 6), "Adiantum": (9, 9), "AES-256-HCTR2": (1, 10),
}  # fmt: skip
FLAGS = {
    "default": 0,
    "direct_key": policy.DIRECT_KEY,
    "iv_ino_lblk_64": policy.IV_INO_LBLK_64,
    "iv_ino_lblk_32": policy.IV_INO_LBLK_32,
}


def secret(size: int, seed: int) -> bytes:
    return np.random.default_rng(seed).bytes(size)


RAW, OTHER = secret(64, 20), secret(64, 21)


def crypt(info: FileInfo, back: bool, unit: int, index: int, data: bytes) -> bytes:
    """Data units of a file, as a data path encrypts them: the slot's cipher under the scheme."""
    source, to = np.frombuffer(data, np.uint8), np.empty(len(data), np.uint8)
    scheme = find(info.scheme)
    ivs = Binding(scheme, unit, info.at(index)).ivs(0, len(data) // unit, info.mode.iv_bytes // 8)
    info.key.slot.for_scheme(scheme).units(back, unit, ivs, source, to)
    return to.tobytes()


# Against the reference


def policy_of(vector: dict[str, Any], name: bytes) -> Policy:
    flags = FLAGS[vector["iv_method"]] | {4: 0, 8: 1, 16: 2, 32: 3, None: 3}[vector["padding"]]
    return Policy(name, *PAIRS[vector["cipher"]], flags)


def opened(vector: dict[str, Any]) -> FileInfo:
    """A vector's inode in a keyring of its own. Raises PolicyError where the kernel has no such policy."""
    v1 = vector["kdf"] in ("AES-128-ECB", "none")
    keyring = Keyring(bytes.fromhex(vector["fs_uuid"] or bytes(16).hex()))
    name = keyring.add(
        bytes.fromhex(vector["master_key"]), wrapped=vector["hw_kdf"], descriptor=bytes(8) if v1 else None
    )
    context = Context(policy_of(vector, name), bytes.fromhex(vector["file_nonce"] or bytes(16).hex()))
    kind = "names" if vector["data_unit_size"] == 255 else "contents"
    return keyring.open(context, vector["inode_number"] or 11, kind)


def is_policy(vector: dict[str, Any]) -> bool:
    """Whether the kernel has a policy that encrypts so."""
    if vector["kdf"] == "none":
        return vector["iv_method"] == "direct_key"  # a v1 policy with the flag
    if vector["cipher"] == "AES-128-CBC-ESSIV" and vector["padding"] is not None:
        return False
    if vector["cipher"] == "AES-256-HCTR2" and vector["kdf"] == "AES-128-ECB":
        return False
    numbered = vector["iv_method"].startswith("iv_ino")
    if numbered and vector["cipher"] not in ("AES-256-XTS", "AES-256-CTS-CBC", "AES-256-HCTR2"):
        return False
    return not (vector["iv_method"] == "direct_key" and vector["cipher"] != "Adiantum")


POLICIES = [v for v in VECTORS if is_policy(v)]


@pytest.mark.parametrize("vector", POLICIES, ids=[f"{v['id']}-{v['cipher']}" for v in POLICIES])
def test_files_and_names_under_a_policy_have_the_bytes_of_the_reference(vector: dict[str, Any]) -> None:
    info = opened(vector)
    plain, made = bytes.fromhex(vector["plaintext"]), bytes.fromhex(vector["ciphertext"])
    assert info.mode.name == vector["cipher"]
    if info.kind == "contents":
        unit = vector["data_unit_size"]
        padded = plain.ljust(len(made), b"\0")
        assert crypt(info, False, unit, vector["data_unit_index"], padded) == made
        assert crypt(info, True, unit, vector["data_unit_index"], made) == padded
        return
    assert padded_length(len(plain), vector["padding"]) == len(made)
    assert crypt(info, False, len(made), 0, plain.ljust(len(made), b"\0")) == made
    if 0 not in plain:
        assert info.names.encrypt(plain) == made
        if b"/" not in plain:
            assert info.names.decrypt(made) == plain


def test_the_reference_reaches_every_scheme_in_both_versions_with_contents_and_names() -> None:
    reached = {(v["kdf"], v["iv_method"], v["data_unit_size"] == 255) for v in POLICIES}
    assert len(POLICIES) > 30
    assert len(reached) == 2 + 2 + 8  # v1: own and direct keys; v2: four schemes; each with both kinds
    assert sum(0 not in bytes.fromhex(v["plaintext"]) for v in POLICIES if v["data_unit_size"] == 255) > 8
    for vector in VECTORS:
        if vector["kdf"] == "HKDF-SHA512" and vector not in POLICIES and vector["padding"] is None:
            with pytest.raises(PolicyError):
                opened(vector)


@pytest.mark.parametrize(
    ("pair", "flags"),
    [(pair, 0) for pair in modes.PAIRS_V2]
    + [((1, 4), policy.IV_INO_LBLK_64), ((1, 10), policy.IV_INO_LBLK_32), ((9, 9), policy.DIRECT_KEY)],
)
@pytest.mark.parametrize("kind", ["contents", "names"])
def test_what_hkdf_expands_is_the_key_and_its_slot_is_wiped_with_it(
    pair: tuple[int, int], flags: int, kind: str
) -> None:
    keyring = Keyring(UUID)
    made = Policy(keyring.add(RAW), *pair, flags)
    context = Context.new(made)
    info = keyring.open(context, 77, kind)
    prk, size, number = kdf.extract(RAW), info.mode.key_bytes, info.mode.number
    expected = {
        0: kdf.per_file_key(prk, context.nonce, size),
        policy.DIRECT_KEY: kdf.direct_key(prk, number, size),
        policy.IV_INO_LBLK_64: kdf.iv_ino_lblk_64_key(prk, number, UUID, size),
        policy.IV_INO_LBLK_32: kdf.iv_ino_lblk_32_key(prk, number, UUID, size),
    }[flags]
    copied = info.key.key()
    assert b"".join(bytes(part) for part in copied.parts()) == expected
    assert sum(ALGORITHMS[copied.algorithm].parts) == size
    material = info.key._material
    assert material == expected
    keyring.close(info)
    keyring.remove(made.key)
    assert material == bytes(size)
    assert info.key.wiped


def test_all_files_of_a_mode_share_a_key_under_the_flags_and_none_without() -> None:
    keyring = Keyring(UUID)
    name = keyring.add(RAW)
    for flags, shared in ((0, False), (policy.IV_INO_LBLK_64, True), (policy.IV_INO_LBLK_32, True)):
        made = Policy(name, flags=flags)
        files = [keyring.open(Context.new(made), inode) for inode in (5, 6)]
        directory = keyring.open(Context.new(made), 7, "names")
        assert (files[0].key is files[1].key) == shared
        assert directory.key is not files[0].key
        ivs = [find(info.scheme).iv_bytes(**info.at(0)) for info in files]
        assert (ivs[0] != ivs[1]) == shared
        ciphertexts = {crypt(info, False, 4096, 0, bytes(4096)) for info in files}
        assert len(ciphertexts) == 2


@pytest.mark.parametrize(
    ("pair", "flags", "bits"),
    [
        ((1, 4), 0, 9),
        ((1, 4), policy.IV_INO_LBLK_64, 10),
        ((1, 4), policy.IV_INO_LBLK_32, 12),
        ((9, 9), policy.DIRECT_KEY, 0),
        ((5, 6), 0, 11),
        ((7, 8), 0, 0),
    ],
)
def test_a_memory_controller_maps_a_file_by_its_info(
    tmp_path: Path, pair: tuple[int, int], flags: int, bits: int
) -> None:
    """What software encrypts from block 3 on is what the controller reads through the same key."""
    keyring, data = Keyring(UUID), secret(8192, 4)
    info = keyring.open(Context.new(Policy(keyring.add(RAW), *pair, flags, bits)), 21)
    first = 3 * 4096 // info.unit
    with pmem.create(tmp_path / "pool.img", "64KiB") as device:
        controller, key = Controller(device), info.key.key()
        device.write(4096, crypt(info, False, info.unit, first, data))
        keyid = controller.program_key(key)
        key.clear()
        region = controller.map(4096, 8192, keyid, iv=info.scheme, unit=info.unit, **info.at(first))
        assert region[:] == data


def test_hardware_wrapped_keys_split_into_inline_key_and_software_secret() -> None:
    keyring, raw = Keyring(UUID), RAW[:32]
    name = keyring.add(raw, wrapped=True)
    assert name == kdf.wrapped_key_identifier(raw)
    made = Policy(name, 1, 4, policy.IV_INO_LBLK_64)
    contents, names = (keyring.open(Context.new(made), 9, kind) for kind in ("contents", "names"))
    assert contents.key._material == kdf.inline_key(raw)
    prk = kdf.extract(kdf.software_secret(raw))
    assert names.key._material == kdf.iv_ino_lblk_64_key(prk, 4, UUID, 32)
    with pytest.raises(PolicyError, match="hardware-wrapped keys are for IV_INO_LBLK_64"):
        keyring.open(Context.new(Policy(name)), 9)
    assert keyring.add(raw) != name  # the same bytes as a raw key are another key


# Two users


def test_without_the_key_there_are_no_key_names_no_contents_and_no_way_to_make_a_file() -> None:
    """Alice and Bob have a keyring each on one volume."""
    alice, bob = Keyring(UUID), Keyring(UUID)
    context = Context.new(Policy(alice.add(RAW)))
    with alice.using(context, 2, "names") as directory:
        stored = directory.names.encrypt_all([b"letter.txt", b"x" * 200])
    file = Context.new(context.policy)
    with alice.using(file, 3) as info:
        written = crypt(info, False, 4096, 0, b"dear diary".ljust(4096, b"\0"))
    for kind, where in (("names", context), ("contents", file)):
        with pytest.raises(PermissionError, match=f"{context.policy.key.hex()} isn't there") as caught:
            bob.open(where, 3, kind)
        assert isinstance(caught.value, KeyUnavailable)
        assert caught.value.errno == errno.ENOKEY
    shown = [str(NoKeyName.of(name)) for name in stored]
    assert not any(b"letter" in text.encode() or "x" * 9 in text for text in shown)
    # He deletes the second by its no-key name.
    doomed = NoKeyName.parse(shown[1])
    assert [name for name in stored if not doomed.matches(name)] == stored[:1]
    with pytest.raises(EncryptedNameError):
        NoKeyName.parse("letter.txt")
    # His own key doesn't help; hers does.
    bob.add(OTHER)
    with pytest.raises(KeyUnavailable):
        bob.open(file, 3)
    bob.add(RAW)
    with bob.using(file, 3) as info:
        assert crypt(info, True, 4096, 0, written).startswith(b"dear diary\0")


# Removal


def test_a_key_goes_with_its_last_claim() -> None:
    keyring = Keyring(UUID)
    name = keyring.add(RAW, user=1)
    assert keyring.add(RAW, user=2) == name == kdf.key_identifier(kdf.extract(RAW))
    keyring.add(RAW, user=1)
    assert keyring.status(name, user=1) == Status("present", 2, True)
    assert keyring.status(name, user=3) == Status("present", 2, False)
    with pytest.raises(KeyUnavailable, match="user 3 hasn't added key"):
        keyring.remove(name, user=3)
    assert keyring.remove(name, user=1) == Removal(other_users=1)
    with pytest.raises(KeyUnavailable, match="user 1 hasn't added key"):
        keyring.remove(name, user=1)
    with keyring.using(Context.new(Policy(name)), 4) as info:
        assert info.opens == 1
    assert keyring.remove(name, user=2) == Removal()
    assert keyring.status(name, user=2) == Status("absent")
    with pytest.raises(KeyUnavailable, match="there is no key"):
        keyring.remove(name, user=2)
    keyring.add(RAW, user=1)
    keyring.add(RAW, user=2)
    assert keyring.remove_all_users(name) == Removal()
    assert keyring.status(name) == Status("absent")


def test_busy_files_go_on_until_they_are_closed_and_the_rest_is_evicted() -> None:
    keyring = Keyring(UUID)
    name = keyring.add(RAW)
    made = Policy(name)
    contexts = {inode: Context.new(made) for inode in range(10, 20)}
    infos = {inode: keyring.open(context, inode, path=f"/{inode}") for inode, context in contexts.items()}
    slots = {inode: info.key.slot for inode, info in infos.items()}
    for inode in range(12, 20):
        keyring.close(infos[inode])
    kept = {inode: crypt(infos[inode], False, 512, 0, bytes(512)) for inode in (10, 11)}
    assert keyring.remove(name) == Removal(busy=((10, "/10"), (11, "/11")))
    assert keyring.status(name) == Status("incompletely removed", 0, False)
    for inode, info in infos.items():
        assert info.key.wiped == (inode >= 12)
        room = slots[inode].cipher._schedule._room if hasattr(slots[inode].cipher, "_schedule") else None
        if room is not None:
            assert bool(room[8:].any()) == (inode < 12)
    with pytest.raises(KeyUnavailable, match="evicted"):
        _ = infos[15].key.slot
    with pytest.raises(KeyUnavailable, match="isn't there"):
        keyring.open(contexts[15], 15)
    assert keyring.open(contexts[10], 10) is infos[10]  # it is open already
    assert {inode: crypt(infos[inode], False, 512, 0, bytes(512)) for inode in kept} == kept
    assert keyring.remove(name) == Removal(busy=((10, "/10"), (11, "/11")))
    keyring.close(infos[11])
    assert infos[11].key.wiped
    keyring.close(infos[10])
    assert not infos[10].key.wiped
    keyring.close(infos[10])
    assert infos[10].key.wiped
    assert keyring.status(name) == Status("absent")
    with pytest.raises(KeyringError, match="inode 10 isn't open"):
        keyring.close(infos[10])


@pytest.mark.parametrize("flags", [0, policy.IV_INO_LBLK_64])
def test_adding_a_removed_key_again_restores_it_with_its_open_files(flags: int) -> None:
    keyring = Keyring(UUID)
    name = keyring.add(RAW, user=5)
    context, later = (Context.new(Policy(name, flags=flags)) for _ in range(2))
    info = keyring.open(context, 3)
    before = crypt(info, False, 4096, 0, bytes(4096))
    keyring.remove(name, user=5)
    keyring.add(RAW, user=6)
    assert keyring.status(name, user=6) == Status("present", 1, True)
    assert crypt(info, False, 4096, 0, bytes(4096)) == before
    with keyring.using(later, 4) as other:
        assert (other.key is info.key) == bool(flags)
    keyring.close(info)
    assert keyring.open(context, 3) is info  # cached, since the key is there
    keyring.close(info)
    keyring.remove(name, user=6)
    assert info.key.wiped
    assert other.key.wiped


def reachable(root: object) -> list[Any]:
    """Everything that an object leads to but for modules, classes and functions' globals."""
    seen: dict[int, Any] = {}
    todo = [root]
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, type | type(gc) | type(reachable)):
            continue
        seen[id(thing)] = thing
        todo += gc.get_referents(thing)
        if isinstance(thing, np.ndarray) and thing.base is not None:
            todo.append(thing.base)
    return list(seen.values())


def held_bytes(root: object) -> bytes:
    """The bytes of every buffer that an object leads to."""
    buffers = [x for x in reachable(root) if isinstance(x, bytes | bytearray | memoryview | np.ndarray)]
    return b"|".join(bytes(np.asarray(x)) if isinstance(x, np.ndarray) else bytes(x) for x in buffers)


def test_after_eviction_no_derived_key_is_in_the_tables() -> None:
    keyring = Keyring(UUID)
    name, wrapped = keyring.add(RAW), keyring.add(OTHER[:32], wrapped=True)
    v1 = keyring.add(OTHER, descriptor=bytes(8))
    secrets = [RAW, kdf.extract(RAW), OTHER, kdf.inline_key(OTHER[:32])]
    secrets.append(kdf.extract(kdf.software_secret(OTHER[:32])))
    infos: list[FileInfo] = []
    for key, flags in ((name, (0, 8, 16)), (wrapped, (8, 16)), (v1, (0,))):
        for flag in flags:
            for kind in ("contents", "names"):
                for inode in range(3, 6):
                    infos.append(keyring.open(Context.new(Policy(key, flags=flag)), inode, kind))
                    if kind == "names":
                        infos[-1].names.encrypt(b"name")
    for pair in ((9, 9), (5, 6), (7, 8)):
        infos.append(keyring.open(Context.new(Policy(name, *pair)), 8))
    secrets += [bytes(info.key._material) for info in infos]
    secrets.append(kdf.inode_hash_key(kdf.extract(RAW)))
    slots = [info.key.slot for info in infos]
    found = held_bytes(keyring)
    present = [one for one in secrets if one in found]
    assert len(present) >= len(secrets) - 1  # of a v2 key, the raw bytes are nowhere
    for info in infos:
        keyring.close(info)
    for key in (name, wrapped, v1):
        assert keyring.remove(key) == Removal()
    found = held_bytes([keyring, infos, slots])  # also what callers still hold
    assert not [one for one in secrets if one in found]
    assert not any(bytes(one[:16]) in found for one in secrets)
    assert repr(keyring) == f"<Keyring of {UUID.hex()}: 0 keys>"


def test_unmounting_wipes_also_what_is_open() -> None:
    keyring = Keyring(UUID)
    info = keyring.open(Context.new(Policy(keyring.add(RAW))), 3)
    shared = keyring.open(Context.new(Policy(keyring.add(OTHER), flags=policy.IV_INO_LBLK_64)), 4)
    keyring.wipe()
    assert info.key.wiped
    assert shared.key.wiped
    with pytest.raises(KeyUnavailable):
        keyring.open(info.context, 3)


def test_a_deleted_inode_is_forgotten_but_not_while_it_is_open() -> None:
    keyring = Keyring(UUID)
    context = Context.new(Policy(keyring.add(RAW)))
    info = keyring.open(context, 3)
    with pytest.raises(KeyringError, match="inode 3 is open: close it"):
        keyring.forget(context, 3)
    keyring.close(info)
    keyring.forget(context, 3)
    assert info.key.wiped
    keyring.forget(context, 3)  # it wasn't there: nothing to do
    with keyring.using(context, 3) as again:
        assert again is not info
        assert not again.key.wiped


# Against a model

KEYS = {0: secret(64, 1), 1: secret(32, 2)}


class Claims(RuleBasedStateMachine):
    """Users add and remove two keys and open files; the model is sets and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.keyring = Keyring(UUID)
        self.names = {i: kdf.key_identifier(kdf.extract(raw)) for i, raw in KEYS.items()}
        self.contexts = {
            (i, n): Context(Policy(self.names[i]), bytes([i, n]) * 8) for i in KEYS for n in range(3)
        }
        self.users: dict[int, set[int]] = {i: set() for i in KEYS}
        self.open: dict[tuple[int, int], list[FileInfo]] = {place: [] for place in self.contexts}
        self.seen: list[FileInfo] = []

    def busy(self, i: int) -> tuple[tuple[int, str], ...]:
        return tuple((n, "") for (key, n), infos in sorted(self.open.items()) if key == i and infos)

    key = st.integers(0, 1)
    user = st.integers(0, 2)
    inode = st.integers(0, 2)

    @rule(i=key, user=user)
    def add(self, i: int, user: int) -> None:
        assert self.keyring.add(KEYS[i], user=user) == self.names[i]
        self.users[i].add(user)

    @rule(i=key, user=user)
    def remove(self, i: int, user: int) -> None:
        if user not in self.users[i] and (self.users[i] or not self.busy(i)):
            with pytest.raises(KeyUnavailable):
                self.keyring.remove(self.names[i], user=user)
            return
        self.users[i].discard(user)
        left = len(self.users[i])
        expected = Removal(left) if left else Removal(0, self.busy(i))
        assert self.keyring.remove(self.names[i], user=user) == expected

    @rule(i=key)
    def remove_all(self, i: int) -> None:
        if not self.users[i] and not self.busy(i):
            with pytest.raises(KeyUnavailable):
                self.keyring.remove_all_users(self.names[i])
            return
        self.users[i].clear()
        assert self.keyring.remove_all_users(self.names[i]) == Removal(0, self.busy(i))

    @rule(i=key, n=inode)
    def open_file(self, i: int, n: int) -> None:
        context = self.contexts[i, n]
        if not self.users[i] and not self.open[i, n]:
            with pytest.raises(KeyUnavailable):
                self.keyring.open(context, n)
            return
        info = self.keyring.open(context, n)
        assert info.key._material == kdf.per_file_key(kdf.extract(KEYS[i]), context.nonce, 64)
        self.open[i, n].append(info)
        self.seen.append(info)

    @precondition(lambda self: any(self.open.values()))
    @rule(data=st.data())
    def close_file(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from([place for place, infos in self.open.items() if infos]))
        self.keyring.close(self.open[place].pop())

    @invariant()
    def statuses_agree(self) -> None:
        for i, name in self.names.items():
            state = "present" if self.users[i] else "incompletely removed" if self.busy(i) else "absent"
            for user in range(3):
                status = self.keyring.status(name, user=user)
                assert status == Status(state, len(self.users[i]), user in self.users[i])

    @invariant()
    def keys_of_open_files_alone_outlive_the_master_key(self) -> None:
        current = {id(info) for infos in self.open.values() for info in infos}
        for info in self.seen:
            i = next(i for i, name in self.names.items() if name == info.context.policy.key)
            if id(info) in current:
                assert not info.key.wiped
            elif not self.users[i]:
                assert info.key.wiped


TestClaims = Claims.TestCase
TestClaims.settings = settings(
    max_examples=40, stateful_step_count=40, deadline=None, derandomize=True, database=None
)


def test_threads_open_and_remove_without_a_torn_table() -> None:
    """Each file that a thread gets is whole until it closes it, whoever removes the key meanwhile."""
    keyring, stop = Keyring(UUID), threading.Event()
    name = keyring.add(RAW)
    context = Context.new(Policy(name))
    with keyring.using(context, 3, "names") as info:
        stored = info.names.encrypt(b"letter.txt")

    def reader(_: int) -> tuple[int, int]:
        read = absent = 0
        while not stop.is_set() or not read:
            try:
                with keyring.using(context, 3, "names") as info:
                    assert info.names.decrypt(stored) == b"letter.txt"
                    read += 1
            except KeyUnavailable:
                absent += 1
        return read, absent

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(reader, i) for i in range(3)]
        for _ in range(300):
            keyring.remove_all_users(name)
            keyring.add(RAW)
        stop.set()
        assert all(job.result()[0] for job in jobs)
    assert keyring.remove(name) == Removal()
    assert keyring.status(name) == Status("absent")


# Refusals


def test_master_keys_of_wrong_lengths_and_names_are_refused() -> None:
    keyring = Keyring(UUID)
    for raw, given, says in (
        (RAW[:15], {}, "a master key of 15 bytes: it has 16 to 64"),
        (RAW.hex(), {}, "a master key is bytes, not str"),
        (RAW + b"x", {}, "a master key of 65 bytes"),
        (RAW, {"wrapped": True}, "a hardware-wrapped key holds 32 bytes, not 64"),
        (RAW, {"descriptor": bytes(7)}, "a key descriptor is 8 bytes, not 7"),
        (RAW[:32], {"descriptor": bytes(8), "wrapped": True}, "have no descriptor"),
    ):
        with pytest.raises(KeyMaterialError, match=says):
            keyring.add(raw, **given)  # type: ignore[arg-type]
    assert repr(keyring).endswith("0 keys>")
    with pytest.raises(KeyringError, match="16 bytes, not 4"):
        Keyring(bytes(4))


def test_a_descriptor_names_one_key_also_after_an_incomplete_removal() -> None:
    keyring = Keyring(UUID)
    name = keyring.add(RAW, descriptor=b"8 bytes!")
    assert name == b"8 bytes!"
    assert keyring.status(name) == Status("present")
    info = keyring.open(Context.new(Policy(name)), 3)
    for _ in range(2):
        with pytest.raises(KeyringError, match="another key has the descriptor 3820627974657321"):
            keyring.add(OTHER, descriptor=name)
        keyring.remove(name)
        assert keyring.status(name) == Status("incompletely removed")
        keyring.add(RAW, descriptor=name)
        assert keyring.status(name) == Status("present")
    assert keyring.remove(name) == Removal(busy=((3, ""),))
    with pytest.raises(KeyringError, match="another key"):
        keyring.add(OTHER, descriptor=name)
    keyring.close(info)
    keyring.add(OTHER, descriptor=name)


@pytest.mark.parametrize(
    ("size", "made", "error", "says"),
    [
        (
            31,
            Policy(bytes(16)),
            KeyMaterialError,
            "31 bytes is too short for .* v2 policy: it takes 32",
        ),
        (
            63,
            Policy(bytes(8)),
            KeyMaterialError,
            "63 bytes is too short for .* v1 policy: it takes 64",
        ),
        (16, Policy(bytes(16), 9, 9), KeyMaterialError, "too short for Adiantum"),
        (64, Policy(bytes(16), flags=policy.IV_INO_LBLK_64), PolicyError, "not 4294967296"),
        (64, Policy(bytes(16), flags=policy.IV_INO_LBLK_32), PolicyError, "1 to 2"),
    ],
)
def test_keys_and_inodes_that_a_policy_can_not_have_are_refused_and_leave_nothing(
    size: int, made: Policy, error: type[MktmeError], says: str
) -> None:
    keyring = Keyring(UUID)
    raw = secret(size, 9)
    name = keyring.add(raw, descriptor=bytes(8) if made.version == 1 else None)
    fitting = Policy(name, made.contents, made.names, made.flags)
    with pytest.raises(error, match=says):
        keyring.open(Context.new(fitting), 1 << 32)
    assert keyring.remove(name) == Removal()


def test_the_shortest_keys_that_a_policy_can_have_are_taken() -> None:
    keyring = Keyring(UUID)
    for size, pair, v1 in ((32, (1, 4), False), (64, (1, 4), True), (16, (5, 6), False), (16, (7, 8), False)):
        name = keyring.add(secret(size, 10), descriptor=bytes(8) if v1 else None)
        with keyring.using(Context.new(Policy(name, *pair)), 3) as info:
            back = crypt(info, True, 512, 0, crypt(info, False, 512, 0, RAW * 8))
            assert back == RAW * 8
        keyring.remove(name)


def test_kinds_that_there_are_not_are_refused() -> None:
    keyring = Keyring(UUID)
    with pytest.raises(KeyringError, match="'symlink' is no kind of inode: contents or names"):
        keyring.open(Context.new(Policy(keyring.add(RAW))), 3, "symlink")


def test_keys_are_in_no_text_and_no_copy() -> None:
    keyring = Keyring(UUID)
    info = keyring.open(Context.new(Policy(keyring.add(RAW))), 3)
    things = [keyring, info, info.key, info.names, *keyring._held.values()]
    texts = "".join(repr(thing) + str(thing) for thing in things)
    for piece in (RAW, bytes(info.key._material), kdf.extract(RAW)):
        assert piece[:8].hex() not in texts
        assert repr(piece[:8])[2:-1] not in texts
    for thing in (info.key, keyring._held[info.context.policy.key].master):
        for call in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="can't be pickled or copied"):
                call(thing)


def test_ten_thousand_files_have_keys_of_their_own() -> None:
    keyring = Keyring(UUID)
    name = keyring.add(RAW)
    made, keys = Policy(name), set()
    for inode in range(10_000):
        with keyring.using(Context.new(made), inode) as info:
            keys.add(bytes(info.key._material))
    assert len(keys) == 10_000
    assert keyring.remove(name) == Removal()


def test_keys_of_files_that_were_closed_long_ago_are_wiped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mktme.fscrypt.keyring.IDLE", 3)
    ring = Keyring(bytes(16))
    policy = Policy(ring.add(bytes(range(64))))
    contexts = [Context(policy, bytes([n]) * 16) for n in range(6)]
    infos = [ring.open(context, n + 1) for n, context in enumerate(contexts)]
    for info in infos[:5]:
        ring.close(info)
    assert [info.key.wiped for info in infos] == [True, True, False, False, False, False]
    again = ring.open(contexts[2], 3)
    assert again is infos[2]
    fresh = ring.open(contexts[0], 1)
    assert fresh is not infos[0]
    ring.close(fresh)
    ring.close(infos[5])
    assert [info.key.wiped for info in infos[2:]] == [False, True, False, False]
    ring.close(again)
    ring.remove(policy.key)
    assert all(info.key.wiped for info in (*infos, fresh))
