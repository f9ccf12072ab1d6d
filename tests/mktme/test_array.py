"""Arrays over encrypted memory, against real ndarrays."""

from __future__ import annotations

import operator
import os
import warnings
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


@pytest.mark.parametrize("block", [1 << 20, 100])
def test_an_array_may_be_assigned_to_an_overlapping_view_of_itself(
    shared: Region, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", block)
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


def told(call: Callable[[], Any]) -> tuple[str, Any]:
    """What a call gives, or the built-in kind of what it raises."""
    try:
        return "gave", call()
    except (IndexError, ValueError, TypeError, OverflowError) as error:
        kinds = (IndexError, OverflowError, TypeError, ValueError)
        return "raised", next(kind for kind in kinds if isinstance(error, kind))


def same(ours: Any, want: Any) -> bool:
    return np.shape(ours) == np.shape(want) and np.asarray(ours).tobytes() == np.asarray(want).tobytes()


# Any item that an index may be made of, right or wrong for the axis that it meets.
ITEMS = st.one_of(
    st.integers(-6, 6),
    st.builds(slice, *[st.one_of(st.none(), st.integers(-7, 7))] * 2, st.sampled_from([None, 1, 2, -1, -3])),
    st.just(None),
    st.just(Ellipsis),
    st.booleans(),
    st.builds(np.bool_, st.booleans()),
    st.builds(np.array, st.booleans()),
    st.builds(np.array, st.integers(-5, 5)),
    st.builds(np.int8, st.integers(-5, 5)),
    st.lists(st.integers(-5, 4), max_size=4),
    st.lists(st.lists(st.integers(-3, 2), min_size=2, max_size=2), min_size=1, max_size=2),
    hnp.arrays(np.uint16, hnp.array_shapes(max_dims=2, max_side=3), elements=st.integers(0, 4)),
    hnp.arrays(bool, st.sampled_from([(2,), (3,), (4,), (5,), (6,), (4, 6), (2, 3), (3, 1), (0,)])),
    st.just(1.5),
    st.just("a"),
)
INDICES = st.one_of(ITEMS, st.lists(ITEMS, max_size=4).map(tuple))


@given(st.data(), SHAPES, st.sampled_from(["<f8", ">i2", "S3", "<i4,>f8"]), st.integers(0, 70))
@settings(derandomize=True, deadline=None, max_examples=600)
def test_any_expression_as_an_index_does_what_numpy_does_or_is_refused_alike(
    shared: Region, data: Any, shape: tuple[int, ...], dtype: str, offset: int
) -> None:
    """Through up to two views, reading and writing; a refused index or value changes nothing."""
    ours, model = pair(shared, dtype, shape, offset)
    whole, media = ours, shared.device.media[: 1 << 14]
    original = model
    around = shared.read(0, offset), shared.read(offset + model.nbytes, 100)
    for _ in range(data.draw(st.integers(0, 2))):
        if not isinstance(model, np.ndarray) or not model.shape:
            break
        index = data.draw(hnp.basic_indices(model.shape, allow_newaxis=True, max_dims=4))
        ours, model = ours[index], model[index]
    if not isinstance(ours, EncryptedArray):
        return
    index = data.draw(INDICES)
    how, want = told(lambda: model[index])
    got_how, got = told(lambda: ours[index])
    assert got_how == how
    if how == "raised":
        assert got is want
        before = media.tobytes()
        assert told(lambda: ours.__setitem__(index, 1)) == ("raised", want)
        assert media.tobytes() == before
        return
    assert same(got, want)
    shapes = [(), np.shape(want), np.shape(want)[-1:], (1, *np.shape(want)), (2, 3), (7,)]
    if not isinstance(want, np.ndarray):  # an element takes no sequence
        shapes = [()]
    sole = index[0] if isinstance(index, tuple) and len(index) == 1 else index
    if isinstance(sole, bool | np.bool_ | np.ndarray) and np.asarray(sole).dtype == bool:
        shapes = [one for one in shapes if len(one) < 2]  # a mask takes one dimension
    fitting = data.draw(st.sampled_from(shapes))
    count = int(np.prod(fitting))
    value = np.arange(1, count + 1).astype(model.dtype).reshape(fitting)
    before = media.tobytes()
    how, _ = told(lambda: model.__setitem__(index, value))
    got_how, _ = told(lambda: ours.__setitem__(index, value))
    assert got_how == how
    if how == "raised":
        assert media.tobytes() == before
    assert same(whole, original)
    assert (shared.read(0, offset), shared.read(offset + original.nbytes, 100)) == around


UFUNCS = [np.add, np.multiply, np.subtract, np.true_divide, np.floor_divide, np.maximum, np.less, np.power]
OPERANDS: list[Any] = [
    1,
    -1,
    2.5,
    300,
    1 << 70,
    True,
    np.int8(3),
    np.float32(2),
    np.uint64(5),
    [1, 2, 3],
    np.arange(6),
    np.arange(6, dtype=">i2"),
    np.ones((4, 1), np.uint8),
    np.ones((2, 4, 6), np.uint8),
    np.ones(5),
    "text",
    None,
]


@pytest.mark.parametrize("ufunc", UFUNCS, ids=lambda u: u.__name__)
@pytest.mark.parametrize("dtype", ["u1", ">i4", "<f8", "?"])
@pytest.mark.parametrize("block", [1 << 20, 8])
def test_an_update_in_place_does_what_numpy_does_or_changes_nothing(
    shared: Region, ufunc: np.ufunc, dtype: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", block)
    for operand in OPERANDS:
        for view in (np.s_[...], np.s_[::-1, 1::2], np.s_[2]):
            ours, model = pair(shared, dtype, (4, 6), 5)
            model[...] = model % 2 + 1 if dtype != "?" else True
            ours[...] = model
            ours_view, model_view, before = ours[view], model[view], model.copy()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                how, want = told(lambda o=operand, m=model_view: ufunc(m, o, out=m))
                got_how, got = told(lambda o=operand, a=ours_view: ufunc(a, o, out=a))
            assert got_how == how, operand
            assert got is (ours_view if how == "gave" else want)
            assert same(ours, model if how == "gave" else before)


REDUCTIONS = [np.add, np.multiply, np.minimum, np.maximum, np.logical_and, np.bitwise_xor, np.subtract]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"axis": 0},
    {"axis": None},
    {"axis": -1},
    {"axis": (0, 1)},
    {"axis": (1, 0)},
    {"axis": None, "keepdims": True},
    {"axis": None, "initial": 3},
    {"axis": None, "dtype": np.int32},
    {"axis": None, "where": [True, False, True, False, True], "initial": 1},
    {"axis": 7},
]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=lambda u: u.__name__)
@pytest.mark.parametrize("block", [1 << 20, 64])
def test_a_reduction_gives_the_value_and_the_dtype_of_numpys(
    shared: Region, reduction: np.ufunc, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", block)
    for dtype in ("u1", ">i2", "?", "<u8"):
        for shape in ((40, 5), (200,), (0, 5)):
            ours, model = pair(shared, dtype, shape, 3)
            for options in OPTIONS:
                how, want = told(lambda m=model, o=options: reduction.reduce(m, **o))
                got_how, got = told(lambda a=ours, o=options: reduction.reduce(a, **o))
                assert got_how == how, options
                assert got is want if how == "raised" else same(got, want), options
                assert how == "raised" or got.dtype == want.dtype, options


def test_reductions_in_blocks_of_floats_are_as_near_as_numpys(shared: Region) -> None:
    model = np.random.default_rng(1).normal(size=(1000, 600))
    ours = shared.array(np.float64, model.shape)
    ours[...] = model
    assert ours.nbytes > 4 * array_module.BLOCK
    assert ours.sum() == pytest.approx(model.sum())
    assert (ours.min(), ours.max()) == (model.min(), model.max())
    assert ours.sum(dtype=np.longdouble).dtype == np.longdouble
    assert ours.any()
    assert ours[::3, ::-2].sum() == pytest.approx(model[::3, ::-2].sum())
    ours[500, 300] = np.nan
    assert np.isnan(ours.max())


RECORD = np.dtype([("id", ">u2"), ("at", "<f8", (3,)), ("in", [("tag", "S5"), ("on", "?")]), ("z", "u1")])


def test_records_are_assigned_from_tuples_and_read_back(shared: Region) -> None:
    ours, model = pair(shared, RECORD, (70,), 61)
    row = (7, (1.0, 2.0, 3.0), (b"abc", True), 255)
    for array in (ours, model):
        array[3] = row
        array[4:6] = [row, row]
        array[[10, 20]] = row
        array[::-7] = np.zeros((), RECORD)
        array[30:32] = array[3:5]
    assert same(ours, model)
    assert same(ours[3], model[3])


def test_a_field_is_a_view_that_writes_through(shared: Region) -> None:
    ours, model = pair(shared, RECORD, (9, 8), 61)
    for array in (ours, model):
        array["id"] = np.arange(72).reshape(9, 8)
        array["at"][:, 2, 1] = 1.5
        array["in"]["tag"][3] = b"tag"
        array["in"]["on"] = False
        array["z"] += 1
        array[2:4, ::-1]["id"][0] -= 5
    assert same(ours, model)
    for name in ("id", "at", "in", "z"):
        assert ours[name].dtype == model[name].dtype
        assert same(ours[name], model[name])
    lone = shared.array(RECORD, (), 5)
    lone[...] = model[0, 0]
    assert isinstance(lone["id"], EncryptedArray)
    assert same(lone["at"], model[0, 0]["at"])
    with pytest.raises(ValueError, match="no field of name other"):
        ours["other"]
    with pytest.raises(IndexError):
        shared.array(np.int8, 3)["id"]


def test_a_dtype_of_several_elements_adds_its_dimensions(shared: Region) -> None:
    kind = np.dtype(("<i4", (2, 3)))
    ours, model = shared.array(kind, (5,), 3), np.zeros((5,), kind)
    assert (ours.shape, ours.dtype, ours.strides) == (model.shape, model.dtype, model.strides)
    ours[...] = model = np.arange(30, dtype="<i4").reshape(5, 2, 3)
    assert same(ours, model)
    assert shared.array(kind, None, shared.size - 50).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        ("u1", 300),
        ("u1", -1),
        ("u1", [1, 300]),
        ("i4", 1 << 40),
        ("i4", float("nan")),
        ("i4", 1j),
        ("i4", "text"),
        ("i4", ["1", "x"]),
        ("i4", {}),
        ("f8", print),
        ("f8", [1, [2, 3]]),
        ("M8[s]", 1.5),
        ("<i4,<f8", (1, 2, 3)),
    ],
    ids=lambda given: given if isinstance(given, str) else type(given).__name__,
)
def test_a_value_out_of_the_dtypes_range_is_refused_as_by_numpy(
    shared: Region, dtype: str, value: Any
) -> None:
    for index in (np.s_[...], np.s_[2], np.s_[1:3], np.s_[[0, 2]], np.s_[:, 1]):
        ours, model = pair(shared, dtype, (4, 2))
        before = shared.device.media.tobytes()
        how, want = told(lambda i=index, m=model: m.__setitem__(i, value))
        assert how == "raised"
        assert told(lambda i=index, a=ours: a.__setitem__(i, value)) == (how, want)
        assert shared.device.media.tobytes() == before


@pytest.mark.parametrize("kind", ["object", "text", "bytes", "encrypted"])
def test_a_value_whose_last_element_is_refused_changes_nothing(
    shared: Region, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an array of many blocks: nothing is written before all of them are known to fit."""
    monkeypatch.setattr(array_module, "BLOCK", 256)
    ours, model = pair(shared, "<i4", (1000,), 3)
    text = np.array(["1"] * 999 + ["x"])
    value: Any = {"object": np.array([1] * 999 + [None]), "text": text, "bytes": text.astype("S")}.get(kind)
    if kind == "encrypted":
        with pmem.create(shared.device.path.parent / "other.img", 8192) as device:
            controller = Controller(device)
            other = controller.map(0, 8192, controller.program_key(Key.generate("aes-xts-128")))
            value = other.array("S1", 1000)
            value[...] = text
            with pytest.raises(ValueError, match="invalid literal"):
                ours[...] = value
            assert same(ours, model)
            value[999] = b"7"
            ours[...] = value
            assert np.asarray(ours).tolist() == [1] * 999 + [7]
        shared.device.path.with_name("other.img").unlink()
        return
    for target in (np.s_[...], np.s_[::-1]):
        with pytest.raises((ValueError, TypeError)):
            ours[target] = value
    assert same(ours, model)


def test_an_array_of_another_region_is_assigned_and_added(
    shared: Region, controller: Controller, key: Key, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", 128)
    other = controller.map(0, 1 << 16, controller.program_key(key))
    source, want = pair(other, ">f4", (30, 20), 7)
    source[...] = want = np.arange(600, dtype=">f4").reshape(30, 20)
    ours, model = pair(shared, "<i4", (30, 20), 1)
    ours[...] = source
    model[...] = want
    assert same(ours, model)
    ours[5:7] = source[9]
    model[5:7] = want[9]
    ours *= source.astype(np.int32)
    model *= want.astype(np.int32)
    assert same(ours, model)
    assert np.array_equal(source @ source.T, want @ want.T)


def test_an_index_may_itself_be_encrypted(shared: Region) -> None:
    ours, model = pair(shared, "<i8", (20,), 1 << 12)
    places = (("u1", 3, 0), ("?", 20, 64), ("i2", (), 128), ("?", (), 200))
    where, flags, lone, flag = (shared.array(*place) for place in places)
    where[...], flags[...], lone[...], flag[...] = [5, 0, 5], np.arange(20) % 3 == 0, -2, True
    for index in (where, flags, lone, flag):
        assert same(ours[index], model[np.asarray(index)])
        ours[index] = 4
        model[np.asarray(index)] = 4
        assert same(ours, model)


def test_an_update_by_index_is_unbuffered_as_numpys(shared: Region) -> None:
    ours, model = pair(shared, "<i8", (5, 4), 3)
    for array in (ours, model):
        np.add.at(array, ([0, 0, 3], [1, 1, 2]), [5, 6, 7])
        np.negative.at(array, np.s_[::2])
    assert same(ours, model)
    with pytest.raises(IndexError):
        np.add.at(ours, [9], 1)
    assert same(ours, model)


@pytest.mark.parametrize("block", [1 << 20, 64])
def test_a_product_in_place_is_numpys(shared: Region, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(array_module, "BLOCK", block)
    ours, model = pair(shared, "<f8", (12, 12))
    ours[...] = model = np.arange(144.0).reshape(12, 12)
    other = np.eye(12)[::-1] * 3
    ours @= other
    model @= other
    assert same(ours, model)
    np.matmul(other, ours, out=ours)
    assert same(ours, other @ model)


def test_outputs_of_numpys_functions_write_through(shared: Region) -> None:
    ours, model = pair(shared, "<f8", (6, 4), 9)
    source = np.arange(24.0).reshape(6, 4)
    for array in (ours, model):
        assert np.cumsum(source, axis=0, out=array) is array
        np.clip(source[1:], 3, 9, out=array[1:])
        np.mean(source, axis=0, out=array[2])
        np.concatenate([source[:1], source[3:4]], out=array[3:5])
        np.sqrt(source, out=array, where=source > 10)
        np.divmod(source, 5, out=(array, np.empty_like(source)))
    assert same(ours, model)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: np.copyto(a, 1),
        lambda a: np.put(a, [0], 1),
        lambda a: np.putmask(a, np.asarray(a) > 0, 1),
        lambda a: np.place(a, np.asarray(a) > 0, [1]),
        lambda a: np.fill_diagonal(a, 1),
        lambda a: np.put_along_axis(a, np.array([[0], [1]]), 1, 1),
    ],
    ids=["copyto", "put", "putmask", "place", "fill_diagonal", "put_along_axis"],
)
def test_a_function_that_would_change_only_a_copy_is_refused(
    shared: Region, change: Callable[[Any], Any]
) -> None:
    ours, model = pair(shared, "<i4", (2, 2))
    with pytest.raises(ValueError, match=r"read-only|read only|not writeable"):
        change(ours)
    assert same(ours, model)


def test_membership_is_that_of_the_elements(shared: Region) -> None:
    ours, model = pair(shared, "<i4", (4, 5))
    assert model[2, 3] in ours
    assert -1 not in ours
    assert 1 not in shared.array("u1", (0, 3))


@pytest.mark.parametrize("block", [1 << 20, 1000])
def test_ciphertext_as_a_value_is_as_if_copied_first(
    shared: Region, engine: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the medium of the same device, overlapping, whatever the layout of the target."""
    monkeypatch.setattr(array_module, "BLOCK", block)
    device = shared.device
    controller = Controller(device)
    region = controller.map(0, "64KiB", controller.program_key(Key.generate("aes-xts-128")))
    for shift in (0, 64, 133, 4000):
        device.write(0, np.random.default_rng(shift).bytes(1 << 16))
        ours = region.array(np.uint8, (64, 100), 200)
        source = device.media[shift : shift + 64 * 50].reshape(64, 50)
        for target in (ours[:, 10:60], ours[:, :50][::-1], ours[:, :50].T):
            value = source if target.shape == source.shape else source.T
            want = value.copy()
            target[...] = value
            assert same(target, want)
            want = np.asarray(target) ^ value
            target ^= value
            assert same(target, want)


def test_a_view_of_more_runs_than_are_listed_at_once_is_complete(shared: Region) -> None:
    n = 2 * array_module.RUNS + 77
    ours, model = pair(shared, ">i2", (n, 3), 5)
    for array in (ours, model):
        array[:, 1] = np.arange(n)
        array[::-1, 2] += 3
    assert same(ours, model)
    assert same(ours[:, 1], model[:, 1])
    assert same(ours.T, model.T)
    assert same(ours[ours[:, 0] > 30], model[model[:, 0] > 30])


def test_items_longer_than_a_block_are_read_and_written_whole(
    shared: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", 100)
    kind = np.dtype("V70000")
    ours, model = pair(shared, kind, (3, 4), 11)
    for index in (np.s_[...], np.s_[1], np.s_[:, 1], np.s_[[2, 0]], np.s_[::-1, ::-2]):
        assert same(ours[index], model[index])
    value = np.frombuffer(np.random.default_rng(3).bytes(70000), kind)[0]
    for array in (ours, model):
        array[:, 2] = value
        array[[0, 2], [0, 3]] = value
        array[1, 1] = value
    assert same(ours, model)


@pytest.mark.parametrize("dtype", ["u1", "S61", "V100", ">c16"])
@pytest.mark.parametrize("offset", range(0, 64, 9))
def test_items_that_straddle_lines_keep_their_neighbours(
    shared: Region, engine: str, dtype: str, offset: int
) -> None:
    controller = Controller(shared.device)
    region = controller.map(0, 1 << 16, controller.program_key(Key.generate("aes-xts-256")))
    region.fill(0x33, 0, 1 << 14)
    ours, model = pair(region, dtype, (9, 7), offset)
    for array in (ours, model):
        array[1::3, ::2] = array[::3, ::2][::-1].copy()
        array[[4, 4, 8], [0, 6, 3]] = array[0, 0]
    assert same(ours, model)
    assert set(region.read(0, offset)) | set(region.read(offset + model.nbytes, 200)) == {0x33}


def test_every_byte_of_a_write_has_file_space_before_it_begins(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long runs, long items, wide strides: space is asked for under all that they touch, no more."""
    real, asked = os.posix_fallocate, set()

    def noted(fd: int, start: int, length: int) -> None:
        asked.update(range(start >> 16, (start + length) >> 16))
        real(fd, start, length)

    monkeypatch.setattr(os, "posix_fallocate", noted)
    long = np.dtype("V300000")
    rows: list[tuple[Callable[[Any], Any], list[int], range]] = [
        (lambda a: a.__setitem__((slice(None), slice(0, 700_000)), 1), list(range(8)), range(11)),
        (lambda a: a.__setitem__((slice(None), 5), 1), list(range(8)), range(1)),
        (lambda a: a.__setitem__((slice(None, None, -3), slice(65_530, 65_540)), 1), [7, 4, 1], range(2)),
        (lambda a: a.__setitem__((slice(None), slice(70_000, 60_000, -1)), 1), list(range(8)), range(2)),
        (lambda a: a.__setitem__(([1, 6], 1 << 16), 1), [1, 6], range(1, 2)),
        (lambda a: a.T.__setitem__(slice(0, 2), 1), list(range(8)), range(1)),
        (lambda a: operator.iadd(a[2:4, 100:200], 1), [2, 3], range(1)),
    ]
    for number, (use, touched, chunks) in enumerate(rows):
        with pmem.create(tmp_path / f"{number}.img", "8MiB") as device:
            controller = Controller(device)
            region = controller.map(0, "8MiB", controller.program_key(Key.generate("aes-xts-128")))
            asked.clear()
            use(region.array(np.uint8, (8, 1 << 20)))
            assert asked == {row * 16 + chunk for row in touched for chunk in chunks}
            asked.clear()
            items = {n >> 16 for i in (3, 7) for n in range(i * 300_000, (i + 1) * 300_000)}
            had = {row * 16 + chunk for row in touched for chunk in chunks}
            region.array(long, 20)[[3, 7]] = np.zeros((), long)
            assert asked == items - had


def test_a_full_file_system_refuses_an_array_before_its_first_block(
    region: Region, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_module, "BLOCK", 4096)
    monkeypatch.setattr(array_module, "RUNS", 64)
    ours = region.array(np.uint16, (2048, 64))
    other = region.array(np.uint8, (4, 1 << 16))
    real = os.posix_fallocate

    def little(fd: int, start: int, length: int) -> None:
        if start + length > 3 << 16:
            raise OSError(28, "No space left on device")
        real(fd, start, length)

    monkeypatch.setattr(os, "posix_fallocate", little)
    before = region.device.media.tobytes()
    for use in (
        lambda: ours.__setitem__(..., 1),
        lambda: ours.__setitem__((slice(None), 3), 1),
        lambda: ours.T.__setitem__(..., np.ones((64, 2048))),
        lambda: ours.__setitem__(([0, 2047], 3), 1),
        lambda: ours.__iadd__(np.uint16(1)),
        lambda: other[:, 5].__iadd__(1),
        lambda: other.__setitem__((slice(None), slice(3, 9)), 1),
        lambda: np.cumsum(np.zeros((2048, 64), np.uint16), axis=1, out=ours),
    ):
        with pytest.raises(pmem.DeviceFull):
            use()
    assert region.device.media.tobytes() == before


def test_an_empty_array_takes_every_operation(shared: Region) -> None:
    for shape in ((0,), (0, 3), (3, 0), (2, 0, 4)):
        ours, model = pair(shared, "<f8", shape)
        before = shared.device.media.tobytes()
        ours += 1
        ours[...] = 5
        ours[...] = np.zeros(shape)
        ours.fill(3)
        assert same(ours, model)
        assert same(ours.T, model.T)
        assert (ours.sum(), ours.size, ours.nbytes) == (0, 0, 0)
        assert len(list(ours)) == shape[0]
        with pytest.raises(ValueError, match="zero-size"):
            ours.max()
        assert shared.device.media.tobytes() == before
