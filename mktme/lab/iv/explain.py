"""A cell of the matrix in a sentence or two: what was done, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mktme.iv.coordinates import COORDINATES, HALVES
from mktme.lab.iv.operations import (
    FREE,
    LOSES,
    NEEDS_KEY,
    REENCRYPTS,
    REFUSED,
    SAME_OFFSET,
)

Evidence = dict[str, Any]


def count(number: int, what: str) -> str:
    """A number of things: "1 page", "2 pages"."""
    return f"{number} {what}" + ("" if number == 1 else "s")


def places(e: Evidence) -> str:
    text = (
        f"One file's data was stored as two files, so {count(e['lines'], 'line')} had a plaintext that was "
        f"elsewhere, too. From one look at the medium an observer linked {e['linked'] or 'none'} of them"
    )
    return text + (f", and {e['wrong']} that had not." if e["wrong"] else ".")


def times(e: Evidence) -> str:
    return (
        "A database was overwritten by a later version, then restored. "
        f"{count(e['recurring'], 'line')} changed and came back: an observer of the medium recognised "
        f"{e['recognised'] or 'none'} of them. {count(e['kept'], 'line')} were overwritten with the bytes "
        f"that they held: on the medium {e['kept_seen'] or 'none'} of them stayed the same."
    )


def relocation(e: Evidence) -> str:
    if e["detected"]:
        return f"Mallory put Alice's ciphertext over a file of her own, and was refused: {e['evidence']}."
    mask = ", after xoring the known mask (the xor of the two places' IVs)" if e["masked"] else ""
    return (
        "Mallory put Alice's ciphertext over the same blocks of a file of her own and read that: she had "
        f"{e['recovered']:.1%} of Alice's bytes{mask} (0.4% is chance)."
    )


def replay(e: Evidence) -> str:
    alone, whole = e["data"], e["data and metadata"]
    text = "An older state of a place was put back after its owner had written it anew. "
    if alone == whole:
        return text + f"Nothing that is kept beside the data stood in the way: {_replayed(alone)}."
    return (
        text + f"The data alone: {_replayed(alone)}. With what is kept beside it (counters, IVs, MACs): "
        f"{_replayed(whole)}."
    )


def _replayed(e: Evidence) -> str:
    if e["outcome"] == "accepted":
        return "all of it read as the old data"
    if e["outcome"] == "detected":
        return "the read was refused, since a MAC didn't match"
    text = (
        f"of the bytes that the owner had changed {e['restored']:.1%} read as before (0.4% is chance), the "
        "others as garbage"
    )
    if e["outcome"] == "garbage" and e["as_old"] > e["restored"] + 0.02:
        text += f"; with those that she had not changed, {e['as_old']:.1%} of all bytes read as before"
    return text


def flips(e: Evidence) -> str:
    text = f"{count(e['tries'], 'time')} one bit of the ciphertext was flipped: {_flipped(e)}."
    for name, kind in e["beside"].items():
        text += f" {count(kind['tries'], 'time')} one bit of the {name} beside the data: {_flipped(kind)}."
    return text


def _flipped(e: Evidence) -> str:
    """What came of single flipped bits."""
    parts = []
    for number, what in ((e["detected"], "detected"), (e["nothing"], "the data read as before")):
        if number:
            parts.append(what if number == e["tries"] else f"{count(number, 'time')} {what}")
    if e["garbage"]:
        parts.append(_garbage(e))
    return "; ".join(parts)


def _garbage(e: Evidence) -> str:
    if e["alone"] == e["garbage"]:
        often = "each time" if e["garbage"] == e["tries"] else count(e["garbage"], "time")
        return f"{often} one bit of the plaintext changed, which the attacker chooses, and nothing else"
    text = f"{e['bits']:.0f} bits of the plaintext changed on average, within {count(e['span'], 'byte')}"
    if e.get("chosen_next"):
        text += (
            f"; {count(e['chosen_next'], 'time')} the same bit of the next 16-byte block was one of them, "
            "alone in its byte: the attacker chooses it"
        )
    return text


def operation(e: Evidence) -> str:
    """A move of data, or another wiring of the device."""
    outcome, because = e["outcome"], _because(e["changed"])
    began = (
        f"{count(e['moved'], 'byte')} of the medium were put elsewhere as they were"
        if e["moved"]
        else "Nothing was moved: every byte kept its place on the device"
    )
    if outcome == FREE:
        changed = "" if e["changed"] else ", as nothing that the encryption depends on changed"
        return f"{began}. The file read as it was{changed}."
    read = "was refused by its MACs" if e["seen"] == REFUSED else "read as garbage"
    text = f"{began}. But {because}, so the file {read}. "
    back = "read as it was" if e["verified"] else "was gone, too"
    return (
        text
        + {
            REENCRYPTS: f"Somebody who has the key encrypted {e['bytes']} bytes anew, in "
            f"{e['seconds'] * 1e3:.2f} ms.",
            NEEDS_KEY: f"Nobody had the key to encrypt it anew; at the old coordinates it {back}.",
            LOSES: f"The engine knows the new addresses only; with the old wiring it {back}.",
        }[outcome]
    )


def share(e: Evidence) -> str:
    """A second file at the bytes of the first."""
    both = "every file read as it should" if e["verified"] else "not every file read as it should"
    if e["outcome"] == FREE:
        return (
            "Other files were mapped to the bytes of a first one, at the same offset and at another one: "
            f"with one copy on the medium {both}."
        )
    one = f"a copy of {count(e['bytes'] // (e['clones'] - e['shared']), 'byte')}"
    if e["outcome"] == SAME_OFFSET:
        return (
            f"Another file can share the bytes of a first one at the same offset. At another offset, as "
            f"FICLONERANGE allows, {_because(e['changed'])}, and it needs {one}; with that {both}."
        )
    return (
        f"Another file can't share the bytes of a first one, since {_because(e['changed'])}: it needs {one}, "
        f"encrypted anew; with that {both}."
    )


def _because(changed: list[str]) -> str:
    """Which coordinates are others."""
    meanings = {name: meaning.partition(",")[0] for name, (meaning, _) in COORDINATES.items()}
    meanings |= dict.fromkeys(HALVES, "file's nonce")
    names = list(dict.fromkeys(meanings.get(name, name) for name in changed))
    return f"the {' and the '.join(names)} {'are others' if len(names) > 1 else 'is another'}"


def reuse(e: Evidence) -> str:
    if "writes" in e:
        text = (
            f"A page was written {count(e['writes'], 'time')}, always with other words. Of the {e['units']} "
            f"data units written {e['repeated'] or 'none'} had an IV (or a pad) that an earlier one had. "
        )
    else:
        text = (
            f"Of {e['units']} data units of many files {e['repeated'] or 'none'} had the key and IV of an "
            "earlier one. "
        )
    if e["equal_in_two_files"]:
        text += "Equal data of two files was equal on the medium. "
    if e["equal_past_2^32_sectors"]:
        text += "Equal data 2^32 sectors (2 TiB) apart was equal on the medium. "
    if "pages_encrypted_anew" in e:
        pages = count(e["pages_encrypted_anew"], "page")
        text += f"As minor counters overflowed, {pages} had to be encrypted anew. "
    if "birthday" in e:
        b = e["birthday"]
        pairs = b["counted_pairs"]
        text += (
            f"IVs of 32 bits: among {b['files']} files of {b['units']} units {sum(pairs) / len(pairs):.1f} "
            f"pairs overlap, on average under {len(pairs)} keys; the birthday bound expects "
            f"{b['expected_pairs']:.1f}."
        )
    return text.strip()


def watermark(e: Evidence) -> str:
    return (
        "Alice stored a file that an attacker had made, from the IVs that she predicts, with a mark in "
        f"{count(e['marked'], 'unit')}: on the medium the attacker found {e['found'] or 'none'} of them."
    )


def lost_state(e: Evidence) -> str:
    text = (
        f"A power failure lost the {count(e['kept'], 'byte')} that are kept beside the data. "
        if e["kept"]
        else "Nothing is kept beside the data that a power failure could lose. "
    )
    return text + (
        "The place was written again: from the medium before and after, and the old plaintext, an attacker "
        f"had {e['recovered']:.1%} of the {count(e['changed'], 'byte')} that were new (0.4% is chance)."
    )


def exhaustion(e: Evidence) -> str:
    if e["counter"] is None:
        return "There is no counter."
    text = "A counter was set to its last value, then the place was written. "
    return text + (f"Refused: {e['evidence']}." if e["outcome"] == "refused" else "The write was taken.")


def cost(e: Evidence) -> str:
    return (
        f"Reading {e['read'] / 1e9:.1f} GB/s, writing {e['write'] / 1e9:.1f} GB/s, with one thread: "
        f"{e['read_ratio']:.2f} and {e['write_ratio']:.2f} times the speed of pmem-line with AES-128-XTS in "
        "the same run."
    )


def room(e: Evidence) -> str:
    if not e["bytes_per_gib"]:
        return "Nothing is kept beside the data."
    return f"{e['bytes_per_gib']} bytes are kept beside a GiB of data."


def amplification(e: Evidence) -> str:
    return (
        f"{count(e['writes'], 'line')} of data were written, each alone, and "
        f"{count(e['lines_changed'], 'line')} of the medium changed."
    )


def bit_flips(e: Evidence) -> str:
    return (
        f"{count(e['lines'], 'line')} were overwritten by the next version of a database. Of their plaintext "
        f"bits {e['plain']:.1%} changed, of their bits on the medium {e['encrypted']:.1%}, and elsewhere on "
        f"the medium (as a share of the same number) {e['beside']:.1%}. Of their 16-byte blocks "
        f"{e['blocks_plain']:.0%} changed in plaintext and {e['blocks_encrypted']:.0%} on the medium. "
        "Published, in bits: 12% of plaintext, 50% where whole lines are encrypted, 24% under DEUCE "
        "(ASPLOS 2015)."
    )


SENTENCES: dict[str, Callable[[Evidence], str]] = {
    "places": places,
    "times": times,
    "relocation": relocation,
    "replay": replay,
    "flips": flips,
    "share (reflink)": share,
    "reuse": reuse,
    "watermark": watermark,
    "lost state": lost_state,
    "overflow": exhaustion,
    "cost": cost,
    "room": room,
    "amplification": amplification,
    "bit flips": bit_flips,
}


def sentence(column: str, evidence: Evidence) -> str:
    """The evidence of an experiment, for people."""
    return SENTENCES.get(column, operation)(evidence)
