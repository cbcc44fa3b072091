"""The log of a VM: a small process reads what the VM writes, and keeps a bounded part of it.

The VM writes into a pipe. Behind it a shell runs ``dd``, which copies each piece to the log at once
and ends before the log holds more than a half of the whole may; when the half is nearly full the
shell renames the log to ``NAME.log.1`` and begins anew. So the two together never hold more than
``LIMIT`` bytes, whatever a guest writes (docs/adr/0020). What a network's dnsmasq says is kept in
the same way, and less of it.

- What cannot be written (a full disk) is dropped, 64 KiB at a time, and reading goes on: a VM is
  never held up by its log.
- The logger ends by itself at end-of-file, when the last process that can write into the pipe has
  ended. It holds the read end and the log, and nothing else of ours.
- ``dd`` that is killed is started again. Who kills the shell too takes the log from the VM, which
  then gets EPIPE, and no signal (the gate sees to it).
"""

from __future__ import annotations

import fcntl
import os
import struct
import time

from hvtx.host import children, paths, signals

SHELL = "/bin/sh"
SIGNATURE = "hvtx-log"
LIMIT = 8 << 20  # bytes, of both halves
HALF = LIMIT // 2
_PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
_QUIET, _PAUSE, _MOMENT = 4, 0.005, 0.001  # looks at an empty pipe; seconds between two

# Arguments: the log, bytes of a half, bytes that the present one may still take. dd tells how many
# pieces it read (fewer than it was to: end-of-file) and how many bytes it wrote.
SCRIPT = """cd /; umask 077; trap "" HUP INT QUIT TERM; left=$3
copy() {
told=$(exec dd bs=4096 count="$1" 2>&1 >&3 3>&-); code=$?; b=0
[ $code -ne 126 ] && [ $code -ne 127 ] || exec cat >/dev/null
case $told in *" records out
"[0-9]*) ;; *) return;; esac
n=${told%% records in*}; n=${n##*
}
[ $code -ne 0 ] || [ $((${n%+*} + ${n#*+})) -eq "$1" ] || exit 0
b=${told##* records out
}; b=${b%% *}
}
while :; do
[ $left -ge $(($2 / 8)) ] || { mv -f -- "$1" "$1.1"; left=$2; }
code=2; b=0
copy $((left / 4096)) 3>>"$1"
left=$((left - b))
[ $code -eq 0 ] || [ $code -ge 128 ] || copy 16 3>/dev/null
done"""


def made(path: str) -> int:
    """Make sure that a log is there, a regular file; how many bytes it has. Raises OSError."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    descriptor = os.open(path, flags, 0o600)
    try:
        seen = os.fstat(descriptor)
        paths.need_regular(seen, path)
        return seen.st_size
    finally:
        os.close(descriptor)


def older(path: str) -> str:
    """Where the older half of the log at ``path`` is (pure)."""
    return f"{path}.1"


def spawn(path: str, source: int, size: int, half: int = HALF) -> int:
    """Start the logger of the log at ``path``, which holds ``size`` bytes now; its pid.

    It reads from the descriptor ``source``; ``half`` is how many bytes a half may have. Raises
    OSError.
    """
    actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, source, 0),
        (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
    ]
    left = str(max(half - size, 0))
    with children.spawning, children.uninterrupted():
        pid = os.posix_spawn(
            SHELL,
            [SHELL, "-c", SCRIPT, SIGNATURE, os.path.abspath(path), str(half), left],
            {"PATH": _PATH, "LC_ALL": "C"},
            file_actions=[*actions, *closing(2)],
            setsid=True,
            setsigmask=(),
            setsigdef=signals.ALL,
        )
        children.started(pid)
    return pid


def closing(above: int) -> list[tuple[int, ...]]:
    """What makes posix_spawn close every inheritable descriptor above a number.

    All of Python's own are close-on-exec; the rest came from whoever started us. One that is not
    below the limit on open files, which was lowered since it was opened, is refused as an action
    (glibc's posix_spawn_file_actions_addclose, EBADF): it becomes close-on-exec.
    """
    actions: list[tuple[int, ...]] = []
    limit = os.sysconf("SC_OPEN_MAX")
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        try:
            if number <= above or not os.get_inheritable(number):
                continue
            if number >= limit > 0:
                os.set_inheritable(number, False)
            else:
                actions.append((os.POSIX_SPAWN_CLOSE, number))
        except OSError:  # the listing's own
            continue
    return actions


def renew(pid: int) -> None:
    """Let the shell of logger ``pid`` start ``dd`` again, in the control group that it is in now.

    For a logger that was just moved, before its VM has written anything.
    """
    children = f"/proc/{pid}/task/{pid}/children"
    try:
        with open(children, encoding="ascii") as listed:
            known = [int(child) for child in listed.read().split()]
        for child in known:
            descriptor = os.pidfd_open(child)
            try:
                with open(children, encoding="ascii") as listed:  # it is no other process by now
                    if str(child) in listed.read().split():
                        signals.pidfd_send_signal(descriptor, signals.SIGKILL)
            finally:
                os.close(descriptor)
    except OSError:  # it has ended; or this kernel lists no children, and dd stays where it is
        return


def drain(pid: int, seconds: float = 1.0) -> None:
    """Wait until logger ``pid``, a child of ours, has written what a VM said; at most ``seconds``.

    That is so when it has ended, or when its pipe stays empty.
    """
    try:
        pipe = _reading(f"/proc/{pid}/fd/0")
    except OSError:  # it has ended
        return
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and children.reap(pid) is None:
            if _stays_empty(pipe):
                return
    finally:
        os.close(pipe)


def listen(pid: int) -> int | None:
    """A descriptor of the pipe that process ``pid`` writes its log into, for :func:`hear_out`."""
    try:
        path = f"/proc/{pid}/fd/1"
        return _reading(path) if os.readlink(path).startswith("pipe:") else None
    except OSError:
        return None


def hear_out(pipe: int, seconds: float = 0.5) -> None:
    """Wait until what an ended process wrote is in its log; closes ``pipe``."""
    try:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not _stays_empty(pipe, looks=2):
            pass
    finally:
        os.close(pipe)


def _reading(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _stays_empty(pipe: int, looks: int = _QUIET) -> bool:
    """Whether nothing is in a pipe, seen several times (what was read is not yet written)."""
    import termios

    for _ in range(looks):
        if struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))[0]:
            time.sleep(_PAUSE)
            return False
        time.sleep(_PAUSE if looks == _QUIET else _MOMENT)
    return True
