"""Expected settings of hvtx's devices beside up, MAC and MTU. Pure.

Names are those of ``ip -d link`` and ``bridge -d link``. What the kernel does not name (an older
one, one without IPv6 or without VLANs in bridges) is not judged. What neither a promise nor a
guest's confinement rests on is left as the host's administrator has it: priorities, costs, timers,
BPDU guard, multicast snooping.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hvtx.model.link_settings import FORWARDING, LinkSettings, WantedSettings

_GEN_MODES = {0: "eui64", 1: "none", 2: "stable_secret", 3: "random"}
_AGEING = 30_000  # hundredths of a second: the kernel's own
# Isolated ports see no others; a port that learns nothing has its guest's frames sent to all; one
# that floods nothing gets none before it is learned. The rest answers or drops in a guest's place.
_PORT = {
    "isolated": 0,
    "learning": 1,
    "flood": 1,
    "mcast_flood": 1,
    "bcast_flood": 1,
    "hairpin": 1,
    "neigh_suppress": 0,
    "proxy_arp": 0,
    "proxy_arp_wifi": 0,
    "locked": 0,
    "mab": 0,
    "vlan_tunnel": 0,
    "group_fwd_mask": 0,
}
_QUEUE = 1000  # frames: the kernel's own; with 0 a TAP's reader gets none at all
_APART = {"mcast_flood": 0, "bcast_flood": 0, "mcast_router": 0}  # hvtx.host.link_changes, apart
_BRIDGE = {"stp_state": 0, "vlan_filtering": 0, "group_fwd_mask": 0, "no_linklocal_learn": 1}


def drift(seen: LinkSettings, *, bridge: bool, apart: bool = False) -> WantedSettings:
    """What somebody changed of a bridge or a TAP of ours; ``apart``: of an isolated network."""
    words: list[str] = []
    silent = seen.addrgenmode not in (None, 1)
    if silent:
        mode = seen.addrgenmode or 0
        words.append(f"its addrgenmode was {_GEN_MODES.get(mode, mode)}")
    if bridge:
        wrong = dict(_differing(seen.bridge, _BRIDGE))
        if seen.bridge.get("ageing_time") == 0:  # every frame goes to every port
            wrong["ageing_time"] = _AGEING
        words += [f"its {name} was {seen.bridge[name]}" for name in wrong]
        if not seen.arp:
            words.append("its ARP was off")
        return WantedSettings(tuple(words), silent, not seen.arp, {}, wrong)
    wrong = dict(_differing(seen.port, {**_PORT, **(_APART if apart else {})}))
    words += [f"its port flag {name} was {_shown(name, seen.port[name])}" for name in wrong]
    state = seen.port.get("state", FORWARDING)
    if seen.carrier and state != FORWARDING:
        wrong["state"] = FORWARDING
        words.append(f"its port state was {_STATES.get(state, state)}")
    queue = _QUEUE if seen.txqueuelen == 0 else 0
    words += ["its txqueuelen was 0: no frame came to its guest"] if queue else []
    return WantedSettings(tuple(words), silent, False, wrong, {}, queue)


_STATES = {0: "disabled", 1: "listening", 2: "learning", 4: "blocking"}


def _differing(seen: Mapping[str, int], wanted: Mapping[str, int]) -> Iterator[tuple[str, int]]:
    for name, value in wanted.items():
        if name in seen and seen[name] != value:
            yield name, value


def _shown(name: str, value: int) -> str:
    return str(value) if name in ("group_fwd_mask", "mcast_router") else ("off", "on")[bool(value)]
