"""From evidence to grades: what each experiment's outcome means for a reader.

    good     the scheme holds, or the operation costs nothing
    costs    it holds at a price, or leaks a little, as the text says
    breaks   an attack recovered data or a file system can't do what it wants

A grade is a function of the evidence alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mktme.lab.iv.operations import COPIES, FREE, LOSES, NEEDS_KEY, REENCRYPTS, SAME_OFFSET
from mktme.lab.iv.tamper import CHANCE

GOOD, COSTS, BREAKS = "good", "costs", "breaks"
Grade = tuple[str, str]  # the grade, and a few words
Evidence = dict[str, Any]


def _percent(share: float) -> str:
    """A percentage that says 100 only of all."""
    return ">99%" if 0.995 <= share < 1 else f"{share:.0%}"


def places(found: Evidence) -> Grade:
    share = found["linked"] / max(1, found["lines"])
    if not found["linked"]:
        return GOOD, "none linked"
    return BREAKS if share > 0.5 else COSTS, f"{_percent(share)} linked"


def times(found: Evidence) -> Grade:
    if found["recognised"]:
        return BREAKS, f"{_percent(found['recognised'] / max(1, found['recurring']))} told"
    if found["kept_seen"]:
        return COSTS, "unchanged seen"
    return GOOD, "nothing seen"


def relocation(found: Evidence) -> Grade:
    if found["detected"]:
        return GOOD, "detected"
    share = found["recovered"]
    if share < CHANCE:
        return GOOD, "garbage"
    how = " masked" if found["masked"] else " read"
    return BREAKS, f"{_percent(share)}{how}"


def replay(found: Evidence) -> Grade:
    alone, whole = found["data"], found["data and metadata"]
    if alone["outcome"] == "accepted":
        return BREAKS, "accepted"
    if alone["outcome"] == "partly":
        return BREAKS, f"{_percent(alone['restored'])} accepted"
    if whole["outcome"] == "detected":
        return GOOD, "detected"
    return (GOOD, "garbage") if whole["outcome"] == "garbage" else (BREAKS, "with metadata")


def flips(found: Evidence) -> Grade:
    beside = found["beside"].values()
    if found["detected"] == found["tries"]:
        unseen = any(kind["garbage"] for kind in beside)
        return (COSTS, "data detected") if unseen else (GOOD, "detected")
    if found["alone"]:
        return BREAKS, "chosen bit"
    if found["chosen_next"]:
        return BREAKS, "bit + 16 B"
    return COSTS, f"{found['span']} B garbage"


def operation(found: Evidence) -> Grade:
    outcome = found["outcome"]
    grade = {
        FREE: GOOD, REENCRYPTS: COSTS, SAME_OFFSET: COSTS, COPIES: BREAKS, NEEDS_KEY: BREAKS, LOSES: BREAKS,
    }[outcome]  # fmt: skip
    return grade if found["verified"] else BREAKS, outcome


def reuse(found: Evidence) -> Grade:
    if found["equal_in_two_files"]:
        return BREAKS, "between files"
    if found["equal_past_2^32_sectors"]:
        return BREAKS, "past 2 TiB"
    if "birthday" in found:
        pairs = found["birthday"]["counted_pairs"]
        return COSTS, f"{sum(pairs) / len(pairs):.0f} pairs"
    if found["repeated"]:
        return COSTS, f"{found['repeated'] / found['units']:.0%} of units"
    return GOOD, "none"


def watermark(found: Evidence) -> Grade:
    if found["found"] > found["marked"] / 2:
        return BREAKS, "found"
    return GOOD, "hidden"


def lost_state(found: Evidence) -> Grade:
    if found["recovered"] > CHANCE:
        return BREAKS, f"{_percent(found['recovered'])} read"
    return GOOD, "nothing"


def exhaustion(found: Evidence) -> Grade:
    if found["counter"] is None:
        return GOOD, "none"
    return (GOOD, "refused") if found["outcome"] == "refused" else (BREAKS, "wraps")


def cost(found: Evidence) -> Grade:
    worst = min(found["read_ratio"], found["write_ratio"])
    text = f"{found['read_ratio']:.2f}/{found['write_ratio']:.2f}x"
    return GOOD if worst >= 0.8 else COSTS, text


def room(found: Evidence) -> Grade:
    share = found["bytes_per_gib"] / 2**30
    return (GOOD, "0") if not share else (COSTS, f"{share:.1%}")


def amplification(found: Evidence) -> Grade:
    factor = found["amplification"]
    return GOOD if factor < 1.5 else COSTS, f"{factor:.1f}x"


def bit_flips(found: Evidence) -> Grade:
    total = found["encrypted"] + found["beside"]
    return GOOD if total < 0.3 else COSTS, f"{total:.0%} ({found['encrypted']:.0%})"


# Columns of the matrix: the experiment's key, its head, what grades it.
COLUMNS: dict[str, tuple[str, Callable[[Evidence], Grade]]] = {
    "places": ("equal data,\nother place", places),
    "times": ("equal data,\nother time", times),
    "relocation": ("moved by\nattacker", relocation),
    "replay": ("replayed", replay),
    "flips": ("bit\nflipped", flips),
    "move, unlocked": ("move,\nunlocked", operation),
    "move, locked": ("move,\nlocked", operation),
    "defragment": ("defrag-\nment", operation),
    "share (reflink)": ("reflink", operation),
    "copy the image": ("copy\nimage", operation),
    "DIMM to another slot": ("DIMM\nmoved", operation),
    "grow the interleave set": ("interleave\ngrown", operation),
    "reuse": ("IV\nreuse", reuse),
    "watermark": ("water-\nmark", watermark),
    "lost state": ("state lost\nin crash", lost_state),
    "overflow": ("counter\nruns out", exhaustion),
    "cost": ("read/write of\npmem-line", cost),
    "room": ("kept\nbeside", room),
    "amplification": ("lines a\nline write", amplification),
    "bit flips": ("bits flipped\n(in the line)", bit_flips),
}


# The columns of attacks and observations, and of what a file system and an administrator want.
ATTACKS = ("places", "times", "relocation", "replay", "flips", "reuse", "watermark", "lost state")
OPERATIONS = (
    "move, unlocked", "move, locked", "defragment", "share (reflink)", "copy the image",
    "DIMM to another slot", "grow the interleave set",
)  # fmt: skip


def grade(column: str, evidence: Evidence) -> Grade:
    """The grade of an experiment's evidence, and a few words for a cell of the matrix."""
    return COLUMNS[column][1](evidence)
