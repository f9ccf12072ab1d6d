"""Files through the page cache: the way of software encryption and of inline engines.

A mapped page is first brought into DRAM: a fault, a request, a copy, and what decrypts 4 KiB; stores change
the page there. What a program persists by flush and fence needs a system call here (msync): each page
that was flushed is encrypted and written whole. `crypt`: none (a file system without DAX), software
(AES on the core, through a bounce page; fscrypt), or inline (an engine between memory and device).
Pages that are evicted dirty are written by the kernel's own threads, at no cost to the program's but for
the bandwidth.
"""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.kernel import inline, part
from mktme.errors import TimingError
from mktme.timing import caches, cells, controller
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import DRAM, PAGES, PMEM, State, Words, ps
from pmem.geometry import LINE, PAGE

CRYPTS = ("none", "software", "inline")
NONE, SOFTWARE, INLINE = range(3)
# Words of the header. LIST: pages that became dirty, DIRTY of them, ROOM at most. Counts: faults, pages read,
# pages written, those of them that were evicted, bytes copied, pages that went through the cipher, times
# that the key was put into a slot.
(CACHE, FAULT, COPY, CRYPT, DELAY, REQUEST, PROGRAM, MODE, LIST, ROOM) = range(10)
(FAULTS, READ, WRITTEN, EVICTED, COPIED, CRYPTED, PROGRAMMED, DIRTY) = range(10, 18)
HEADER = 24
LINES = PAGE // LINE


@dataclass(frozen=True, kw_only=True)
class PageCache(Component):
    """The page cache and what encrypts behind it."""

    crypt: str = parameter("none", "", "what is compared: none, software, inline")
    size: int = parameter(1 << 30, "B", "assumed: DRAM for the page cache", low=16 * PAGE)
    fault_ns: float = parameter(1000.0, "ns", "assumed: a minor fault with its page-table update")
    request_ns: float = parameter(800.0, "ns", "assumed: block request to a pmem device, submit and complete")
    copy_gb_per_s: float = parameter(
        10.0, "GB/s", "assumed: memcpy on one core; see --measure-host", low=1e-6
    )
    aes_gb_per_s: float = parameter(
        2.2, "GB/s", "assumed: AES-256-XTS by AES-NI in the kernel, 4 KiB units; see --measure-host", low=1e-6
    )
    inline_ns: float = parameter(100.0, "ns", "assumed: latency that an inline engine adds to a request")
    inline_gb_per_s: float = parameter(8.0, "GB/s", "assumed: rate of an inline engine", low=1e-6)
    slot_ns: float = parameter(2000.0, "ns", "assumed: programming a key slot; once, for one key")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.crypt not in CRYPTS:
            raise TimingError(f"PageCache.crypt = {self.crypt!r}: it must be one of {', '.join(CRYPTS)}")
        pages, rest = divmod(self.size, PAGE)
        if rest or pages & (pages - 1):
            raise TimingError(f"PageCache.size = {self.size} B: it must be a power of two of pages of {PAGE}")

    def lay(self, words: Words) -> int:
        """Its place among the words."""
        pages = self.size // PAGE
        rate = {"none": 0.0, "software": self.aes_gb_per_s, "inline": self.inline_gb_per_s}[self.crypt]
        place = words.take(
            HEADER,
            caches.lay(words, pages // 16, 16, 0),
            ps(self.fault_ns),
            ps(PAGE / self.copy_gb_per_s),
            ps(PAGE / rate) if rate else 0,
            ps(self.inline_ns) if self.crypt == "inline" else 0,
            ps(self.request_ns),
            ps(self.slot_ns),
            CRYPTS.index(self.crypt),
        )
        words[place + LIST] = words.take(2 * pages)
        words[place + ROOM] = 2 * pages
        return place


@part
def fetch(s: State, line: int, t: int) -> int:
    """When a line of a page in DRAM, asked for at t, has come."""
    return controller.read(s, s[DRAM], line, t)


@part
def write_back(s: State, line: int, t: int) -> int:
    """When a line of a page is back in DRAM."""
    return controller.write(s, s[DRAM], line, t)


@part
def _cipher(s: State, p: int, t: int) -> int:
    """4 KiB go through the cipher at t; when they have."""
    mode = s[p + MODE]
    if mode == NONE:
        return t
    s[p + CRYPTED] += 1
    if mode == SOFTWARE:
        s[p + COPIED] += PAGE  # through the bounce page
        return t + s[p + COPY] + s[p + CRYPT]
    if s[p + PROGRAMMED] == 0:
        s[p + PROGRAMMED] = 1
        t += s[p + PROGRAM]
    return t + s[p + DELAY] + s[p + CRYPT]


@part
def _read_page(s: State, p: int, page: int, t: int) -> int:
    """A page comes from the device; when its plaintext is in DRAM."""
    s[p + READ] += 1
    s[p + COPIED] += PAGE
    t += s[p + REQUEST]
    came = t
    for line in range(page * LINES, page * LINES + LINES):
        came = max(came, controller.read(s, s[PMEM], line, t))
    return _cipher(s, p, came + s[p + COPY])


@part
def _write_page(s: State, g: State, p: int, page: int, t: int) -> int:
    """A page goes to the device; when it is durable there."""
    s[p + WRITTEN] += 1
    s[p + COPIED] += PAGE
    t = _cipher(s, p, t + s[p + REQUEST] + s[p + COPY])
    durable = t
    for line in range(page * LINES, page * LINES + LINES):
        cells.written(s, g, line)
        durable = max(durable, controller.write(s, s[PMEM], line, t))
    return durable


@part
def _list(s: State, p: int, page: int) -> None:
    """Remember that a page has become dirty."""
    if s[p + DIRTY] == s[p + ROOM]:  # entries of pages that were evicted or synced since: anew
        c, count = s[p + CACHE], 0
        for i in range(s[c + caches.ENTRIES], caches.end(s, c)):
            if s[i] & 1:
                s[s[p + LIST] + count] = (s[i] >> 1) - 1
                count += 1
        s[p + DIRTY] = count
    s[s[p + LIST] + s[p + DIRTY]] = page
    s[p + DIRTY] += 1


@inline
def _evict(s: State, g: State, p: int, victim: int, t: int) -> None:
    """A page leaves the cache, dirty, unless it is none."""
    if victim >= 0:
        s[p + EVICTED] += 1
        _write_page(s, g, p, victim, t)


@inline
def _dirty(s: State, p: int, page: int) -> None:
    """A page that is in the cache becomes dirty."""
    place = caches.find(s, s[p + CACHE], page)
    if not s[place] & 1:
        s[place] |= 1
        _list(s, p, page)


@part
def touch(s: State, g: State, line: int, dirty: int, t: int) -> int:
    """A mapped line is used at t: when its page is there."""
    p = s[PAGES]
    page = line // LINES
    victim = caches.access(s, s[p + CACHE], page, 0)
    if victim != caches.HIT:
        s[p + FAULTS] += 1
        t = _read_page(s, p, page, t + s[p + FAULT])
        _evict(s, g, p, victim, t)
    if dirty:
        _dirty(s, p, page)
    return t


@part
def sync_page(s: State, g: State, page: int, t: int) -> int:
    """Write a page if it is dirty; when it is durable."""
    p = s[PAGES]
    if caches.clean(s, s[p + CACHE], page):
        return _write_page(s, g, p, page, t)
    return t


@part
def sync_all(s: State, g: State, t: int) -> int:
    """Write all dirty pages, in the order in which they became so; when they are durable."""
    p = s[PAGES]
    for i in range(s[p + DIRTY]):
        t = sync_page(s, g, s[s[p + LIST] + i], t)
    s[p + DIRTY] = 0
    return t


@part
def use_range(s: State, g: State, address: int, size: int, dirty: int, t: int) -> int:
    """read() or write() of a range at t: pages are brought in, bytes copied; when that is done.

    Pages that are written whole aren't read first.
    """
    p = s[PAGES]
    end = address + size
    for page in range(address // PAGE, (end - 1) // PAGE + 1):
        low, high = max(address, page * PAGE), min(end, (page + 1) * PAGE)
        victim = caches.access(s, s[p + CACHE], page, 0)
        if victim != caches.HIT:
            if not (dirty and high - low == PAGE):
                t = _read_page(s, p, page, t)
            _evict(s, g, p, victim, t)
        if dirty:
            _dirty(s, p, page)
        s[p + COPIED] += high - low
        t += s[p + COPY] * (high - low) // PAGE
    return t
