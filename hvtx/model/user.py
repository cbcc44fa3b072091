"""The user of a VM process: a user id of its own, the configured user, or hvtx's."""

from __future__ import annotations

from hvtx.model.typed import NamedTuple, Protocol

# "Unused" in systemd's table of user and group ids (UIDS-GIDS): no package, no directory service
# and no container tool takes ids from there, and no entry in passwd has one.
FIRST_ID, IDS = 1879048192, 1 << 28
AUTO, ROOT = "auto", "root"
SETTING, OPTION = "vm_user", "--user"  # where a user is named: for all VMs, for one
_GOLDEN = 0x9E3779B97F4A7C15  # Fibonacci hashing (Knuth, vol. 3, 6.4), without loading a library


class HasMode(Protocol):
    """What is asked of a ``stat_result``."""

    @property
    def st_mode(self) -> int:
        """Type and permissions."""

    @property
    def st_uid(self) -> int:
        """Its owner."""

    @property
    def st_gid(self) -> int:
        """Its group."""


class User(NamedTuple):
    """A user and its groups; ``name`` is that of the settings, None for one made up."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()  # supplementary
    name: str | None = None
    home: str = "/"

    @property
    def shown(self) -> int | str:
        """What records and people are told."""
        return self.uid if self.name is None else self.name

    @property
    def environment(self) -> dict[str, str]:
        """The variables that say who it is; one without an entry in passwd has no name."""
        name = self.name or ""
        who = {} if not name or name.isdigit() else {"USER": name, "LOGNAME": name}
        return {"HOME": self.home, **who}

    def may(self, mode: int, owner: int, group: int, bits: int) -> bool:
        """Whether the permission bits of a file grant ``bits`` (4, 2, 1) to this user (pure)."""
        if owner == self.uid:
            granted = mode >> 6
        elif group == self.gid or group in self.groups:
            granted = mode >> 3
        else:
            granted = mode
        return granted & bits == bits

    def may_replace(self, directory: HasMode) -> bool:
        """Whether what is in a directory, by its stat, can be taken away or changed (pure)."""
        if directory.st_uid == self.uid:
            return True
        sticky = directory.st_mode & 0o1000
        return not sticky and self.may(
            directory.st_mode & 0o777, directory.st_uid, directory.st_gid, 2
        )


def own_user(installation: str, number: int) -> User:
    """The user of an installation's VM with that number; 0 is no VM's, and is tried with (pure).

    Where the ids of an installation begin follows from its random name, so that those of two
    installations are apart: of 10,000 VMs each, two hosts in 10,000 have any in common.
    """
    begin = int.from_bytes(installation.encode(), "big") * _GOLDEN % (1 << 64) >> 36
    identity = FIRST_ID + (begin + number) % IDS
    return User(identity, identity)


def is_own(uid: int) -> bool:
    """Whether a user id is of the range that VMs get theirs from (pure)."""
    return FIRST_ID <= uid < FIRST_ID + IDS
