"""The gate of a VM process is started: with nothing of ours, as the VM's user."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hvtx.drivers.vm_process.gate import Gate, Log
from hvtx.errors import HostRefused
from hvtx.host import capabilities, children, logger, named_files, paths, signals
from hvtx.hypervisors.base import Launch, by_descriptor
from hvtx.model.gate import SCRIPT, SHELL, SIGNATURE
from hvtx.model.passed_fds import FIRST_HANDED
from hvtx.model.typed import Any
from hvtx.model.user import User

# The directory is one without links on the way to it; what was put there since is not entered.
ENTER = 'umask "$1"; cd -P -- "$2" && [ "$PWD" = "$2" ] || exit 126; shift 2; exec "$@"'
# What a service manager tells its own child, and what another VM process was told: not for ours.
_NOT_INHERITED = (
    "NOTIFY_SOCKET",
    "WATCHDOG_",
    "LISTEN_",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "MAINPID",
    "HVTX_VM",
    "HVTX_TAP",
    "HVTX_MAC",
    "HVTX_IP",
    "HVTX_GATEWAY",
    "HVTX_NETMASK",
    "HVTX_MTU",
    "HVTX_QUEUES",
    "HVTX_SEED",
)
# Who its starter is, and places that only the starter may use: not another user's.
_OF_STARTER = ("USER", "LOGNAME", "MAIL", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS")


def inherited(
    environment: Mapping[str, str], added: Mapping[str, str], user: User | None = None
) -> dict[str, str]:
    """What a VM process finds in its environment (pure); another user's says who that is."""
    kept = {k: v for k, v in environment.items() if not k.startswith(_NOT_INHERITED)}
    if user is not None:
        kept = {k: v for k, v in kept.items() if k not in _OF_STARTER} | user.environment
    return kept | dict(added)


def spawn(launch: Launch, log_path: str, name: str = "", user: User | None = None) -> Gate:
    """Start the gate of ``launch``; nothing of the hypervisor runs before :meth:`Gate.open`.

    It becomes ``user`` (None: it stays hvtx's own). Standard output and error go to the end of
    ``log_path``, by way of a logger. ``name`` is the VM's, for messages. Raises HostRefused.
    """
    from hvtx.host import fd_passing, inherited_limits

    what = f"{launch.argv[0]} of VM {name}" if name else launch.argv[0]
    launch = launch._replace(directory=_entered(launch.directory, what))
    launch, shown = _reachable(launch._replace(argv=_as_found(launch.argv, what)), user)
    mine: list[int] = []
    try:
        opened = fd_passing.open_all(launch.handed, user)
        given = _all_raised(opened, mine, len(opened))
        begins = logger.made(log_path)
        said, log = _all_raised(os.pipe(), mine, len(given))
        if user is not None:  # what is open as its standard output can be opened by that name
            os.fchmod(log, 0o660)
            os.fchown(log, user.uid, os.getegid())
        with capabilities.only_for_children():
            writer = logger.spawn(log_path, said, begins)
        # After the logger: posix_spawn returns before its child has closed what it does not keep,
        # and while that has the read end, it is not noticed that a gate was killed.
        read, write = _all_raised(os.pipe(), mine, len(given))
        pid = _spawned(launch, user, shown, _actions(read, log, given))
        mine.remove(write)
    except (OSError, ValueError) as problem:
        raise HostRefused(
            f"{what} cannot be started: {problem}",
            hint="look at the limits on processes and open files, and at the log's directory",
        ) from problem
    finally:
        fd_passing.close_all(mine)
    inherited_limits.forget(pid)
    return Gate(pid, write, what, Log(log_path, begins, writer), user)


def _spawned(
    launch: Launch, user: User | None, shown: tuple[str, ...], actions: Sequence[Any]
) -> int:
    """The gate's pid. Raises OSError."""
    from hvtx.host import inherited_limits, ioctl_filter

    argv, needs = _way(launch, user)
    umask = "022" if user is None or capabilities.has("CAP_DAC_OVERRIDE") else "007"
    if shown:
        needs = (*needs, "CAP_SYS_ADMIN")

    def spawned(files: int) -> int:
        with capabilities.only_for_children(needs):
            return os.posix_spawn(
                SHELL,
                [
                    *(SHELL, "-c", inherited_limits.in_shell(ENTER, files)),
                    *(SIGNATURE, umask, launch.directory),
                    *shown,
                    *argv,
                    *(SHELL, "-c", SCRIPT, SIGNATURE),
                    *launch.argv,
                ],
                inherited(os.environ, launch.environment, user),
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=signals.ALL,
            )

    with inherited_limits.usual_limits() as files, children.uninterrupted():
        pid = spawned(files) if user is None else ioctl_filter.start(lambda: spawned(files))
        children.started(pid)
        return pid


def _way(launch: Launch, user: User | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """How the gate becomes ``user``, and the capabilities that this takes."""
    if user is None:
        return (), ()
    from hvtx.host.vmuser import way_to

    way = way_to(user, own_network=launch.own_network)
    return way.argv, way.capabilities


def _reachable(launch: Launch, user: User | None) -> tuple[Launch, tuple[str, ...]]:
    """The launch with its program where the user can execute it, and what is put before it.

    The way to a program in a shut directory is shown to the user; where that cannot be done, the
    program is handed over as a descriptor.
    """
    if user is None:
        return launch, ()
    from hvtx.host import path_mounts
    from hvtx.host.vmuser import may_make_namespaces, may_open

    program = os.path.join(launch.directory, launch.argv[0])
    chosen = path_mounts.executed(program)
    words = tuple(chosen)
    if launch.ready == "exec":  # a command, which names its files itself
        words += tuple(os.path.join(launch.directory, word) for word in launch.argv[1:])
        words += tuple(p for name, p in launch.environment.items() if name == "HVTX_SEED")
    # a script may call any program by its name
    on_path = [place for place in os.environ.get("PATH", "").split(":") if place.startswith("/")]
    try:
        wanted = path_mounts.steps(user, words, on_path, chosen)
        if wanted is None:
            wanted = path_mounts.steps(user, words, chosen=chosen)
    except paths.UnsafeError as unsafe:
        raise named_files.refused("path", str(unsafe.filename), unsafe) from unsafe
    if wanted and may_make_namespaces():
        return launch, path_mounts.way(wanted)
    if may_open(user, program, 1):
        return launch, ()
    return by_descriptor(launch._replace(argv=(program, *launch.argv[1:]))), ()


def _as_found(argv: Sequence[str], what: str) -> tuple[str, ...]:
    """``argv`` with the path of its program: the gate must not look for a name again.

    A shell would also take it from a directory that others may write. Raises HostRefused.
    """
    from hvtx.host import program

    found = argv[0] if "/" in argv[0] else program.find(argv[:1])
    if found is None:
        raise HostRefused(
            f"{what} cannot be started: it was not found",
            hint="name a program of this host, by its path or in a directory of PATH that nobody"
            " else may write",
        )
    return (found, *argv[1:])


def _entered(directory: str, what: str) -> str:
    """The directory of a launch without links. Raises HostRefused, NotPermitted."""
    try:
        return named_files.directory(directory)
    except paths.UnsafeError as unsafe:
        raise named_files.refused(f"directory of {what},", directory, unsafe) from unsafe
    except OSError as problem:
        raise HostRefused(
            f"{what} cannot be started: its directory {directory} cannot be entered:"
            f" {problem.strerror}",
            hint="look at its permissions, and at those of its directories",
        ) from problem


def _raised(descriptor: int, mine: list[int], handed: int = 0) -> int:
    """The same file under a number above those that the gate is given, close-on-exec.

    A caller with closed standard streams gets 0, 1 or 2 for what it opens next.
    """
    import fcntl

    try:
        lowest = max(10, FIRST_HANDED + handed)
        high = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, lowest)
    finally:
        os.close(descriptor)
    mine.append(high)
    return high


def _all_raised(descriptors: Sequence[int], mine: list[int], handed: int) -> list[int]:
    """The same of several; whichever fails, ``mine`` has all that are open. Raises OSError."""
    mine += descriptors
    found = []
    for descriptor in descriptors:
        mine.remove(descriptor)
        found.append(_raised(descriptor, mine, handed))
    return found


def _actions(
    read: int, log: int, given: Sequence[int]
) -> list[tuple[int, ...] | tuple[int, int, str, int, int]]:
    """What posix_spawn does with descriptors: four are set, and what is handed over behind them.

    Every other one is closed before. They are listed once all of ours are open: a number that is
    another thread's for a moment, while it starts something, could be one of ours by then.
    """
    return [
        *logger.closing(3),
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, log, 1),
        (os.POSIX_SPAWN_DUP2, log, 2),
        (os.POSIX_SPAWN_DUP2, read, 3),
        *((os.POSIX_SPAWN_DUP2, one, FIRST_HANDED + n) for n, one in enumerate(given)),
    ]
