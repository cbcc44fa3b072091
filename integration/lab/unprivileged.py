"""The program as somebody who is not root: another user with just the capabilities that are given.

A forked child (another user may not be able to read this Python) drops to a user id with ambient
capabilities, as ``setpriv --ambient-caps`` or a unit's ``AmbientCapabilities=`` would leave it. It
sees a ``/dev/net/tun`` of the mode that Debian gives it, in a mount namespace of its own.
"""

from __future__ import annotations

import codecs
import contextlib
import ctypes
import os
import stat
import struct
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from hvtx.host.capabilities import NUMBERS
from integration import lab
from integration.lab.program import Forked, Ran, child, preload, text_of

USER = 65533
_LIBC = ctypes.CDLL(None, use_errno=True)
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91}[os.uname().machine]
_PR_SET_DUMPABLE, _PR_SET_KEEPCAPS, _PR_CAP_AMBIENT, _AMBIENT_RAISE = 4, 8, 47, 2
_VERSION_3 = 0x20080522
_MS_REC_PRIVATE = 1 << 18 | 1 << 14


def _check(result: int, what: str) -> None:
    if result:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")


def own_tun(mode: int) -> None:
    """Give the calling process a mount namespace of its own with a tun device of this mode."""
    lab.unshare(lab.CLONE_NEWNS)
    _check(_LIBC.mount(b"none", b"/", None, _MS_REC_PRIVATE, None), "mount /")
    _check(_LIBC.mount(b"none", b"/dev/net", b"tmpfs", 0, b"mode=755"), "mount /dev/net")
    os.mknod("/dev/net/tun", stat.S_IFCHR, os.makedev(10, 200))
    os.chmod("/dev/net/tun", mode)


def tun_is_open() -> bool:
    """Whether every user may open the tun device, as Debian's udev rules leave it."""
    return Path("/dev/net/tun").stat().st_mode & 0o666 == 0o666


def become(
    capabilities: Iterable[str], *, user: int = USER, group: int = USER, groups: Iterable[int] = ()
) -> None:
    """Become ``user`` with these capabilities: permitted, effective, inheritable and ambient."""
    numbers = [NUMBERS[name] for name in capabilities]
    wanted = sum(1 << number for number in numbers)
    _check(_LIBC.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0), "keepcaps")
    os.setgroups(list(groups))
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)
    low, high = wanted & 0xFFFFFFFF, wanted >> 32
    header = struct.pack("=Ii", _VERSION_3, 0)
    sets = struct.pack("=6I", low, low, low, high, high, high)
    _check(_LIBC.syscall(_SYS_CAPSET, header, sets), "capset")
    for number in numbers:
        _check(_LIBC.prctl(_PR_CAP_AMBIENT, _AMBIENT_RAISE, number, 0, 0), "ambient")
    _check(_LIBC.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0), "dumpable")


class Unprivileged(Forked):
    """``hvtx`` as another user with ``capabilities``, with a store of its own below ``home``."""

    def __init__(
        self,
        home: Path,
        *capabilities: str,
        user: int = USER,
        groups: Iterable[int] = (),
        tun: int = 0o666,
        **environment: str,
    ) -> None:
        preload()
        for name in ("ascii", "latin_1", "idna"):  # codecs are modules too
            codecs.lookup(name)
        (home / "config.toml").touch()
        super().__init__(
            **{
                "HVTX_STATE_DIR": str(home / "own" / "state"),
                "HVTX_RUN_DIR": str(home / "own" / "run"),
                "HVTX_CONFIG": str(home / "config.toml"),
                "XTABLES_LOCKFILE": str(home / "own" / "xtables.lock"),
                **environment,
            }
        )
        give(home / "own", user)
        self.capabilities = capabilities
        self.user = user
        self.groups = tuple(groups)
        self.tun = tun

    def having(self, *capabilities: str, tun: int | None = None) -> Unprivileged:
        """The same user with other capabilities."""
        other = object.__new__(Unprivileged)
        other.__dict__.update(self.__dict__)
        other.capabilities = capabilities
        other.tun = self.tun if tun is None else tun
        return other

    def __call__(self, *arguments: str, code: int | None = 0, **environment: str) -> Ran:
        """Run it; ``code`` is the exit code to insist on (None: any)."""
        out, err = os.memfd_create("out"), os.memfd_create("err")
        pid = os.fork()
        if pid == 0:
            try:
                own_tun(self.tun)
                become(self.capabilities, user=self.user, groups=self.groups)
            except BaseException as problem:
                os.write(err, f"the test could not drop its privileges: {problem}".encode())
                os._exit(71)
            child(arguments, {**self.environment, **environment}, out, err)
        _, status = os.waitpid(pid, 0)
        ran = Ran(os.waitstatus_to_exitcode(status), text_of(out), text_of(err))
        if ran.code == 71 or (code is not None and ran.code != code):
            words = " ".join(arguments)
            raise AssertionError(f"hvtx {words}: exit {ran.code}, not {code}\n{ran.out}{ran.err}")
        return ran


@contextlib.contextmanager
def open_home() -> Iterator[Path]:
    """A directory that everybody may pass, which pytest's own are not: every run closes them."""
    with tempfile.TemporaryDirectory(prefix="hvtx-test-") as name:
        Path(name).chmod(0o755)
        yield Path(name)


def give(path: Path, user: int = USER, mode: int = 0o700) -> Path:
    """A directory of that user's own."""
    path.mkdir(parents=True, exist_ok=True)
    os.chown(path, user, user)
    path.chmod(mode)
    return path
