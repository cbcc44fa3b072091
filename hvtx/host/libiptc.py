"""libiptc, the library that iptables itself edits a legacy table with, called directly.

It reads a whole table, changes the copy and gives it back to the kernel in one system call. It has
nothing to do with libxtables, so no version of that matters here; its calls have been the same
since libip4tc.so.2 (iptables 1.8.4). Nothing is searched for by programs: the dynamic linker finds
a library by its soname, and so no compiler, linker or ldconfig runs.

Sources: libiptc/libiptc.c, include/libiptc/libiptc.h of iptables 1.8.
"""

from __future__ import annotations

import errno
from functools import cache

from hvtx.errors import HostRefused
from hvtx.model.typed import Any

LIBRARIES = {4: "libip4tc.so.2", 6: "libip6tc.so.2"}
_PREFIXES = {4: "iptc_", 6: "ip6tc_"}


@cache
def library(family: int) -> Any:
    """The loaded library of a family. Raises HostRefused if this host has none.

    To be called before the lock of iptables is taken, which nothing that can block may stand under.
    """
    import ctypes

    name, prefix = LIBRARIES[family], _PREFIXES[family]
    handle, text, number = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_uint
    entry = ctypes.c_void_p  # a rule, as bytes
    calls = {
        "init": (handle, text),
        "free": (None, handle),
        "is_chain": (ctypes.c_int, text, handle),
        "first_rule": (handle, text, handle),
        "get_references": (ctypes.c_int, ctypes.POINTER(number), text, handle),
        "create_chain": (ctypes.c_int, text, handle),
        "delete_chain": (ctypes.c_int, text, handle),
        "append_entry": (ctypes.c_int, text, entry, handle),
        "insert_entry": (ctypes.c_int, text, entry, number, handle),
        "replace_entry": (ctypes.c_int, text, entry, number, handle),
        "delete_entry": (ctypes.c_int, text, entry, entry, handle),
        "commit": (ctypes.c_int, handle),
    }
    try:
        loaded = ctypes.CDLL(name, use_errno=True)
        for call, (result, *arguments) in calls.items():
            function = getattr(loaded, prefix + call)
            function.restype, function.argtypes = result, arguments
            setattr(loaded, call, function)
    except (OSError, AttributeError) as problem:
        raise HostRefused(
            f"the iptables backend cannot work here: cannot load {name}: {problem}",
            hint="install the package iptables (in Debian and Ubuntu it brings libip4tc2 and"
            " libip6tc2), or use --firewall nftables",
        ) from problem
    return loaded


class Table:
    """A copy of one table of the calling thread's network namespace, until it is committed.

    Reading a table that the namespace does not have yet makes it. Chains are named as iptables
    names them, rules are entries as :mod:`hvtx.host.xtentry` builds them. Every method raises
    OSError with libiptc's errno.
    """

    def __init__(self, family: int, table: str) -> None:
        """Read the table."""
        import ctypes

        self._ctypes = ctypes
        self._calls = library(family)
        self._name = table
        self._handle = self._calls.init(table.encode())
        if not self._handle:
            raise self._problem(table)

    def _problem(self, what: str) -> OSError:
        import os

        code = self._ctypes.get_errno() or errno.EINVAL
        return OSError(code, f"{os.strerror(code)}: {what}")

    def _do(self, call: str, *arguments: Any) -> None:
        self._ctypes.set_errno(0)
        if not getattr(self._calls, call)(*arguments, self._handle):
            raise self._problem(f"{self._name} {call}")

    def close(self) -> None:
        """Forget the copy, and what was changed in it since it was committed."""
        if self._handle:
            self._calls.free(self._handle)
            self._handle = None

    def has(self, chain: str) -> bool:
        """Whether there is such a chain."""
        return bool(self._calls.is_chain(chain.encode(), self._handle))

    def empty(self, chain: str) -> bool:
        """Whether a chain has no rule."""
        return not self._calls.first_rule(chain.encode(), self._handle)

    def references(self, chain: str) -> int:
        """How many rules jump to a chain of users."""
        number = self._ctypes.c_uint(0)
        self._do("get_references", self._ctypes.byref(number), chain.encode())
        return int(number.value)

    def create_chain(self, chain: str) -> None:
        """Add an empty chain."""
        self._do("create_chain", chain.encode())

    def delete_chain(self, chain: str) -> None:
        """Remove a chain that is empty and that nothing jumps to."""
        self._do("delete_chain", chain.encode())

    def append(self, chain: str, entry: bytes) -> None:
        """Add a rule at the end of a chain."""
        self._do("append_entry", chain.encode(), entry)

    def insert(self, chain: str, entry: bytes, place: int) -> None:
        """Add a rule before the one that stands at ``place``, counted from 0."""
        self._do("insert_entry", chain.encode(), entry, place)

    def replace(self, chain: str, entry: bytes, place: int) -> None:
        """Put a rule in the place of another."""
        self._do("replace_entry", chain.encode(), entry, place)

    def delete(self, chain: str, entry: bytes) -> None:
        """Remove the first rule that equals ``entry`` in every byte; ENOENT if there is none."""
        self._do("delete_entry", chain.encode(), entry, b"\xff" * len(entry))

    def commit(self) -> None:
        """Give the copy to the kernel, whole."""
        self._do("commit")
