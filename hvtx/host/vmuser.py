"""The user of VM processes, and how they become it: setpriv(1) and unshare(1).

Both are programs of util-linux. They are put in front of the gate's second shell, so that the user
is dropped to while the caller still writes its record, and nothing of the hypervisor has run.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Iterator

from hvtx.errors import HostRefused, NotFound, NotPermitted, UsageError
from hvtx.host import capabilities, named_files
from hvtx.model.typed import NamedTuple
from hvtx.model.user import AUTO, OPTION, ROOT, SETTING, User, own_user

KVM = "/dev/kvm"
TO_SWITCH = ("CAP_SETUID", "CAP_SETGID", "CAP_CHOWN", "CAP_KILL")
_PAGE = "docs/privileges.md"
_ID_MOST = (1 << 32) - 2  # the one above means "nobody in particular" to the kernel
_BACK = 'vm_user = "root" in the configuration starts VMs as the user of hvtx, as root can'


def numeric_id(key: str, text: str) -> int:
    """A user's or group's number from the settings (pure). Raises UsageError."""
    number = int(text) if len(text) <= 10 else _ID_MOST + 1
    if number > _ID_MOST:
        raise UsageError(
            f"{key} is {text[:40]}, which no user or group can have",
            hint=f"numbers go from 0 to {_ID_MOST}; a name will do as well",
        )
    return number


def user_id(key: str, text: str) -> int:
    """The id of the user that the setting or option ``key`` names.

    Raises UsageError; NotFound where an option names a user that is not there.
    """
    if text.isascii() and text.isdigit():
        return numeric_id(key, text)
    import pwd

    try:
        return pwd.getpwnam(text).pw_uid
    except KeyError as problem:
        kind = NotFound if key == OPTION else UsageError
        raise kind(
            f"{key} is {text!r}, and this host has no such user",
            hint="give the user that VM processes run as, by name or number",
        ) from problem


def choose(wanted: str, installation: str, number: int, key: str = SETTING) -> User | None:
    """Whom ``wanted`` means for the VM with that number; None: hvtx's own user.

    ``key`` is where it is from. Raises UsageError or NotFound (:func:`user_id`) for a user that is
    not there, NotPermitted for one who could write the store.
    """
    if wanted == AUTO:
        return own_user(installation, number)
    if wanted == ROOT:
        if os.geteuid() != 0:
            raise _owns_the_store(wanted, key)
        return None
    import pwd

    uid = user_id(key, wanted)
    if uid in (0, os.geteuid()):
        raise _owns_the_store(wanted, key)
    try:
        known = pwd.getpwuid(uid)
    except KeyError:
        return User(uid, uid, name=wanted)
    return User(uid, known.pw_gid, name=known.pw_name, home=known.pw_dir or "/")


def owner_id(wanted: str, installation: str, number: int) -> int:
    """Whose the devices are of a VM that hvtx does not start, by its ``--user``."""
    if wanted == AUTO:
        return own_user(installation, number).uid
    return 0 if wanted == ROOT else user_id(OPTION, wanted)


def refuse_writer(user: User, wanted: str, state_directory: str, key: str = SETTING) -> None:
    """Refuse a user of this host who could put another store in the store's place.

    (Ids that were made up own nothing.) Raises NotPermitted.
    """
    if user.name is not None and any(map(user.may_replace, _above(state_directory))):
        raise _owns_the_store(wanted, key)


def _above(path: str) -> Iterator[os.stat_result]:
    for place in _with_parents(os.path.realpath(path)):
        with contextlib.suppress(FileNotFoundError):
            yield os.stat(place)


def _owns_the_store(wanted: str, key: str) -> NotPermitted:
    hint = f"leave {key} out: each VM gets a user id of its own ({_PAGE})"
    if os.geteuid() == 0:
        hint += f"; {_BACK}"
    return NotPermitted(
        f"{key} is {wanted!r}: VM processes would run as a user who can write the store",
        hint=hint,
    )


def lack(user: User) -> NotPermitted | HostRefused | None:
    """Why no process of ours could become ``user``; None if one can."""
    for name in TO_SWITCH:
        if not capabilities.has(name):
            return NotPermitted(
                f"VM processes run as user {user.shown}, for which hvtx needs the capability"
                f" {name}",
                hint=f"run hvtx as root, or with {' '.join(TO_SWITCH)} as well ({_PAGE}); {_BACK}",
            )
    for what, kind, number in (("user", "uid", user.uid), ("group", "gid", user.gid)):
        if not _is_mapped(kind, number):
            return NotPermitted(
                f"VM processes run as {what} {number}, which this user namespace does not have",
                hint="set vm_user in the configuration to a user of this container, or map more"
                f" ids into it (/proc/self/{kind}_map); {_BACK}",
            )
    if setpriv() is None:
        return HostRefused(
            "setpriv, by which VM processes become another user, is not on this host",
            hint="install it: apt install util-linux",
        )
    return None


def _is_mapped(kind: str, number: int) -> bool:
    with open(f"/proc/self/{kind}_map", encoding="ascii") as file:
        for line in file:
            first, _, count = map(int, line.split())
            if first <= number < first + count:
                return True
    return False


def setpriv() -> str | None:
    """The path of the program, None if it is not there."""
    from hvtx.host import program

    return program.find(("setpriv", "/usr/bin/setpriv"))


def may_make_namespaces() -> bool:
    """Whether a VM process can be given network and mount namespaces of its own."""
    return capabilities.has("CAP_SYS_ADMIN") and _unshare() is not None


def _unshare() -> str | None:
    from hvtx.host import program

    return program.find(("unshare", "/usr/bin/unshare"))


class Way(NamedTuple):
    """How a process becomes a VM's user: what is put before its command line, and what it needs."""

    argv: tuple[str, ...]
    capabilities: tuple[str, ...]  # those that it must still have when that begins


def way_to(user: User, *, own_network: bool) -> Way:
    """How to become ``user``, with no capabilities left and none to be had (NoNewPrivs).

    The bounding set goes where hvtx may take it away; without capabilities it has no meaning.
    """
    needs = ["CAP_SETUID", "CAP_SETGID"]
    argv: list[str] = []
    if own_network and may_make_namespaces():
        argv += [_unshare() or "unshare", "--net", "--"]
        needs.append("CAP_SYS_ADMIN")
    bounding = []
    if capabilities.has("CAP_SETPCAP"):
        bounding = ["--bounding-set=-all"]
        needs.append("CAP_SETPCAP")
    groups = f"--groups={','.join(map(str, user.groups))}" if user.groups else "--clear-groups"
    argv += [
        setpriv() or "setpriv",
        *(f"--reuid={user.uid}", f"--regid={user.gid}", groups),
        *("--inh-caps=-all", "--ambient-caps=-all", *bounding),
        *("--no-new-privs", "--"),
    ]
    return Way(tuple(argv), tuple(needs))


def kvm_groups() -> tuple[int, ...]:
    """The group by which KVM is open to a user that has nothing else: none, or that one.

    The group of root is given to nobody.
    """
    try:
        seen = os.stat(KVM)
    except OSError:
        return ()
    mode = stat.S_IMODE(seen.st_mode)
    if mode & 0o006 == 0o006 or mode & 0o060 != 0o060 or seen.st_gid == 0:
        return ()
    return (seen.st_gid,)


def with_kvm(user: User) -> User:
    """The same user, in the group of KVM where that is what opens it."""
    return user._replace(groups=tuple(dict.fromkeys((*user.groups, *kvm_groups()))))


def may_open(user: User | None, path: str, bits: int) -> bool:
    """Whether ``user`` can open ``path`` by its name, as far as modes and owners tell.

    ``bits`` are those of a mode (4 to read, 1 to execute). Who is let in by an access control list
    is not seen: False is what cannot go wrong. A process of ours (None) can open much, and is to
    open by a name only what nobody else can put another thing in the place of.
    """
    from hvtx.host.path_mounts import on_the_way

    path = os.path.abspath(path)
    if user is None:
        with contextlib.suppress(OSError):
            return named_files.is_fixed(path)
        return False
    try:  # the way by its own name, since links on it are followed by that user too
        return _grants(user, os.stat(path), bits) and not on_the_way(user, path)
    except OSError:
        return False


def _with_parents(place: str) -> Collection[str]:
    found = [place]
    while place != "/":
        place = os.path.dirname(place)
        found.append(place)
    return found


def _grants(user: User, seen: os.stat_result, bits: int) -> bool:
    return user.may(stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid, bits)
