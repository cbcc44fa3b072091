"""Options of a VM that its guest sees, or its process: queues, what cloud-init reads, the user."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from hvtx.engine.files import is_no_file
from hvtx.errors import NotFound, NotPermitted, UsageError
from hvtx.host import named_files, paths
from hvtx.model.shell import word
from hvtx.model.typed import NamedTuple

QUEUES_MOST = 256  # MAX_TAP_QUEUES of drivers/net/tun.c
_KEYS_MOST = 1 << 20  # bytes of a file of keys
_LONGEST_NAME = 4096


class GuestOptions(NamedTuple):
    """What was asked for, by the names of :class:`hvtx.model.vm.Vm`."""

    queues: int = 1
    user_data: str | None = None
    ssh_keys: tuple[str, ...] = ()
    user: str | None = None


def parse_guest(
    queues: int = 1,
    user_data: str | None = None,
    ssh_keys: Sequence[str] = (),
    user: str | None = None,
) -> GuestOptions:
    """Check what was written; ``ssh_keys`` are files. Raises UsageError, NotFound, NotPermitted."""
    check_queues(queues)
    path = None if user_data is None else os.path.abspath(user_data)
    return GuestOptions(queues, path, read_keys(ssh_keys), checked_user(user))


def check_queues(queues: int) -> None:
    """Refuse what no TAP device can have; raises UsageError."""
    if not 1 <= queues <= QUEUES_MOST:
        raise UsageError(
            f"--queues {queues} is not between 1 and {QUEUES_MOST}",
            hint="one for each virtual processor is the most that a guest uses",
        )


def checked_user(user: str | None) -> str | None:
    """A user's name or number as it is kept; raises UsageError for what can be neither.

    No name begins with a hyphen (useradd(8)), so that -1 is a number that no user has.
    """
    spoilt = set(" :/,")
    if user is None or (user and user.isprintable() and user[0] != "-" and not set(user) & spoilt):
        return user
    raise UsageError(
        f"--user {user!r} is neither a name nor a number", hint="`getent passwd` shows both"
    )


def check_guest(hypervisor: str, cpus: int, options: GuestOptions) -> None:
    """Refuse what a hypervisor cannot do; raises UsageError."""
    if hypervisor == "firecracker" and options.queues > 1:
        raise UsageError(
            "--hypervisor firecracker has one queue for each interface",
            hint="leave --queues out, or choose --hypervisor qemu",
        )
    if hypervisor == "cloud-hypervisor" and options.queues > cpus:
        raise UsageError(
            f"--hypervisor cloud-hypervisor needs a processor for each of {options.queues} queues",
            hint=f"give --cpus {options.queues}, or fewer --queues",
        )
    if hypervisor == "external" and (options.user_data or options.ssh_keys):
        raise UsageError(
            "--user-data and --ssh-key have no effect on external",
            hint="leave them out, or choose --hypervisor qemu; whoever starts the VM gives it a"
            " seed of its own",
        )


def check_user_data(path: str | None) -> None:
    """Refuse a file that cannot be read now. Raises NotFound, UsageError, NotPermitted."""
    if path is None:
        return
    from hvtx.host.seed_image import read_user_data

    _readable("--user-data", path, read_user_data)


# -- keys ------------------------------------------------------------------------------------------


def read_keys(files: Iterable[str]) -> tuple[str, ...]:
    """The public keys in files, a line each. Raises UsageError, NotFound, NotPermitted."""
    found: list[str] = []
    for path in files:
        lines = public_keys(_readable("--ssh-key", path, _read), path)
        found += [line for line in lines if line not in found]
    return tuple(found)


def public_keys(content: bytes, path: str) -> list[str]:
    """The lines of keys of a file as sshd(8) takes them from ``authorized_keys`` (pure).

    Raises UsageError for a private key, for another format, and for a file without any.
    """
    if b"PRIVATE KEY" in content or content.startswith(b"PuTTY-User-Key-File"):
        raise UsageError(
            f"{path} is a private key, which is for nobody else",
            hint=f"give the public one: {path}.pub, or what `ssh-keygen -y -f {word(path)}` prints",
        )
    try:
        lines = content.decode("utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise _no_key(path, "it is no text") from None
    kept = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    for number, line in enumerate(kept, 1):
        if not is_public_key(line):
            raise _no_key(path, f"line {number} that is not empty is none")
    if not kept:
        raise _no_key(path, "it is empty")
    return kept


def is_public_key(line: str) -> bool:
    """Whether a line has a type and a key of that type, perhaps behind options (RFC 4253, 6.6)."""
    words = line.split()
    controls = [c for c in line if c < " " and c != "\t"]
    return not controls and any(_named_in(blob) == kind.encode() for kind, blob in pairwise(words))


def _named_in(blob: str) -> bytes | None:
    """The type that the bytes of a key begin with."""
    import base64

    try:
        raw = base64.b64decode(blob, validate=True)
    except ValueError:  # binascii.Error is one
        return None
    length = int.from_bytes(raw[:4], "big")
    return raw[4 : 4 + length] if 0 < length <= _LONGEST_NAME and len(raw) > 4 + length else None


def _no_key(path: str, why: str) -> UsageError:
    return UsageError(
        f"{path} is not a file of SSH public keys: {why}",
        hint="a line is like `ssh-ed25519 AAAA… name`; `ssh-keygen -i -f FILE` converts others",
    )


def _readable(option: str, path: str, read: Callable[[str], bytes]) -> bytes:
    """What a file that was named holds; what keeps it from being read, as an error for people."""
    try:
        return read(path)
    except FileNotFoundError as problem:
        raise NotFound(
            f"{option}: the file {path} does not exist",
            hint="put it there, or give a path that exists (relative ones count from here)",
        ) from problem
    except paths.UnsafeError as unsafe:
        raise named_files.refused(option.removeprefix("--"), path, unsafe) from unsafe
    except PermissionError as problem:
        raise NotPermitted(
            f"{option}: {path} may not be read: {problem.strerror}",
            hint="run hvtx as a user who may, or give another file",
        ) from problem
    except OSError as problem:
        if not is_no_file(problem):
            raise
        raise UsageError(
            f"{option}: {path} cannot be used: {problem.strerror}", hint="name a file"
        ) from problem


def _read(path: str) -> bytes:
    with os.fdopen(named_files.open_file(path), "rb") as file:
        content = file.read(_KEYS_MOST + 1)
    if len(content) > _KEYS_MOST:
        raise UsageError(
            f"{path} has more than {_KEYS_MOST >> 20} MiB, which no file of SSH public keys has",
            hint="give a file such as ~/.ssh/id_ed25519.pub",
        )
    return content
