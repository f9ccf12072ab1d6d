"""A small SIMD vocabulary for Numba: values that are several vector registers at once.

A value of type ``Pack(bits, regs)`` is `regs` vector registers of `bits` bits (128, 256 or 512),
and every operation treats all of them alike: one line of Python becomes `regs` independent
instructions, which is what keeps a pipelined AES unit busy. A one-register pack that meets a
wider one is used for each of its registers, as numpy broadcasts a scalar.

Memory is addressed by plain integers. Nothing here checks bounds, alignment or overlap: the
callers in this package validate before they call, and guard bytes in the tests watch them.

The instructions are LLVM intrinsics: AES-NI and VAES (Intel SDM vol. 2, AESENC ... PCLMULQDQ) on
x86-64, the Cryptographic Extension (Arm ARM, AESE ... PMULL) on AArch64. Arm's AESE adds the key
before the substitution and leaves MixColumns to AESMC, so an x86-style round is
``AESMC(AESE(x, 0)) ^ k``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from llvmlite import ir
from numba import extending
from numba.core import cgutils, types
from numba.extending import models, register_model

I8, I32, I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
BLOCK = ir.VectorType(I64, 2)  # one 16-byte cipher block
BYTES = ir.VectorType(I8, 16)  # the same as Arm's AES instructions want it


def intrinsic(function: Callable[..., Any]) -> Any:
    """Numba's decorator, without its typing: callers don't pass the first parameter."""
    return extending.intrinsic(function)


class Pack(types.Type):
    """The Numba type of `regs` registers of `bits` bits, used in kernels as a type token too."""

    def __init__(self, bits: int, regs: int) -> None:
        self.bits, self.regs = bits, regs
        super().__init__(f"Pack({bits}, {regs})")

    @property
    def key(self) -> tuple[int, int]:
        return self.bits, self.regs

    @property
    def reg(self) -> ir.VectorType:
        """The LLVM type of one register."""
        return ir.VectorType(I64, self.bits // 64)

    @property
    def per(self) -> int:
        """16-byte blocks in one register."""
        return self.bits // 128

    @property
    def blocks(self) -> int:
        """16-byte blocks in the whole pack."""
        return self.regs * self.per


@register_model(Pack)
class PackModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, dmm: Any, fe: Pack) -> None:
        super().__init__(dmm, fe, ir.ArrayType(fe.reg, fe.regs))


# Registers of a value, and a value of registers


def split(b: Any, ty: Pack, value: Any, regs: int = 0) -> list[Any]:
    out = [b.extract_value(value, i) for i in range(ty.regs)]
    return out * regs if ty.regs == 1 and regs else out


def join(b: Any, ty: Pack, regs: Sequence[Any]) -> Any:
    value = ir.Constant(ir.ArrayType(ty.reg, ty.regs), ir.Undefined)
    for i, r in enumerate(regs):
        value = b.insert_value(value, r, i)
    return value


def lanes(ty: Pack, words: Iterable[int]) -> ir.Constant:
    """A constant register of unsigned 64-bit words."""
    return ir.Constant(ty.reg, [w - (1 << 64) if w >> 63 else w for w in words])


def shuffle(b: Any, x: Any, y: Any, index: Sequence[int]) -> Any:
    return b.shuffle_vector(x, y, ir.Constant(ir.VectorType(I32, len(index)), list(index)))


def call(b: Any, name: str, result: Any, *args: Any) -> Any:
    signature = ir.FunctionType(result, [a.type for a in args])
    return b.call(cgutils.get_or_insert_function(b.module, signature, name), args)


def on_arm(b: Any) -> bool:
    return str(b.module.triple).startswith(("aarch64", "arm64"))


def pointer(b: Any, address: Any, ty: Any, offset: int = 0) -> Any:
    if offset:
        address = b.add(address, ir.Constant(I64, offset))
    return b.inttoptr(address, ty.as_pointer())


def block_at(b: Any, address: Any, offset: int) -> Any:
    return b.load(pointer(b, address, BLOCK, offset), typ=BLOCK, align=1)


# Operations on registers


def elementwise(emit: Callable[..., Any], arity: int = 2) -> Any:
    """An intrinsic that applies emit(builder, pack type, *registers) to each register."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        ty = signature.return_type
        columns = [split(b, t, a, ty.regs) for t, a in zip(signature.args, args, strict=True)]
        return join(b, ty, [emit(b, ty, *row) for row in zip(*columns, strict=True)])

    def widest(*packs: Any) -> Any:
        if all(isinstance(p, Pack) for p in packs) and len({p.bits for p in packs}) == 1:
            top = max(packs, key=lambda p: int(p.regs))
            if all(p.regs in (1, top.regs) for p in packs):
                return top(*packs), codegen
        return None

    if arity == 1:
        return intrinsic(lambda typing, x: widest(x))
    if arity == 2:
        return intrinsic(lambda typing, x, y: widest(x, y))
    return intrinsic(lambda typing, x, y, z: widest(x, y, z))


def emit_aes(x86: str, arm: str, mix: str) -> Callable[..., Any]:
    """One AES round of a register, on either processor."""

    def emit(b: Any, ty: Pack, x: Any, key: Any) -> Any:
        if on_arm(b):
            none = ir.Constant(BYTES, [0] * 16)
            y = call(b, f"llvm.aarch64.crypto.{arm}", BYTES, b.bitcast(x, BYTES), none)
            if mix:
                y = call(b, f"llvm.aarch64.crypto.{mix}", BYTES, y)
            return b.xor(b.bitcast(y, ty.reg), key)
        suffix = {128: "", 256: ".256", 512: ".512"}[ty.bits]
        return call(b, f"llvm.x86.aesni.{x86}{suffix}", ty.reg, x, key)

    return emit


aesenc = elementwise(emit_aes("aesenc", "aese", "aesmc"))
aesenclast = elementwise(emit_aes("aesenclast", "aese", ""))
aesdec = elementwise(emit_aes("aesdec", "aesd", "aesimc"))
aesdeclast = elementwise(emit_aes("aesdeclast", "aesd", ""))


def _aesimc(b: Any, ty: Pack, x: Any) -> Any:
    if on_arm(b):
        y = call(b, "llvm.aarch64.crypto.aesimc", BYTES, b.bitcast(x, BYTES))
        return b.bitcast(y, ty.reg)
    return call(b, "llvm.x86.aesni.aesimc", ty.reg, x)  # exists for 128 bits only


aesimc = elementwise(_aesimc, 1)
xor = elementwise(lambda b, ty, x, y: b.xor(x, y))
xor3 = elementwise(lambda b, ty, x, y, z: b.xor(b.xor(x, y), z), 3)


def emit_clmul(half: int) -> Callable[..., Any]:
    """Carry-less product of one 64-bit half of each block of x with the low half of y's block."""

    def emit(b: Any, ty: Pack, x: Any, y: Any) -> Any:
        if on_arm(b):
            words = [b.extract_element(v, ir.Constant(I32, i)) for v, i in ((x, half), (y, 0))]
            return b.bitcast(call(b, "llvm.aarch64.neon.pmull64", BYTES, *words), ty.reg)
        suffix = {128: "", 256: ".256", 512: ".512"}[ty.bits]
        name = f"llvm.x86.pclmulqdq{suffix}"
        return call(b, name, ty.reg, x, y, ir.Constant(I8, half))

    return emit


clmul_lo, clmul_hi = elementwise(emit_clmul(0)), elementwise(emit_clmul(1))


def _up64(b: Any, ty: Pack, x: Any) -> Any:
    n = 2 * ty.per
    return shuffle(b, x, lanes(ty, [0] * n), [v for q in range(0, n, 2) for v in (n, q)])


up64 = elementwise(_up64, 1)  # each block shifted up by 64 bits


# Loads


def spread(b: Any, blocks: Sequence[Any]) -> Any:
    """One register from its 16-byte blocks, lowest first."""
    if len(blocks) == 1:
        return blocks[0]
    if all(x is blocks[0] for x in blocks):
        return shuffle(b, blocks[0], blocks[0], [0, 1] * len(blocks))
    half = len(blocks) // 2
    low, high = spread(b, blocks[:half]), spread(b, blocks[half:])
    return shuffle(b, low, high, range(2 * len(blocks)))


def loader(name: str, register: Callable[[Any, Pack, Any, int], Any]) -> Any:
    """An intrinsic name(P, address) whose i-th register is register(builder, P, address, i)."""

    def typer(typing: Any, pack: Any, address: Any) -> Any:
        want = pack.instance_type

        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            return join(b, want, [register(b, want, args[1], i) for i in range(want.regs)])

        return want(pack, types.intp), codegen

    typer.__name__ = name
    return intrinsic(typer)


def _load(b: Any, want: Pack, address: Any, i: int) -> Any:
    return b.load(pointer(b, address, want.reg, want.bits // 8 * i), typ=want.reg, align=1)


def _broadcast(b: Any, want: Pack, address: Any, i: int) -> Any:
    return spread(b, [block_at(b, address, 0)] * want.per)


def _load_each4(b: Any, want: Pack, address: Any, i: int) -> Any:
    where = [(i * want.per + lane) // 4 for lane in range(want.per)]
    loaded = {w: block_at(b, address, 16 * w) for w in set(where)}
    return spread(b, [loaded[w] for w in where])


def _load_lines(b: Any, want: Pack, address: Any, i: int) -> Any:
    line, part = divmod(i, 512 // want.bits)
    at = b.load(pointer(b, address, I64, 8 * line), typ=I64, align=8)
    return b.load(pointer(b, at, want.reg, want.bits // 8 * part), typ=want.reg, align=1)


load = loader("load", _load)  # the pack as it lies in memory
broadcast = loader("broadcast", _broadcast)  # one block of memory in every block of the pack
load_each4 = loader("load_each4", _load_each4)  # each block of memory four times running
load_lines = loader("load_lines", _load_lines)  # 64-byte lines, from a table of their addresses


# Stores


def storer(name: str, emit: Callable[[Any, Pack, Any, list[Any]], None]) -> Any:
    """An intrinsic name(address, x) made by emit(builder, pack type, address, registers)."""

    def typer(typing: Any, address: Any, x: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            ty = signature.args[1]
            emit(b, ty, args[0], split(b, ty, args[1]))
            return context.get_dummy_value()

        return types.void(types.intp, x), codegen

    typer.__name__ = name
    return intrinsic(typer)


def streamed(b: Any, address: Any, offset: int, x: Any) -> None:
    """A store around the cache; the place is aligned to the value's size."""
    made = b.store(x, pointer(b, address, x.type, offset), align=8 * x.type.count)
    made.set_metadata("nontemporal", b.module.add_metadata([ir.Constant(I32, 1)]))


def _store(b: Any, ty: Pack, address: Any, registers: list[Any]) -> None:
    for i, x in enumerate(registers):
        b.store(x, pointer(b, address, ty.reg, ty.bits // 8 * i), align=1)


def _store_lines(b: Any, ty: Pack, address: Any, registers: list[Any]) -> None:
    for i, x in enumerate(registers):
        line, part = divmod(i, 512 // ty.bits)
        at = b.load(pointer(b, address, I64, 8 * line), typ=I64, align=8)
        b.store(x, pointer(b, at, ty.reg, ty.bits // 8 * part), align=1)


def _store_stream(b: Any, ty: Pack, address: Any, registers: list[Any]) -> None:
    for i, x in enumerate(registers):
        streamed(b, address, ty.bits // 8 * i, x)


def _store_stream16(b: Any, ty: Pack, address: Any, registers: list[Any]) -> None:
    """Each aligned register is the end of one of ours and the beginning of the next."""
    words = 2 * ty.per
    head = words - 2  # the 64-bit words of a register that lie before the aligned place
    first, last = registers[0], registers[-1]
    for w in range(0, head, 2):
        streamed(b, address, 8 * w, shuffle(b, first, first, [w, w + 1]))
    for i, (x, y) in enumerate(pairwise(registers)):
        streamed(b, address, 8 * (words * i + head), shuffle(b, x, y, range(head, head + words)))
    streamed(b, address, 8 * (words * len(registers) - 2), shuffle(b, last, last, [head, head + 1]))


store = storer("store", _store)
store_lines = storer("store_lines", _store_lines)  # 64-byte lines, to a table of their addresses
store_stream = storer("store_stream", _store_stream)  # around the cache, to a 64-byte boundary
store_stream16 = storer("store_stream16", _store_stream16)  # ... to 16 bytes past a boundary


@intrinsic
def fence(typing: Any) -> Any:
    """Order streaming stores before everything that follows (SFENCE; nothing to do on Arm)."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        if not on_arm(b):
            call(b, "llvm.x86.sse.sfence", ir.VoidType())
        return context.get_dummy_value()

    return types.void(), codegen


# Plain memory


@intrinsic
def scratch(typing: Any, pack: Any) -> Any:
    """The address of uninitialised, 64-byte aligned stack memory, as large as the pack."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        with b.goto_entry_block():  # not alloca_once, which clears it at every call
            room = b.alloca(ir.ArrayType(I8, 16 * want.blocks))
        room.align = 64
        return b.ptrtoint(room, I64)

    return types.intp(pack), codegen


@intrinsic
def peek(typing: Any, address: Any) -> Any:
    """The 64-bit integer at an address."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return b.load(pointer(b, args[0], I64), typ=I64, align=1)

    return types.int64(types.intp), codegen


@intrinsic
def poke(typing: Any, address: Any, value: Any) -> Any:
    """Write a 64-bit integer at an address."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        b.store(args[1], pointer(b, args[0], I64), align=1)
        return context.get_dummy_value()

    return types.void(types.intp, types.int64), codegen


@intrinsic
def copy(typing: Any, to: Any, source: Any, count: Any) -> Any:
    """Copy bytes between places that don't overlap."""

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        to, source = (b.inttoptr(a, I8.as_pointer()) for a in args[:2])
        cgutils.raw_memcpy(b, to, source, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp, types.intp), codegen


def prefetcher(name: str, locality: int) -> Any:
    """An intrinsic name(address) that asks for a cache line; harmless wherever that is."""

    def typer(typing: Any, address: Any) -> Any:
        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            hints = (ir.Constant(I32, v) for v in (0, locality, 1))  # read; LLVM's locality; data
            call(b, "llvm.prefetch.p0", ir.VoidType(), pointer(b, args[0], I8), *hints)
            return context.get_dummy_value()

        return types.void(types.intp), codegen

    typer.__name__ = name
    return intrinsic(typer)


prefetch = prefetcher("prefetch", 3)  # into every level of the cache
prefetch_far = prefetcher("prefetch_far", 1)  # into the second level


# Constants


def constant(name: str, word: Callable[[int], int]) -> Any:
    """An intrinsic name(P): a pack whose i-th block is the 64-bit number word(i)."""

    def typer(typing: Any, pack: Any) -> Any:
        want = pack.instance_type

        def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
            words = [[word(i * want.per + lane), 0] for i in range(want.regs) for lane in range(want.per)]
            flat = [w for pair in words for w in pair]
            size = 2 * want.per
            return join(b, want, [lanes(want, flat[i : i + size]) for i in range(0, len(flat), size)])

        return want(pack), codegen

    typer.__name__ = name
    return intrinsic(typer)


zero = constant("zero", lambda i: 0)
modulus = constant("modulus", lambda i: 0x87)  # x^128 = x^7 + x^2 + x + 1 (IEEE 1619-2018, 5.2)
alphas = constant("alphas", lambda i: 1 << i % 4)  # 1, a, a^2, a^3, 1, a, ...: the blocks of lines
powers = constant("powers", lambda i: 1 << i)  # 1, a, a^2, ...: the blocks of one unit


@intrinsic
def step(typing: Any, pack: Any) -> Any:
    """The constant a^blocks in one register: takes one pack's tweaks on to the next pack's."""
    want = pack.instance_type
    one = Pack(want.bits, 1)

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return join(b, one, [lanes(one, [1 << want.blocks, 0] * want.per)])

    return one(pack), codegen


@intrinsic
def size(typing: Any, pack: Any) -> Any:
    """Bytes in a pack, a constant."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(I64, 16 * want.blocks)

    return types.intp(pack), codegen


@intrinsic
def count(typing: Any, pack: Any, low: Any, high: Any) -> Any:
    """A pack whose i-th block is the words (low + i, high), low wrapping at 2^64."""
    want = pack.instance_type

    def codegen(context: Any, b: Any, signature: Any, args: Any) -> Any:
        pair = b.insert_element(ir.Constant(BLOCK, ir.Undefined), args[1], ir.Constant(I32, 0))
        pair = b.insert_element(pair, args[2], ir.Constant(I32, 1))
        first = spread(b, [pair] * want.per)
        return join(
            b,
            want,
            [
                b.add(first, lanes(want, [w for lane in range(want.per) for w in (i * want.per + lane, 0)]))
                for i in range(want.regs)
            ],
        )

    return want(pack, types.int64, types.int64), codegen
