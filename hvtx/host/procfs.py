"""Processes as the kernel shows them: who a pid really is, and whether it lives.

A pid alone proves nothing, since it is used again. A process is told from all others by boot id,
pid and start time (field 22 of ``/proc/<pid>/stat``, proc(5); it survives exec), and where the
kernel has pidfs (6.9 on) by the inode of its pidfd, which is never used again while the machine is
up. A pidfd polls readable when every thread has exited (pidfd_open(2)); the state letter in
``/proc`` is no such proof: a leader thread that has exited shows Z while other threads run.

Reading that fails proves nothing either, and is reported as an error, never as absence. So is a
pid of another pid namespace: its process cannot be seen from here. (The namespace's inode is used
again only when the namespace, and with it every process that had a pid in it, is gone.) A time
namespace shifts the start times that are read in it; they are shifted back.
"""

from __future__ import annotations

import contextlib
import errno
import os

from hvtx.host import signals
from hvtx.model.vm import Identity, ProcessFacts

_SO_NETNS_COOKIE = 71  # include/uapi/asm-generic/socket.h, Linux 5.14 on
_START_FIELD = 22
_PID_MOST = (1 << 31) - 1  # of a pid_t
_WORDS_MOST = 1 << 17  # bytes; any process can show terabytes as its words: PR_SET_MM_MAP, prctl(2)
_NS_GET_USERNS = 0xB701  # _IO(0xb7, 0x1), include/uapi/linux/nsfs.h

_FOREIGN = "/proc does not show this pid namespace"
_ELSEWHERE = "it was seen in another pid namespace"
_NANOSECONDS = 1_000_000_000

# What does not change while a process lives, looked up once: a plan looks at thousands of pids.
_seen: dict[str, int] = {}
_myself: list[Identity] = []  # who this process is, once it has been asked: every operation does
os.register_at_fork(after_in_child=_myself.clear)


def boot_id() -> str:
    """The id of this boot of the kernel, 36 characters; OSError without ``/proc``."""
    return read_whole("/proc/sys/kernel/random/boot_id").decode().strip()


def pid_namespace() -> int:
    """The inode of this process's pid namespace; 0 if ``/proc`` does not tell."""
    me = os.getpid()
    if _seen.get("pidns of") != me:
        try:
            _seen["pidns"] = os.stat("/proc/thread-self/ns/pid").st_ino
        except OSError:
            return 0
        _seen["pidns of"] = me
    return _seen["pidns"]


def netns_cookie() -> int:
    """The number of the calling thread's network namespace, never used again in this boot.

    OSError (ENOPROTOOPT) on kernels before 5.14.
    """
    import _socket as socket

    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as probe:
        answer = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    return int.from_bytes(answer, "little" if _little() else "big")


def may_have_power_here() -> bool:
    """Whether capabilities count in this network namespace (ioctl_ns(2), NS_GET_USERNS).

    They do not where it belongs to a user namespace above ours: `unshare -U` makes such a root.
    """
    import fcntl

    descriptor = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.close(fcntl.ioctl(descriptor, _NS_GET_USERNS))
    except PermissionError:
        return False
    except OSError:
        return True  # it cannot be told: the kernel will
    finally:
        os.close(descriptor)
    return True


def identify(pid: int) -> Identity:
    """Who ``pid`` is now.

    Raises ProcessLookupError if no living process has it (a zombie does not live, and a thread
    that leads no process is none), PermissionError or another OSError if it cannot be told.
    """
    myself = pid == os.getpid()
    if myself and _myself and _myself[0].pid == pid:
        return _myself[0]
    facts = look(pid)
    if facts.error:
        raise OSError(facts.code or errno.EACCES, facts.error)
    if not facts.exists or facts.ended:
        raise ProcessLookupError(errno.ESRCH, f"no process has pid {pid}")
    found = Identity(boot_id(), pid, facts.start, facts.inode, pid_namespace())
    if myself:
        _myself[:] = [found]
    return found


def look(pid: int) -> ProcessFacts:
    """What is to be seen of ``pid``; never raises for what the host does."""
    if not 0 < pid <= _PID_MOST:
        return ProcessFacts(False, error=f"{pid} is no process id")
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        if proc_is_foreign():
            return ProcessFacts(False, error=_FOREIGN)
        return ProcessFacts(False)
    except OSError as problem:
        return _without_pidfd(pid, problem)
    try:
        return _facts(pid, descriptor)
    finally:
        os.close(descriptor)


def look_again(identity: Identity) -> ProcessFacts:
    """What is to be seen of a process that was identified before; like :func:`look`.

    Where the kernel has pidfs an equal inode alone says that it is the same process, so that
    ``/proc`` (two thirds of the time) need not be read.
    """
    if identity.pidns and identity.pidns != pid_namespace():
        return ProcessFacts(False, error=_ELSEWHERE, elsewhere=True)
    if identity.inode and identity.pid > 0:
        try:
            descriptor = os.pidfd_open(identity.pid)
        except OSError:
            return look(identity.pid)
        try:
            if pidfs_inode(descriptor) == identity.inode:
                ended = _readable(descriptor, 0)
                return ProcessFacts(True, identity.start, identity.inode, ended)
        except OSError:
            pass  # it is looked at in the other way
        finally:
            os.close(descriptor)
    return look(identity.pid)


def same(identity: Identity, facts: ProcessFacts) -> bool:
    """Whether ``facts``, seen of the identity's pid in the same boot, are of that process."""
    if not facts.exists or facts.error or facts.start != identity.start:
        return False
    return not identity.inode or not facts.inode or identity.inode == facts.inode


def signal(identity: Identity, number: int) -> bool:
    """Send signal ``number`` to that very process; False if it is gone (a zombie is).

    Raises PermissionError if it may not be signalled, OSError if it cannot be told from another.
    """
    descriptor = open_checked(identity)
    if descriptor is None:
        return False
    try:
        if _readable(descriptor, 0):
            return False
        signals.pidfd_send_signal(descriptor, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)


def may_signal(identity: Identity) -> bool:
    """Whether that very process may be signalled; true of what is gone, or cannot be told."""
    try:
        descriptor = open_checked(identity)
    except OSError:
        return True  # whoever signals it will be told what is wrong
    if descriptor is None:
        return True
    try:
        signals.pidfd_send_signal(descriptor, 0)
    except PermissionError:
        return False
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return True


def wait_gone(identity: Identity, seconds: float) -> bool:
    """Wait until every thread of that process has exited; False if it has not by then.

    A zombie counts as gone. Raises OSError if it cannot be told from another.
    """
    descriptor = open_checked(identity)
    if descriptor is None:
        return True
    try:
        return _readable(descriptor, seconds)
    finally:
        os.close(descriptor)


def open_checked(identity: Identity) -> int | None:
    """A pidfd of that very process, for the caller to close; None if it is gone for good.

    Raises OSError if the pid's process cannot be told from the one that was meant.
    """
    if identity.boot_id != boot_id():
        return None
    if identity.pidns and identity.pidns != pid_namespace():
        raise PermissionError(errno.EACCES, f"pid {identity.pid}: {_ELSEWHERE}")
    try:
        descriptor = os.pidfd_open(identity.pid)
    except ProcessLookupError:
        return None
    except OSError as problem:
        facts = _without_pidfd(identity.pid, problem)
    else:
        facts = _facts(identity.pid, descriptor)
        if same(identity, facts):
            return descriptor
        os.close(descriptor)
    if facts.error:
        raise OSError(facts.code or errno.EACCES, f"pid {identity.pid}: {facts.error}")
    return None


def command_line(pid: int) -> tuple[str, ...]:
    """The arguments of ``pid``, of many the first; none of a zombie. OSError if unreadable."""
    data = read_whole(f"/proc/{pid}/cmdline", _WORDS_MOST)
    return tuple(os.fsdecode(part) for part in data.split(b"\0")[:-1])


def start_time(stat: bytes) -> int:
    """Field 22 of a stat line.

    The name in field 2 may hold blanks and parentheses, so fields are counted from the last
    ``)``. Raises ValueError for what is no stat line.
    """
    _, found, rest = stat.rpartition(b")")
    fields = rest.split()
    if not found or len(fields) < _START_FIELD - 2:
        raise ValueError("not a line of /proc/<pid>/stat")
    return int(fields[_START_FIELD - 3])


def is_waiting(pid: int) -> bool:
    """Whether the main thread of ``pid`` waits (state S of proc(5)); no, where nothing tells."""
    return _state(pid) == b"S"


def is_stopped(identity: Identity) -> bool:
    """Whether a signal or a debugger holds that very process (states T and t); False: who knows."""
    return _state(identity.pid) in (b"T", b"t") and same(identity, look(identity.pid))


def _state(pid: int) -> bytes:
    try:
        return read_whole(f"/proc/{pid}/stat").rpartition(b")")[2][1:2]
    except OSError:
        return b""


def _facts(pid: int, descriptor: int) -> ProcessFacts:
    """What ``/proc`` says of the process behind a pidfd."""
    if proc_is_foreign():
        return ProcessFacts(True, error=_FOREIGN)
    shift = _time_shift()
    if shift is None:
        return ProcessFacts(True, error="a time namespace shifts start times by parts of a tick")
    try:
        start = start_time(read_whole(f"/proc/{pid}/stat")) - shift
    except (OSError, ValueError) as problem:
        if not _is_there(descriptor):
            return ProcessFacts(False)
        code = (problem.errno or 0) if isinstance(problem, OSError) else 0
        return ProcessFacts(True, error=f"/proc/{pid}/stat cannot be read: {problem}", code=code)
    # Whoever still exists behind the descriptor now had the pid all the while, so that the line
    # just read was its own and not a successor's.
    if not _is_there(descriptor):
        return ProcessFacts(False)
    try:
        return ProcessFacts(True, start, pidfs_inode(descriptor), _readable(descriptor, 0))
    except OSError as problem:
        words = f"the pidfd of {pid} cannot be inspected: {problem.strerror}"
        return ProcessFacts(True, error=words, code=problem.errno or 0)


def _without_pidfd(pid: int, problem: OSError) -> ProcessFacts:
    """pidfd_open refused: EINVAL (later ENOENT) is its word for a thread that leads no process."""
    if problem.errno in (errno.EINVAL, errno.ENOENT):
        try:
            leader = field_of(read_whole(f"/proc/{pid}/status"), b"Tgid:")
        except FileNotFoundError:
            leader = b""
        except OSError as unreadable:
            words = f"/proc/{pid}/status cannot be read: {unreadable}"
            return ProcessFacts(True, error=words, code=unreadable.errno or 0)
        if leader != str(pid).encode():
            return ProcessFacts(False)
    words = f"pidfd_open({pid}): {problem.strerror}"
    return ProcessFacts(True, error=words, code=problem.errno or 0)


def _time_shift() -> int | None:
    """By how many ticks this time namespace shifts start times; None if by no whole number."""
    if "shift" not in _seen:
        offset = 0
        with contextlib.suppress(OSError):  # a kernel without time namespaces
            for line in read_whole("/proc/self/timens_offsets").splitlines():
                clock, seconds, nanoseconds = line.split()
                if clock == b"boottime":
                    offset = int(seconds) * _NANOSECONDS + int(nanoseconds)
        tick = _NANOSECONDS // os.sysconf("SC_CLK_TCK")
        _seen["shift"], _seen["odd shift"] = offset // tick, offset % tick
    return None if _seen["odd shift"] else _seen["shift"]


def _is_there(descriptor: int) -> bool:
    """Whether a pidfd's process has not been reaped; signal 0 asks without sending."""
    try:
        signals.pidfd_send_signal(descriptor, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def pidfs_inode(descriptor: int) -> int:
    """The pidfd's inode if it is of pidfs, else 0.

    Before pidfs (Linux 6.9) all pidfds share the inode of the anonymous file system, where event
    descriptors still live: another device number than theirs means pidfs. fstatfs would say so
    too, but Python has it only through ctypes.
    """
    if "anonymous" not in _seen:
        event = os.eventfd(0)
        try:
            _seen["anonymous"] = os.fstat(event).st_dev
        finally:
            os.close(event)
    own = os.fstat(descriptor)
    return own.st_ino if own.st_dev != _seen["anonymous"] else 0


def _readable(descriptor: int, seconds: float) -> bool:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(max(0, int(seconds * 1000))))


def proc_is_foreign() -> bool:
    """Whether ``/proc`` is another pid namespace's, so that its pids are not ours, or missing."""
    me = os.getpid()
    if _seen.get("self") == me:
        return False
    try:
        if os.readlink("/proc/self") != str(me):
            return True
    except FileNotFoundError:
        return True
    _seen["self"] = me
    return False


def field_of(text: bytes, key: bytes) -> bytes:
    """The value after ``key`` at the beginning of a line; empty if there is none."""
    for line in text.splitlines():
        if line.startswith(key):
            return line[len(key) :].strip()
    return b""


def read_whole(path: str, most: int = 1 << 30) -> bytes:
    """All of a file of ``/proc``, which does not tell its size; of a longer one ``most`` bytes."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while most > 0 and (piece := os.read(descriptor, min(most, 1 << 16))):
            pieces.append(piece)
            most -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _little() -> bool:
    import sys

    return sys.byteorder == "little"
