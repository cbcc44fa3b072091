"""The elements of a set by the thousand: those of one form are taken apart at once.

The kernel writes the elements of a set one like the other: only key, data and comment differ. So
the first of a length says where they are in all of them, and what stands between is compared as a
whole. Elements of several forms are read one by one (:mod:`hvtx.host.nfanswers`).
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from struct import Struct
from typing import NamedTuple

from hvtx.host.netlink import Garbled, attribute, attributes, legible
from hvtx.host.nfanswers import Element, parse_elements
from hvtx.host.nfnumbers import (
    ELEM_DATA,
    ELEM_KEY,
    ELEM_KEY_END,
    ELEM_USERDATA,
    LIST_ELEMENTS,
    SIX,
    TWO,
)

_KIND = 0x3FFF
_COMMENT = 7  # bytes of user data with a comment: headers of it and of the text, its NUL
_HEAD = bytes(4)
_HEADERS = 12  # of the element, of its key, and of the key's value


class Bulk(NamedTuple):
    """Elements of one set, in columns; a comment is empty where there is none."""

    keys: list[bytes]
    data: list[bytes]
    comments: list[bytes]


def read_bulk(bodies: Iterable[bytes]) -> Bulk:
    """The elements in raw messages of one set, in no order. Raises Garbled."""
    found = Bulk([], [], [])
    alike: dict[int, list[bytes]] = {}
    for body in bodies:
        _sort_out(body, alike)
    for elements in alike.values():
        _take_apart(elements, found)
    return found


@legible
def _sort_out(body: bytes, alike: dict[int, list[bytes]]) -> None:
    """The raw elements of a message, by their length without padding, which a comment decides."""
    for kind, start, end in attributes(body, 4, len(body)):
        if kind != LIST_ELEMENTS:
            continue
        at = start
        while at < end:
            length = body[at] | body[at + 1] << 8
            stop = at + ((length + 3) & ~3)
            if length < _HEADERS or stop > end:
                raise Garbled("a set element in a form that is not known")
            element = body[at:stop]
            alike.setdefault(len(element.rstrip(b"\0")), []).append(element)
            at = stop


@legible
def _take_apart(elements: list[bytes], found: Bulk) -> None:
    """Append the columns of elements of one length: at once if all have the form of the first."""
    form = _form(elements[0])
    if form is not None and all(len(element) == form.size for element in elements):
        heads, keys, between, data, before, comments, behind = zip(
            *form.iter_unpack(b"".join(elements)), strict=True
        )
        if all(len(set(same)) == 1 for same in (heads, between, before, behind)):
            found.keys.extend(keys)
            found.data.extend(data)
            found.comments.extend(comments)
            return
    one_by_one: list[Element] = []
    for element in elements:
        parse_elements(_HEAD + attribute(LIST_ELEMENTS, element), one_by_one)
    for key, datum, comment, *_ in one_by_one:
        found.keys.append(key)
        found.data.append(datum)
        found.comments.append((comment or "").encode())


def _form(element: bytes) -> Struct | None:
    """Where the parts of an element are; None if it is not of the usual form.

    Headers, key, what stands before the data, data, what stands before the comment, comment, rest.
    """
    length, _, key_length, kind, value, _ = SIX.unpack_from(element)
    key_end, at = 8 + value, 4 + ((key_length + 3) & ~3)
    if kind & _KIND != ELEM_KEY or value <= 4 or key_end > at or at > length:
        return None
    data = comment = None
    while at + 4 <= length:
        size, kind = TWO.unpack_from(element, at)
        if size < 4 or at + size > length or comment is not None:
            return None
        kind &= _KIND
        if kind == ELEM_DATA:
            data = (at + 8, at + 4 + TWO.unpack_from(element, at + 4)[0])
        elif kind == ELEM_USERDATA:
            if size < _COMMENT or element[at + 4] != 0 or element[at + 5] != size - 6:
                return None
            comment = (at + 6, at + size - 1)
        elif kind == ELEM_KEY_END:  # of a range, which has two keys
            return None
        at += (size + 3) & ~3
    if comment is None or element[comment[1]] != 0:
        return None
    data = data or (key_end, key_end)
    edges = (0, _HEADERS, key_end, *data, *comment, len(element))
    if any(a > b for a, b in pairwise(edges)):
        return None
    return Struct("".join(f"{b - a}s" for a, b in pairwise(edges)))
