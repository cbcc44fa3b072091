"""Links by the thousand: those that the kernel describes in one shape are read in one step each.

The messages of two TAPs differ in a few places only: index, flags, name, alias, MAC, bridge, and
what nobody reads. A shape is what the first of them taught: which bytes decide where the attributes
are and what they say, as a mask, and where the few that differ stand. A message that has these
very bytes is walked through in the same steps, so it need not be walked through at all.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator

from hvtx.host.netlink import Garbled, attributes
from hvtx.model.resource import Link
from hvtx.model.typed import NamedTuple

_FEW = 64  # shapes that are kept; a host's links have some ten
_IFINFO = 16
_MAC, _IFNAME, _MASTER, _LINKINFO, _IFALIAS = 1, 3, 10, 18, 20
_READ_INSIDE = frozenset((1, 2))  # IFLA_INFO_KIND, IFLA_INFO_DATA
_DIFFERENT = frozenset((_MAC, _IFNAME, _MASTER, _IFALIAS))
_UP = 1


class _Shape(NamedTuple):
    mask: int
    bytes: int  # what a message of this shape has under the mask
    places: dict[int, tuple[int, int]]  # of what differs, by attribute
    example: Link


class LinkReader:
    """Reads links, and learns their shapes; ``read`` walks through a message and never guesses."""

    def __init__(self, read: Callable[[bytes], Link], wanted: Collection[int]) -> None:
        """``wanted``: the attributes that ``read`` looks at."""
        self._read = read
        self._wanted = wanted
        self._shapes: dict[int, list[_Shape]] = {}
        self._known = 0

    def link(self, data: bytes) -> Link:
        """A link from the body of its message. Raises Garbled."""
        shapes = self._shapes.get(len(data))
        if shapes is None:
            return self._learn(data)
        number = int.from_bytes(data, "little")
        for shape in shapes:
            if number & shape.mask == shape.bytes:
                return _filled_in(shape, data)
        return self._learn(data)

    def _learn(self, data: bytes) -> Link:
        found = self._read(data)
        if self._known < _FEW:
            self._known += 1
            mask, places = bytearray(len(data)), dict[int, tuple[int, int]]()
            try:
                spans = list(_deciding(data, self._wanted, places))
            except Garbled:  # in what was not read: it says nothing of another message
                return found
            for start, end in spans:
                mask[start:end] = b"\xff" * (end - start)
            bits = int.from_bytes(mask, "little")
            shape = _Shape(bits, int.from_bytes(data, "little") & bits, places, found)
            self._shapes.setdefault(len(data), []).append(shape)
        return found


def _deciding(
    data: bytes, wanted: Collection[int], places: dict[int, tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """The bytes that decide what is read; ``places`` gets where that stands which differs."""
    for kind, start, end in attributes(data, _IFINFO, len(data)):
        yield start - 4, start
        if kind in _DIFFERENT:
            places[kind] = start, end
        elif kind == _LINKINFO:
            for inner, first, last in attributes(data, start, end):
                yield first - 4, last if inner in _READ_INSIDE else first
        elif kind in wanted:
            yield start, end


def _filled_in(shape: _Shape, data: bytes) -> Link:
    """A link of a known shape."""
    places, like = shape.places, shape.example
    start, end = places[_IFNAME]
    name = data[start:end].rstrip(b"\0").decode(errors="surrogateescape")
    if not name:
        raise Garbled("a link without a name")
    alias = None
    if _IFALIAS in places:
        start, end = places[_IFALIAS]
        alias = data[start:end].rstrip(b"\0").decode(errors="replace") or None
    mac = ""
    if _MAC in places:
        start, end = places[_MAC]
        mac = data[start:end].hex(":")
    master = 0
    if _MASTER in places:
        start, end = places[_MASTER]
        master = int.from_bytes(data[start : start + 4], "little") if end - start >= 4 else 0
    _, _, kind, _, _, mtu, _, lower, group, _, flags, queues, lasting, qdisc, xdp, names = like
    ifindex = int.from_bytes(data[4:8], "little", signed=True)
    return Link(
        ifindex, name, kind, alias, mac, mtu, master, lower, group, bool(data[8] & _UP),
        flags, queues, lasting, qdisc, xdp, names,
    )  # fmt: skip
