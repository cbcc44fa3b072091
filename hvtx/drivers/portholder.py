"""Published ports, held: sockets bound to them, in a small process that lives as long as the VM.

The host translates what comes to a published port before any socket could get it, so a program that
binds to the port later would start well and hear nothing; or, if it translates too (dockerd), take
the port away. A bound socket makes the kernel refuse it (docs/adr/0031).

The sockets serve nobody. One of TCP is bound and does not listen, so that what is not translated,
[::1] for one, is refused as if it were not there. One of UDP drops what it gets by a filter.

They are bound by whoever starts the VM, before anything else is made, and inherited by a holder: an
interpreter with nothing loaded (hvtx/host/port_programs.py), which gives no VM anything to speak
to. Like a gate it waits for one word, and is gone if its starter dies before that; then it ends
when the VM's process does.
"""

from __future__ import annotations

import _socket as socket
import array
import contextlib
import errno
import os
import struct
import time
from collections.abc import Collection, Iterable, Sequence

from hvtx.errors import Conflict, HostRefused
from hvtx.host import capabilities, children, descriptors, logger, port_programs, procfs, signals
from hvtx.host.inet import socket_family
from hvtx.host.port_programs import SIGNATURE
from hvtx.host.ports import taken
from hvtx.model.vm import Identity, ProcessFacts, Publish

_DROP_ALL = array.array("B", struct.pack("=HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K: 0 bytes of it
_SO_ATTACH_FILTER = 26
_FREEBIND = {socket.AF_INET: (socket.IPPROTO_IP, 15), socket.AF_INET6: (socket.IPPROTO_IPV6, 78)}
_KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}
_NO_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT})
_PASSING_SECONDS, _PAUSE = 5.0, 0.005
_END_SECONDS = 5.0


class Held:
    """Sockets bound to ports: this process's own until a holder has inherited them."""

    def __init__(self) -> None:
        """None yet."""
        self._sockets: list[socket.socket] = []
        self.ports: list[Publish] = []  # that are held
        self.unheld: dict[Publish, str] = {}  # ports that could not be bound, and why
        self.away: list[Publish] = []  # whose host address no device has

    def __bool__(self) -> bool:
        """Whether there is anything to hold."""
        return bool(self._sockets)

    def add(self, port: Publish) -> None:
        """Bind to a port. Raises Conflict if somebody has it, HostRefused."""
        mine: list[socket.socket] = []
        try:
            for address in [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]:  # noqa: S104 - held
                mine += self._bound(port, address)
        except OSError as problem:
            for one in mine:
                one.close()
            if problem.errno == errno.EADDRINUSE:
                raise taken(port) from problem
            if problem.errno not in (errno.EACCES, errno.EPERM, errno.EINVAL):
                raise HostRefused(
                    f"port {port.host_port}/{port.protocol} cannot be held: {problem.strerror}",
                    hint="look at the limits on open files and memory",
                ) from problem
            self.unheld[port] = _why_not(port, problem)
        else:
            self._sockets += mine
            self.ports.append(port)

    def _bound(self, port: Publish, address: str) -> list[socket.socket]:
        family = socket_family(address)
        try:
            found = socket.socket(family, _KINDS[port.protocol])
        except OSError as problem:
            if problem.errno in _NO_FAMILY:  # a kernel without IPv6 has nobody else on it either
                return []
            raise
        try:
            if family == socket.AF_INET6:
                found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            drop_all = struct.pack("@HP", 1, _DROP_ALL.buffer_info()[0])
            found.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, drop_all)
            self._bind(found, port, address)
        except BaseException as problem:
            found.close()
            if isinstance(problem, OSError) and problem.errno == errno.EADDRNOTAVAIL:
                if port.host_ip is None:  # IPv6 is switched off
                    return []
                problem.errno = errno.EINVAL
            raise
        return [found]

    def _bind(self, found: socket.socket, port: Publish, address: str) -> None:
        """Bind ``found``; to an address that comes and goes, too. Raises OSError."""
        where = (address, port.host_port)
        try:
            _bind(found, where)
        except OSError as problem:
            if problem.errno != errno.EADDRNOTAVAIL or port.host_ip is None:
                raise
            self.away.append(port)
            found.setsockopt(*_FREEBIND[found.family], 1)
            _bind(found, where)

    def adopt(self, identity: Identity, wanted: Collection[_Where]) -> None:
        """Take a copy of each socket of a holder that is bound to one of ``wanted``.

        Raises OSError.
        """
        from hvtx.host import openfiles

        for descriptor in openfiles.sockets_of(identity):
            found = socket.socket(fileno=descriptor)
            if _where(found) in wanted:
                self._sockets.append(found)
            else:
                found.close()

    def has(self, port: Publish) -> bool:
        """Whether one of the sockets is bound for that port."""
        wanted = _wheres(port)
        return any(_where(one) in wanted for one in self._sockets)

    def descriptors(self) -> list[int]:
        """Of all sockets."""
        return [one.fileno() for one in self._sockets]

    def close(self) -> None:
        """Let go of them, as far as this process has them."""
        while self._sockets:
            self._sockets.pop().close()


def hold(ports: Iterable[Publish]) -> Held:
    """Bind to every one of ``ports``. Raises Conflict, HostRefused; nothing is held then.

    Who was killed while it started a VM left a holder that goes away by itself: that is waited for.
    """
    held = Held()
    deadline = time.monotonic() + _PASSING_SECONDS
    wanted = list(ports)
    try:
        with room_for(wanted):
            for port in wanted:
                while True:
                    try:
                        held.add(port)
                    except Conflict:
                        if time.monotonic() >= deadline or not _some_pass():
                            raise
                        time.sleep(_PAUSE)
                    else:
                        break
    except BaseException:
        held.close()
        raise
    return held


def taken_over(identity: Identity, ports: Iterable[Publish]) -> Held:
    """The sockets with which a holder holds ``ports``: the same, in this process too.

    Raises HostRefused where they cannot be had from it.
    """
    wanted = list(ports)
    held = Held()
    try:
        with room_for(wanted):
            held.adopt(identity, {where for port in wanted for where in _wheres(port)})
    except OSError as problem:
        held.close()
        raise HostRefused(
            f"the sockets of pid {identity.pid} on published ports cannot be taken over:"
            f" {problem.strerror}",
            hint="run hvtx as the user who started the VM, or as root",
        ) from problem
    return held


_Where = tuple[int, str, int]


def _where(found: socket.socket) -> _Where:
    name = found.getsockname() if found.family in _FREEBIND else ("", 0)
    return found.type, name[0], name[1]


def _wheres(port: Publish) -> list[_Where]:
    hosts = [port.host_ip] if port.host_ip else ["0.0.0.0", "::"]  # noqa: S104 - held
    return [(_KINDS[port.protocol], host, port.host_port) for host in hosts]


def room_for(ports: Sequence[Publish]) -> contextlib.AbstractContextManager[None]:
    """While these ports are bound: room for a socket for each address of each.

    The sockets leave the lowest descriptors to others. Raises HostRefused, OSError.
    """
    if not ports:
        return contextlib.nullcontext()
    return descriptors.room_for_ports(len(ports), sum(1 if p.host_ip else 2 for p in ports))


def _bind(found: socket.socket, where: tuple[str, int]) -> None:
    """Bind so that nobody else can, whatever options he sets. Raises OSError.

    Connections of a server that has ended keep a port for a minute from those who do not set
    SO_REUSEADDR. Who does set it would share the port with others who do, but for one who listened
    once: that makes the kernel look at each socket again, and what it sees there is ours, which
    shares no more. While it listens, the filter lets nothing in.
    """
    try:
        found.bind(where)
    except OSError as problem:
        from hvtx.host.socket_table import has_connections

        stream = found.type == socket.SOCK_STREAM
        if problem.errno != errno.EADDRINUSE or not stream or not has_connections(where[1]):
            raise
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(where)
        found.listen(0)
        found.shutdown(socket.SHUT_RDWR)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)


def _why_not(port: Publish, problem: OSError) -> str:
    if problem.errno == errno.EINVAL:
        return f"{port.host_ip} is no address that a program could have here"
    return "it takes the capability CAP_NET_BIND_SERVICE (docs/privileges.md)"


# -- the holder ------------------------------------------------------------------------------------


class Holder:
    """A spawned process that holds ports; it goes away unless it is told to stay."""

    def __init__(self, pid: int, pipe: int, program: str) -> None:
        """Take over child ``pid``, of ``program``, and the write end ``pipe``.

        Raises OSError; HostRefused if that program does not run here.
        """
        self._pipe: int | None = pipe
        self._program = program
        try:
            self.identity: Identity = procfs.identify(pid)
        except OSError as problem:
            self._close()
            status = children.wait(pid)
            if status:
                raise _gone(program, status) from problem
            raise

    @property
    def passing(self) -> bool:
        """Whether it has not been told yet to stay."""
        return self._pipe is not None

    def open(self) -> None:
        """Let it hold until its VM ends."""
        assert self._pipe is not None
        try:
            with contextlib.suppress(BrokenPipeError):  # it was killed: `confirm` tells
                os.write(self._pipe, b"go\n")
        finally:
            self._close()

    def confirm(self) -> None:
        """Raise HostRefused if it does not hold any more."""
        if _has_ended(self.identity, procfs.look_again(self.identity)):
            raise _gone(self._program, children.reap(self.identity.pid))

    def cancel(self) -> None:
        """Let it go away; its ports are free when this returns."""
        self._close()
        end(self.identity)

    def _close(self) -> None:
        if self._pipe is not None:
            os.close(self._pipe)
            self._pipe = None


def _gone(program: str, status: int | None) -> HostRefused:
    words, hint = port_programs.how_it_ended(program, status)
    return HostRefused(f"the process that holds the VM's published ports {words}", hint=hint)


def spawn(held: Held, vm: Identity | None, words: Sequence[str]) -> Holder:
    """Give what is held to a process of its own; ``held`` is closed, whatever happens.

    It ends with the process ``vm`` (None: when it is ended). ``words`` stand in its command line,
    for people. Raises HostRefused.
    """
    with children.spawning:
        return _spawn(held, vm, words)


def _spawn(held: Held, vm: Identity | None, words: Sequence[str]) -> Holder:
    from hvtx.host import inherited_limits

    mine: list[int] = []
    try:
        followed = procfs.open_checked(vm) if vm is not None else None
        mine += [] if followed is None else [followed]
        read, write = os.pipe()
        mine += [read, write]
        closing = logger.closing(2)  # before ours can be inherited
        for one in held.descriptors():
            _inheritable(one, mine)
        number = None if followed is None else _inheritable(followed, mine)
        bounded = inherited_limits.usual_limits()
        actions: list[port_programs.Action] = [
            (os.POSIX_SPAWN_DUP2, read, 0),
            (os.POSIX_SPAWN_OPEN, 1, "/dev/null", os.O_WRONLY, 0),
            (os.POSIX_SPAWN_OPEN, 2, "/dev/null", os.O_WRONLY, 0),
            *closing,
        ]
        with bounded, capabilities.only_for_children(), children.uninterrupted():
            command_lines = port_programs.command_lines(number, words)
            pid, program = port_programs.start(command_lines, actions)
            children.started(pid)
        inherited_limits.forget(pid)
        mine.remove(write)
        return Holder(pid, write, program)
    except OSError as problem:
        raise HostRefused(
            f"no process can be started that holds the VM's published ports: {problem.strerror}",
            hint="look at the limits on processes, memory and open files",
        ) from problem
    finally:
        held.close()
        for one in mine:
            os.close(one)


def _inheritable(descriptor: int, mine: list[int]) -> int:
    """The same file under a number that the child keeps: above its standard streams."""
    if descriptor > 2:
        os.set_inheritable(descriptor, True)
        return descriptor
    import fcntl

    high = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    mine.append(high)
    return high


def ended(identity: Identity) -> bool:
    """Whether that holder holds no more; False where it cannot be told."""
    facts = procfs.look_again(identity)
    if facts.error:
        return False
    return identity.boot_id != procfs.boot_id() or _has_ended(identity, facts)


def _has_ended(identity: Identity, facts: ProcessFacts) -> bool:
    """The same of one of this boot, as it was just seen."""
    return not facts.error and (facts.ended or not procfs.same(identity, facts))


def end(identity: Identity) -> bool:
    """End a holder; whether it has, and its ports are free. Raises OSError."""
    if not procfs.signal(identity, signals.SIGKILL) or procfs.wait_gone(identity, _END_SECONDS):
        children.reap(identity.pid)
        return True
    return False


def is_passing(pid: int) -> bool:
    """Whether ``pid`` is a holder that has not been told yet whether to stay."""
    from hvtx.host import pids

    try:
        if SIGNATURE not in procfs.command_line(pid):
            return False
        return pids.called(pid) != SIGNATURE
    except OSError:
        return False


def _some_pass() -> bool:
    from hvtx.host import pids

    try:
        return any(map(is_passing, pids.numbers()))
    except OSError:
        return False
