"""Rules that count, as one flow meets them at a quiet moment: nothing is exceeded. Pure.

A copied rule counts the packets of all tries, which come at once: a limit of others would end those
that one connection of a guest never meets. So limits are copied as too wide to be reached, and what
lets pass (or stops) only beyond one is out of reach. A quota is spent or it is not, for good: one
that is stays so. Layouts: include/uapi/linux/netfilter/nf_tables.h, xt_hashlimit.h, xt_connlimit.h.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping

from hvtx.host.netlink import attribute, attribute_map, attributes, legible, nested, text
from hvtx.host.nfanswers import expressions

_NAME, _DATA, _NESTED = 1, 2, 0x8000
_MANY = 0x7FFFFFFF
_LIMIT_RATE, _LIMIT_UNIT, _LIMIT_BURST, _PER_SECOND = 1, 2, 3, 1_000_000_000
_QUOTA_BYTES, _QUOTA_FLAGS, _QUOTA_CONSUMED, _INVERTED, _DEPLETED = 1, 2, 4, 1, 2
_CONNLIMIT_COUNT = 1
_DYNSET_TIMEOUT, _DYNSET_EXPRESSIONS = 6, {7: False, 10: True}  # whether it is a list
_XT_NAME, _XT_REVISION, _XT_INFO = 1, 2, 3
# where the mode of a hashlimit stands in each revision of it, and its bit "above"
_HASHLIMIT_MODE, _HASHLIMIT_ABOVE = {1: 16, 2: 272, 3: 272}, 0x10
_XT_CONNLIMIT_COUNT = 16  # where it stands
_WORD = struct.Struct("=I")
OBJECTS = {2: "quota", 4: "limit", 5: "connlimit"}  # types of named objects
_SET_EXPRESSIONS = {17: False, 18: True}
_ELEMENT_EXPRESSIONS = {7: False, 11: True}
_COUNTING = (b"limit\0", b"quota\0", b"connlimit\0")
_OF_RULES = (*_COUNTING, b"dynset\0", b"hashlimit\0")


def with_fields(data: bytes, new: Mapping[int, bytes | None]) -> bytes:
    """Attributes with other values; None takes one away."""
    found, left = [], dict(new)
    for kind, start, end in attributes(data, 0, len(data)):
        if kind in left:
            value = left.pop(kind)
            found.append(b"" if value is None else attribute(kind, value))
        else:
            found.append(data[start - 4 : end] + b"\0" * (start - end & 3))
    return b"".join((*found, *(attribute(k, v) for k, v in left.items() if v is not None)))


@legible
def is_doubtful(raw: bytes) -> bool:
    """Whether a rule has a quota of xtables: what is left of it, the kernel does not tell. Garbled.

    Such a rule ends before it.
    """
    return b"quota\0" in raw and any(
        name == "match" and attribute_map(data).get(_XT_NAME, b"").rstrip(b"\0") == b"quota"
        for name, data in expressions(raw)
    )


def _limit(data: bytes) -> bytes:
    return with_fields(data, {
        _LIMIT_RATE: _PER_SECOND.to_bytes(8, "big"), _LIMIT_UNIT: (1).to_bytes(8, "big"),
        _LIMIT_BURST: _MANY.to_bytes(4, "big"),
    })  # fmt: skip


def _quota(data: bytes) -> bytes:
    """A quota that is spent stays spent (it may not be said so, only counted); others are vast."""
    fields = attribute_map(data)
    number = {kind: int.from_bytes(value, "big") for kind, value in fields.items()}
    flags, size = number.get(_QUOTA_FLAGS, 0), number.get(_QUOTA_BYTES, 0)
    spent = bool(flags & _DEPLETED) or number.get(_QUOTA_CONSUMED, 0) >= size
    return with_fields(data, {
        _QUOTA_BYTES: (size if spent else 1 << 62).to_bytes(8, "big"),
        _QUOTA_FLAGS: (flags & _INVERTED).to_bytes(4, "big"),
        _QUOTA_CONSUMED: (size if spent else 0).to_bytes(8, "big"),
    })  # fmt: skip


def _connlimit(data: bytes) -> bytes:
    """One flow alone is one: that is over a limit of none, and over no other."""
    count = int.from_bytes(attribute_map(data).get(_CONNLIMIT_COUNT, b""), "big")
    wide = _MANY.to_bytes(4, "big")
    return with_fields(data, {_CONNLIMIT_COUNT: wide}) if count else data


_STATEFUL: Mapping[str, Callable[[bytes], bytes]] = {
    "limit": _limit, "quota": _quota, "connlimit": _connlimit,
}  # fmt: skip


@legible
def object_data(kind: int, data: bytes) -> bytes:
    """What a named object of a type is made of. Raises Garbled."""
    return _STATEFUL[OBJECTS[kind]](data) if kind in OBJECTS else data


@legible
def of_set(data: bytes) -> bytes:
    """The attributes of a set, with the expressions that its elements get. Raises Garbled."""
    return _with_expressions(data, _SET_EXPRESSIONS)


@legible
def of_elements(listed: bytes) -> bytes:
    """A list of elements, each with the expressions of its own. Raises Garbled."""
    if not any(word in listed for word in _COUNTING):
        return listed
    return b"".join(
        attribute(kind | _NESTED, _with_expressions(listed[start:end], _ELEMENT_EXPRESSIONS))
        for kind, start, end in attributes(listed, 0, len(listed))
    )


def _with_expressions(data: bytes, kinds: Mapping[int, bool]) -> bytes:
    """Attributes whose expressions (one, or a list of them) are never exceeded."""
    if not any(word in data for word in _COUNTING):
        return data
    new: dict[int, bytes | None] = {}
    for kind, value in attribute_map(data).items():
        if kind not in kinds:
            continue
        if kinds[kind]:
            each = attributes(value, 0, len(value))
            new[kind | _NESTED] = b"".join(nested(1, _one(value[a:b])) for _, a, b in each)
        else:
            new[kind | _NESTED] = _one(value)
        new[kind] = None
    return with_fields(data, new)


def _one(expression: bytes) -> bytes:
    fields = attribute_map(expression)
    name = fields[_NAME].rstrip(b"\0").decode()
    data = fields.get(_DATA, b"")
    return said(name, _STATEFUL[name](data) if name in _STATEFUL else data)


def said(name: str, data: bytes) -> bytes:
    """An expression."""
    return text(_NAME, name) + attribute(_DATA | _NESTED, data)


def listed(name: str, data: bytes) -> bytes:
    """An expression as one of a list."""
    return nested(1, said(name, data))


@legible
def of_rule(raw: bytes) -> bytes:
    """The expressions of a rule as a flow meets them that exceeds nothing. Raises Garbled.

    What matches only beyond a limit and cannot be made wider ends the rule: nothing gets past.
    """
    if not any(word in raw or word[:-1] in raw for word in _OF_RULES):
        return raw
    found = []
    for name, data in expressions(raw):
        if name == "match":
            known = _of_match(data)
            if known is None:
                break
            if known:
                found.append(listed(name, known))
            continue
        known = _dynset(data) if name == "dynset" else _STATEFUL.get(name, _as_it_is)(data)
        found.append(listed(name, known))
    return b"".join(found)


def _as_it_is(data: bytes) -> bytes:
    return data


def _dynset(data: bytes) -> bytes:
    """The kernel tells of a timeout of 0, and takes none where the set has no timeouts."""
    if not any(attribute_map(data).get(_DYNSET_TIMEOUT, b"")):
        data = with_fields(data, {_DYNSET_TIMEOUT: None})
    return _with_expressions(data, _DYNSET_EXPRESSIONS)


def _of_match(data: bytes) -> bytes | None:
    """A match of xtables: empty where it always matches, None where it never does."""
    fields = attribute_map(data)
    name = fields.get(_XT_NAME, b"").rstrip(b"\0")
    info = fields.get(_XT_INFO, b"")
    if name == b"limit":
        return b""
    if name == b"quota":  # see is_doubtful
        return None
    if name == b"hashlimit":
        at = _HASHLIMIT_MODE.get(int.from_bytes(fields.get(_XT_REVISION, b""), "big"))
        if at is None or len(info) < at + 4:
            return data
        return None if _WORD.unpack_from(info, at)[0] & _HASHLIMIT_ABOVE else b""
    if name == b"connlimit" and len(info) >= _XT_CONNLIMIT_COUNT + 4:
        at = _XT_CONNLIMIT_COUNT
        if _WORD.unpack_from(info, at)[0]:
            info = info[:at] + _WORD.pack(_MANY) + info[at + 4 :]
            return with_fields(data, {_XT_INFO: info})
    return data
