"""The process that holds a lock, what it runs, and whether it is stopped.

The kernel does not tell whose an open-file-description lock is (fcntl(2)), but ``fdinfo`` shows the
locks of each descriptor (proc(5)). Looked at only once a wait has ended in vain.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress

from hvtx.host import mounts
from hvtx.model.typed import NamedTuple

# The kind, the file (major and minor of its file system, inode), and the bytes
_LOCK = re.compile(
    r"^lock:\s+\d+: (OFDLCK|FLOCK)\s+\S+\s+\S+ \S+ "
    r"([0-9a-f]{1,8}):([0-9a-f]{1,8}):(\d{1,20}) (\d{1,20}) (\d{1,20}|EOF)$",
    re.MULTILINE | re.ASCII,
)
_GONE = " (deleted)"
_WORD = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_STOPPED = "tT"  # by a signal, by a tracer: proc_pid_stat(5)
_WORDS = 3


class Holder(NamedTuple):
    """Who holds it."""

    pid: int
    command: str  # `hvtx vm stop web`, as far as it can be told without what may be secret
    state: str  # the letter of proc_pid_stat(5)

    @property
    def stands(self) -> bool:
        """Whether it is stopped."""
        return self.state in _STOPPED


def of_byte(path: str, offset: int) -> Holder | None:
    """Who holds that byte of a lock file; None if it cannot be seen."""
    return _search(path, "OFDLCK", offset)


def of_file(path: str) -> Holder | None:
    """Who holds a flock(2) of the whole file; None if it cannot be seen."""
    return _search(path, "FLOCK", None)


def told(what: str, holder: Holder | None) -> tuple[str, str]:
    """That something is held, and what can be done: for the message and its hint."""
    usual = "`hvtx intents` shows who works on it; --lock-timeout waits longer"
    if holder is None:
        return f"{what} is held by another operation", usual
    who = f"{what} is held by another operation: pid {holder.pid} ({holder.command})"
    if not holder.stands:
        return who, usual
    pid = holder.pid
    hint = f"kill -CONT {pid} lets it go on; kill -KILL {pid} ends it, then: hvtx recover"
    return f"{who}, which is stopped ({holder.state})", hint


def holds(fdinfo: str, kind: str, file: tuple[str, int], offset: int | None) -> bool:
    """Whether a descriptor has a lock of that kind on a file, by its fdinfo (pure).

    The file is ``(major:minor, inode)``; ``offset`` is the byte that is to be within, None: any.
    """
    for its, major, minor, inode, first, last in _LOCK.findall(fdinfo):
        if its != kind or (f"{int(major, 16)}:{int(minor, 16)}", int(inode)) != file:
            continue
        if offset is None or (int(first) <= offset and (last == "EOF" or offset <= int(last))):
            return True
    return False


def _search(path: str, kind: str, offset: int | None) -> Holder | None:
    """Who has the lock, by what the kernel says of descriptors: no file of others is looked at."""
    try:
        whole, inode = os.path.realpath(path), os.stat(path).st_ino
        place = mounts.Mounts().place(whole)
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return None
    if place is None:
        return None
    file, name = (place.device, inode), os.path.basename(whole)
    for pid in pids:
        if int(pid) != os.getpid() and _has(pid, name, kind, file, offset):
            return _described(int(pid))
    return None


def _has(pid: str, name: str, kind: str, file: tuple[str, int], offset: int | None) -> bool:
    with suppress(OSError):
        for number in os.listdir(f"/proc/{pid}/fd"):
            with suppress(OSError):
                link = os.readlink(f"/proc/{pid}/fd/{number}").removesuffix(_GONE)
                if os.path.basename(link) != name:  # it is the same below any mount
                    continue
                with open(f"/proc/{pid}/fdinfo/{number}", "rb") as said:
                    if holds(said.read(65536).decode(errors="replace"), kind, file, offset):
                        return True
    return False


def _described(pid: int) -> Holder:
    state, words = "?", ["?"]
    with suppress(OSError, IndexError):
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read(4096).rpartition(b")")[2].split()[0].decode("ascii", "replace")
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(4096).decode(errors="replace").split("\0")
    return Holder(pid, command_of(words), state)


def command_of(words: list[str]) -> str:
    """The program and its first plain words (pure): options and what follows may be secret.

    ``python3 -m hvtx --state-dir /s vm run web --append x`` is ``hvtx vm run web``.
    """
    ours = [n for n, word in enumerate(words) if os.path.basename(word) == "hvtx"]
    if not ours:
        name = "".join(c if c.isprintable() else "?" for c in os.path.basename(words[0]))
        return name[:64] or "?"
    rest = words[ours[0] + 1 :]
    while rest and rest[0].startswith("-"):  # options before the command, most with a value
        rest = rest[1:] if "=" in rest[0] or rest[0] in ("-v", "--debug") else rest[2:]
    plain = []
    for word in rest[:_WORDS]:
        if not _WORD.fullmatch(word):
            break
        plain.append(word)
    return " ".join(["hvtx", *plain])
