"""The table ``[cluster]`` of the configuration: where blocks of addresses come from."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from urllib.parse import urlsplit

from hvtx.errors import UsageError
from hvtx.model.address import without_zone
from hvtx.model.block import SOURCES, Cluster
from hvtx.model.typed import Any

_TEXTS = ("source", "ca", "cert", "key", "prefix", "address")
_KEYS = frozenset((*_TEXTS, "blocks", "endpoints", "timeout"))
_LONGEST = 60  # seconds


def parse(table: object, path: str) -> Cluster:
    """Check the table of the file ``path``. Raises UsageError."""
    if not isinstance(table, Mapping):
        raise _wrong(path, "cluster is no table", '[cluster], and below it source = "etcd"')
    unknown = sorted(set(table) - _KEYS)
    if unknown:
        known = ", ".join(sorted(_KEYS))
        raise _wrong(path, f"[cluster] has unknown keys: {', '.join(unknown)}", f"known: {known}")
    for name in _TEXTS:
        if name in table and not (isinstance(table[name], str) and table[name].isprintable()):
            raise _wrong(path, f"{name} of [cluster] is not a text", f'{name} = "…"')
    source = table.get("source")
    if source not in SOURCES:
        raise _wrong(
            path,
            "[cluster] has no source" if source is None else f"source of [cluster]: {source!r}",
            f"source is one of {', '.join(SOURCES)}",
        )
    return Cluster(
        source,
        blocks=_blocks(table.get("blocks", {}), path),
        endpoints=_endpoints(table.get("endpoints", ()), path, needed=source == "etcd"),
        **_files(table, path),
        prefix=_prefix(table.get("prefix", "/hvtx"), path),
        address=_address(table.get("address"), path),
        timeout=_timeout(table.get("timeout", 5), path),
    )


def _wrong(path: str, words: str, hint: str) -> UsageError:
    return UsageError(f"the configuration {path}: {words}", hint=hint)


def _blocks(given: object, path: str) -> dict[str, tuple[str, ...]]:
    hint = '[cluster.blocks], and below it NETWORK = ["10.64.3.0/26"]'
    if not isinstance(given, Mapping):
        raise _wrong(path, "blocks of [cluster] is no table", hint)
    seen: dict[str, str] = {}
    found = {}
    for network, blocks in given.items():
        if not isinstance(blocks, list):
            raise _wrong(path, f"blocks of network {network} are no list", hint)
        for block in blocks:
            try:
                plain = str(ipaddress.ip_network(_text(block)))
            except (TypeError, ValueError) as problem:
                raise _wrong(path, f"block {block!r} of network {network}: {problem}", hint) from (
                    problem
                )
            if plain in seen:
                raise _wrong(path, f"block {block} is there twice", "give each to one network")
            seen[plain] = network
        found[network] = tuple(str(ipaddress.ip_network(block)) for block in blocks)
    return found


def _text(value: object) -> str:
    """A number would be an address, too. Raises TypeError; ValueError for a zone."""
    if not isinstance(value, str):
        raise TypeError("it is no text")
    return without_zone(value)


def _endpoints(given: object, path: str, *, needed: bool) -> tuple[str, ...]:
    hint = 'endpoints = ["https://10.0.0.1:2379", "https://10.0.0.2:2379"]'
    if not isinstance(given, list | tuple) or (needed and not given):
        raise _wrong(path, "endpoints of [cluster] are to be a list of addresses", hint)
    for one in given:
        if "@" in str(one):  # it is not repeated: a password may stand in it
            raise _wrong(
                path,
                "an endpoint of [cluster] names a user of etcd, and hvtx sends no password",
                "leave out what stands before @; certificates say who may ask: cert, key",
            )
        try:
            place = urlsplit(one) if isinstance(one, str) else None
            good = place and place.scheme in ("http", "https") and place.hostname and place.port
            bare = good and place and not (place.path.strip("/") or place.query)
        except ValueError:
            bare = False
        if not bare:
            raise _wrong(path, f"{one!r} is no endpoint of etcd", hint)
    return tuple(one.rstrip("/") for one in given)


def _files(table: Mapping[str, Any], path: str) -> dict[str, str | None]:
    """Paths of certificates; who runs hvtx (a timer, a runtime) chooses its directory."""
    for name in ("ca", "cert", "key"):
        if name in table and not table[name].startswith("/"):
            raise _wrong(
                path,
                f"{name} of [cluster] is no absolute path: {table[name]!r}",
                f'{name} = "/etc/hvtx/{os.path.basename(table[name]) or "etcd.pem"}"',
            )
    return {"ca": table.get("ca"), **_pair(table, path)}


def _pair(table: Mapping[str, Any], path: str) -> dict[str, str | None]:
    if ("cert" in table) != ("key" in table):
        raise _wrong(path, "[cluster] has one of cert and key", "give both, or none")
    return {"cert": table.get("cert"), "key": table.get("key")}


def _prefix(text: str, path: str) -> str:
    kept = text.rstrip("/")
    if not kept.isascii() or not kept or " " in kept:
        raise _wrong(path, f"prefix of [cluster] cannot be {text!r}", 'prefix = "/hvtx"')
    return kept


def _address(text: str | None, path: str) -> str | None:
    if text is None:
        return None
    try:
        return str(ipaddress.ip_address(_text(text)))
    except ValueError as problem:
        raise _wrong(
            path,
            f"address of [cluster] is no IP address: {text!r}",
            "it is that of this host by which other hosts reach its guests",
        ) from problem


def _timeout(given: object, path: str) -> float:
    number = isinstance(given, int | float) and not isinstance(given, bool)
    if not number or not 0 < float(str(given)) <= _LONGEST:
        raise _wrong(
            path, "timeout of [cluster] is no number of seconds", f"timeout = 5, at most {_LONGEST}"
        )
    return float(str(given))
