"""The legacy iptables tables of a network namespace, listed without creating any."""

from __future__ import annotations

from hvtx.errors import HostRefused, NotPermitted
from hvtx.host import procfs

TOOLS = {4: "iptables", 6: "ip6tables"}
NAMES = {4: "/proc/thread-self/net/ip_tables_names", 6: "/proc/thread-self/net/ip6_tables_names"}
OR_NFTABLES = "or use --firewall nftables"


def names_path(family: int) -> str:
    """Where the kernel lists the tables of a family, as people know it."""
    return NAMES[family].replace("thread-self/", "")


def listed(family: int) -> frozenset[str]:
    """The tables that this thread's network namespace has; looking creates none.

    Raises NotPermitted or HostRefused (``cannot-observe``) when the list cannot be read.
    """
    try:
        return frozenset(procfs.read_whole(NAMES[family]).decode().split())
    except FileNotFoundError:
        return frozenset()  # this kernel has no legacy tables of the family
    except PermissionError as problem:
        raise NotPermitted(
            f"cannot read {names_path(family)} without the capability CAP_DAC_READ_SEARCH",
            hint="run hvtx as root, or with that capability; `--firewall nftables` does without",
        ) from problem
    except OSError as problem:
        raise unobserved(f"cannot read {NAMES[family]}: {problem.strerror}") from problem


def legacy_tables() -> bool:
    """Whether the kernel lists any legacy table (reading one that it does not makes it).

    Raises NotPermitted where the list may not be read, which proves nothing.
    """
    for path in NAMES.values():
        name = path.rpartition("/")[2]
        try:
            with open(path, encoding="utf-8") as listed:
                if listed.read(1):
                    return True
        except FileNotFoundError:
            continue  # this kernel has none of the family
        except PermissionError as problem:
            raise NotPermitted(
                f"the list {name} may not be read", hint="run hvtx as root: the list is root's"
            ) from problem
        except OSError as problem:
            raise HostRefused(
                f"the list {name} could not be read: {problem}",
                hint="is /proc mounted, and of this namespace?",
            ) from problem
    return False


def unobserved(message: str) -> HostRefused:
    """The error of a list or table that cannot be read."""
    return HostRefused(
        message,
        hint="see what `iptables-legacy-save` and `ip6tables-legacy-save` say",
        code="cannot-observe",
    )
