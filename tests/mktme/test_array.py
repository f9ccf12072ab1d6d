"""Arrays over encrypted memory, against real ndarrays."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mktme
import pmem
from mktme import Controller, EncryptedArray, Key, Region
from mktme import array as array_module

DTYPES = ("u1", "<i2", ">u4", "<f8", ">c16", "S5", "U3", "?", [("a", "<i4"), ("b", "<f8", (2,))])


def pair(region: Region, dtype: Any, shape: tuple[int, ...], offset: int = 0) -> tuple[EncryptedArray, Any]:
    """An encrypted array and an ndarray with the same elements."""
    model = np.zeros(shape, dtype)
    raw = np.random.default_rng(1).integers(0, 100, model.nbytes, dtype=np.uint8)
    if model.dtype.kind in "?SU":
        raw &= 1
    model = raw.view(model.dtype).reshape(shape).copy() if model.nbytes else model
    ours = region.array(dtype, shape, offset)
    ours[...] = model
    return ours, model


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A region that many examples use one after another."""
    with pmem.create(tmp_path_factory.mktemp("array") / "pool.img", "16MiB") as device:
        controller = Controller(device)
        yield controller.map(4096, "12MiB", controller.program_key(Key.generate("aes-xts-128")))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", [0, 13])
def test_elements_of_any_dtype_and_place_come_back(shared: Region, dtype: Any, offset: int) -> None:
    ours, model = pair(shared, dtype, (7, 9), offset)
    assert (ours.dtype, ours.shape, ours.size, ours.ndim) == (model.dtype, (7, 9), 63, 2)
    assert (ours.nbytes, ours.strides, ours.itemsize) == (model.nbytes, model.strides, model.itemsize)
    for index in (np.s_[...], np.s_[3], np.s_[:, 2], np.s_[::2, ::-3], np.s_[[1, 5, 1]], np.s_[2, 3]):
        got, want = np.asarray(ours[index]), model[index]
        assert got.tobytes() == want.tobytes()


def test_the_scripts_of_the_documentation_work(shared: Region) -> None:
    a, model = pair(shared, np.float64, (50, 40), 8192)
    a[3, :] += 1
    model[3, :] += 1
    assert a.sum() == model.sum()
    assert (np.asarray(a) == model).all()
    a *= 2
    a -= model
    assert (a == model).all()
    assert a.T[2].sum() == pytest.approx(model.T[2].sum())


def test_basic_indices_are_views_that_write_through(shared: Region) -> None:
    a, model = pair(shared, np.int32, (20, 30))
    row, column, block, turned = a[3], a[:, 4], a[5:9, ::-2], a.T
    for view, want in ((row, model[3]), (column, model[:, 4]), (block, model[5:9, ::-2]), (turned, model.T)):
        view += 7
        want += 7
        view[0] = 5
        want[0] = 5
        assert (np.asarray(a) == model).all()
    assert a[1:3][0][2:4].shape == (2,)
    assert isinstance(a[2, 3], np.int32)
    assert isinstance(a[2, 3, ...], EncryptedArray)


def test_advanced_indices_are_copies(shared: Region) -> None:
    a, model = pair(shared, np.int64, (20, 30))
    taken = a[[1, 2]]
    assert isinstance(taken, np.ndarray)
    taken += 1
    assert (np.asarray(a) == model).all()
    a[a > 50] = -1
    model[model > 50] = -1
    a[[1, 1, 3], [2, 2, 4]] = [10, 11, 12]
    model[[1, 1, 3], [2, 2, 4]] = [10, 11, 12]
    assert (np.asarray(a) == model).all()


SHAPES = st.sampled_from([(), (5,), (0,), (4, 6), (3, 1, 5), (2, 3, 4), (3, 0, 2)])


def indices(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    kinds = [hnp.basic_indices(shape, allow_newaxis=True, allow_ellipsis=True)]
    if shape and 0 not in shape:
        kinds += [hnp.integer_array_indices(shape), hnp.arrays(bool, shape), mixed(shape)]
    return st.one_of(kinds)


@st.composite
def mixed(draw: Any, shape: tuple[int, ...]) -> Any:
    """Integer arrays beside slices and integers."""
    items: list[Any] = []
    for n in shape:
        items.append(
            draw(
                st.one_of(
                    st.just(slice(None, None, -1)),
                    st.integers(-n, n - 1),
                    st.lists(st.integers(-n, n - 1), min_size=2, max_size=2).map(np.array),
                )
            )
        )
    return tuple(items)


@given(st.data(), SHAPES, st.sampled_from(["<f8", ">i2", "S3"]), st.integers(0, 70))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_any_index_reads_and_writes_what_numpy_would(
    shared: Region, data: Any, shape: tuple[int, ...], dtype: str, offset: int
) -> None:
    ours, model = pair(shared, dtype, shape, offset)
    around = shared.read(0, offset), shared.read(offset + model.nbytes, 100)
    index = data.draw(indices(shape))
    want = model[index]
    got = ours[index]
    assert np.shape(got) == np.shape(want)
    assert np.asarray(got).tobytes() == np.asarray(want).tobytes()
    value = np.ones(np.shape(want), model.dtype) if data.draw(st.booleans()) else np.ones((), model.dtype)
    ours[index] = value
    model[index] = value
    assert np.asarray(ours).tobytes() == model.tobytes()
    assert (shared.read(0, offset), shared.read(offset + model.nbytes, 100)) == around


@pytest.mark.parametrize(
    "index",
    [(20,), (0, 30), (-21,), ([0, 20],), (0, 0, 0), ("a",), (1.5,), (np.ones(3, bool),), (slice("a"),)],
    ids=str,
)
def test_an_index_that_numpy_refuses_is_refused_alike(shared: Region, index: Any) -> None:
    a, model = pair(shared, np.int32, (20, 30))
    with pytest.raises(Exception, match=r".+") as numpys:
        model[index]
    for use in (lambda: a[index], lambda: a.__setitem__(index, 1)):
        with pytest.raises(numpys.type):
            use()
    assert (np.asarray(a) == model).all()


@pytest.mark.parametrize(
    "value",
    [np.ones(7), np.ones((20, 30, 2)), "text", [1, 2], np.ones((2, 20, 30)), {"a": 1}],
    ids=lambda value: f"{type(value).__name__}-{np.ndim(value)}",
)
def test_a_value_that_does_not_fit_changes_nothing(shared: Region, value: Any) -> None:
    a, _ = pair(shared, np.int32, (20, 30))
    before = shared.device.media.tobytes()
    for index in (np.s_[...], np.s_[2:5], np.s_[[1, 2]]):
        with pytest.raises((ValueError, TypeError)):
            a[index] = value
    assert shared.device.media.tobytes() == before


def test_an_update_in_place_that_numpy_refuses_changes_nothing(shared: Region) -> None:
    a, model = pair(shared, np.int32, (20, 30))
    before = shared.device.media.tobytes()
    for other in (1.5, np.ones((20, 30)), np.ones(7, np.int32), np.ones((2, 20, 30), np.int32)):
        with pytest.raises(Exception, match=r".+") as numpys:
            operator.iadd(model.copy(), other)
        with pytest.raises(numpys.type):
            operator.iadd(a, other)
    assert shared.device.media.tobytes() == before


@pytest.mark.parametrize(
    "value",
    [5, 2.9, np.int8(3), np.array([[1.5]]), np.arange(30), np.ones((1, 1, 20, 30))],
    ids=lambda value: f"shape-{np.ndim(value)}",
)
def test_assignment_broadcasts_and_casts(shared: Region, value: Any) -> None:
    a, model = pair(shared, np.int32, (20, 30))
    for index in (np.s_[...], np.s_[4], np.s_[::2]) if np.ndim(value) < 3 else (np.s_[...],):
        a[index] = value
        model[index] = value
    assert (np.asarray(a) == model).all()


def test_an_array_may_be_assigned_to_an_overlapping_view_of_itself(shared: Region) -> None:
    a, model = pair(shared, np.int32, (500,))
    a[1:] = a[:-1]
    model[1:] = model[:-1].copy()
    a += a[::-1]
    model += model[::-1].copy()
    assert (np.asarray(a) == model).all()


OPERATIONS: list[Callable[[Any], Any]] = [
    lambda a: a + 1,
    lambda a: 1 - a,
    lambda a: a @ a.T,
    lambda a: a < 50,
    lambda a: -a,
    lambda a: abs(a),
    np.sqrt,
    lambda a: np.add(a, a, dtype=np.float32),
    lambda a: np.add.outer(a[0], a[1]),
    lambda a: np.concatenate([a, a]),
    lambda a: np.where(a > 5, a, 0),
    lambda a: np.sort(a, axis=0),
    lambda a: a.mean(axis=0),
    lambda a: a.sum(),
    lambda a: a.sum(axis=1),
    lambda a: a.sum(axis=(0, 1), keepdims=True),
    lambda a: a.min(),
    lambda a: a.max(axis=0),
    lambda a: a.prod(axis=0),
    lambda a: a.any(),
    lambda a: a.all(),
    lambda a: a.std(),
    lambda a: a.argmax(),
    lambda a: a.reshape(-1),
    lambda a: a.astype(int),
    lambda a: a.tolist(),
    lambda a: a.copy(),
    np.median,
    lambda a: np.array(a, dtype=np.float32),
    list,
    lambda a: [x.sum() for x in a],
    lambda a: a.sum(initial=5),
    lambda a: a.sum(where=np.asarray(a) > 5),
]


@pytest.mark.parametrize("operation", OPERATIONS, ids=[str(i) for i in range(len(OPERATIONS))])
@pytest.mark.parametrize("block", [1 << 20, 256])
def test_expressions_give_what_numpy_gives(
    shared: Region, operation: Callable[[Any], Any], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", block)
    a, model = pair(shared, np.float64, (20, 30))
    a[...] = model = np.arange(600.0).reshape(20, 30)
    got, want = operation(a), operation(model)
    assert np.allclose(np.asarray(got), np.asarray(want))


@pytest.mark.parametrize("block", [64, 1000, 1 << 20])
@pytest.mark.parametrize("turned", [False, True])
def test_blocks_cover_an_array_exactly(
    shared: Region, block: int, turned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", block)
    for shape in ((), (7,), (0, 3), (100, 3), (3, 100), (5, 6, 7), (1, 1, 300), (2, 0)):
        ours, model = pair(shared, np.int32, shape)
        view, want = (ours.T, model.T) if turned else (ours, model)
        covered = np.zeros(want.shape, int)
        for index in view._blocks():
            covered[index] += 1
        assert (covered == 1).all()
        view += 3
        want += 3
        view[...] = view[...] * 2
        want *= 2
        assert (np.asarray(ours) == model).all()


def test_a_large_array_is_worked_on_in_blocks(shared: Region) -> None:
    n = 1 << 20
    a = shared.array(np.float64, (1024, n // 1024))
    a[...] = np.arange(1024.0)
    a += 1
    a[:, 5] = 0
    model = np.tile(np.arange(1024.0), (n // 1024, 1)) + 1
    model[:, 5] = 0
    assert a.sum() == model.sum()
    assert a.max() == 1024
    assert (np.asarray(a.T[5:7]) == model.T[5:7]).all()
    a.T[...] = model
    assert (np.asarray(a) == model.T).all()


def test_out_arguments_and_fill_write_through(shared: Region) -> None:
    a, model = pair(shared, np.float64, (5, 6))
    assert np.multiply(model, 3, out=a) is a
    assert (np.asarray(a) == model * 3).all()
    np.divmod(model, 7, out=(a, np.empty((5, 6))))
    assert (np.asarray(a) == model // 7).all()
    np.add.reduce(model, axis=0, out=a[0])
    assert (np.asarray(a)[0] == model.sum(axis=0)).all()
    a.fill(4)
    assert (np.asarray(a) == 4).all()


def test_what_would_change_only_a_copy_is_not_offered(shared: Region) -> None:
    a = shared.array(np.int32, 10)
    for name in ("sort", "resize", "partition", "put", "base", "flat", "nothing"):
        with pytest.raises(AttributeError, match=r"np\.asarray"):
            getattr(a, name)
    with pytest.raises(ValueError, match="without a copy"):
        np.asarray(a, copy=False)


def test_single_elements_convert_like_numpys(shared: Region) -> None:
    a = shared.array(np.float64, ())
    a[...] = 2.5
    assert (float(a), int(a), bool(a), a[()]) == (2.5, 2, True, 2.5)
    with pytest.raises(TypeError, match="unsized"):
        len(a)
    with pytest.raises(ValueError, match="ambiguous"):
        bool(shared.array(np.int8, 3))
    assert shared.array(np.int16).shape == (shared.size // 2,)


def test_an_update_follows_the_units_that_it_touches(shared: Region) -> None:
    """One element of a strided view costs its line, and no line beside it changes."""
    a = shared.array(np.uint8, (64, 64))
    a[...] = 0
    base = shared.address
    before = shared.device.media[base : base + 4096].reshape(64, 64).copy()
    a[::8, 3] = 9
    changed = (shared.device.media[base : base + 4096].reshape(64, 64) != before).any(axis=1)
    assert np.flatnonzero(changed).tolist() == list(range(0, 64, 8))


def test_an_error_names_the_shapes(shared: Region) -> None:
    a = shared.array(np.int32, (4, 5))
    with pytest.raises(mktme.RegionError, match=r"shape \(3,\) into shape \(4, 5\)"):
        a[...] = [1, 2, 3]
