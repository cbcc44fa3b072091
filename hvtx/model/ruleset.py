"""hvtx's own tables and chains: as they should be, as they were seen, and where the two differ."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.model.hook import Hook
from hvtx.model.place import Place
from hvtx.model.typed import NamedTuple


class SeenRule(NamedTuple):
    """A rule of a table: its place in words, and a digest of its expressions."""

    chain: str
    handle: int
    digest: str
    comment: str | None
    text: str = ""  # of others' only


class SeenElement(NamedTuple):
    """An element of a set or map; ``spelt`` is its key as nft reads it, empty if it has none."""

    set: str
    key: bytes
    data: bytes
    comment: str | None
    flows: int
    text: str
    spelt: str


class SeenTable(NamedTuple):
    """One of our tables as the kernel has it."""

    family: str
    name: str
    flags: int
    hooks: Mapping[str, Hook | None]  # of every chain; None: it is only jumped to
    rules: tuple[SeenRule, ...]
    sets: Mapping[str, str]  # set or map, by name
    objects: tuple[tuple[str, str], ...]  # the kind as nft says it, and the name
    elements: tuple[SeenElement, ...]


class WantedElement(NamedTuple):
    """What stands at a key: for which row, with which mark."""

    row: int
    mark: str
    data: bytes
    flows: int


class WantedTable(NamedTuple):
    """One of our tables as the record has it."""

    row: int  # the base row
    mark: str
    hooks: Mapping[str, Hook | None]
    rules: Mapping[str, tuple[tuple[str, str], ...]]  # by chain: digest and text, in order
    sets: frozenset[str]
    elements: Mapping[tuple[str, bytes], WantedElement]  # by set and key
    known: frozenset[str]  # marks of which the record or a running operation has more to say
    unrecorded: frozenset[str] = frozenset()  # marks of ours of which the record knows nothing


class SeenLine(NamedTuple):
    """A rule of a legacy table; ``text`` lacks chain and mark, ``place`` counts from 1."""

    tool: str
    table: str
    chain: str
    text: str
    mark: str | None
    place: int


class WantedLine(NamedTuple):
    """A rule of ours in a legacy table; ``first``: before what others let pass."""

    row: int
    mark: str
    tool: str
    table: str
    chain: str
    text: str
    first: bool


class Difference(NamedTuple):
    """Something that is not as it was made.

    ``row`` is that of the thing of ours that is to be put back; without one it is somebody else's,
    and ``fix`` the command that takes it away; ``instead`` is the row in whose place it stands.
    ``copies``: there is more of it than one. ``whole``: all of the place is somebody else's;
    ``element`` is an element of a set in words. ``unrecorded``: it is marked as ours, and the
    record knows nothing of it; ``fix`` shows what gc says.
    """

    place: Place | str  # a device by its kind and name: bridge hv3k…
    words: str
    fix: str
    row: int | None = None
    stops: bool = True  # it lets something through, or stops something
    copies: bool = False
    instead: int | None = None
    whole: bool = False
    element: str = ""
    unrecorded: bool = False
