"""``--limit in=100mbit,out=10mbit``: how much a guest's interface may carry. Pure."""

from __future__ import annotations

from hvtx.errors import UsageError
from hvtx.model.policy import NO_LIMITS, Limits

CLEAR = "none"
_FIELDS = {
    "in": "into_guest",
    "out": "out_of_guest",
    "in-packets": "packets_into_guest",
    "out-packets": "packets_out_of_guest",
}
_UNITS = {"": 1, "bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
_LEAST, MOST = 1000, 10**12  # bits a second
_MOST_PACKETS = 10**9
_HINT = "write it as in=100mbit,out=10mbit; in-packets=20000 and out-packets=… limit packets"


def parse_limit(text: str) -> Limits:
    """What a person wrote; ``none`` is no limit. Raises UsageError."""
    if text == CLEAR:
        return NO_LIMITS
    found: dict[str, int] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        field = _FIELDS.get(name)
        if field is None or not equals:
            raise UsageError(f"--limit {text!r}: {part!r} is not understood", hint=_HINT)
        if field in found:
            raise UsageError(f"--limit {text!r}: {name} is given twice", hint=_HINT)
        found[field] = _packets(text, value) if name.endswith("packets") else _bits(text, value)
    return Limits(**found)


def _is_number(text: str, most: int) -> bool:
    return 1 <= len(text) <= most and text.isascii() and text.isdigit()


def _bits(text: str, value: str) -> int:
    unit = value.lower().lstrip("0123456789.")
    number = value.lower().removesuffix(unit)
    whole, point, part = number.partition(".")
    plain = _is_number(whole, 15) and (_is_number(part, 12) if point else True)
    if not plain or unit not in _UNITS:
        raise UsageError(
            f"--limit {text!r}: {value!r} is not a rate",
            hint="a number with bit, kbit, mbit or gbit, of 1000 each: 10mbit is 10,000,000 bits"
            " a second",
        )
    scale: int = 10 ** len(part)
    bits, rest = divmod(int(whole + part) * _UNITS[unit], scale)
    if rest or not _LEAST <= bits <= MOST:
        raise UsageError(
            f"--limit {text!r}: {value} is not between 1kbit and 1000gbit",
            hint="no traffic at all: hvtx vm stop; no limit: leave it out",
        )
    return bits


def _packets(text: str, value: str) -> int:
    if not _is_number(value, 15) or not 1 <= int(value) <= _MOST_PACKETS:
        raise UsageError(
            f"--limit {text!r}: {value!r} is not a number of packets a second",
            hint=f"it is a number from 1 to {_MOST_PACKETS}, for instance in-packets=20000",
        )
    return int(value)


def told(limits: Limits) -> dict[str, int]:
    """Limits by the names of the option: those that there are."""
    return {
        name: value
        for name, field in _FIELDS.items()
        if (value := getattr(limits, field)) is not None
    }


def words(limits: Limits) -> str:
    """Limits as they could be written; ``none`` without any."""
    return ",".join(f"{name}={_short(name, n)}" for name, n in told(limits).items()) or CLEAR


def _short(name: str, value: int) -> str:
    if name.endswith("packets"):
        return str(value)
    unit = next(u for u in ("gbit", "mbit", "kbit", "bit") if not value % _UNITS[u])
    return f"{value // _UNITS[unit]}{unit}"
