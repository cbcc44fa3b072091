"""The elements of a set by the thousand: those of one form are taken apart at once.

The kernel writes the elements of a set one like the other: only key, data and comment differ. So
the first of a length says where these are in all of them, and what stands between is compared as a
whole. Elements of several forms are read one by one (:mod:`hvtx.host.nfanswers`), to the same end.

A comment is kept as the attribute that it stands in, :func:`tail_of`, which is compared as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from struct import Struct

from hvtx.host.netlink import Garbled, attribute, attributes, legible
from hvtx.host.nfanswers import Element, comment_of, parse_elements
from hvtx.host.nfnumbers import (
    ELEM_DATA,
    ELEM_KEY,
    ELEM_KEY_END,
    ELEM_USERDATA,
    LIST_ELEMENTS,
    SIX,
    TWO,
)
from hvtx.model.typed import NamedTuple

_KIND = 0x3FFF
_HEADERS = 12  # of the element, of its key, and of the key's value
_COMMENT = 6  # headers of user data and of a comment in it
_HEAD = bytes(4)


class Bulk(NamedTuple):
    """Elements of one set, in columns; a tail is empty where there is no comment."""

    keys: list[bytes]
    data: list[bytes]
    tails: list[bytes]


class _Form(NamedTuple):
    """How elements are taken apart: into what all have, keys, what all have, data …, tails."""

    parts: Struct
    has_data: bool


def tail_of(comment: bytes) -> bytes:
    """The end of an element with a comment, as the kernel writes it; empty without one."""
    return attribute(ELEM_USERDATA, bytes((0, len(comment) + 1)) + comment + b"\0")


@legible
def comment_in(tail: bytes) -> str | None:
    """The comment of an element with this tail. Raises Garbled."""
    if len(tail) > _COMMENT:
        size, _ = TWO.unpack_from(tail)
        alone = (size + 3) & ~3 == len(tail)
        if alone and tail[4] == 0 and tail[5] == size - 6:  # nothing but a comment
            return tail[6 : size - 1].decode(errors="replace")
    for kind, start, end in attributes(tail, 0, len(tail)):
        if kind == ELEM_USERDATA:
            return comment_of(tail[start:end])
    return None


def read_bulk(bodies: Iterable[bytes]) -> Bulk:
    """The elements in raw messages of one set, in no order. Raises Garbled."""
    found = Bulk([], [], [])
    by_length: dict[int, list[bytes]] = {}
    for body in bodies:
        _sort_out(body, by_length)
    for length, pieces in by_length.items():
        _take_apart(length, b"".join(pieces), found)
    return found


@legible
def _sort_out(body: bytes, by_length: dict[int, list[bytes]]) -> None:
    """The raw elements of a message, by their length; as one where all have the same."""
    for kind, start, end in attributes(body, 4, len(body)):
        if kind != LIST_ELEMENTS or start == end:
            continue
        first = body[start : start + 2]
        length = (int.from_bytes(first, "little") + 3) & ~3
        raw = body[start:end]
        if length >= _HEADERS and len(raw) % length == 0:
            low, high = raw[::length], raw[1::length]
            if low.count(first[0]) == len(low) and high.count(first[1]) == len(high):
                by_length.setdefault(length, []).append(raw)
                continue
        at = start
        while at < end:
            length = (body[at] | body[at + 1] << 8) + 3 & ~3
            if length < _HEADERS or at + length > end:
                raise Garbled("a set element in a form that is not known")
            by_length.setdefault(length, []).append(body[at : at + length])
            at += length


@legible
def _take_apart(length: int, raw: bytes, found: Bulk) -> None:
    """Append the columns of elements of one length: at once if all have the form of the first."""
    form = _form(raw[:length])
    if form is not None and _in_columns(form, raw, found):
        return
    elements: list[Element] = []
    for at in range(0, len(raw), length):
        parse_elements(_HEAD + attribute(LIST_ELEMENTS, raw[at : at + length]), elements)
    for key, data, comment, *_ in elements:
        found.keys.append(key)
        found.data.append(data)
        found.tails.append(b"" if comment is None else tail_of(comment.encode()))


def _in_columns(form: _Form, raw: bytes, found: Bulk) -> bool:
    columns: Sequence[tuple[bytes, ...]] = list(zip(*form.parts.iter_unpack(raw), strict=True))
    if any(len(set(same)) > 1 for same in columns[:-1:2]):
        return False
    found.keys.extend(columns[1])
    found.data.extend(columns[3] if form.has_data else [b""] * len(columns[1]))
    found.tails.extend(columns[-1])
    return True


def _form(element: bytes) -> _Form | None:
    """Where the parts of an element are; None if it is not of the usual form.

    Headers, key, what stands before the data, data, what stands before the tail, tail.
    """
    _, _, key_length, kind, value, _ = SIX.unpack_from(element)
    key_end, at = 8 + value, 4 + ((key_length + 3) & ~3)
    if kind & _KIND != ELEM_KEY or value <= 4 or key_end > at or at > len(element):
        return None
    data = tail = None
    while at + 4 <= len(element):
        size, kind = TWO.unpack_from(element, at)
        if size < 4 or at + size > len(element) or tail is not None:
            return None
        kind &= _KIND
        if kind == ELEM_DATA:
            data = (at + 8, at + 4 + TWO.unpack_from(element, at + 4)[0])
        elif kind == ELEM_USERDATA:
            tail = at
        elif kind == ELEM_KEY_END:  # of a range, which has two keys
            return None
        at += (size + 3) & ~3
    if tail is None or (data is not None and not key_end <= data[0] <= data[1] <= tail):
        return None
    edges = (0, _HEADERS, key_end, *(data or ()), tail, len(element))
    sizes = [end - start for start, end in pairwise(edges)]
    return _Form(Struct("".join(f"{size}s" for size in sizes)), data is not None)
