"""Arrays over encrypted memory, with numpy's semantics.

An `EncryptedArray` holds a dtype, a shape and strides, as an ndarray does, and no element. What
an index selects is worked out by numpy itself, on arrays that occupy no memory; then runs of
bytes are decrypted or encrypted, a block at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from mktme.errors import REFUSALS, RegionError, release
from pmem.device import CHUNK_BITS
from pmem.geometry import PAGE

if TYPE_CHECKING:
    from mktme.region import Region

BLOCK = 1 << 20  # bytes of elements that are worked on at once
RUNS = 1 << 14  # runs whose addresses are listed at once
SPACE = 1 << CHUNK_BITS  # bytes of file space that a device reserves at once

Array = npt.NDArray[Any]


class EncryptedArray(np.lib.mixins.NDArrayOperatorsMixin):
    """An array over a region's bytes, from `Region.array`; elements are decrypted when used.

    Basic indexing (integers, slices, None, ...) gives a view that writes through, or an element;
    advanced indexing (integer and boolean arrays) an ndarray, a copy. Assignment broadcasts and
    casts, and `+=` and its like work in place, a block at a time. Any other use in an expression
    or a numpy function gives ndarrays. `np.asarray` decrypts the whole.

    Attributes: `dtype`, `shape`, `strides` (bytes), `ndim`, `size`, `nbytes`, `itemsize`.
    """

    __array_priority__ = 1.0

    def __init__(
        self,
        region: Region,
        dtype: np.dtype[Any],
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        offset: int,
    ) -> None:
        self._region, self.dtype, self._offset = region, dtype, offset
        self.shape, self.strides = shape, strides

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def itemsize(self) -> int:
        return self.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self.size * self.itemsize

    @property
    def T(self) -> EncryptedArray:
        """The transposed view."""
        return EncryptedArray(self._region, self.dtype, self.shape[::-1], self.strides[::-1], self._offset)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("len() of unsized object")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<mktme.EncryptedArray {self.dtype} {self.shape} in {self._region!r}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an encrypted array is its region's own: copy it with np.asarray")

    def __iter__(self) -> Iterator[Any]:
        return (self[i] for i in range(len(self)))

    def __contains__(self, item: Any) -> bool:
        return bool((np.asarray(self) == item).any())

    def __bool__(self) -> bool:
        return bool(np.asarray(self))

    def __int__(self) -> int:
        return int(np.asarray(self))

    def __float__(self) -> float:
        return float(np.asarray(self))

    # What an index selects

    def _ghost(self) -> Array:
        """An array of our shape and strides over memory that nobody touches: numpy indexes it, we
        read off where the result would lie. It has one-byte elements, so that strides are exact.
        """
        return np.lib.stride_tricks.as_strided(np.empty(1, np.uint8), self.shape, self.strides)

    def _view(self, index: Any) -> EncryptedArray | None:
        """The view that a basic index selects; None if the index is an advanced one."""
        if isinstance(index, str) and self.dtype.fields:
            return self._field(index)
        items = index if isinstance(index, tuple) else (index,)
        items = tuple(_as_integer(item) for item in items)
        if any(isinstance(item, bool | np.bool_ | list | tuple) or np.ndim(item) > 0 for item in items):
            return None
        ghost = self._ghost()
        # With an ellipsis numpy gives an array of no dimensions in place of an element.
        some = ghost[items if any(item is Ellipsis for item in items) else (*items, ...)]
        at = some.__array_interface__["data"][0] - ghost.__array_interface__["data"][0]
        if not some.size:
            at = 0
        return EncryptedArray(self._region, self.dtype, some.shape, some.strides, self._offset + at)

    def _field(self, name: str) -> EncryptedArray:
        """The view of one field of a structured dtype. Raises ValueError as numpy does."""
        fields: Any = self.dtype.fields or {}
        if name not in fields:
            raise ValueError(f"no field of name {name}")
        lone = np.empty((), fields[name][0])
        shape, strides = self.shape + lone.shape, self.strides + lone.strides
        return EncryptedArray(self._region, lone.dtype, shape, strides, self._offset + fields[name][1])

    def _places(self, index: Any) -> npt.NDArray[np.int64]:
        """The offsets in the region of the elements that an advanced index selects."""
        total = np.broadcast_to(np.int64(self._offset), self.shape)[index]
        for axis, (n, stride) in enumerate(zip(self.shape, self.strides, strict=True)):
            lone = np.arange(n, dtype=np.int64).reshape([-1 if a == axis else 1 for a in range(self.ndim)])
            total = total + np.broadcast_to(lone, self.shape)[index] * stride
        return np.asarray(total)

    def _run(self) -> tuple[int, int]:
        """The bytes of the longest contiguous runs, and how many leading axes count them."""
        run, axes = self.itemsize, self.ndim
        while axes and (self.strides[axes - 1] == run or self.shape[axes - 1] == 1):
            run *= self.shape[axes - 1]
            axes -= 1
        return run, axes

    def _starts(self, axes: int) -> Iterator[npt.NDArray[np.uint64]]:
        """The offsets in the device of our runs, a block at a time."""
        shape, strides = self.shape[:axes], np.array(self.strides[:axes], np.int64)
        base = self._region.address + self._offset
        for first in range(0, math.prod(shape), RUNS):
            numbers = np.arange(first, min(first + RUNS, math.prod(shape)))
            at = (
                np.stack(np.unravel_index(numbers, shape), axis=-1) @ strides
                if axes
                else np.zeros(1, np.int64)
            )
            yield (at + base).astype(np.uint64)

    # Reading and writing

    def _transfer(self, starts: npt.NDArray[np.uint64], length: int, data: Array, write: bool) -> None:
        """Runs of bytes between the medium and a flat uint8 array."""
        lines, device = self._region.lines(), self._region.device
        call = lines.write_runs if write else lines.read_runs
        try:
            call(device.mapping(), device.base, starts, length, data)
        except REFUSALS as error:
            release(error)
            raise

    def _reserve(self) -> None:
        """Have file space under all of us, so that a write is refused before its first byte."""
        if not self.size:
            return
        region, low, high = self._region, 0, self.itemsize
        starts = np.array([self._region.address + self._offset], np.int64)
        for n, stride in zip(self.shape, self.strides, strict=True):
            if abs(stride) >= SPACE:
                starts = np.add.outer(starts, np.arange(n) * stride).reshape(-1)
            else:
                low, high = low + min(0, (n - 1) * stride), high + max(0, (n - 1) * stride)
        starts += low
        if high - low <= SPACE and not region.device.follows_stores:
            region.reserve_lines(starts.astype(np.uint64))
            region.reserve_lines((starts + (high - low - 1)).astype(np.uint64))
        else:
            for start in starts.tolist():
                region.reserve(start, high - low)

    def _get(self) -> Array:
        out = np.empty(self.shape, self.dtype)
        if not out.size:
            self._region.mapping()
            return out
        flat = out.reshape(-1).view(np.uint8)
        run, axes = self._run()
        if axes == 0:
            self._region.read_into(flat, self._offset)
            return out
        done = 0
        for starts in self._starts(axes):
            self._transfer(starts, run, flat[done : done + starts.size * run], write=False)
            done += starts.size * run
        return out

    def _put(self, values: Array) -> None:
        """Write an ndarray of our shape and dtype."""
        flat = np.ascontiguousarray(values).reshape(-1).view(np.uint8)
        if not flat.size:
            self._region.mapping()
            return
        run, axes = self._run()
        if axes == 0:
            self._region.write(self._offset, flat)
            return
        self._region.mapping()
        self._reserve()
        done = 0
        for starts in self._starts(axes):
            self._transfer(starts, run, flat[done : done + starts.size * run], write=True)
            done += starts.size * run

    def _blocks(self) -> Iterator[tuple[slice | int, ...]]:
        """Indices that cut the array into blocks of about BLOCK bytes, in order."""
        axis, rest = 0, self.nbytes
        while axis < self.ndim and rest > BLOCK and rest // max(1, self.shape[axis]) > BLOCK:
            rest //= max(1, self.shape[axis])
            axis += 1
        if axis == self.ndim:
            yield from np.ndindex(self.shape)
            return
        rows = max(1, BLOCK * self.shape[axis] // max(1, rest))
        for lead in np.ndindex(self.shape[:axis]):
            for row in range(0, self.shape[axis], rows):
                yield (*lead, slice(row, row + rows))

    def _apart(self, value: Any) -> Any:
        """An operand that writing to us leaves alone: copied if it is of our region, or ciphertext."""
        if isinstance(value, EncryptedArray):
            return np.asarray(value) if value._region is self._region else value
        if isinstance(value, np.ndarray) and np.may_share_memory(value, self._region.device.mapping()):
            return value.copy()
        return value

    def _assign(self, value: Any) -> None:
        """Write a value, broadcast and cast as numpy does, a block at a time."""
        value = self._apart(value)
        if isinstance(value, EncryptedArray) and (value.shape != self.shape or value.dtype.kind in "SU"):
            value = np.asarray(value)
        if not isinstance(value, EncryptedArray):
            # As numpy does, so that a number out of range or a tuple for a record is taken alike.
            value = np.asarray(value, None if isinstance(value, np.ndarray | np.generic) else self.dtype)
            if value.dtype == self.dtype and value.shape == self.shape and value.flags.c_contiguous:
                return self._put(value)
            # Casting is tried, and broadcasting checked, before anything is written.
            if value.size:
                np.empty(1, self.dtype)[...] = value.flat[:1]
            if value.dtype.kind in "OSUT" and value.dtype != self.dtype:  # any element may be refused
                value = value.astype(self.dtype)
            value = _fitted(value, self.shape)
        self._region.mapping()
        if self.nbytes > BLOCK:
            self._reserve()
        for index in self._blocks():
            piece = np.empty(self._ghost()[index].shape, self.dtype)
            piece[...] = value[index]
            target = self._view(index)
            assert target is not None
            target._put(piece)
        return None

    def __getitem__(self, index: Any) -> Any:
        """A view or an element (basic index), or an ndarray (advanced). Raises IndexError ..."""
        view = self._view(index)
        if view is not None:
            items = index if isinstance(index, tuple) else (index,)
            lone = not view.shape and not any(item is Ellipsis or isinstance(item, str) for item in items)
            return view._get()[()] if lone else view
        places = self._places(index)
        out = np.empty(places.shape, self.dtype)
        if out.size:
            starts = np.ascontiguousarray(places + self._region.address).reshape(-1).astype(np.uint64)
            self._transfer(starts, self.itemsize, out.reshape(-1).view(np.uint8), write=False)
        return out

    def __setitem__(self, index: Any, value: Any) -> None:
        """Assign with broadcasting and casting. Nothing is written if the value doesn't fit."""
        view = self._view(index)
        if view is not None:
            view._assign(value)
            return
        places = self._places(index)
        values = np.empty(places.shape, self.dtype)
        values[...] = value
        if values.size:
            starts = np.ascontiguousarray(places + self._region.address).reshape(-1).astype(np.uint64)
            self._region.mapping()
            step = PAGE if self._region.device.follows_stores else SPACE
            for at in range(0, self.itemsize, step):  # every line that an item begins, ends or fills in
                self._region.reserve_lines(starts + np.uint64(at))
            self._region.reserve_lines(starts + np.uint64(self.itemsize - 1))
            self._transfer(starts, self.itemsize, values.reshape(-1).view(np.uint8), write=True)

    # numpy's protocols

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an encrypted array can't be had without a copy: its elements lie encrypted")
        out = self._get()
        return out if dtype is None else out.astype(dtype, copy=False)

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        out = kwargs.pop("out", ())
        if method == "reduce" and not out:
            reduced = self._reduce(ufunc, inputs, kwargs)
            if reduced is not NotImplemented:
                return reduced
        if method == "__call__" and len(out) == 1 and out[0] is self and not kwargs and not ufunc.signature:
            return self._update(ufunc, inputs)
        plain = [np.asarray(x) if isinstance(x, EncryptedArray) else x for x in inputs]
        if method == "at" and isinstance(inputs[0], EncryptedArray):
            ufunc.at(*plain)
            inputs[0]._put(plain[0])
            return None
        if not any(isinstance(x, EncryptedArray) for x in out):
            return getattr(ufunc, method)(*plain, **({"out": out} if out else {}), **kwargs)
        temporary = tuple(np.asarray(x) if isinstance(x, EncryptedArray) else x for x in out)
        getattr(ufunc, method)(*plain, out=temporary, **kwargs)
        for place, made in zip(out, temporary, strict=True):
            if isinstance(place, EncryptedArray):
                place._put(made)
        return out[0] if len(out) == 1 else out

    def __array_function__(self, function: Callable[..., Any], types: Any, args: Any, kwargs: Any) -> Any:
        # The decrypted copies are read-only: a function that would change one is refused.
        given, out = _plain(kwargs), kwargs.get("out")
        if not isinstance(out, EncryptedArray):
            return function(*_plain(args), **given)
        given["out"] = np.asarray(out)
        function(*_plain(args), **given)
        out._put(given["out"])
        return out

    def _update(self, ufunc: np.ufunc, inputs: tuple[Any, ...]) -> EncryptedArray:
        """ufunc(*inputs, out=self), a block at a time."""
        others = [x if x is self else self._apart(x) for x in inputs]
        others = [x if x is self or np.ndim(x) == 0 else np.asarray(x) for x in others]
        # Tried on nothing first, so that a refused cast leaves everything as it was.
        ufunc(*(_none_of(x) for x in others), out=np.empty((0,), self.dtype))
        shapes = [np.shape(x) for x in others]
        if np.broadcast_shapes(self.shape, *shapes) != self.shape:
            raise ValueError(
                f"non-broadcastable output operand with shape {self.shape} doesn't match the broadcast shape "
                f"{np.broadcast_shapes(*shapes)}"
            )
        wide = [x if np.ndim(x) == 0 or x is self else np.broadcast_to(x, self.shape) for x in others]
        self._region.mapping()
        self._reserve()
        for index in self._blocks():
            target = self._view(index)
            assert target is not None
            piece = target._get()
            ufunc(*(piece if x is self else x if np.ndim(x) == 0 else x[index] for x in wide), out=piece)
            target._put(piece)
        return self

    def _reduce(self, ufunc: np.ufunc, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A reduction over all axes, a block at a time; NotImplemented for any other."""
        every = kwargs.get("axis", 0) in (None, tuple(range(self.ndim))) or (
            self.ndim == 1 and kwargs.get("axis", 0) == 0
        )
        if (
            inputs[0] is not self
            or not every
            or kwargs.get("where", True) is not True
            or kwargs.get("keepdims")
        ):
            return NotImplemented
        if self.nbytes <= BLOCK or (ufunc.identity is None and ufunc not in (np.maximum, np.minimum)):
            return NotImplemented
        options = {name: kwargs[name] for name in ("dtype",) if kwargs.get(name) is not None}
        parts = [ufunc.reduce(np.asarray(self[index]), axis=None, **options) for index in self._blocks()]
        initial = kwargs.get("initial", np._NoValue)
        return ufunc.reduce(np.array(parts), initial=initial, **options)

    # The methods of an ndarray that people call; each works on a decrypted copy or in blocks

    def sum(self, axis: Any = None, **options: Any) -> Any:
        return np.add.reduce(self, axis=axis, **options)

    def prod(self, axis: Any = None, **options: Any) -> Any:
        return np.multiply.reduce(self, axis=axis, **options)

    def min(self, axis: Any = None, **options: Any) -> Any:
        return np.minimum.reduce(self, axis=axis, **options)

    def max(self, axis: Any = None, **options: Any) -> Any:
        return np.maximum.reduce(self, axis=axis, **options)

    def any(self, axis: Any = None, **options: Any) -> Any:
        return np.logical_or.reduce(self, axis=axis, **options)

    def all(self, axis: Any = None, **options: Any) -> Any:
        return np.logical_and.reduce(self, axis=axis, **options)

    def fill(self, value: Any) -> None:
        self._assign(np.asarray(value, self.dtype))

    def __getattr__(self, name: str) -> Any:
        """Every other public method of an ndarray, on a decrypted copy."""
        if name.startswith("_") or name in _IN_PLACE or not callable(getattr(np.ndarray, name, None)):
            raise AttributeError(f"an encrypted array has no {name!r}: np.asarray(array).{name} may do")
        return lambda *args, **kwargs: getattr(np.asarray(self), name)(*args, **kwargs)


# Methods that would change, or hand out, the copy and not the array.
_IN_PLACE = frozenset(
    {"sort", "partition", "put", "itemset", "resize", "setfield", "setflags", "byteswap", "view", "getfield"}
)


def _plain(value: Any) -> Any:
    """Arguments of a numpy function with encrypted arrays decrypted."""
    if isinstance(value, EncryptedArray):
        copy = np.asarray(value)
        copy.flags.writeable = False
        return copy
    if isinstance(value, list | tuple):
        return type(value)(_plain(x) for x in value)
    if isinstance(value, dict):
        return {name: _plain(x) for name, x in value.items()}
    return value


def _as_integer(item: Any) -> Any:
    """An item of an index; as an integer if it is an array of no dimensions that holds one."""
    if item is None or isinstance(item, int | slice | np.bool_) or item is Ellipsis or np.ndim(item):
        return item
    lone = np.asarray(item)
    return int(lone) if lone.dtype.kind in "iu" else bool(lone) if lone.dtype.kind == "b" else item


def _none_of(x: Any) -> Any:
    """No element of an operand, of its dtype; scalars stay, since numpy casts them by their value."""
    return x if np.ndim(x) == 0 and not isinstance(x, EncryptedArray) else np.empty((0,), x.dtype)


def _fitted(value: Array, shape: tuple[int, ...]) -> Array:
    """A value broadcast to a shape; leading axes of length 1 fall away, as in numpy's assignment."""
    given = value.shape
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = value[0]
    try:
        return np.broadcast_to(value, shape)
    except ValueError:
        raise RegionError(f"could not broadcast input array from shape {given} into shape {shape}") from None
