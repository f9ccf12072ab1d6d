"""The pool of KeyIDs: against a model, and on a controller."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import pmem
from mktme import Controller, Key, KeyTableFull, KeyUnavailable
from mktme.stack.keyids import Holder, KeyIds


def material(number: int) -> bytes:
    return number.to_bytes(16, "little") + bytes(16 * [7])


class User(Holder):
    """A holder with a number, which notes when it is asked to leave."""

    __slots__ = ("left", "number")

    def __init__(self, number: int) -> None:
        super().__init__(lambda: Key.from_bytes("aes-xts-128", material(number)), self._leave)
        self.number, self.left = number, 0

    def _leave(self) -> int:
        self.left += 1
        return self.number


def wait_until(holds: Callable[[], bool]) -> None:
    """Until other threads have come so far."""
    pause = threading.Event()
    for _ in range(60_000):
        if holds():
            return
        pause.wait(0.001)
    raise AssertionError("the other threads have not come so far")


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(pmem.create(tmp_path / "pool.img", 1 << 16), keyid_bits=3)


@pytest.mark.parametrize("limit", [None, 3])
def test_the_pool_is_a_least_recently_used_list(controller: Controller, limit: int | None) -> None:
    """Against a model of a few lines, with pins at random."""
    rng, pool = np.random.default_rng(5), KeyIds(controller, limit)
    users = [User(n) for n in range(1, 13)]
    model: OrderedDict[int, int] = OrderedDict()  # user -> pins
    room, hits, programmed, evicted, flushed = limit or 7, 0, 0, 0, 0
    for _ in range(3000):
        user = users[rng.integers(0, len(users))]
        if model.get(user.number) and rng.random() < 0.6:
            pool.unpin(user, keep=True)
            model[user.number] -= 1
        elif rng.random() < 0.03 and not model.get(user.number):
            pool.drop(user)
            if model.pop(user.number, None) is not None:
                flushed += user.number
        elif user.number not in model and len(model) == room and all(model.values()):
            before = controller.keyids, dict(vars(pool.churn))
            with pytest.raises(KeyTableFull, match=rf"all {room} KeyIDs are pinned"):
                pool.pin(user, keep=True)
            assert (controller.keyids, vars(pool.churn)) == before
        else:
            if user.number in model:
                hits += 1
            else:
                programmed += 1
                if len(model) == room:
                    victim = next(number for number, pins in model.items() if not pins)
                    del model[victim]
                    evicted += 1
                    flushed += victim
                model[user.number] = 0
            keyid = pool.pin(user, keep=True)
            model[user.number] += 1
            model.move_to_end(user.number)
            assert user.keyid == keyid
        assert len(pool) == len(model) == len(controller.keyids)
        assert {u.number for u in users if u.keyid is not None} == set(model)
    churn = pool.churn
    assert (churn.hits, churn.programmed, churn.evicted) == (hits, programmed, evicted)
    assert churn.lines_flushed == flushed
    assert evicted > 100


def test_each_keyid_encrypts_under_its_holders_key(controller: Controller) -> None:
    pool, users = KeyIds(controller, 2), [User(n) for n in range(1, 5)]
    for user in [*users, *users[::-1]]:
        keyid = pool.pin(user)
        region = controller.map(0, 4096, keyid)
        region.write(0, bytes(4096))
        made = controller.device.read(0, 4096)
        controller.unmap(region)
        pool.unpin(user)
        own = controller.program_key(Key.from_bytes("aes-xts-128", material(user.number)))
        assert controller.map(0, 4096, own).read(0, 4096) == bytes(4096), user.number
        assert controller.device.read(0, 4096) == made
        controller.unmap(controller.regions[0])
        controller.clear_key(own)
    assert pool.churn.evicted == 4  # the second round's first two are hits


def test_only_keyids_that_were_free_are_used(controller: Controller) -> None:
    taken = [controller.program_key(Key.generate("aes-xts-256")) for _ in range(5)]
    pool, users = KeyIds(controller), [User(n) for n in range(1, 6)]
    for user in users:
        keyid = pool.pin(user)
        assert keyid not in taken
        pool.unpin(user)
    assert len(pool) == 2
    assert set(taken) < set(controller.keyids)
    more = controller.program_key(Key.generate("aes-xts-256"), keyid=taken[0])
    assert more == taken[0]


def test_a_full_table_and_an_empty_pool(controller: Controller) -> None:
    for _ in range(7):
        controller.program_key(Key.generate("aes-xts-256"))
    with pytest.raises(KeyTableFull, match="all 7 KeyIDs hold keys"):
        KeyIds(controller).pin(User(1))


def test_a_key_that_cannot_be_made_changes_nothing(controller: Controller) -> None:
    pool, fine = KeyIds(controller, 1), User(1)
    assert pool.pin(fine) == 1
    pool.unpin(fine)

    def fails() -> Key:
        raise PermissionError

    with pytest.raises(PermissionError):
        pool.pin(Holder(fails, lambda: 0))
    assert fine.keyid == 1
    assert fine.left == 0


def test_who_finds_all_in_use_waits_for_those_that_are_not_kept(controller: Controller) -> None:
    pool, users = KeyIds(controller, 2), [User(n) for n in range(1, 5)]
    pool.pin(users[0], keep=True)
    pool.pin(users[1])
    waiting = threading.Thread(target=lambda: pool.pin(users[2]))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    pool.unpin(users[1])
    waiting.join()
    assert users[1].keyid is None
    assert users[2].keyid == 2
    pool.unpin(users[2])
    pool.pin(users[2], keep=True)
    with pytest.raises(KeyTableFull, match="pinned by files that are mapped"):
        pool.pin(users[3])


def test_a_key_that_is_wiped_while_its_user_waits_is_not_programmed(controller: Controller) -> None:
    pool, busy, late = KeyIds(controller, 1), User(1), User(2)
    present, failed = [True], []

    def key() -> Key:
        if not present:
            raise KeyUnavailable("the key has gone")
        return Key.from_bytes("aes-xts-128", material(2))

    def wait_for_it() -> None:
        try:
            pool.pin(late)
        except KeyUnavailable as error:
            failed.append(error)

    late.key = key
    keyid = pool.pin(busy)
    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    wait_until(lambda: pool._waiting == 1)
    present.clear()
    pool.drop(late)
    pool.unpin(busy)
    waiting.join(60)
    assert len(failed) == 1
    assert late.keyid is None
    assert busy.keyid == keyid
    assert controller.keyids == (keyid,)


def test_who_waits_hears_that_all_have_come_to_be_kept(controller: Controller) -> None:
    """A file is mapped while a request to it is on its way: its KeyID stays pinned after that."""
    pool, busy, late = KeyIds(controller, 1), User(1), User(2)
    failed = []

    def wait_for_it() -> None:
        try:
            pool.pin(late)
        except KeyTableFull as error:
            failed.append(error)

    pool.pin(busy)
    waiting = threading.Thread(target=wait_for_it, daemon=True)
    waiting.start()
    wait_until(lambda: pool._waiting == 1)
    pool.pin(busy, keep=True)
    pool.unpin(busy)
    waiting.join(10)
    assert not waiting.is_alive()
    assert len(failed) == 1
    assert (busy.pins, busy.kept) == (1, 1)
