"""Forwarding settings: which are needed, which are off, and their side effects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from hvtx.drivers import bridge
from hvtx.engine import notice
from hvtx.engine.making import make
from hvtx.engine.runtime import Runtime
from hvtx.engine.scope import networks_now
from hvtx.errors import Contended, HostRefused, HvtxError
from hvtx.host import sysctl
from hvtx.host.links import Links
from hvtx.host.netlink import DumpInterrupted
from hvtx.model.address import is_ipv6
from hvtx.model.resource import Kind, Resource, State, sysctl_spec
from hvtx.model.shell import word
from hvtx.model.typed import TYPE_CHECKING
from hvtx.model.vm import Network
from hvtx.planner import forwarding, provision
from hvtx.planner.forwarding import Others, dotted
from hvtx.store import records

if TYPE_CHECKING:
    from hvtx.engine.finding import Finding

_OURS = "hvtx:"
_SWITCH_ON = "sysctl -w net.ipv6.conf.all.disable_ipv6=0"


def families_of(networks: Iterable[Network]) -> list[int]:
    """The families (4, 6) that these networks have subnets of."""
    return sorted({family for n in networks for family in n.families})


def ipv6_problem() -> HostRefused | None:
    """Why this host has no IPv6 for anybody; None if it has."""
    if not sysctl.has_ipv6():
        return HostRefused(
            "this kernel has no IPv6: it was built without, or booted with ipv6.disable=1",
            hint="boot it with IPv6, or make the network without an IPv6 subnet",
        )
    if sysctl.known("net/ipv6/conf/all/disable_ipv6") == "1":
        return HostRefused(
            "IPv6 is switched off on this host (net.ipv6.conf.all.disable_ipv6 = 1)",
            hint=f"{_SWITCH_ON}, or make the network without an IPv6 subnet",
        )
    return None


def changes(families: Sequence[int], recorded: Sequence[Resource]) -> list[tuple[str, str, str]]:
    """What has to be turned on for guests of these families: ``(path, value, value before)``.

    ``recorded`` are the settings on record in this life of the host. Raises
    HostRefused where the host has no IPv6.
    """
    problem = ipv6_problem() if 6 in families else None
    if problem is not None:
        raise problem
    found = []
    for path, value in _wanted(families, recorded):
        before = sysctl.known(path)
        if before is not None and before != value:  # None: a device that has gone meanwhile
            found.append((path, value, before))
    return found


def keep_settings(runtime: Runtime, networks: Iterable[Network]) -> list[Resource]:
    """Turn on, and record, what networks that stand need by now: the uplink may be another one.

    What is on record already is not looked at. Returns the new rows. Raises HostRefused,
    NotPermitted (undone).
    """
    scope = networks_now(runtime, [network.id for network in networks])
    there = scope.bridges()
    families = families_of(n for n in scope.networks.values() if n.id in there)
    recorded = scope.settings()
    known = {sysctl_spec(row)["path"] for row in recorded}
    new = [c for c in changes(families, recorded) if c[0] not in known]
    if not new:
        return []
    return make(runtime, "repair", provision.want_settings(new))


def _wanted(families: Sequence[int], recorded: Sequence[Resource]) -> list[tuple[str, str]]:
    ours = any(sysctl_spec(row)["path"] == forwarding.ALL6 for row in recorded)
    others = look() if 6 in families else Others((), (), (), (), ())
    return forwarding.wanted(
        families, others, sysctl.known, can_force=sysctl.can_force(), ours=ours
    )


def recorded(runtime: Runtime) -> list[Resource]:
    """The settings on record in this life of the host."""
    return [
        row
        for row in runtime.read(records.resources_of_network, None)
        if (row.kind, row.state, row.life) == (Kind.SYSCTL, State.COMMITTED, runtime.life.id)
    ]


def look() -> Others:
    """The devices of others. Raises OSError, Contended."""
    from hvtx.host import routes
    from hvtx.planner.routing import is_default

    links = Links()
    try:
        every = links.all()
        addresses = links.addresses()
    except DumpInterrupted as problem:
        words = "the host's devices changed too fast to be listed"
        raise Contended(words, hint="try again") from problem
    finally:
        links.close()
    foreign = {
        link.ifindex: link
        for link in every
        if not (link.alias or "").startswith(_OURS) and link.name != "lo"
    }

    def names(indexes: Iterable[int]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(foreign[i].name for i in indexes if i in foreign))

    def towards_world(family: int) -> tuple[str, ...]:
        found = [route for route in routes.routes(family) if is_default(route)]
        return names(i for route in found for i in (route.device, *route.devices))

    by_family: dict[bool, list[int]] = {False: [], True: []}
    for address in addresses:
        if not address.address.startswith(("fe80:", "169.254.")):
            by_family[is_ipv6(address.address)].append(address.ifindex)
    return Others(
        every=tuple(link.name for link in foreign.values() if not link.master),
        addressed4=names(by_family[False]),
        addressed6=names(by_family[True]),
        uplinks4=towards_world(4),
        uplinks6=towards_world(6),
        reached6=names(i for i in by_family[True] if i in foreign and foreign[i].kind != "bridge"),
    )


def warn(families: Sequence[int], turned: Sequence[str]) -> None:
    """Say at a network's creation what was turned on beside, and what is off at an uplink."""
    try:
        others = look()
    except (OSError, HvtxError):
        return  # the network is made; `doctor` tells the same
    for family in families:
        mine = [path for path in turned if path.startswith(f"net/ipv{family}/")]
        words = forwarding.routed(family, others.addressed(family), mine) if mine else None
        if words is not None:
            notice.warning(f"{words}: forwarding was turned on ({', '.join(map(dotted, mine))})")
    for name in others.towards_world(4) if 4 in families else ():
        path = f"net/ipv4/conf/{name}/forwarding"
        if sysctl.read(path) == "0":
            notice.warning(
                f"{dotted(path)} is 0: what comes by {name} reaches no guest; sysctl -w"
                f" {dotted(path)}=1"
            )


# -- what `doctor` says ----------------------------------------------------------------------------


def findings(runtime: Runtime, bridges: Sequence[tuple[Network, Resource]]) -> Iterator[Finding]:
    """Where networks need forwarding and it is off, by setting and device."""
    from hvtx.engine.finding import Finding

    families = families_of(network for network, _ in bridges)
    if not families:
        yield Finding("forwarding", "ok", "not needed yet")
        return
    others, bad = look(), False
    problem = ipv6_problem() if 6 in families else None
    if problem is not None:
        bad = True
        users = ", ".join(n.name for n, _ in bridges if 6 in n.families)
        yield Finding(
            "forwarding", "error", f"{problem.message}: guests of {users} have none", (),
            f"{_SWITCH_ON}; hvtx repair" if sysctl.has_ipv6() else problem.hint,
        )  # fmt: skip
    for family in families:
        if family == 4 or problem is None:
            for path, why, hint in _off(family, bridges, others):
                bad = True
                yield Finding("forwarding", "error", why, (f"{dotted(path)} = 0",), hint)
    for name in _deaf(runtime, others) if 6 in families and problem is None else ():
        path = dotted(f"net/ipv6/conf/{name}/accept_ra")
        yield Finding(
            "forwarding", "warning",
            f"{name} ignores router advertisements: a default route from one is lost",
            (f"{path} = 1, and forwarding is on",), f"sysctl -w {word(path)}=2",
        )  # fmt: skip
    if not bad:
        turned = [sysctl_spec(row)["path"] for row in recorded(runtime)]
        beside = [
            words
            for family in families
            if (words := forwarding.routed(family, others.addressed(family), turned))
        ]
        words = "; ".join(["forwarding is on where networks need it", *beside])
        yield Finding("forwarding", "ok", words, tuple(map(dotted, turned)))


def _off(
    family: int, bridges: Sequence[tuple[Network, Resource]], others: Others
) -> Iterator[tuple[str, str, str]]:
    """Settings that are off, why that matters, and the fix."""
    if family == 4 and sysctl.read(forwarding.ALL4) != "1":
        name = dotted(forwarding.ALL4)
        words = f"{name} was turned off: guests reach nothing beyond this host"
        yield forwarding.ALL4, words, f"hvtx repair, or: sysctl -w {name}=1"
        return
    ours = [row for n, row in bridges if family in n.families]
    for row in ours:
        path = _forwards(family, row.key)
        if path is not None:
            words = f"{dotted(path)} is off: guests on {row.key} reach nothing beyond this host"
            yield path, words, "hvtx repair"
    for name in others.towards_world(family):
        path = _forwards(family, name)
        if path is not None:
            words = f"{dotted(path)} is off: what comes by {name} reaches no guest"
            yield (
                path,
                words,
                "hvtx repair" if family == 6 else f"sysctl -w {word(dotted(path))}=1",
            )


def _forwards(family: int, name: str) -> str | None:
    """The setting that keeps a device from forwarding what comes by it; None if it forwards."""
    if family == 4:
        path = f"net/ipv4/conf/{name}/forwarding"
        return path if sysctl.read(path) == "0" else None
    if sysctl.read(forwarding.ALL6) == "1":
        return None
    path = f"net/ipv6/conf/{name}/force_forwarding" if sysctl.can_force() else forwarding.ALL6
    return path if sysctl.read(path) != "1" else None


def _deaf(runtime: Runtime, others: Others) -> list[str]:
    """Devices that would take advertisements, were forwarding not on."""
    ours = any(sysctl_spec(row)["path"] == forwarding.ALL6 for row in recorded(runtime))
    if others.uplinks6 and not ours:
        return []  # its own administrator's; the host has its way
    return [
        name
        for name in others.every
        if sysctl.read(f"net/ipv6/conf/{name}/forwarding") == "1"
        and sysctl.read(f"net/ipv6/conf/{name}/accept_ra") == "1"
    ]


def tuned(row: Resource, name: str) -> str | None:
    """What of a bridge's settings is not as guests need it, in words; None if all is."""
    for path, value in bridge.settings(row, name).items():
        seen = sysctl.read(path)
        if seen is not None and seen != value:
            return f"its {dotted(path)} was {seen}, and {value} is needed"
    return None
