"""What is compared: each IV scheme with the cipher that it is used with."""

from __future__ import annotations

from dataclasses import dataclass

from mktme.crypto.algorithms import ALGORITHMS
from mktme.errors import SchemeError
from mktme.iv import Scheme, find, schemes
from mktme.iv.compiled import Binding
from pmem.geometry import PAGE

# The cipher of a scheme where it was designed for one or is known by one; a name may be there twice.
PAIRS = (
    ("pmem-line", "aes-xts-128"),
    ("pmem-page", "aes-xts-128"),
    ("spa-line", "aes-xts-128"),
    ("dimm-line", "aes-xts-128"),
    ("file-block", "aes-xts-256"),
    ("per-file-key", "aes-xts-256"),
    ("per-file-key", "aes-cbc-essiv-128"),
    ("direct-key", "adiantum"),
    ("direct-key", "aes-hctr2-256"),
    ("ino-lblk-64", "aes-xts-256"),
    ("ino-lblk-32", "aes-xts-256"),
    ("plain", "aes-cbc-256"),
    ("plain64", "aes-xts-256"),
    ("plain64be", "aes-cbc-256"),
    ("essiv", "aes-cbc-256"),
    ("benbi", "aes-cbc-256"),
    ("null", "aes-cbc-256"),
    ("eboiv", "aes-cbc-256"),
    ("random", "aes-cbc-256"),
    ("xe", "aes-xe-128"),
    ("xex", "aes-xex-128"),
    ("ctr-global", "aes-ctr-128"),
    ("ctr-split", "aes-ctr-128"),
    ("ctr-deuce", "aes-ctr-128"),
    ("pmem-line", "sm4-xts"),
)
WITH_MACS = ("pmem-line", "ctr-split")  # those that are compared with integrity, too


@dataclass(frozen=True)
class Subject:
    """An IV scheme, a cipher's name, and whether each line has a MAC."""

    scheme: Scheme
    algorithm: str
    integrity: bool = False

    @property
    def name(self) -> str:
        """What it is called in the results."""
        return f"{self.scheme.name}/{self.algorithm}" + ("+mac" if self.integrity else "")

    @property
    def grain(self) -> int:
        """Bytes of the smallest piece that is encrypted apart from the rest."""
        unit = self.scheme.unit
        return min(64, unit) if ALGORITHMS[self.algorithm].alone or unit < 64 else unit


def subjects(names: list[str] | None = None) -> list[Subject]:
    """The subjects of some schemes, by default of all that are registered.

    A name is a scheme's, or that of one subject: "pmem-line/sm4-xts", "ctr-split/aes-ctr-128+mac".
    Raises SchemeError for a name that is not registered, or what a user's function returns.
    """
    wanted = list(schemes()) if names is None else list(dict.fromkeys(names))
    made = []
    for given in wanted:
        name, one, _ = given.partition("/")
        scheme = find(name)
        ciphers = [cipher for known, cipher in PAIRS if known == name and cipher in ALGORITHMS]
        if scheme.own:
            words = Binding(scheme, scheme.unit, dict.fromkeys(scheme.coordinates, PAGE)).words
            ciphers = ["aes-xts-128"] if words == 2 else ["adiantum"]
        if not ciphers:
            raise SchemeError(f"{name} has no cipher to be compared with")
        own = [Subject(scheme, cipher) for cipher in ciphers]
        if name in WITH_MACS:
            own.append(Subject(scheme, ciphers[0], True))
        if one and given not in (subject.name for subject in own):
            known = ", ".join(subject.name for subject in own)
            raise SchemeError(f"{given} is not compared: {name} is with {known}")
        made += [subject for subject in own if not one or subject.name == given]
    return made
