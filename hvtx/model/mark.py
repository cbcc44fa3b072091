"""The mark: the ownership tag that stands on the kernel object itself.

``hvtx:1:<installation>:<row>.<nonce>`` in an interface alias, a rule comment or an element
comment. At most 64 bytes of ``[a-z0-9:.]``, so that it fits the shortest of them (nft comments,
128 bytes) and can be quoted nowhere wrongly. Only the whole text identifies: every incarnation
of a resource has a nonce of its own (80 random bits).
"""

from __future__ import annotations

from functools import cache

from hvtx.model.typed import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import re

    from hvtx.model.resource import Resource

ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"
INSTALLATION_LENGTH = 10
NONCE_LENGTH = 16
FAMILY = "hvtx:"

_KNOWN = "hvtx:1:"
_LETTERS, _DIGITS = frozenset(ALPHABET), frozenset("0123456789")
_ROW_MOST = 19  # digits: of 64 bits
_FIRST = iter(range(100))  # marks that are read by hand: who reads more has `re` loaded, 3 ms
_ANYBODYS = r"hvtx:1:([^:\s]+):\S+\Z"
_ANYWHERE = r"(hvtx:\d+:)[a-z0-9:.]+"


class Mark(NamedTuple):
    """A mark in the form that this program knows."""

    installation: str
    token: str

    def __str__(self) -> str:
        """The text as it stands on the kernel object."""
        return f"hvtx:1:{self.installation}:{self.token}"


class UnreadableMark(NamedTuple):
    """Text that begins like a mark but has a form this program does not know."""

    text: str
    installation: str | None = None  # where that much can be read


def base32(data: bytes, length: int) -> str:
    """The first ``length`` characters of ``data`` in lower-case base32 (5 bits each)."""
    number = int.from_bytes(data, "big")
    return "".join([ALPHABET[(number >> 5 * i) & 31] for i in range(length)])


def make_mark(installation: str, row: int, random: bytes) -> str:
    """The mark of store row ``row``; ``random`` holds at least 10 bytes of fresh randomness."""
    return f"hvtx:1:{installation}:{row}.{base32(random, NONCE_LENGTH)}"


def without_marks(text: str) -> str:
    """A sentence with its marks cut, for people who should not know them."""
    import re

    return re.sub(_ANYWHERE, r"\1…", text)


def _by_hand(text: str) -> Mark | None:
    installation, _, token = text.removeprefix(_KNOWN).partition(":")
    row, _, nonce = token.partition(".")
    lengths = len(installation) == INSTALLATION_LENGTH and len(nonce) == NONCE_LENGTH
    plain = _LETTERS.issuperset(installation) and _LETTERS.issuperset(nonce)
    numbered = 1 <= len(row) <= _ROW_MOST and _DIGITS.issuperset(row)
    known = text.startswith(_KNOWN) and lengths and plain and numbered
    return Mark(installation, token) if known else None


@cache
def _pattern() -> re.Pattern[str]:
    import re

    return re.compile(r"hvtx:1:([a-z2-7]{10}):([0-9]{1,19}\.[a-z2-7]{16})\Z")


def _by_pattern(text: str) -> Mark | None:
    found = _pattern().match(text)
    return Mark(found[1], found[2]) if found else None


def installation_of(text: str | None) -> str | None:
    """Whose mark it is, if it can be read; None of all else."""
    found = parse_mark(text)
    return found.installation if found is not None else None


def parse_mark(text: str | None) -> Mark | UnreadableMark | None:
    """Read a mark from an alias or comment; None if the text is not of this family at all."""
    if not text or not text.startswith(FAMILY):
        return None
    known = _by_hand(text) if next(_FIRST, None) is not None else _by_pattern(text)
    if known is not None:
        return known
    import re

    anybodys = re.match(_ANYBODYS, text)
    return UnreadableMark(text, anybodys[1] if anybodys else None)


def owner_mark(row: Resource) -> str:
    """The mark by which people and programs are told of a row; empty where it has none.

    It is that of the device or record that it belongs to: its own, but for an address, of which
    that stands nowhere; that is told with its bridge's, by which it is known.
    """
    return str(row.spec["owner"]) if row.kind == "address" and row.mark else row.mark
