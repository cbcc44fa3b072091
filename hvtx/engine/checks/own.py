"""Checks of hvtx itself: permissions, store, operations, processes, units."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Sequence

from hvtx.drivers.base import Host
from hvtx.engine import looks, privileges
from hvtx.engine.finding import Finding
from hvtx.engine.runtime import Runtime
from hvtx.errors import HvtxError
from hvtx.host import capabilities, procfs
from hvtx.host.mounts import filesystem_of
from hvtx.model.resource import Kind, file_spec
from hvtx.model.shell import word
from hvtx.model.typed import Any
from hvtx.store import records, reserve, trust


def check_permissions(runtime: Runtime) -> Iterator[Finding]:
    """Whether hvtx may do what it is for."""
    if capabilities.has("CAP_NET_ADMIN"):
        yield Finding("permissions", "ok", "CAP_NET_ADMIN is present")
    else:
        effective = capabilities.sets()["CapEff"]
        yield Finding(
            "permissions", "error", "CAP_NET_ADMIN is missing: hvtx can neither create nor "
            "remove anything",
            (f"effective capabilities {effective:#x}",), "run hvtx as root, for instance with sudo",
        )  # fmt: skip
    problem = privileges.legacy_problem()
    if problem is not None:
        used = any(n.firewall == "iptables" for n in runtime.read(records.networks))
        words = "networks here live in them" if used else "rules of others in them are not seen"
        yield Finding(
            "permissions", "error" if used else "warning", f"{problem.message}; {words}", (),
            problem.hint,
        )  # fmt: skip
    hidden = [n for n in ("CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH") if not capabilities.has(n)]
    if hidden:
        yield Finding(
            "permissions", "warning",
            "cannot always identify the process that has a TAP open without "
            f"{' and '.join(hidden)}",
            ("gc never removes a TAP that is open",),
            "run hvtx as root, or with these capabilities (docs/privileges.md)",
        )  # fmt: skip


def check_store(runtime: Runtime) -> Iterator[Finding]:
    """Whether the store is sound, private, and on a disk that keeps it."""
    if runtime.store.missing:
        yield Finding("store", "ok", "no state store yet: the first network or VM creates it")
        return
    if runtime.refused is not None:
        yield Finding(
            "store", "error", runtime.refused.message, (runtime.refused.code,), runtime.refused.hint
        )
    for path, wanted in ((runtime.settings.state_directory, 0o700), (runtime.store.path, 0o600)):
        mode = stat.S_IMODE(os.stat(path).st_mode)
        if mode & 0o077:
            yield Finding(
                "store", "warning", f"{path} can be read or written by others",
                (f"mode {mode:04o}",), f"chmod {wanted:o} {word(path)}",
            )  # fmt: skip
    yield from judge_filesystem(runtime.store.path, filesystem_of(runtime.store.path))
    yield from judge_room(runtime.settings.state_directory)
    try:
        trust.check_pages(runtime.store)
    except HvtxError as problem:
        yield Finding("store", "error", problem.message, (), problem.hint)
    else:
        yield Finding("store", "ok", f"{runtime.store.path} is intact")
    if runtime.refused is None:  # else gc would do nothing either
        yield from judge_unrecorded(_unrecorded(runtime.host, runtime.read))


def _unrecorded(place: Host, read: Callable[..., Any]) -> list[str]:
    """Directories and seeds of VMs that have a mark in the run directory and no row."""
    own = read(records.resources_of_kind, Kind.FILE)
    return [*looks.unrecorded_files(
        place.run_directory,
        {file_spec(row)["path"] for row in own},
        lambda marks: read(records.marks_on_record, marks),
        set,  # who uses them is told by gc
    )]  # fmt: skip


def judge_unrecorded(paths: Sequence[str]) -> Iterator[Finding]:
    """One warning for all of them: each by itself is told by a plan."""
    if paths:
        some = f"{len(paths)} files of VMs that are" if len(paths) > 1 else "a file of a VM that is"
        yield Finding(
            "store", "warning",
            f"{some} not on record: an older copy of the store may be in use",
            tuple(paths[:_SHOWN]), "hvtx gc --plan",
        )  # fmt: skip


# SQLite's log needs memory that all writers share, and locks that hold (sqlite.org/wal.html).
_REMOTE = {"9p", "afs", "ceph", "cifs", "fuse.sshfs", "gfs2", "glusterfs", "nfs", "nfs4", "ocfs2",
           "smb3"}  # fmt: skip
_SHOWN = 5  # paths of a finding
_SPACIOUS = 16 << 20  # bytes left on a disk that is not nearly full
_FLEETING = {"tmpfs", "ramfs", "overlay"}


def judge_filesystem(path: str, kind: str) -> Iterator[Finding]:
    """What a store must expect of the type of file system that it lies on."""
    hint = "keep it on a disk of this host: --state-dir"
    if kind in _REMOTE:
        words = f"{path} is on a network file system: it can be lost or corrupted"
        yield Finding("store", "error", words, (kind,), hint)
    elif kind in _FLEETING:
        words = f"{path} does not survive a reboot or this container, nor do the leases in it"
        yield Finding("store", "warning", words, (kind,), hint)


def judge_room(directory: str) -> Iterator[Finding]:
    """Whether the store's disk is nearly full, and whether a full one would stop nothing."""
    if reserve.lacks_inodes(directory):
        words = f"the disk of {directory} is full: it has no inodes left, so nothing can be created"
        hint = "remove files there that nobody needs (df -i)"
        yield Finding("store", "warning", words, (f"{reserve.inodes(directory)} inodes",), hint)
    left = reserve.room(directory)
    kept = reserve.is_there(directory)
    if left is None or (kept and left >= _SPACIOUS):
        return
    words = f"the disk of {directory} is nearly full: {left >> 10} KiB are left"
    if left < reserve.LOW:
        words = f"the disk of {directory} is full: no VM or network can be made or started"
    if not kept:
        words += "; the reserved space, with which VMs can be stopped on a full disk, is used up"
        if left >= _SPACIOUS:
            words = (
                f"{directory} has no reserved space yet, with which VMs can be stopped on "
                "a full disk"
            )
    hint = "free some space there; the next change makes the reserve again"
    yield Finding("store", "warning", words, (f"{left} bytes left",), hint)


def check_operations(runtime: Runtime) -> Iterator[Finding]:
    """Whether an interrupted operation waits to be resolved."""
    operations = runtime.read(records.operations)
    running = runtime.running(operations)
    left = [o for o in operations if not running[o.id]]
    if left:
        wait = "s wait" if len(left) > 1 else " waits"
        yield Finding(
            "operations", "warning", f"{len(left)} interrupted operation{wait} to be resolved",
            tuple(f"{o.verb} {o.vm or o.network or ''} since {o.started}" for o in left),
            "hvtx recover",
        )  # fmt: skip
    else:
        yield Finding("operations", "ok", "no operation is interrupted")


def check_processes(runtime: Runtime) -> Iterator[Finding]:
    """Whether processes can be identified here."""
    facts = procfs.look(os.getpid())
    if facts.error or not facts.exists:
        yield Finding(
            "processes", "error", "processes cannot be inspected: every VM counts as unknown",
            (facts.error,), "mount /proc of this pid namespace, without hidepid",
        )  # fmt: skip
    else:
        yield Finding("processes", "ok", "processes can be identified")


def check_units(runtime: Runtime) -> Iterator[Finding]:
    """Whether units in /etc hide those of the Debian package, or are shut in too far."""
    from hvtx.engine.unit_files import cut_off, hidden

    cluster = runtime.settings.cluster
    names = cut_off() if cluster is not None and cluster.endpoints else []
    if names:
        words = "their sandbox is of before [cluster]: they cannot ask etcd"
        yield Finding("units", "error", words, tuple(names), "hvtx systemd install")
    paths = hidden()
    if paths:
        yield Finding(
            "units", "warning", "copies hide the units of the Debian package hvtx", tuple(paths),
            "hvtx systemd install",
        )  # fmt: skip
