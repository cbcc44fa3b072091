"""nft's own parser and printer, called in process through ctypes.

Only what is rare goes this way: the static skeleton of an installation, and the text of others'
rules for people to read. A context holds a netlink socket of the calling thread's network
namespace, so one is made for each call.
"""

from __future__ import annotations

import contextlib
from _thread import allocate_lock
from collections.abc import Iterator
from functools import cache

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import capabilities, descriptors
from hvtx.host.signals import SIG_BLOCK, SIG_SETMASK, pthread_sigmask, valid_signals
from hvtx.model.typed import Any

LIBRARY = "libnftables.so.1"

# include/nftables/libnftables.h
_STATELESS, _HANDLE, _JSON, _TERSE = 1 << 2, 1 << 3, 1 << 4, 1 << 11


@cache
def _library() -> Any:
    import ctypes

    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError as problem:
        raise HostRefused(
            f"cannot load {LIBRARY}: {problem}",
            hint="install it, on Debian and Ubuntu: apt install libnftables1",
            code="no-libnftables",
        ) from problem
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(library, name).argtypes = [ctypes.c_void_p]
        getattr(library, name).restype = ctypes.c_char_p
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library


def load() -> None:
    """Raise HostRefused if the library is not there."""
    _library()


def is_there() -> bool:
    """Whether the library can be loaded."""
    try:
        _library()
    except HostRefused:
        return False
    return True


def run(
    commands: str,
    *,
    json: bool = False,
    handles: bool = False,
    stateless: bool = False,
    terse: bool = False,
) -> str:
    """Run ``commands`` as one atomic batch; what nft prints.

    ``stateless`` leaves out counters, ``terse`` the elements of named sets. Raises HostRefused
    with nft's own words, NotPermitted without CAP_NET_ADMIN.
    """
    with _one_at_a_time:
        return _run(commands, json=json, handles=handles, stateless=stateless, terse=terse)


_one_at_a_time = allocate_lock()  # nothing says that the library may be used by two threads


def _run(commands: str, *, json: bool, handles: bool, stateless: bool, terse: bool) -> str:
    library = _library()
    if not capabilities.has("CAP_NET_ADMIN"):  # libnftables has words for it that are not ours
        raise refusal("Operation not permitted")
    _need_netlink()
    context = library.nft_ctx_new(0)
    if not context:
        raise HostRefused(
            "libnftables got no context from the kernel",
            hint="is nf_tables there? `modprobe nf_tables`",
        )
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        wanted = ((stateless, _STATELESS), (handles, _HANDLE), (json, _JSON), (terse, _TERSE))
        library.nft_ctx_output_set_flags(context, sum(bit for on, bit in wanted if on))
        with _undisturbed():
            failed = library.nft_run_cmd_from_buffer(context, commands.encode())
        output = library.nft_ctx_get_output_buffer(context) or b""
        words = (library.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace")
    finally:
        library.nft_ctx_free(context)
    if failed:
        raise refusal(words)
    return str(output.decode(errors="replace"))


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Keep signals waiting: libnftables exits the process when one interrupts it (mnl_genid_get).

    That would leave out the undo, and Ctrl-C is nothing rare.
    """
    before = pthread_sigmask(SIG_BLOCK, valid_signals())
    try:
        yield
    finally:
        pthread_sigmask(SIG_SETMASK, before)


def _need_netlink() -> None:
    """Raise HostRefused where no netlink socket is to be had: libnftables would exit the process.

    nft_mnl_socket_open calls netlink_init_error, which ends in exit(NFT_EXIT_NONL). And where its
    number would be too high for select(2), which libnftables waits by: glibc aborts the process.
    """
    import _socket as socket

    netlink_netfilter = 12
    try:
        tried = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, netlink_netfilter)
        number = tried.fileno()  # the lowest that is free, which the library's will have
        tried.close()
    except OSError as problem:
        raise HostRefused(
            f"this kernel has no netfilter over netlink: {problem.strerror}",
            hint="load the modules: modprobe -a nfnetlink nf_tables",
        ) from problem
    if number >= descriptors.SELECTED:
        raise HostRefused(
            f"this process has {number} files open, and libnftables works with fewer than"
            f" {descriptors.SELECTED}",
            hint="close some, or do it in a process of its own: the program `hvtx`",
        )


def refusal(words: str) -> HostRefused | NotPermitted:
    """The error for nft's ``words`` (its first line says what, the next ones show where)."""
    said = " ".join(words.split()) or "no reason given"
    if "Operation not permitted" in words:
        return NotPermitted(
            f"nft may not do that here: {said}", hint="run as root, or with CAP_NET_ADMIN"
        )
    return HostRefused(
        f"nft refused: {said}", hint="`hvtx doctor` shows what this kernel's nf_tables lacks"
    )


_TABLE_LINE = r"table (\S+) (\S+) \{.*"
_CHAIN_LINE = r"\tchain (\S+) \{.*"
_RULE_LINE = r"(?s)\t\t(.*) # handle (\d+)"


def lines_of(listing: str) -> Iterator[str]:
    """The lines of what nft lists, with those joined that a newline in a comment splits (pure)."""
    pending: list[str] = []
    for line in listing.split("\n"):
        turns = bool(line.count('"') & 1)
        pending.append(line)
        if bool(pending[:-1]) != turns:
            continue  # a quotation mark is open at its end
        yield "\n".join(pending)
        pending = []
    yield from pending  # a mark that is never closed hides nothing of what was printed


def rules_in(listing: str) -> dict[tuple[str, str, str, int], str]:
    """``{(family, table, chain, handle): text}`` from ``list ruleset`` with handles (pure)."""
    import re

    table, chain, rule = (re.compile(p) for p in (_TABLE_LINE, _CHAIN_LINE, _RULE_LINE))
    found: dict[tuple[str, str, str, int], str] = {}
    family, name, inside = "", "", ""
    for line in lines_of(listing):
        if opened := table.fullmatch(line):
            family, name, inside = opened[1], opened[2].strip('"'), ""
        elif opened := chain.fullmatch(line):
            inside = opened[1].strip('"')
        elif line == "\t}":
            inside = ""
        elif inside and (seen := rule.fullmatch(line)):
            found[family, name, inside, int(seen[2])] = seen[1]
    return found
