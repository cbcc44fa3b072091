"""What a refused command must leave alone: the whole host, its settings, and every row of the store."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from integration import lab
from integration.lab.waiting import until

TABLES = ("vm", "network", "subnet", "interface", "lease", "port", "resource", "operation", "attempt",
          "history")  # fmt: skip
SETTINGS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
)


DEEDS = (
    "resource",
    "operation",
    "attempt",
    "history",
)  # what a failed and undone attempt may leave


def store(state_directory: str | None = None) -> list[str]:
    """Every row that speaks of a thing or a deed; empty where there is no store.

    The store itself, and the life of the host that it is in, may be on record by a first refusal.
    """
    path = Path(state_directory or os.environ["HVTX_STATE_DIR"], "hvtx.db")
    if not path.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [
            repr((table, row))
            for table in TABLES
            for row in connection.execute(f"SELECT * FROM {table}")
        ]


def settle(*spaces: lab.Namespace) -> None:
    """Wait for what the kernel does after a command has ended, here and there; at most a minute.

    It looks for duplicate addresses, and tells of a carrier that came or went, up to a second late
    on a slow machine: only then are a device's state, and link-local addresses with their routes,
    what they will be.
    """
    runs = (lab.run, *(space.run for space in spaces))
    until("addresses and carriers at rest", lambda: all(map(_is_settled, runs)))


def _is_settled(run: Callable[..., str]) -> bool:
    # ip writes control bytes of an alias as they are
    links = json.loads(run("ip", "-j", "link", "show"), strict=False)
    return not any(map(_is_late, links)) and not run("ip", "-6", "addr", "show", "tentative")


def _is_late(link: dict[str, Any]) -> bool:
    """Is its carrier not told yet? ``LOWER_UP`` is the carrier, ``NO-CARRIER`` what was told of it."""
    flags = link["flags"]
    return "UP" in flags and ("LOWER_UP" in flags) == ("NO-CARRIER" in flags)


def things(state_directory: str | None = None) -> dict[str, object]:
    """The same without what only tells of deeds: for what is tried, refused by the host, undone."""
    seen = everything(state_directory)
    seen["store"] = [
        row for row in store(state_directory) if not row.startswith(tuple(f"('{t}'" for t in DEEDS))
    ]
    return seen


def everything(state_directory: str | None = None) -> dict[str, object]:
    """The dumps of :func:`integration.lab.dump`, the settings that hvtx may turn, the store."""
    return {
        **lab.dump(),
        "settings": {name: Path("/proc/sys", name).read_text() for name in SETTINGS},
        "store": store(state_directory),
    }


@contextlib.contextmanager
def unchanged(state_directory: str | None = None) -> Iterator[None]:
    """Whatever happens in the block leaves host and store as they were."""
    settle()  # or an address that was tentative before is not so afterwards, on a slow machine
    before = everything(state_directory)
    yield
    differs = lab.difference(before, everything(state_directory))
    assert not differs, differs


@contextlib.contextmanager
def undone(state_directory: str | None = None) -> Iterator[None]:
    """Whatever is tried in the block is taken back: only the history may tell of it."""
    settle()
    before = things(state_directory)
    yield
    differs = lab.difference(before, things(state_directory))
    assert not differs, differs
