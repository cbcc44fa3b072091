"""The kernel's trace of nf_tables: the rule or policy at which a packet ended.

In the scratch every packet is traced from its first hook on. Layouts:
include/uapi/linux/netfilter/nf_tables.h (enum nft_trace_attributes).
"""

from __future__ import annotations

import contextlib
import errno
import re
import socket
import struct
from collections.abc import Collection, Iterable, Sequence

from hvtx.host.netlink import attribute_map, legible
from hvtx.host.nfnumbers import FAMILY_NAMES, NETLINK_NETFILTER
from hvtx.model.typed import NamedTuple

_TABLE, _CHAIN, _HANDLE, _TYPE, _VERDICT, _ID, _HEADER, _POLICY = 1, 2, 3, 4, 5, 6, 8, 16
_VERDICT_CODE = 1
_IS_POLICY, _IS_RULE = 1, 3
_DROP, _STOLEN, _QUEUE = 0, 2, 3
_KIND = 10 << 8 | 17  # NFT_MSG_TRACE
_GROUP = 9  # NFNLGRP_NFTRACE
_SOL_NETLINK, _ADD_MEMBERSHIP, _SO_RCVBUFFORCE = 270, 1, 33
_HEADERS = struct.Struct("=IHHII")
_MLD = b"\x16"  # the last byte of ff02::16, whom multicast listeners report to

# Each hook at its very beginning; the name is that of no table of anybody's.
TABLE, _OWN = "hvtx-replica-trace", "hvtx-"
_FIRST = -2147483648
_PLAIN = re.compile(r"[A-Za-z0-9_.:@-]{1,15}")


_HOOKS = {"inet": ("prerouting", "output"), "bridge": ("prerouting", "output"),
          "arp": ("input", "output")}  # fmt: skip


def rules(devices: Sequence[str], families: Iterable[str] = tuple(_HOOKS)) -> str:
    """What nft has to be told, so that all packets are traced; ``devices`` are far ends."""
    mark = "meta nftrace set 1;"
    lines = []
    for family in families:
        chains = " ".join(
            f"chain {hook} {{ type filter hook {hook} priority {_FIRST + 1}; {mark} }};"
            for hook in _HOOKS[family]
        )
        lines.append(f"table {family} {TABLE} {{ {chains} }}")
    # A device may have any name; nft has no way to quote each, and libnftables may abort on some.
    if devices := [name for name in devices if _PLAIN.fullmatch(name)]:
        names = ", ".join(f'"{name}"' for name in devices)
        lines.append(
            f"table netdev {TABLE} {{ chain in {{ type filter hook ingress devices = {{ {names} }}"
            f" priority {_FIRST + 1}; {mark} }}; }}"
        )
    return "\n".join(lines) + "\n"


Place = tuple[str, str, str]  # family, table, chain


class Step(NamedTuple):
    """One message of a trace, of a rule or policy that decided."""

    packet: int
    family: str
    table: str
    chain: str
    handle: int  # 0 for a policy
    verdict: int
    header: bytes  # of the network layer, in a packet's first message

    @property
    def ends(self) -> bool:
        """Whether the packet went no further, or into a program's hands."""
        return self.verdict in (_DROP, _QUEUE, _STOLEN)

    @property
    def queued(self) -> bool:
        """Whether a program decides about it."""
        return self.verdict == _QUEUE


@legible
def step_of(body: bytes) -> Step:
    """A message of a trace. Raises Garbled."""
    fields = attribute_map(body, 4)
    kind = int.from_bytes(fields.get(_TYPE, b""), "big")
    verdict = -1
    if kind == _IS_POLICY:
        verdict = int.from_bytes(fields.get(_POLICY, b"\0\0\0\1"), "big")
    elif _VERDICT in fields:
        code = attribute_map(fields[_VERDICT]).get(_VERDICT_CODE, b"\xff\xff\xff\xff")
        verdict = int.from_bytes(code, "big", signed=True)
        verdict = verdict & 0xFF if verdict >= 0 else verdict
    return Step(
        int.from_bytes(fields.get(_ID, b""), "big"),
        FAMILY_NAMES.get(body[0], str(body[0])),
        fields.get(_TABLE, b"").rstrip(b"\0").decode(errors="replace"),
        fields.get(_CHAIN, b"").rstrip(b"\0").decode(errors="replace"),
        int.from_bytes(fields.get(_HANDLE, b""), "big") if kind == _IS_RULE else 0,
        verdict,
        fields.get(_HEADER, b""),
    )


def culprit(steps: Iterable[Step], *, ours: bool) -> Step | None:
    """What ended the last packet that did not go through; None if none did. Pure.

    ``ours``: among hvtx's own tables, and not among those of others. (A broadcast has a copy for
    each port, and ours end the one for the port that it came by.)
    """
    found, passing = None, set()
    for step in steps:
        header = step.header
        if (
            len(header) >= 40
            and header[0] >> 4 == 6
            and header[24] == 0xFF
            and header[39:40] == _MLD
        ):
            passing.add(step.packet)
        elif header:
            passing.discard(step.packet)
        own = step.table.startswith(_OWN)
        if step.ends and own is ours and step.packet not in passing and step.table != TABLE:
            found = step
    return found


def met(steps: Iterable[Step], rules: Collection[tuple[Place, int]]) -> Step | None:
    """The first step by one of these rules. Pure."""
    for step in steps:
        if step.handle and ((step.family, step.table, step.chain), step.handle) in rules:
            return step
    return None


def of_others(steps: Iterable[Step]) -> list[tuple[Place, int]]:
    """The rules of others that packets met, in their order, each once. Pure."""
    return list(dict.fromkeys(
        ((step.family, step.table, step.chain), step.handle) for step in steps
        if step.handle and step.table != TABLE and not step.table.startswith(_OWN)
    ))  # fmt: skip


class Listener:
    """Hears the trace of the calling thread's namespace."""

    def __init__(self) -> None:
        """Join the group; raises OSError."""
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            NETLINK_NETFILTER,
        )
        with contextlib.suppress(PermissionError):
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 8 << 20)
        self._socket.bind((0, 0))
        self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP)

    def close(self) -> None:
        """Leave it."""
        self._socket.close()

    def heard(self) -> list[bytes]:
        """What was traced since it was asked last, unread: mostly nobody wants to know."""
        found: list[bytes] = []
        while True:
            try:
                found.append(self._socket.recv(1 << 16))
            except BlockingIOError:
                return found
            except OSError as problem:
                if problem.errno != errno.ENOBUFS:
                    raise


def steps(heard: Iterable[bytes]) -> list[Step]:
    """The messages in what was heard. Raises Garbled. Pure."""
    found = []
    for data in heard:
        at = 0
        while at + 16 <= len(data):
            length, kind, _, _, _ = _HEADERS.unpack_from(data, at)
            if length < 16:
                break
            if kind == _KIND:
                found.append(step_of(data[at + 16 : at + length]))
            at += (length + 3) & ~3
    return found
