"""Counters of counter mode: where they lie, the cache in front of them, when they are written, their tree.

A line of split counters covers a page: a major counter and 64 minor ones of 7 bits (Yan et al., ISCA
2006); when a minor one overflows the page's lines are all encrypted anew. Counter lines lie behind the
data on the same DIMMs. What persists them:

- write-through: with every line of data goes its counter line (Zuo et al., SuperMem); with `coalesce`
  a counter line that still waits in the queue takes the new one's place (their CWC, and SecPM's CWR).
- write-back: a line of counters is written when it leaves the cache, and when one of them has changed
  `stop_loss` times; what
  a power failure takes away is found again by trial (Ye et al., Osiris).
- battery: when it leaves the cache; the cache survives a power failure.

The tree (Rogers et al., MICRO 2007: Bonsai) is over the counters, eight to a node; nodes share the cache. A
counter that is fetched is verified up to the first node in the cache; what is written makes its parent
dirty in the cache. MACs of data lie in the bits of ECC (Saileshwar et al., Synergy, HPCA 2018).
"""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.kernel import inline, part
from mktme.errors import TimingError
from mktme.timing import caches, cells, controller, growing, sets
from mktme.timing.parameters import Component, parameter
from mktme.timing.words import PMEM, State, Words, ps
from pmem.geometry import LINE, PAGE

POLICIES = ("write-through", "write-back", "battery")
THROUGH, BACK, BATTERY = range(3)
# Words of the header. FETCHED, WRITTEN: lines of counters; TREE_FETCHED, TREE_WRITTEN: nodes; FORCED: counter
# lines that the stop-loss wrote; OVERFLOWS: pages that were encrypted anew.
(CACHE, BASE, POLICY, STOP_LOSS, COALESCE, LEVELS, HASH, PER_PAGE, STARTS) = range(9)
(FETCHED, WRITTEN, TREE_FETCHED, TREE_WRITTEN, FORCED, OVERFLOWS) = range(24, 30)
HEADER = 32
ARITY = 8
PAGE_LINES = PAGE // LINE
MINOR_LIMIT = 127


@dataclass(frozen=True, kw_only=True)
class Counters(Component):
    """Counters, their cache and their tree.

    Raises TimingError if the cache isn't a power of two of sets, or for a policy that isn't one.
    """

    policy: str = parameter("write-through", "", "what is compared: write-through, write-back, battery")
    coalesce: bool = parameter(False, "", "Zuo et al., MICRO 2019 (SuperMem): counter write coalescing")
    stop_loss: int = parameter(
        4, "", "Ye et al., MICRO 2018 (Osiris): a counter's 4th change", low=1, high=127
    )
    size: int = parameter(256 << 10, "B", "assumed, after Zuo et al., MICRO 2019 (SuperMem)", low=LINE)
    ways: int = parameter(8, "", "assumed, after Zuo et al., MICRO 2019", low=1, high=sets.WAYS)
    latency_ns: float = parameter(2.6, "ns", "assumed, after Zuo et al., MICRO 2019: 8 cycles, at 3.1 GHz")
    per_page: int = parameter(
        1,
        "",
        "2: a line of the file's counters beside the memory's, for a second pad (FsEncr)",
        low=1,
        high=2,
    )
    tree: bool = parameter(False, "", "what is compared: an integrity tree over the counters")
    hash_ns: float = parameter(40.0, "ns", "assumed: as AES")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.policy not in POLICIES:
            raise TimingError(f"Counters.policy = {self.policy!r}: it must be one of {', '.join(POLICIES)}")
        caches.Cache(size=self.size, ways=self.ways)

    def lay(self, words: Words, lines: int) -> int:
        """Its place among the words, for a device of as many lines."""
        place = words.take(HEADER)
        words[place + CACHE] = caches.lay(
            words, self.size // LINE // self.ways, self.ways, ps(self.latency_ns)
        )
        words[place + BASE] = lines
        words[place + POLICY] = POLICIES.index(self.policy)
        words[place + STOP_LOSS] = self.stop_loss
        words[place + COALESCE] = self.coalesce
        words[place + HASH] = ps(self.hash_ns)
        words[place + PER_PAGE] = self.per_page
        for level, start in enumerate(starts(lines, self.per_page) if self.tree else ()):
            words[place + STARTS + level] = start
            words[place + LEVELS] = level
        return place


def starts(lines: int, per_page: int) -> list[int]:
    """Of each level of the tree, counters first, the number of its first node; the root isn't stored.

    The last entry is the number of all nodes.
    """
    found, count, total = [0], -(-lines // PAGE_LINES) * per_page, 0
    while count > 1 or total == 0:
        total += count
        found.append(total)
        count = -(-count // ARITY)
    return found


@part
def _parent(s: State, c: int, node: int) -> int:
    """The node above, or -1 below the root."""
    level = 0
    while node >= s[c + STARTS + level + 1]:
        level += 1
    if level + 1 >= s[c + LEVELS]:
        return -1
    return s[c + STARTS + level + 1] + (node - s[c + STARTS + level]) // ARITY


@part
def _write(s: State, g: State, c: int, node: int, t: int) -> int:
    """Write a counter line or a node to the device; when it is durable."""
    if s[c + LEVELS] and node >= s[c + STARTS + 1]:
        s[c + TREE_WRITTEN] += 1
    else:
        s[c + WRITTEN] += 1
        if s[c + POLICY] == BACK:
            base = growing.slot(g, node) + cells.UPDATES
            for i in range(PAGE_LINES // 8):
                g[base + i] = 0
    return controller.write(s, s[PMEM], s[c + BASE] + node, t)


@part
def _written(s: State, g: State, c: int, node: int, t: int) -> None:
    """A node has been written: its parent changes, which may push another one out of the cache.

    It ends: each turn puts a changed node into the cache that is nearer to the root than one that was.
    """
    if s[c + LEVELS] == 0:
        return
    cache = s[c + CACHE]
    while True:
        above = _parent(s, c, node)
        if above < 0:
            return
        victim = caches.access(s, cache, above, 1)
        if victim == caches.HIT:
            return
        s[c + TREE_FETCHED] += 1
        controller.read(s, s[PMEM], s[c + BASE] + above, t)
        if victim < 0:
            return
        node = victim
        _write(s, g, c, node, t)


@inline
def _evict(s: State, g: State, c: int, victim: int, t: int) -> None:
    """A counter line or node leaves the cache, dirty, unless it is none."""
    if victim >= 0:
        _write(s, g, c, victim, t)
        _written(s, g, c, victim, t)


@part
def for_read(s: State, g: State, c: int, line: int, t: int) -> int:
    """When a line's counter, asked for at t, is known and verified."""
    node = line // PAGE_LINES * s[c + PER_PAGE]
    known = _known(s, g, c, node, t)
    if s[c + PER_PAGE] == 2:
        known = max(known, _known(s, g, c, node + 1, t))
    return known


@part
def _known(s: State, g: State, c: int, node: int, t: int) -> int:
    """The same for a line of counters."""
    cache = s[c + CACHE]
    t += s[cache + caches.DELAY]
    victim = caches.access(s, cache, node, 0)
    if victim == caches.HIT:
        return t
    s[c + FETCHED] += 1
    known = controller.read(s, s[PMEM], s[c + BASE] + node, t)
    _evict(s, g, c, victim, known)
    if s[c + LEVELS] == 0:
        return known
    checks = 1
    above = _parent(s, c, node)
    while above >= 0:
        victim = caches.access(s, cache, above, 0)
        if victim == caches.HIT:
            break
        s[c + TREE_FETCHED] += 1
        checks += 1
        known = max(known, controller.read(s, s[PMEM], s[c + BASE] + above, t))
        _evict(s, g, c, victim, known)
        above = _parent(s, c, above)
    return known + checks * s[c + HASH]


@part
def for_write(s: State, g: State, c: int, line: int, t: int) -> int:
    """When a line's next counter is known; the other lines of its page are encrypted anew if it overflows."""
    known = for_read(s, g, c, line, t)
    base, number = growing.slot(g, line // PAGE_LINES) + cells.MINORS, line % PAGE_LINES
    word, bits = base + number // 8, 8 * (number % 8)
    if (g[word] >> bits) & MINOR_LIMIT < MINOR_LIMIT:
        g[word] += 1 << bits
    else:
        s[c + OVERFLOWS] += 1
        first = line - number
        for i in range(PAGE_LINES // 8):
            g[base + i] = 0
        for other in range(PAGE_LINES):
            if other != number:
                came = controller.read(s, s[PMEM], first + other, known)
                cells.written(s, g, first + other)
                controller.write(s, s[PMEM], first + other, came)
    return known


@part
def update(s: State, g: State, c: int, line: int, t: int) -> int:
    """A line's counter has changed at t: when what must be durable of it is."""
    node = line // PAGE_LINES * s[c + PER_PAGE]
    durable = _update(s, g, c, node, line % PAGE_LINES, t)
    if s[c + PER_PAGE] == 2:
        durable = max(durable, _update(s, g, c, node + 1, line % PAGE_LINES, t))
    return durable


@part
def _update(s: State, g: State, c: int, node: int, number: int, t: int) -> int:
    """The same for a counter of a line of counters."""
    policy = s[c + POLICY]
    if policy == THROUGH:
        if s[c + COALESCE] and controller.waiting(s, s[PMEM], s[c + BASE] + node, t):
            return t
        durable = _write(s, g, c, node, t)
        _written(s, g, c, node, t)
        return durable
    place = caches.find(s, s[c + CACHE], node)
    if place >= 0:
        s[place] |= 1
    else:  # pushed out again by its own tree
        durable = _write(s, g, c, node, t)
        _written(s, g, c, node, t)
        return durable
    if policy == BACK:
        word, bits = growing.slot(g, node) + cells.UPDATES + number // 8, 8 * (number % 8)
        g[word] += 1 << bits
        if (g[word] >> bits) & 0xFF >= s[c + STOP_LOSS]:
            s[c + FORCED] += 1
            s[place] &= ~1
            durable = _write(s, g, c, node, t)
            _written(s, g, c, node, t)
            return durable
    return t
