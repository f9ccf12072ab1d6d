"""The memory controller: a table from KeyIDs to keys, a map from pages to KeyIDs, the way of the bytes.

It follows Intel's TME-MK (document 336907): a KeyID chooses the key with which each 64-byte line
of a page is encrypted, AES-XTS with one line as its data unit. KeyID 0 is no encryption, or with
`tme` a random key that nobody sees. Nothing checks that a line was written under the key that it
is read with: a wrong one yields garbage, as in the hardware.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from mktme import parallel, pconfig
from mktme.bus import Bus
from mktme.crypto.cipher import Lines
from mktme.errors import KeyIDError, KeyTableFull, MappingError, MktmeError, RekeyError, releasing
from mktme.keys import Key
from mktme.mapping import Mapping
from mktme.pagemap import PageMap
from mktme.region import Region
from mktme.rekey import JOURNAL
from mktme.stack.cached import CachedLines
from mktme.stack.poison import check_read, check_write, watched
from mktme.stack.slot import PLAIN, Slot
from pmem.buffers import Bytes, buffer_bytes, line_addresses, line_array
from pmem.cache import CpuCache
from pmem.device import Device
from pmem.geometry import LINE, PAGE, Size, check_range, parse_size

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Controller:
    """An MKTME-like memory controller in front of a device; itself a memory, of the same size.

    `keyid_bits` (1 to 15) gives 2^keyid_bits - 1 usable KeyIDs. With `tme`, KeyID 0 encrypts
    under a random key that is forgotten at a power cycle. `threads` is how many processors a
    long request may use (default: all that this process may). `counter_cache` says when counters and
    drawn IVs reach the medium in a persistence domain: "write-through" with the line, as one (SuperMem,
    MICRO 2019); "write-back" when the range that holds them is flushed and fenced, so perhaps never.

    Programming and mapping are thread-safe; so are reads and writes in several threads at once
    (two that overlap have no defined order; of two that write parts of one line at the same time
    one may be lost, since such a line is read, changed and written back, but not with integrity,
    nor in larger data units of CBC or a wide-block cipher: there the writer waits). As in the hardware,
    reprogramming or clearing a KeyID while a request runs under it leaves that request's bytes
    undefined.

    Raises KeyIDError if `keyid_bits` is out of range.
    """

    def __init__(
        self,
        device: Device,
        keyid_bits: int = 6,
        *,
        tme: bool = False,
        threads: int | None = None,
        counter_cache: str = "write-through",
    ) -> None:
        if counter_cache not in ("write-through", "write-back"):
            raise MappingError(f"a counter cache is write-through or write-back, not {counter_cache!r}")
        if not 1 <= keyid_bits <= 15:
            raise KeyIDError(f"{keyid_bits} KeyID bits: TME-MK has 1 to 15 (IA32_TME_CAPABILITY 35:32)")
        self.device, self.keyid_bits, self.tme = device, keyid_bits, tme
        self.threads = parallel.cpus() if threads is None else max(1, threads)
        self.size = device.size
        self._lock = threading.RLock()
        self._map = PageMap(device.size)
        self.slots: list[Slot | None] = []  # the KeyID table
        self._reset()
        self.cache: CpuCache | None = None  # what stands in front where power failures are modelled
        self.counter_cache = counter_cache
        if device.domain is not None:
            self.bus = Bus(self)
            self.cache = CpuCache(self.bus, device.domain)

    def __repr__(self) -> str:
        used = sum(slot is not None for slot in self.slots[1:])
        table = f"{used} of {len(self.slots) - 1} KeyIDs, {len(self._map)} regions"
        return f"<mktme.Controller of {self.device!r}: {table}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a controller holds keys and can't be pickled or copied")

    # The KeyID table

    @property
    def keyids(self) -> tuple[int, ...]:
        """The KeyIDs that are programmed."""
        return tuple(i for i, slot in enumerate(self.slots) if i and slot is not None)

    def program_key(self, key: Key, keyid: int | None = None) -> int:
        """Copy a key into the table, into the lowest free KeyID or a given one; returns the KeyID.

        Reprogramming a KeyID in use changes what its pages read as, at once.

        Raises KeyTableFull, KeyIDError, KeyMaterialError if the key has been cleared, SchemeError
        if a range is mapped under the KeyID with what doesn't fit the key.
        """
        slot = Slot.of(key)
        with self._lock:
            if keyid is None:
                keyid = next((i for i, slot in enumerate(self.slots) if slot is None), None)
                if keyid is None:
                    slot.wipe()
                    raise KeyTableFull(
                        f"all {len(self.slots) - 1} KeyIDs hold keys: clear one, or make the controller "
                        "with more keyid_bits"
                    )
            elif not 1 <= keyid < len(self.slots):
                slot.wipe()
                raise self._no_keyid(keyid)
            self._check_mapped(keyid, slot)
            self._set(keyid, slot)
        return keyid

    def clear_key(self, keyid: int) -> None:
        """Forget a KeyID's key: it behaves as KeyID 0 again. Raises KeyIDError."""
        with self._lock:
            if not 1 <= keyid < len(self.slots):
                raise self._no_keyid(keyid)
            if self.slots[keyid] is None:
                raise KeyIDError(f"KeyID {keyid} holds no key")
            self._set(keyid, None)

    def pconfig(self, struct: Any) -> pconfig.Status:
        """Execute PCONFIG's leaf MKTME_KEY_PROGRAM on a structure (`mktme.pconfig`).

        As in the hardware, equal data and tweak keys are taken. DEVICE_BUSY is returned while
        another thread is programming.

        Raises GeneralProtection where the instruction raises #GP; KeyMaterialError for a
        structure that doesn't have 256 bytes; SchemeError as `program_key`.
        """
        program = pconfig.parse(struct)
        if not 1 <= program.keyid < len(self.slots):
            return pconfig.Status.INVALID_KEYID
        if program.algorithm is None:
            return pconfig.Status.INVALID_ENC_ALG
        if not self._lock.acquire(blocking=False):
            return pconfig.Status.DEVICE_BUSY
        try:
            if program.command == pconfig.Command.CLEAR_KEY:
                self._set(program.keyid, None)
            elif program.command == pconfig.Command.NO_ENCRYPT:
                self._set(program.keyid, PLAIN)
            elif program.command in (pconfig.Command.SET_KEY_DIRECT, pconfig.Command.SET_KEY_RANDOM):
                try:
                    slot = _key_from_fields(struct, program)
                except OSError:  # the system's generator
                    return pconfig.Status.ENTROPY_ERROR
                self._check_mapped(program.keyid, slot)
                self._set(program.keyid, slot)
            else:
                return pconfig.Status.INVALID_PROG_CMD
        finally:
            self._lock.release()
        return pconfig.Status.PROG_SUCCESS

    def power_cycle(self) -> None:
        """Forget all keys and mappings, as at a loss of power; the media bytes stay.

        What the CPU cache in front holds is lost, too, unless it is in the persistence domain (eADR).
        To see what a power failure leaves of the device, use `device.crash`. Regions of before are
        gone: using one raises RegionUnmapped.
        """
        if self.cache is not None:
            if self.device.domain is not None and self.device.domain.kind == "eadr":
                self.cache.write_back()
            self.cache.discard(lambda _: True)
        with self._lock:
            for region in self._map.regions:
                self.unmap(region)
            if self.cache is not None:
                self.bus.forget()
            for keyid in self.keyids:
                self._set(keyid, None)
            self._reset()

    def slot(self, keyid: int) -> Slot:
        """What encrypts under a KeyID: its key, or KeyID 0's where it holds none."""
        return self.slots[keyid] or self.slots[0] or PLAIN

    def lines(self, keyid: int) -> Lines:
        """What encrypts the lines of a KeyID under pmem-line: of KeyID 0, an XTS key or none."""
        lines = self.slot(keyid).lines
        assert lines is not None
        return lines

    def through_cache(self, keyid: int) -> Lines | None:
        """The lines of a KeyID as the CPU cache in front has them; None without one."""
        return None if self.cache is None else CachedLines(self.cache, self.bus.address(keyid, 0))

    def near(self, address: int, length: int) -> list[Region]:
        """The regions that may lie in a range, in the order of their addresses."""
        with self._lock:
            return self._map.near(address, length)

    def _reset(self) -> None:
        if self.slots and self.slots[0] is not None:
            self.slots[0].wipe()
        self.slots = [None] * (1 << self.keyid_bits)
        self.slots[0] = PLAIN
        if self.tme:
            key = Key.generate("aes-xts-256")
            self.slots[0] = Slot.of(key)
            key.clear()

    def _set(self, keyid: int, slot: Slot | None) -> None:
        old, self.slots[keyid] = self.slots[keyid], slot
        if old is not None and old is not PLAIN:
            domain = self.device.domain
            if domain is not None and domain.observer is not None:
                domain.observer.retire(old.wipe)
            else:
                old.wipe()

    def _check_mapped(self, keyid: int, slot: Slot) -> None:
        """Refuse a key that doesn't fit the ranges mapped under its KeyID."""
        for region in self._map.regions:
            if region.keyid == keyid:
                try:
                    region.fits(slot)
                except MktmeError:
                    slot.wipe()
                    raise

    def _no_keyid(self, keyid: int) -> KeyIDError:
        return KeyIDError(
            f"KeyID {keyid} can't be programmed: with {self.keyid_bits} bits "
            f"they are 1 to {len(self.slots) - 1}"
        )

    # The page map

    @property
    def regions(self) -> tuple[Region, ...]:
        """The mapped regions in the order of their addresses."""
        return self._map.regions

    def map(
        self,
        address: Size,
        length: Size,
        keyid: int,
        iv: str = "pmem-line",
        *,
        unit: int | None = None,
        metadata: Size | None = None,
        integrity: bool = False,
        **coordinates: Any,
    ) -> Region:
        """Map a range of whole pages to a KeyID; returns the region to use it by.

        `address` and `length` are bytes, integers or text. KeyID 0 is allowed. `iv` names the IV
        scheme, `unit` is the size of its data unit where that isn't the scheme's usual one.
        `coordinates` are what the scheme needs and a memory controller doesn't know, by their
        names (`mktme.iv.COORDINATES`), each at the range's first data unit: block=0, inode=12,
        nonce=..., sector=2048. `integrity` keeps a MAC of each line and refuses lines that don't
        match. A scheme with counters or drawn IVs, and integrity, keep metadata on the device, at
        the page address `metadata`; `mktme.metadata_bytes` says how much.

        Raises MappingError if the range (or the metadata) isn't whole pages of the device or
        overlaps another; KeyIDError if the KeyID holds no key; SchemeError if the scheme needs
        what it isn't told, or doesn't fit the cipher or the unit. Warns with IvReuseWarning if a
        user's scheme repeats IVs.
        """
        start, count = parse_size(address), parse_size(length)
        self._map.check_pages(start, count)
        mapping = Mapping.of(iv, start, count, unit, integrity, coordinates)
        beside = self._check_metadata(start, count, mapping, metadata)
        with self._lock:
            if not 0 <= keyid < len(self.slots) or (slot := self.slots[keyid]) is None:
                raise KeyIDError(f"KeyID {keyid} holds no key: program one first, with program_key")
            device = self.device
            mapping.check(slot)
            mapping.warn_of_repeats(slot)
            for first, last in filter(None, ((start, start + count), beside)):
                self._map.check_free(first, last)
            region = Region(self, start, count, keyid, mapping, beside)
            self._map.insert(region)
            if self.counter_cache == "write-back" and device.domain is not None and region.kept is not None:
                device.domain.volatile.append(region.kept)
        return region

    def _check_metadata(
        self, start: int, count: int, mapping: Mapping, metadata: Size | None
    ) -> tuple[int, int] | None:
        """The range of a mapping's metadata; None if it has none."""
        needed = mapping.metadata_bytes(count)
        if not needed:
            if metadata is not None:
                raise MappingError(f"{mapping.scheme.name} keeps no metadata: leave it out")
            return None
        if metadata is None:
            kept = mapping.scheme.name if mapping.scheme.state else "integrity"
            raise MappingError(
                f"{kept} keeps {needed} bytes beside the data: pass metadata=, the address of as many free "
                "bytes on the device"
            )
        at = parse_size(metadata)
        self._map.check_pages(at, needed, "metadata's ")
        if at < start + count and start < at + needed:
            raise MappingError(f"the metadata, bytes {at} to {at + needed - 1}, overlaps the range itself")
        return at, at + needed

    def unmap(self, region: Region) -> None:
        """Remove a mapping; the region can't be used any more, the media bytes stay.

        Raises RegionUnmapped; MappingError if it is a region of another controller; ViewError while
        arrays over its view are alive.
        """
        with self._lock:
            region.mapping()
            region.close_view()
            self._map.remove(region)
            region.retire()
            if self.cache is not None:
                self.bus.unmapped(region)
                if self.device.domain is not None and region.kept in self.device.domain.volatile:
                    self.device.domain.volatile.remove(region.kept)

    def rekey(self, region: Region, key: Key, journal: Size, *, keyid: int | None = None) -> Region:
        """Encrypt a region under a new key, in place; returns the region under the key's KeyID.

        What the CPU cache holds of the region is flushed, each chunk is re-encrypted by way of a
        journal of `mktme.rekey.JOURNAL` bytes at a page address of the device, then the range is
        mapped anew. After a power failure at any moment: program the old key, map the range as
        before and call this again, with the same new key and journal; what is done is not done
        again, and a range that was all done is just mapped under the new key. The old KeyID keeps its
        key: clear it when no other range is under it. Nobody may use the region meanwhile.

        Raises RekeyError; RegionUnmapped, KeyTableFull, KeyIDError, SchemeError and MappingError as
        `map` and `program_key`, and ViewError while arrays over its view are alive, with nothing written;
        PoisonError for a line that doesn't match its MAC.
        """
        region.mapping()
        region.close_view()
        place = parse_size(journal)
        slot = Slot.of(key)
        try:
            self._map.check_pages(place, JOURNAL, "journal's ")
            with self._lock:
                self._map.check_free(place, place + JOURNAL)
                if self.slots[region.keyid] is None or self.slot(region.keyid).algorithm is None:
                    raise RekeyError(
                        f"KeyID {region.keyid} holds no key to decrypt the region with: program it first"
                    )
                region.fits(slot)
                if keyid is not None and 0 <= keyid < len(self.slots) and self.slots[keyid] is not None:
                    raise RekeyError(f"KeyID {keyid} holds a key: clear it first, or leave keyid out")
                number = self.program_key(key, keyid)
        finally:
            slot.wipe()
        try:
            work = region.rekeying(place, self.slot(number), number)
            region.flush()
            self.drain()
            work.run()
        except BaseException:
            self.clear_key(number)
            raise
        with self._lock:
            self.unmap(region)
            made = region.under(self, number)
            self._map.insert(made)
        return made

    def _segments(self, address: int, length: int) -> Iterator[tuple[int, int, Lines]]:
        """The (start, end, cipher) pieces of a byte range, unmapped ones under KeyID 0."""
        with self._lock:
            regions = self._map.near(address, length)
            near = [(r.address, r.address + r.size, r.lines()) for r in regions]
        nothing = self.through_cache(0) or watched(self.lines(0), self.device.poison)
        end = address + length
        for first, last, lines in near:
            if last <= address:
                continue
            if address < first:
                yield address, first, nothing
                address = first
            yield address, min(last, end), lines
            address = last
        if address < end:
            yield address, end, nothing

    # The line path

    def read(self, address: int, length: int) -> bytes:
        """Bytes of any range, decrypted page by page as the map says.

        Raises pmem.RangeError, DeviceClosed, DeviceChanged, PoisonError.
        """
        address, length = check_range(address, length, self.size, "device")
        out = np.empty(length, np.uint8)
        self.read_into(out, address)
        return out.tobytes()

    @releasing
    def read_into(self, buffer: Any, address: int = 0) -> None:
        """Fill a writable contiguous buffer from any range. Raises as `read`."""
        out = buffer_bytes(buffer, writable=True)
        address, _ = check_range(address, out.size, self.size, "device")
        media = self.device.mapping()
        segments = list(self._segments(address, out.size))
        if len(segments) > 1:
            for first, last, lines in segments:
                check_read(lines, first, last - first)
        for first, last, lines in segments:
            self.decrypt(lines, media, first, out[first - address : last - address])

    @releasing
    def write(self, address: int, data: Any) -> None:
        """Write a contiguous buffer to any range, encrypted page by page as the map says.

        Raises as `read`, pmem.ReadOnlyDevice, DeviceFull, and MappingError for a range in which a
        region keeps its metadata; nothing is written then.
        """
        source = buffer_bytes(data)
        address, _ = check_range(address, source.size, self.size, "device")
        media = self.device.mapping()
        source = _apart(source, media)
        if source.size:
            with self._lock:
                self._map.check_beside(address, address + source.size)
                near = self._map.near(address, source.size)
            self.device.reserve(address, source.size)
            for region in near:
                first, last = max(address, region.address), min(address + source.size, region.end)
                if region.metadata and first < last:
                    region.reserve(first, last - first)
        segments = list(self._segments(address, source.size))
        if len(segments) > 1:
            for first, last, lines in segments:
                check_write(lines, media, first, last - first)
        for first, last, lines in segments:
            self.encrypt(lines, media, first, source[first - address : last - address])

    def decrypt(self, lines: Lines, media: Bytes, start: int, out: Bytes) -> None:
        """The read path below the page map: checked bytes of one region, over several threads."""
        if out.size >= parallel.SPLIT_FROM:
            check_read(lines, start, out.size)
        self._split(lines.read, media, start, out)

    def encrypt(self, lines: Lines, media: Bytes, start: int, data: Bytes) -> None:
        """The write path below the page map; see `decrypt`."""
        if data.size >= parallel.SPLIT_FROM:
            check_write(lines, media, start, data.size)
        self._split(lines.write, media, start, _apart(data, media))

    def _split(
        self, call: Callable[[Bytes, int, int, Bytes], None], media: Bytes, start: int, data: Bytes
    ) -> None:
        """A request in pieces that end at page boundaries of the medium, so that they share no line."""
        device, head = self.device, -start % PAGE
        if data.size < parallel.SPLIT_FROM:
            return call(media, device.base, start, data)

        def work(first: int, last: int) -> None:  # an error that is kept keeps this, so not the medium
            first = first and first + head
            call(device.mapping(), device.base, start + first, data[first : last + head])

        return parallel.split(work, data.size - head, PAGE, self.threads)

    @releasing
    def read_lines(self, addresses: npt.ArrayLike) -> Bytes:
        """Scattered lines, over any regions: (n,) line-aligned addresses to (n, 64) uint8.

        Raises pmem.RangeError, DeviceClosed, DeviceChanged, PoisonError.
        """
        index = line_addresses(addresses, self.size)
        device = self.device
        device.mapping()
        out = np.empty((index.size, LINE), np.uint8)
        for lines, order in self._by_region(index):
            n = index.size if order is None else order.size

            def work(
                first: int, last: int, lines: Lines = lines, order: NDArray[np.uint64] | None = order
            ) -> None:
                media, base = device.mapping(), device.base
                if order is None:
                    lines.read_lines(media, base, index[first:last], None, out[first:last])
                else:
                    lines.read_lines(media, base, index, order[first:last], out)

            threads = self.threads if n * LINE >= parallel.SPLIT_FROM else 1
            parallel.split(work, n, 1, threads)
        return out

    @releasing
    def write_lines(self, addresses: npt.ArrayLike, lines: npt.ArrayLike) -> None:
        """Write scattered lines: (n,) line-aligned addresses and (n, 64) uint8.

        Of several lines for one address the last stays.

        Raises as `read_lines`, pmem.ReadOnlyDevice, DeviceFull, and MappingError for lines in which
        a region keeps its metadata; nothing is written then.
        """
        index = line_addresses(addresses, self.size)
        data = line_array(lines, index.size)
        low, high = (int(index.min()), int(index.max())) if index.size else (0, 0)
        with self._lock:
            near = self._map.near(low, high + LINE - low)
            for begin, end, _ in self._map.beside(low, high + LINE):
                for at in index[(index >= np.uint64(begin)) & (index < np.uint64(end))][:1].tolist():
                    self._map.check_beside(at, at + LINE)
        media, base = self.device.mapping(), self.device.base
        data = _apart(data, media)
        self.device.reserve_lines(index)
        for area in near:
            if area.metadata:
                within = (index >= np.uint64(area.address)) & (index < np.uint64(area.end))
                area.reserve_lines(index[within])
        for region, order in self._by_region(index):
            region.write_lines(media, base, index, order, data)

    def _by_region(self, index: NDArray[np.uint64]) -> Iterator[tuple[Lines, NDArray[np.uint64] | None]]:
        """What encrypts some lines, each with the positions of its lines (None: all)."""
        if not index.size:
            return
        low, high = int(index.min()), int(index.max())
        segments = list(self._segments(low, high + LINE - low))
        ways = {id(lines): lines for _, _, lines in segments}  # regions of one KeyID often share it
        if len(ways) == 1:
            yield segments[0][2], None
            return
        ends = np.array([last for _, last, _ in segments], np.uint64)
        places = {key: i for i, key in enumerate(ways)}
        table = np.array([places[id(lines)] for _, _, lines in segments], np.intp)
        under = table[np.searchsorted(ends, index, side="right")]
        order = np.argsort(under, kind="stable").astype(np.uint64)
        sorted_ids = under[order]
        edges = np.flatnonzero(sorted_ids[1:] != sorted_ids[:-1]) + 1
        chosen = list(ways.values())
        for part in np.split(order, edges):
            yield chosen[under[part[0]]], part

    def flush(self, address: int = 0, length: int | None = None) -> None:
        """Flush a byte range, each page under its KeyID. Raises as `pmem.Device.flush`."""
        address, count = check_range(address, 0 if length is None else length, self.size, "device")
        count = self.size - address if length is None else count
        if self.cache is not None:
            for first, last, keyid in self._keyids(address, address + count):
                self.cache.flush(self.bus.address(keyid, first), last - first)
        self.device.flush(address, count)

    def drain(self) -> None:
        """Wait until what was flushed is durable. Raises as `pmem.Device.drain`."""
        self.device.drain()
        if self.cache is not None and not self.cache.dirty.at:
            self.bus.forget()

    def deep_flush(self, address: int = 0, length: int | None = None) -> None:
        """Make a range durable in the image file itself. Raises as `pmem.Device.flush`."""
        self.flush(address, length)
        self.drain()
        self.device.deep_flush(address, length)

    def _keyids(self, address: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The (start, end, KeyID) pieces of a byte range."""
        for region in self.near(address, end - address):
            if region.end <= address:
                continue
            if address < region.address:
                yield address, min(region.address, end), 0
            if region.address < end:
                yield max(address, region.address), min(region.end, end), region.keyid
            address = region.end
        if address < end:
            yield address, end, 0


def _apart(data: Bytes, media: Bytes) -> Bytes:
    """Data to write, copied if it is ciphertext that lies on the medium and may change meanwhile."""
    return data.copy() if np.may_share_memory(data, media) else data


def _key_from_fields(struct: Any, program: pconfig.KeyProgram) -> Slot:
    """The slot that a key-programming structure asks for.

    KEYID_SET_KEY_RANDOM draws both keys and xors the leading bytes of the key fields in.
    """
    algorithm = program.algorithm or ""
    size = 16 if algorithm == "aes-xts-128" else 32
    view = memoryview(struct).cast("B")
    halves = [np.zeros(size, np.uint8), np.zeros(size, np.uint8)]
    if program.command == pconfig.Command.SET_KEY_RANDOM:
        drawn = Key.generate(algorithm)
        for half, made in zip(halves, drawn.parts(), strict=True):
            half[:] = made
        drawn.clear()
    for half, field in zip(halves, (pconfig.KEY_FIELD_1, pconfig.KEY_FIELD_2), strict=True):
        half ^= np.frombuffer(view[field : field + size], np.uint8)
    slot = Slot.from_parts(algorithm, halves)
    for half in halves:
        half[:] = 0
    return slot
