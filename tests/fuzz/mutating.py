"""Inputs for parsers: real samples, changed as others and accidents change them.

Each strategy gives now a sample as it is, now one with a few changes that know the shape (lengths of
netlink attributes, lines and words of texts, members of JSON), now plain noise.
"""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

SAMPLES = Path(__file__).with_name("samples.json")
LENGTHS = (0, 1, 2, 3, 4, 5, 7, 8, 11, 12, 0x7FFF, 0xFFF0, 0xFFFF)
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**63, 10**40, 1e400, float("nan"), True, 0.5)
DEEP = 3000  # Python gives up at a thousand
WORDS = (
    *("", " ", "\n", "\t", "\0", '"', "'", "\\", "#", "{", "}", "*", ":", "-", "!", "/", "%", ","),
    *("-A", "-D", "-m", "comment", "--comment", "COMMIT", "*nat", ":FORWARD", "-j", "DNAT"),
    *("hvtx:1:abcdefghij:7.abcdefghijklmnop", "hvtx:", "hvtx:2:x", "127.0.0.1", "::", "fe80::1%0"),
    *("10.0.0.1/33", "99999999999999999999", "٣", "²", "\ud800", "\u2028", "\x85", "é", "🙂"),
    *("Infinity", "null", "0x", "1e9", "../../etc", "/" * 300, "a" * 5000),
)


@cache
def recorded() -> dict[str, list[bytes]]:
    """Everything that :mod:`tests.fuzz.record` wrote."""
    found = json.loads(SAMPLES.read_text())
    return {name: [base64.b64decode(p) for p in pieces] for name, pieces in found.items()}


def sample(name: str) -> list[bytes]:
    """The pieces of one sample."""
    return recorded()[name]


# Bytes ------------------------------------------------------------------------------------------


def _flip(draw: Any, data: bytearray) -> None:
    data[draw(st.integers(0, len(data) - 1))] ^= 1 << draw(st.integers(0, 7))


def _set(draw: Any, data: bytearray) -> None:
    data[draw(st.integers(0, len(data) - 1))] = draw(
        st.sampled_from((0, 1, 0x22, 0x7F, 0x80, 0xFF))
    )


def _length(draw: Any, data: bytearray) -> None:
    """Another number where a length may stand: every length of netlink begins on a multiple of 4."""
    at = draw(st.integers(0, len(data) // 4)) * 4
    if at + 4 <= len(data):
        form = draw(st.sampled_from(("=H", "=I", ">I")))
        number = draw(st.sampled_from(LENGTHS)) + draw(st.integers(0, 1)) * len(data)
        struct.pack_into(form, data, at, number & (0xFFFF if form == "=H" else 0xFFFFFFFF))


def _cut(draw: Any, data: bytearray) -> None:
    del data[draw(st.integers(0, len(data))) :]


def _remove(draw: Any, data: bytearray) -> None:
    at = draw(st.integers(0, len(data) - 1))
    del data[at : at + draw(st.sampled_from((1, 4, 8, 36)))]


def _repeat(draw: Any, data: bytearray) -> None:
    at = draw(st.integers(0, len(data) - 1)) & ~3
    span = data[at : at + draw(st.sampled_from((4, 8, 16, 64)))]
    data[at:at] = span * draw(st.integers(1, 3))


def _move(draw: Any, data: bytearray) -> None:
    at, size = draw(st.integers(0, len(data) - 1)) & ~3, draw(st.sampled_from((4, 8, 20)))
    span = data[at : at + size]
    del data[at : at + size]
    to = draw(st.integers(0, len(data)))
    data[to:to] = span


def _insert(draw: Any, data: bytearray) -> None:
    to = draw(st.integers(0, len(data)))
    data[to:to] = draw(st.binary(min_size=1, max_size=8))


BYTES: tuple[Callable[[Any, bytearray], None], ...] = (
    *(_flip, _set, _length, _length, _cut, _remove, _repeat, _move, _insert),
)


@st.composite
def mutated(draw: Any, pieces: Sequence[bytes]) -> bytes:
    """One of some samples, changed up to six times; or noise."""
    if draw(st.integers(0, 9)) == 9:
        return bytes(draw(st.binary(max_size=200)))
    data = bytearray(draw(st.sampled_from(list(pieces))))
    for _ in range(draw(st.integers(0, 6))):
        if data:
            draw(st.sampled_from(BYTES))(draw, data)
    return bytes(data)


@st.composite
def spoken(draw: Any, lines: Sequence[bytes], others: st.SearchStrategy[bytes]) -> list[bytes]:
    """A conversation in its order, with a few lines changed, lost or put in, in pieces of any size."""
    said = list(lines)
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, max(0, len(said) - 1)))
        act = draw(st.integers(0, 2))
        if not said or act == 0:
            said.insert(at, draw(others))
        elif act == 1:
            said[at] = draw(st.one_of(mutated([said[at] or b"\n"]), others))
        else:
            del said[at]
    whole = b"".join(said)
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=4)))
    return [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


# Text -------------------------------------------------------------------------------------------

_noise = st.text(
    st.one_of(st.characters(codec=None, exclude_categories=()), st.sampled_from("\"'\\\n #:-*{}")),
    max_size=40,
)
words = st.one_of(st.sampled_from(WORDS), _noise)


@st.composite
def texts(draw: Any, samples: Sequence[str], between: str = "\n") -> str:
    """A text with lines and words that come, go, are doubled, swapped and cut; or noise."""
    if draw(st.integers(0, 9)) == 9:
        return str(draw(words)) + str(draw(words))
    lines = draw(st.sampled_from(list(samples))).split(between)
    for _ in range(draw(st.integers(0, 5))):
        at = draw(st.integers(0, max(0, len(lines) - 1)))
        act = draw(st.integers(0, 5))
        if not lines or act == 0:
            lines.insert(at, draw(words))
        elif act == 1:
            del lines[at]
        elif act == 2:
            lines.insert(draw(st.integers(0, len(lines))), lines[at])
        elif act == 3:
            parts = lines[at].split(" ")
            parts[draw(st.integers(0, len(parts) - 1))] = draw(words)
            lines[at] = " ".join(parts)
        elif act == 4:
            lines[at] = lines[at][: draw(st.integers(0, len(lines[at])))]
        else:
            place = draw(st.integers(0, len(lines[at])))
            lines[at] = lines[at][:place] + draw(words) + lines[at][place:]
    text = between.join(lines)
    return text[: draw(st.integers(0, len(text)))] if draw(st.booleans()) else text


def encoded(strategy: st.SearchStrategy[str]) -> st.SearchStrategy[bytes]:
    """The same as bytes; what is no text may be in them."""
    return strategy.map(lambda text: text.encode(errors="surrogatepass"))


# JSON -------------------------------------------------------------------------------------------

scalars = st.one_of(
    st.none(), st.booleans(), st.sampled_from(NUMBERS), st.integers(-3, 70000), words
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=8,
)


def _places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [here]
    if isinstance(value, dict):
        for name in value:
            found += _places(value[name], (*here, name))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            found += _places(inner, (*here, number))
    return found


@st.composite
def documents(draw: Any, samples: Sequence[Any]) -> Any:
    """A document with members changed, gone, doubled, moved, or wrapped."""
    whole = json.loads(json.dumps(draw(st.sampled_from(list(samples)))))
    for _ in range(draw(st.integers(0, 4))):
        *way, last = draw(st.sampled_from(_places(whole))) or (None,)
        if last is None:
            whole = draw(values)
            continue
        holder = whole
        for step in way:
            holder = holder[step]
        act = draw(st.integers(0, 4))
        if act == 0:
            del holder[last]
        elif act == 1:
            holder[last] = [holder[last]]
        elif act == 2 and isinstance(holder, list):
            holder.append(holder[last])
        elif act == 3 and isinstance(holder, dict):
            holder[draw(st.sampled_from([*holder, "hvtx"]))] = holder[last]
        else:
            holder[last] = draw(values)
    return whole


@st.composite
def json_bytes(draw: Any, samples: Sequence[Any]) -> bytes:
    """A document as bytes: mostly JSON, sometimes cut, deep, doubled, or no UTF-8."""
    act = draw(st.integers(0, 19))
    if act == 0:
        opening = draw(st.sampled_from((b"[", b'{"a":', b"[[", b'{"id": [')))
        return bytes(opening * DEEP)
    if act == 1:
        return b"1" * 5000
    text = json.dumps(draw(documents(samples)), ensure_ascii=draw(st.booleans()))
    data = text.encode(errors="surrogatepass")
    if act == 2:
        return data[: draw(st.integers(0, len(data)))]
    if act == 3:
        return bytes(draw(mutated([data or b"{}"])))
    if act == 4:
        return data + draw(st.sampled_from((data, b"\n", b"\xff", b"\0", b"]")))
    return data
