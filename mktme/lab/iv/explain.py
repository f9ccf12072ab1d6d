"""A cell of the matrix in a sentence or two: what was done, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mktme.lab.iv.operations import FREE, LOSES, NEEDS_KEY, REENCRYPTS

Evidence = dict[str, Any]


def places(e: Evidence) -> str:
    return (
        f"One file's data was stored as two files: {e['lines']} lines have a plaintext that is elsewhere "
        f"too. From one look at the medium an observer linked {e['linked']} of them ({e['wrong']} wrongly)."
    )


def times(e: Evidence) -> str:
    return (
        f"A database was overwritten by a later version, then restored: {e['recurring']} lines changed and "
        f"came back, and an observer recognised {e['recognised']} of them. Of {e['kept']} lines that were "
        f"written with the bytes that they had, it saw {e['kept_seen']} not change."
    )


def relocation(e: Evidence) -> str:
    if e["detected"]:
        return f"Ciphertext that was put over another file was refused: {e['evidence']}."
    mask = ", after xoring the known mask of the two addresses" if e["masked"] else ""
    return (
        "An attacker put Alice's ciphertext over the same blocks of her own file and read that: she had "
        f"{e['recovered']:.1%} of Alice's bytes{mask} (0.4% is chance)."
    )


def replay(e: Evidence) -> str:
    return (
        f"An older state of a place was put back: the data alone, {e['data']}; the data with what is kept "
        f"beside it, {e['data and metadata']}."
    )


def flips(e: Evidence) -> str:
    if e["detected"] == e["tries"]:
        return f"{e['tries']} flipped bits of ciphertext, all detected."
    return (
        f"{e['tries']} flipped bits of ciphertext: each changed {e['bits']:.1f} plaintext bits on average, "
        f"within {e['span']} bytes. Just the flipped bit changed {e['alone']} times; the same bit of the "
        f"following block {e['chosen_next']} times. Detected: {e['detected']}."
    )


def operation(e: Evidence) -> str:
    return {
        FREE: "The bytes on the medium were enough: the file read as it was.",
        REENCRYPTS: f"Whoever has the key encrypted {e['bytes']} bytes anew, in {e['seconds'] * 1e3:.2f} ms.",
        NEEDS_KEY: "Without the key the file can't follow: it read as garbage at its new coordinates, and as "
        "it was at the old ones.",
        LOSES: "The engine sees the new addresses only, under which the file read as garbage; with the old "
        "wiring it read as it was.",
    }[e["outcome"]]


def reuse(e: Evidence) -> str:
    text = f"Of {e['units']} data units {e['repeated']} had a key and IV (or a pad) that an earlier one had. "
    if e["equal_in_two_files"]:
        text += "Equal data of two files was equal on the medium. "
    if e["equal_past_2^32_sectors"]:
        text += "Equal data 2^32 sectors apart was equal on the medium. "
    if e.get("pages_encrypted_anew") is not None:
        text += f"Minor counters overflowed: {e['pages_encrypted_anew']} pages were encrypted anew. "
    if "birthday" in e:
        b = e["birthday"]
        text += (
            f"{b['files']} files of {b['units']} units under 8 keys: {b['counted_pairs']} pairs of files "
            f"overlap; the birthday bound expects {b['expected_pairs']:.1f}."
        )
    return text.strip()


def watermark(e: Evidence) -> str:
    return (
        f"Alice stored a file that an attacker made from the IVs she predicts, with a mark in {e['marked']} "
        f"units: on the medium the attacker found {e['found']} of them."
    )


def lost_state(e: Evidence) -> str:
    return (
        "A power failure lost what is kept beside the data, and the place was written again. From the medium "
        f"before and after, and the old plaintext, an attacker had {e['recovered']:.1%} of {e['changed']} "
        "bytes that were new (0.4% is chance)."
    )


def exhaustion(e: Evidence) -> str:
    if e["counter"] is None:
        return "There is no counter."
    return f"A counter was set to its last value and the place written: {e['outcome']}: {e['evidence']}."


def cost(e: Evidence) -> str:
    return (
        f"Reading {e['read'] / 1e9:.1f} GB/s, writing {e['write'] / 1e9:.1f} GB/s, one thread: "
        f"{e['read_ratio']:.2f} and {e['write_ratio']:.2f} of pmem-line with AES-128-XTS in the same run."
    )


def room(e: Evidence) -> str:
    return f"{e['bytes_per_gib']} bytes are kept beside a GiB of data."


def amplification(e: Evidence) -> str:
    return f"Writing {e['writes']} single lines changed {e['lines_changed']} lines of the medium."


def bit_flips(e: Evidence) -> str:
    return (
        f"{e['lines']} lines were overwritten by the next version of a database: {e['plain']:.1%} of their "
        f"plaintext bits changed, {e['encrypted']:.1%} of the bits on the medium, and {e['beside']:.1%} more "
        "elsewhere. Published: 12% plain, 50% encrypted, 24% under DEUCE (ASPLOS 2015), where every line is "
        "encrypted whole; modes of 16-byte blocks change only the blocks that differ."
    )


SENTENCES: dict[str, Callable[[Evidence], str]] = {
    "places": places,
    "times": times,
    "relocation": relocation,
    "replay": replay,
    "flips": flips,
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
