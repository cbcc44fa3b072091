"""How a value that was refused is written here, where what was meant is plain: for hints. Pure.

Each function returns the right spelling, or None where nobody can tell.
"""

from __future__ import annotations

import ipaddress
import re

_MAC = re.compile("[0-9a-f]{12}")
_PORT = "[0-9]{1,5}(?:-[0-9]{1,5})?"
_NAME = re.compile("[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([kmgt]?)(i?b)?", re.IGNORECASE)
_MEBIBYTES = {"k": 1 / 1024, "m": 1, "g": 1024, "t": 1024 * 1024}
_TIME = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|sec|seconds?|m|min|minutes?|h|hours?)")
_SECONDS = {"s": 1, "m": 60, "h": 3600}
_MEMORY, _DAY = 1 << 24, 86400  # the most MiB of a VM, the most seconds of an option


def name(text: str) -> str | None:
    """``web-1`` of ``Web_1``, ``web-1.example``'s ``web-1-example``."""
    likely = re.sub("[_. ]+", "-", text.strip().lower()).strip("-")
    return likely if likely != text and _NAME.fullmatch(likely) else None


def mac(text: str) -> str | None:
    """``02:ab:cd:ef:00:01`` of the ways in which routers, Windows and people write it."""
    pairs = re.split("[:-]", text.strip().lower())
    if len(pairs) == 6:
        digits = "".join(pair.rjust(2, "0") for pair in pairs)
    else:
        digits = "".join(pairs).replace(".", "")
    if not _MAC.fullmatch(digits):
        return None
    return ":".join(digits[n : n + 2] for n in range(0, 12, 2))


def address(text: str) -> str | None:
    """``10.77.0.9`` of ``10.77.0.9/24`` and of ``10.77.0.09``."""
    alone = text.strip().partition("/")[0].removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(_without_zeros(alone)))
    except ValueError:
        return None


def subnet(text: str) -> str | None:
    """``10.1.0.0/16`` of ``10.1/16`` and of ``10.1 / 16``, ``10.1.0.0/24`` of ``010.1.0.5/24``."""
    start, slash, length = (part.strip() for part in text.partition("/"))
    parts = start.split(".")
    if slash and len(parts) < 4 and all(part.isascii() and part.isdigit() for part in parts):
        start = ".".join([*parts, *["0"] * (4 - len(parts))])
    try:
        found = ipaddress.ip_network(f"{_without_zeros(start)}{slash}{length}", strict=False)
    except ValueError:
        return None
    return str(found) if slash else None


def _without_zeros(start: str) -> str:
    """An IPv4 address without leading zeros, which could mean octal."""
    parts = start.split(".")
    if len(parts) == 4 and all(part.isascii() and part.isdigit() for part in parts):
        return ".".join(part.lstrip("0") or "0" for part in parts)
    return start


def published(text: str) -> list[str]:
    """How ``--publish`` takes it: more than one where a list was given; empty: nobody can tell."""
    parts = [part.strip() for part in text.split(",")]
    found = [_one_published(part) for part in parts]
    return [one for one in found if one] if all(found) else []


def _one_published(text: str) -> str | None:
    spelt = text.removeprefix("=").replace("→", ":").replace("->", ":").replace("=", ":").lower()
    spelt = spelt.replace("localhost:", "127.0.0.1:").removeprefix("*:")
    before = re.fullmatch(r"(tcp|udp):(.+)", spelt)
    after = re.fullmatch(r"(.+)[:/](tcp|udp)", spelt)
    protocol = ""
    if before:
        protocol, spelt = before[1], before[2]
    elif after:
        spelt, protocol = after[1], after[2]
    spelt = re.sub(r"^\[([0-9.]+)\]:", r"\1:", spelt)  # of an IPv4 address
    lone = re.fullmatch(_PORT, spelt)
    if lone:
        spelt = f"{spelt}:{spelt}"
    six = re.fullmatch(rf"([0-9a-f:]*::?[0-9a-f:]*):({_PORT}):({_PORT})", spelt)
    if six and spelt.count(":") > 3:
        spelt = f"[{six[1]}]:{six[2]}:{six[3]}"
    if not re.fullmatch(rf"(?:[0-9.]+:|\[[0-9a-f:]+\]:)?{_PORT}:{_PORT}", spelt):
        return None
    return spelt if protocol in {"", "tcp"} else f"{spelt}/{protocol}"


def unpublished(text: str) -> str | None:
    """``8080/udp`` of ``lab/8080:80/udp``: as it was published, without the guest's port."""
    first, slash, rest = text.partition("/")
    spelt = rest if slash and _NAME.fullmatch(first) and not first.isdigit() else text
    ports, slash, protocol = spelt.partition("/")
    twice = re.fullmatch(rf"((?:.+:)?{_PORT}):{_PORT}", ports)
    return f"{twice[1] if twice else ports}{slash}{protocol}"


_RULE = re.compile(r"([a-z0-9._-]+|[0-9./]+|\[[0-9a-f:./]+\])(?::([0-9-]+)(/(?:tcp|udp))?)?")
_URL = re.compile(r"(https?)://([^/]*)(?:/.*)?")
_LENGTH = re.compile(r"^\[([0-9a-f:.]+)\](/[0-9]+)")  # behind the bracket
_SCHEMES = {"http": "80", "https": "443"}


def rule(text: str) -> str | None:
    """``example.org:443`` of ``https://example.org/`` and of ``*.example.org.:443``."""
    spelt = text.strip().lower()
    url = _URL.fullmatch(spelt)
    spelt = (url[2] if url else spelt).removeprefix("*.")
    found = _RULE.fullmatch(_LENGTH.sub(r"[\1\2]", spelt))
    if found is None:
        return None
    ports = found[2] or (_SCHEMES[url[1]] if url else "")
    return f"{found[1].removesuffix('.')}{ports and ':'}{ports}{found[3] or ''}"


def mebibytes(text: str) -> int | None:
    """``512`` of ``512M``, ``1024`` of ``1GiB``; None for no whole number, or too many."""
    found = _SIZE.fullmatch(text.strip())
    if found is None or not found[2]:
        return None
    size = float(found[1]) * _MEBIBYTES[found[2].lower()]
    return int(size) if 1 <= size <= _MEMORY and size == int(size) else None


def seconds(text: str) -> int | None:
    """``300`` of ``5m``; None for what is longer than a day, or no whole number of them."""
    found = _TIME.fullmatch(text.strip().lower())
    if found is None:
        return None
    size = float(found[1]) * _SECONDS[found[2][0]]
    return int(size) if size <= _DAY and size == int(size) else None
