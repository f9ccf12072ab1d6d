"""Interleave sets: arithmetic, images, labels, DIMMs missing and swapped; through a controller too."""

from __future__ import annotations

import ctypes
import errno
import json
import pickle
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mktme
import pmem
from mktme import Controller, Key
from pmem import InterleaveSet, dax
from pmem import stripes as stripes_of
from pmem.interleaving import Interleaving

SIZE = 1 << 16  # bytes of a DIMM
STRIPE = 4096
WAYS = 3
LIMIT = int(Path("/proc/sys/vm/max_map_count").read_text())

Interleavings = st.builds(
    lambda ways, shift, rows: Interleaving(ways, 1 << shift, rows << shift),
    st.integers(1, 7),
    st.integers(6, 14),
    st.integers(1, 9),
)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    return [tmp_path / f"dimm{i}.img" for i in range(WAYS)]


@pytest.fixture
def whole(paths: list[Path]) -> Iterator[InterleaveSet]:
    with InterleaveSet.create(paths, SIZE) as made:
        yield made


@pytest.fixture
def filled(paths: list[Path]) -> list[Path]:
    """A set whose stripe s holds bytes of the value s, closed."""
    with InterleaveSet.create(paths, SIZE) as made:
        made.write(0, stripes())
    return paths


def stripes() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.repeat(np.arange(WAYS * SIZE // STRIPE, dtype=np.uint8), STRIPE)


def label(path: Path) -> Path:
    return path.with_name(path.name + ".label")


def relabel(path: Path, **fields: Any) -> None:
    label(path).write_text(json.dumps(json.loads(label(path).read_text()) | fields))


# The arithmetic


@given(Interleavings, st.data())
def test_system_and_device_addresses_are_inverse(form: Interleaving, data: st.DataObject) -> None:
    address = data.draw(st.integers(0, form.ways * form.size - 1))
    dimm, at = form.to_dimm(address)
    assert 0 <= dimm < form.ways
    assert 0 <= at < form.size
    assert form.to_system(dimm, at) == address
    other = data.draw(st.integers(0, form.ways - 1)), data.draw(st.integers(0, form.size - 1))
    assert form.to_dimm(form.to_system(*other)) == other


@given(Interleavings)
def test_every_line_of_a_set_is_one_line_of_one_dimm(form: Interleaving) -> None:
    lines = np.arange(0, form.ways * form.size, 64, dtype=np.uint64)
    dimms, at = form.to_dimm(lines)
    assert dimms.dtype == at.dtype == np.uint64
    assert sorted(zip(dimms.tolist(), at.tolist(), strict=True)) == [
        (dimm, place) for dimm in range(form.ways) for place in range(0, form.size, 64)
    ]
    assert np.array_equal(form.to_system(dimms, at), lines)
    assert [form.to_dimm(line) for line in lines[::7].tolist()] == list(
        zip(dimms[::7].tolist(), at[::7].tolist(), strict=True)
    )


def test_consecutive_stripes_go_to_consecutive_dimms() -> None:
    form = Interleaving(3, 4096, 1 << 20)
    assert [form.to_dimm(at) for at in (0, 4095, 4096, 8192 + 5, 12288, 4 * 4096 + 1)] == [
        (0, 0), (0, 4095), (1, 0), (2, 5), (0, 4096), (1, 4097),
    ]  # fmt: skip
    assert form.to_system(2, 4096) == 5 * 4096
    grid = form.to_system(np.arange(3)[:, None], np.array([0, 4097], np.uint64))
    assert grid.tolist() == [[0, 12289], [4096, 16385], [8192, 20481]]


@given(Interleavings, st.data())
def test_a_range_touches_one_run_of_each_dimm(form: Interleaving, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, form.ways * form.size - 1))
    length = data.draw(st.integers(1, form.ways * form.size - first))
    dimms, at = form.to_dimm(np.arange(first, first + length, dtype=np.uint64))
    expected = {
        (int(dimm), int(at[dimms == dimm].min()), int((dimms == dimm).sum())) for dimm in np.unique(dimms)
    }
    assert set(form.parts(first, length)) == expected
    assert len(form.parts(first, length)) == len(expected)


@pytest.mark.parametrize("address", [-1, WAYS * SIZE, 1.5, np.array([0, WAYS * SIZE]), np.array([0.5])])
def test_addresses_outside_of_a_set_are_refused(whole: InterleaveSet, address: Any) -> None:
    with pytest.raises(pmem.RangeError, match=r"outside|integer"):
        whole.to_dimm(address)


@pytest.mark.parametrize(
    ("dimm", "at"), [(-1, 0), (WAYS, 0), (0, SIZE), (np.array([WAYS]), 0), (0, np.array([-1])), ("0", 0)]
)
def test_device_addresses_outside_of_a_dimm_are_refused(whole: InterleaveSet, dimm: Any, at: Any) -> None:
    with pytest.raises(pmem.RangeError, match=r"outside|integer"):
        whole.to_system(dimm, at)


# One device over several images


def test_each_image_holds_its_stripes_and_nothing_else(filled: list[Path]) -> None:
    for i, path in enumerate(filled):
        own = stripes().reshape(-1, STRIPE)[i::WAYS]
        assert path.read_bytes() == own.tobytes()


def test_a_set_reads_and_writes_as_one_device(whole: InterleaveSet) -> None:
    assert isinstance(whole, pmem.Device)
    assert whole.size == WAYS * SIZE
    model, rng = bytearray(whole.size), np.random.default_rng(1)
    for _ in range(200):
        at = int(rng.integers(0, whole.size))
        data = rng.bytes(int(rng.integers(1, 3 * STRIPE)))[: whole.size - at]
        whole.write(at, data)
        model[at : at + len(data)] = data
    assert whole.read(0, whole.size) == model
    assert whole.media.tobytes() == model
    for i, path in enumerate(whole.dimms):
        assert path is not None
        image = path.read_bytes()
        for place in range(0, SIZE, 1000):
            assert image[place] == model[whole.to_system(i, place)]


def test_scattered_lines_find_their_dimms(whole: InterleaveSet) -> None:
    rng = np.random.default_rng(2)
    addresses = rng.choice(whole.size // 64, 300, replace=False).astype(np.uint64) * np.uint64(64)
    lines = rng.integers(0, 256, (300, 64), np.uint8)
    whole.write_lines(addresses, lines)
    assert np.array_equal(whole.read_lines(addresses), lines)
    dimms, at = whole.to_dimm(addresses)
    for dimm, place, line in zip(dimms.tolist(), at.tolist(), lines, strict=True):
        path = whole.dimms[dimm]
        assert path is not None
        assert path.read_bytes()[place : place + 64] == line.tobytes()


@pytest.mark.parametrize("scheme", ["pmem-line", "ctr-split"])
def test_a_controller_encrypts_a_set_as_it_does_a_device(
    whole: InterleaveSet, tmp_path: Path, scheme: str
) -> None:
    counted = scheme == "ctr-split"
    algorithm, size = ("aes-ctr-128", 16) if counted else ("aes-xts-128", 32)
    key = Key.from_bytes(algorithm, bytes(range(size)))
    with pmem.create(tmp_path / "one.img", whole.size) as one:
        for device in (whole, one):
            controller = Controller(device)
            beside = 2 * SIZE if counted else None
            region = controller.map(0, SIZE, controller.program_key(key), scheme, metadata=beside)
            region.write(100, bytes(range(256)) * 200)
            array = region.array(np.uint64, (64, 64), offset=8192)
            array[::2, 3] = np.arange(32)
            assert np.asarray(array[::2, 3]).tolist() == list(range(32))
            region.persist(100, 60_000)
        assert whole.read(0, whole.size) == one.read(0, one.size)


def test_a_file_system_lies_on_a_set(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with InterleaveSet.create(paths, "4MiB") as device, dax.make(device) as volume:
        file = volume.create("/f")
        file.write(0, bytes(range(256)) * 500)
    with InterleaveSet.open(paths[::-1]) as device, dax.mount(device) as volume:
        assert volume.open("/f").read(0, 128_000) == bytes(range(256)) * 500
        assert dax.check(volume).problems == []


def test_file_space_is_taken_where_it_is_written(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with InterleaveSet.create(paths, "8MiB") as whole:
        assert [path.stat().st_blocks for path in paths] == [0, 0]
        whole.write(STRIPE, b"x")
        assert [path.stat().st_blocks * 512 for path in paths] == [0, 1 << 16]
        whole.write_lines([0, 5 << 20], np.ones((2, 64), np.uint8))
        assert [path.stat().st_blocks * 512 for path in paths] == [1 << 17, 1 << 16]


def test_flushing_a_range_flushes_just_its_part_of_each_dimm(whole: InterleaveSet, library: Any) -> None:
    whole.flush(STRIPE + 100, 3 * STRIPE)  # of stripe 1 all but 100 bytes, 2 and 3, 100 bytes of 4
    assert sorted(length for _, length, _ in library.calls) == [STRIPE, STRIPE, STRIPE + 100]
    library.calls.clear()
    whole.flush(5, 6)
    assert len(library.calls) == 1
    library.calls.clear()
    whole.persist()
    assert [length for _, length, _ in library.calls] == [SIZE] * WAYS
    library.code = errno.EIO
    with pytest.raises(pmem.DeviceFailed, match=r"not durable.*dimm1\.img"):
        whole.flush(STRIPE, 1)
    library.code = 0


def test_the_granularity_is_the_one_of_the_images(whole: InterleaveSet, tmp_path: Path) -> None:
    with pmem.create(tmp_path / "alone", SIZE) as alone:
        assert whole.store_granularity is alone.store_granularity


def test_a_set_with_arrays_over_it_stays_open(paths: list[Path], descriptors: Callable[[Path], int]) -> None:
    whole = InterleaveSet.create(paths, SIZE)
    whole.write(0, b"kept")
    media = whole.media
    with pytest.raises(pmem.DeviceBusy, match="dimm0"):
        whole.close()
    assert not whole.closed
    assert media[:4].tobytes() == whole.read(0, 4) == b"kept"
    del media
    whole.close()
    whole.close()
    assert [descriptors(path) for path in paths] == [0, 0, 0]
    with pytest.raises(pmem.DeviceClosed):
        whole.read(0, 1)
    with pytest.raises(pmem.DeviceClosed):
        whole.reserve(0, 1)
    with pytest.raises(pmem.DeviceClosed):
        whole.reserve_lines(np.zeros(1, np.uint64))


def test_closing_takes_all_stripes_out_of_the_address_space(paths: list[Path]) -> None:
    def mapped() -> int:
        return Path("/proc/self/maps").read_text().count(str(paths[0].parent))

    with InterleaveSet.create(paths, SIZE):
        assert mapped() >= WAYS * SIZE // STRIPE
    assert mapped() == 0


def test_a_set_that_is_dropped_gives_up_its_images(
    paths: list[Path], descriptors: Callable[[Path], int]
) -> None:
    whole = InterleaveSet.create(paths, SIZE)
    del whole
    assert [descriptors(path) for path in paths] == [0, 0, 0]
    InterleaveSet.open(paths).close()


def test_an_image_that_is_shortened_is_named(whole: InterleaveSet, paths: list[Path]) -> None:
    with paths[1].open("r+b") as file:
        file.truncate(STRIPE)
    with pytest.raises(pmem.DeviceChanged, match="dimm1"):
        whole.read(0, 1)
    with paths[1].open("r+b") as file:
        file.truncate(SIZE)
    whole.read(0, 1)


def test_readers_share_a_set_and_cannot_write(filled: list[Path]) -> None:
    with InterleaveSet.open(filled, "r") as one, InterleaveSet.open(filled, "r") as two:
        assert one.read(0, one.size) == two.read(0, two.size) == stripes().tobytes()
        assert not one.mapping().flags.writeable
        with pytest.raises(pmem.ReadOnlyDevice):
            one.write(0, b"x")
        with pytest.raises(pmem.ReadOnlyDevice):
            one.write_lines([0], np.zeros((1, 64), np.uint8))


def test_one_holder_writes(filled: list[Path]) -> None:
    with InterleaveSet.open(filled):
        with pytest.raises(pmem.DeviceLocked):
            InterleaveSet.open(filled)
        with pytest.raises(pmem.DeviceLocked):
            pmem.open(filled[2])
    pmem.open(filled[2]).close()


def test_a_set_says_what_it_is_and_stays_in_its_process(whole: InterleaveSet) -> None:
    assert re.fullmatch(r"<pmem\.InterleaveSet \[.*dimm0.*dimm2\.img'\] 192KiB mode='r\+'>", repr(whole))
    with pytest.raises(TypeError):
        pickle.dumps(whole)


# Making one


@pytest.mark.parametrize(
    ("size", "granularity", "what"),
    [
        (0, 4096, "0 bytes are not a size"),
        (4097, 4096, "4097 bytes are not a size"),
        (12288, 8192, "12288 bytes .* multiple of the stripe, 8192"),
        (SIZE, 2048, "2048 bytes are no stripe"),
        (SIZE, 12288, "12288 bytes are no stripe"),
        (SIZE, 0, "0 bytes are no stripe"),
        ("lots", 4096, "not a size"),
    ],
)
def test_sizes_that_give_no_whole_stripes_are_refused(
    paths: list[Path], size: Any, granularity: int, what: str
) -> None:
    with pytest.raises(pmem.SizeError, match=what):
        InterleaveSet.create(paths, size, granularity=granularity)
    assert not [*paths[0].parent.iterdir()]


def test_what_is_no_list_of_dimms_is_refused(paths: list[Path]) -> None:
    with pytest.raises(pmem.RangeError, match="too few"):
        InterleaveSet.create(paths[:1], SIZE)
    with pytest.raises(pmem.RangeError, match="one path"):
        InterleaveSet.create(str(paths[0]), SIZE)
    link = paths[0].with_name("link")
    link.symlink_to(paths[0])
    with pytest.raises(pmem.RangeError, match="link is given twice"):
        InterleaveSet.create([paths[0], link], SIZE)
    link.unlink()
    assert not [*paths[0].parent.iterdir()]


@pytest.mark.parametrize("which", ["image", "label"])
def test_a_set_that_cannot_be_made_whole_leaves_nothing(paths: list[Path], which: str) -> None:
    there = paths[2] if which == "image" else label(paths[2])
    there.write_bytes(b"mine")
    with pytest.raises(pmem.DeviceExists, match=re.escape(str(there))):
        InterleaveSet.create(paths, SIZE)
    assert [*there.parent.iterdir()] == [there]
    assert there.read_bytes() == b"mine"


@pytest.mark.skipif(LIMIT > 1 << 20, reason="this system lets a process map very many stripes")
def test_more_stripes_than_the_system_maps_are_refused_with_a_way_out(tmp_path: Path) -> None:
    paths, size = [tmp_path / "a", tmp_path / "b"], (LIMIT // 8 + 1) * 4 * STRIPE
    with pytest.raises(
        pmem.SizeError, match=rf"{2 * size // STRIPE} stripes of 4096.*is {LIMIT}\)"
    ) as caught:
        InterleaveSet.create(paths, size)
    assert "sysctl vm.max_map_count=" in str(caught.value)
    assert not [*tmp_path.iterdir()]
    found = re.search(r"granularity=(\d+)", str(caught.value))
    assert found is not None
    with InterleaveSet.create(paths, size, granularity=int(found[1])) as whole:
        whole.write(whole.size - 1, b"x")
        assert whole.to_dimm(whole.size - 1) == (1, size - 1)
    assert paths[1].stat().st_size == size
    with paths[1].open("rb") as file:
        file.seek(size - 1)
        assert file.read() == b"x"


def test_a_stripe_that_cannot_be_mapped_undoes_the_set(
    paths: list[Path], monkeypatch: pytest.MonkeyPatch, descriptors: Callable[[Path], int]
) -> None:
    real, calls = stripes_of._mmap, [*range(20)]

    def failing(*arguments: Any) -> Any:
        if not calls:
            ctypes.set_errno(errno.ENOMEM)
            return ctypes.c_void_p(-1).value
        calls.pop()
        return real(*arguments)

    monkeypatch.setattr(stripes_of, "_mmap", failing)
    with pytest.raises(pmem.DeviceFailed, match="can't map stripe 4 of DIMM 1") as caught:
        InterleaveSet.create(paths, SIZE)
    assert caught.value.errno == errno.ENOMEM
    assert not [*paths[0].parent.iterdir()]
    assert str(paths[0].parent) not in Path("/proc/self/maps").read_text()
    assert [descriptors(path) for path in paths] == [0, 0, 0]


# Labels


@pytest.mark.parametrize("order", [(1, 0, 2), (2, 1, 0), (1, 2, 0)])
def test_dimms_in_any_order_are_put_in_theirs(filled: list[Path], order: tuple[int, ...]) -> None:
    with InterleaveSet.open([filled[i] for i in order]) as whole:
        assert whole.dimms == tuple(filled)
        assert whole.read(0, whole.size) == stripes().tobytes()


def test_the_granularity_is_on_the_label(tmp_path: Path) -> None:
    paths = [tmp_path / "a", tmp_path / "b"]
    with InterleaveSet.create(paths, SIZE, granularity="16KiB") as whole:
        whole.write(0, bytes(range(256)) * (whole.size // 256))
        whole.write(16384, b"second DIMM")
    assert paths[1].read_bytes()[:11] == b"second DIMM"
    with InterleaveSet.open(paths) as whole:
        assert whole.granularity == 16384
        assert whole.read(16384, 11) == b"second DIMM"


def test_a_dimm_that_is_missing_is_named(filled: list[Path]) -> None:
    with pytest.raises(pmem.DimmMissing, match=r"DIMM 1 of 3 is missing \('dimm1\.img' .*degraded=True"):
        InterleaveSet.open([filled[2], filled[0]])
    with pytest.raises(pmem.DimmMissing, match="DIMM 1 of 3"):
        InterleaveSet.open([filled[0]])
    filled[1].unlink()
    with pytest.raises(pmem.DimmMissing, match=r"dimm1\.img"):
        InterleaveSet.open(filled)
    assert issubclass(pmem.DimmMissing, FileNotFoundError)
    for path in (filled[0], filled[2]):
        pmem.open(path).close()  # nothing is held


def test_dimms_of_different_sets_are_refused(filled: list[Path], tmp_path: Path) -> None:
    others = [tmp_path / f"other{i}" for i in range(WAYS)]
    InterleaveSet.create(others, SIZE).close()
    with pytest.raises(pmem.LabelInvalid, match=r"other1 is of the interleave set .* and .*dimm0"):
        InterleaveSet.open([filled[0], others[1], filled[2]])


def test_two_dimms_for_one_place_are_refused(filled: list[Path], tmp_path: Path) -> None:
    copy = tmp_path / "copy.img"
    copy.write_bytes(filled[1].read_bytes())
    label(copy).write_bytes(label(filled[1]).read_bytes())
    with pytest.raises(pmem.LabelInvalid, match=r"dimm1\.img and .*copy\.img are both labelled DIMM 1"):
        InterleaveSet.open([filled[0], filled[1], copy])


def test_a_dimm_without_its_label_is_refused(filled: list[Path]) -> None:
    label(filled[1]).unlink()
    with pytest.raises(pmem.LabelInvalid, match=r"dimm1\.img has no label .*verify=False"):
        InterleaveSet.open(filled)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", "null", "\0", '{"set": 1}', "[" * 100_000, '"x"'],
    ids=["empty", "cut", "list", "bare", "null", "binary", "other", "deep", "text"],
)
def test_a_damaged_label_is_refused(filled: list[Path], text: str) -> None:
    label(filled[1]).write_text(text)
    with pytest.raises(pmem.LabelInvalid, match=r"dimm1\.img\.label"):
        InterleaveSet.open(filled)


@pytest.mark.parametrize(
    "fields",
    [
        {"position": 3},
        {"position": -1},
        {"position": True},
        {"position": 0.5},
        {"members": []},
        {"members": [1, 2, 3]},
        {"members": "abc"},
        {"set": None},
        {"size": "64KiB"},
        {"extra": 1},
        {"set": str(uuid.UUID(int=5))},
        {"granularity": 8192},
        {"size": 2 * SIZE},
        {"members": ["a", "b"]},
    ],
)
def test_a_label_that_contradicts_itself_or_the_others_is_refused(
    filled: list[Path], fields: dict[str, Any]
) -> None:
    relabel(filled[1], **fields)
    with pytest.raises(pmem.LabelInvalid, match="dimm1"):
        InterleaveSet.open(filled)


def test_an_image_of_another_size_than_its_label_says_is_refused(filled: list[Path]) -> None:
    with filled[2].open("r+b") as file:
        file.truncate(2 * SIZE)
    with pytest.raises(pmem.LabelInvalid, match=r"dimm2\.img has 131072 bytes, and its label says 65536"):
        InterleaveSet.open(filled)
    with pytest.raises(pmem.SizeError, match="one size"):
        InterleaveSet.open(filled, verify=False)


def test_labels_with_no_whole_stripes_are_refused(filled: list[Path]) -> None:
    for path in filled:
        relabel(path, granularity=100)
    with pytest.raises(pmem.SizeError, match="100 bytes are no stripe"):
        InterleaveSet.open(filled)


# Swapped


def test_swapped_dimms_exchange_their_stripes(filled: list[Path]) -> None:
    with InterleaveSet.open([filled[1], filled[0], filled[2]], verify=False) as swapped:
        rows = stripes().reshape(-1, WAYS, STRIPE)
        assert swapped.read(0, swapped.size) == rows[:, [1, 0, 2]].tobytes()


@pytest.mark.parametrize(("algorithm", "size"), [("aes-xts-128", 32), ("aes-xts-256", 64), ("sm4-xts", 32)])
def test_ciphertext_of_swapped_dimms_is_garbage_where_its_address_changed(
    paths: list[Path], algorithm: str, size: int
) -> None:
    """A line's tweak is made from its address: two of three DIMMs are lost, the third is as it was."""
    key = Key.from_bytes(algorithm, bytes(range(size)))
    text = np.random.default_rng(3).integers(0, 256, WAYS * SIZE, np.uint8)

    def mapped(device: pmem.Device) -> mktme.Region:
        controller = Controller(device)
        return controller.map(0, WAYS * SIZE, controller.program_key(key))

    with InterleaveSet.create(paths, SIZE) as whole:
        mapped(whole).write(0, text)
    with InterleaveSet.open([paths[1], paths[0], paths[2]], verify=False) as swapped:
        found = np.frombuffer(mapped(swapped).read(0, WAYS * SIZE), np.uint8).reshape(-1, 64)
        lines = text.reshape(-1, 64)
        there = (np.arange(lines.shape[0]) * 64 // STRIPE) % WAYS == 2
        assert np.array_equal(found[there], lines[there])
        assert not (found[~there] == lines[~there]).all(axis=1).any()
        # Nor is it the other DIMM's plaintext, as it would be without encryption.
        moved = text.reshape(-1, WAYS, STRIPE)[:, [1, 0, 2]].reshape(-1, 64)
        assert not (found[~there] == moved[~there]).all(axis=1).any()
        assert 0.49 < np.unpackbits(found[~there] ^ lines[~there]).mean() < 0.51
    with InterleaveSet.open(paths) as whole:
        assert mapped(whole).read(0, WAYS * SIZE) == text.tobytes()


# Degraded


@pytest.fixture(params=["path given", "path left out"])
def degraded(filled: list[Path], request: pytest.FixtureRequest) -> Iterator[InterleaveSet]:
    filled[1].unlink()
    given = filled if request.param == "path given" else [filled[2], filled[0]]
    with InterleaveSet.open(given, degraded=True) as made:
        yield made


def test_a_degraded_set_has_the_lines_of_the_dimms_that_are_there(degraded: InterleaveSet) -> None:
    assert degraded.missing == (1,)
    assert degraded.dimms[1] is None
    text = stripes()
    for stripe in range(degraded.size // STRIPE):
        at = stripe * STRIPE
        if stripe % WAYS != 1:
            assert degraded.read(at, STRIPE) == text[at : at + STRIPE].tobytes()
            continue
        with pytest.raises(pmem.PoisonError, match="DIMM that is missing") as caught:
            degraded.read(at + 100, 1)
        assert caught.value.line == (at + 100) // 64
        assert caught.value.errno == errno.EIO
    with pytest.raises(pmem.PoisonError) as caught:
        degraded.read(0, degraded.size)
    assert caught.value.line == STRIPE // 64
    del caught


def test_no_write_reaches_a_missing_dimm(degraded: InterleaveSet) -> None:
    before = degraded.media.tobytes()
    lines = np.ones((2, 64), np.uint8)
    for write in (
        lambda: degraded.write(STRIPE, bytes(STRIPE)),
        lambda: degraded.write(STRIPE - 1, b"ab"),
        lambda: degraded.write_lines([0, STRIPE], lines),
        lambda: degraded.reserve(0, degraded.size),
        lambda: degraded.reserve_lines(np.array([STRIPE], np.uint64)),
        lambda: Controller(degraded).write(0, bytes(2 * STRIPE)),
        lambda: Controller(degraded).write_lines([0, STRIPE], lines),
    ):
        with pytest.raises(pmem.PoisonError, match="missing"):
            write()
    assert degraded.media.tobytes() == before
    degraded.write(2 * STRIPE, b"there")
    degraded.flush()
    assert degraded.read(2 * STRIPE, 5) == b"there"


def test_a_region_on_a_degraded_set_reads_what_is_there(degraded: InterleaveSet) -> None:
    controller = Controller(degraded)
    region = controller.map(0, degraded.size, controller.program_key(Key.generate("aes-xts-256")))
    region.write(0, bytes(range(64)) * (STRIPE // 64))
    assert region.read(0, STRIPE) == bytes(range(64)) * (STRIPE // 64)
    with pytest.raises(pmem.PoisonError) as caught:
        region.read(STRIPE - 1, 2)
    assert caught.value.line == STRIPE // 64
    with pytest.raises(pmem.PoisonError):
        region.write(STRIPE - 64, bytes(128))
    assert region.read(STRIPE - 64, 64) == bytes(range(64))
    array = region.array(np.uint8)
    with pytest.raises(pmem.PoisonError):
        np.asarray(array[:: STRIPE // 2])
    with pytest.raises(pmem.PoisonError):
        array[[0, STRIPE]]
    assert array[[0, 1, 2 * STRIPE]][:2].tolist() == [0, 1]
    assert np.asarray(array[:: WAYS * STRIPE]).size == degraded.size // (WAYS * STRIPE)


def test_a_degraded_set_needs_labels_and_a_dimm(filled: list[Path]) -> None:
    with pytest.raises(pmem.RangeError, match="verify=True"):
        InterleaveSet.open(filled, verify=False, degraded=True)
    for path in filled:
        path.unlink()
    with pytest.raises(pmem.DimmMissing, match="one at least"):
        InterleaveSet.open(filled, degraded=True)


def test_a_whole_set_opened_degraded_is_whole(filled: list[Path]) -> None:
    with InterleaveSet.open(filled, degraded=True) as whole:
        assert whole.missing == ()
        assert whole.poison is None
        assert whole.read(0, whole.size) == stripes().tobytes()
