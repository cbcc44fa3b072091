"""Network namespaces that a process or a mount holds, looked for by the ids that they have.

For an id whose namespace may be another one than the one that it was recorded of: the kernel gives
the lowest free one to who asks for any (net/core/net_namespace.c, alloc_netid). Which one it is, is
told by its cookie, which is not used again in one boot. What is held by nothing but descriptors and
sockets is not found.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Collection, Iterator

from hvtx.host import network_namespace, procfs
from hvtx.host.mounts import unescaped
from hvtx.host.nsid import NamespaceIds

_MOUNT = re.compile(r"^\S+ \S+ \S+ (net:\[[0-9]+\]) (\S+) .* - nsfs ", re.MULTILINE)


def cookies(wanted: Collection[int], ids: NamespaceIds) -> dict[int, int]:
    """The cookies of the namespaces that have these ids, of those that are found."""
    found: dict[int, int] = {}
    for path in _paths():
        if len(found) == len(wanted):
            break
        with contextlib.suppress(OSError), network_namespace.opened(path) as namespace:
            number = ids.of(namespace)
            if number is not None and number in wanted:
                found[number] = network_namespace.inside(namespace, procfs.netns_cookie)
    return found


def _paths() -> Iterator[str]:
    """A path to each namespace: of a process that is in it, else of a mount of it."""
    seen: set[str] = set()
    for pid in filter(str.isdecimal, os.listdir("/proc")):
        path = f"/proc/{pid}/ns/net"
        with contextlib.suppress(OSError):
            which = os.readlink(path)
            if which not in seen:
                seen.add(which)
                yield path
    for which, path in mounted(_mounts()):
        if which not in seen:
            seen.add(which)
            yield path


def _mounts() -> str:
    try:
        with open("/proc/thread-self/mountinfo", "rb") as file:
            return os.fsdecode(file.read())
    except OSError:
        return ""


def mounted(mountinfo: str) -> list[tuple[str, str]]:
    """The network namespaces in a text of the form of proc(5), mountinfo, and where (pure)."""
    return [(which, unescaped(path)) for which, path in _MOUNT.findall(mountinfo)]
