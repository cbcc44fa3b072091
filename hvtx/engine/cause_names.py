"""Names of what stops a flow, as the host's tools print them: rules, routes, IPsec policies."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from hvtx.host import routes, xfrm
from hvtx.host.replica.causes import Cause
from hvtx.host.replica.scratch import Picture
from hvtx.model.address import is_ipv6
from hvtx.model.routing import Packet, Route, Rule
from hvtx.model.shell import word
from hvtx.model.traffic import Flow, Note, Stop, Way
from hvtx.model.vm import Network
from hvtx.model.xfrm import Meant, Policy
from hvtx.planner import ipsec, own_routes, routing
from hvtx.planner.flow_fixes import REPAIR

_TUNNEL = "packets through an IPsec tunnel were not tested"


class CauseNames:
    """Names causes; rules and routes are read once, when they are first asked for."""

    def __init__(self, picture: Picture, networks: Sequence[Network]) -> None:
        """Of that host, for these networks."""
        self._networks = {network.name: network for network in networks}
        self._policies: list[Policy] = xfrm.policies(picture.ipsec)
        self._own = {str(ip_address(a)) for _, a, _ in picture.addresses()}
        devices = picture.topology.devices
        self._names = [(device.ifindex, device.name) for device in devices]
        self._devices = {d.name: d.ifindex for d in devices if not d.master}
        self._read: dict[int, tuple[list[Rule], list[Route]]] = {}

    def of(self, flow: Flow, cause: Cause) -> tuple[str, str, str]:
        """By what, the cause in words, and its fix where that is known with it."""
        if cause.by == "route" and cause.packets:
            return self._by_route(flow, cause)
        if cause.by == "neighbour":
            address, device = cause.place[:2]
            return cause.by, cause.what, f"ip neigh del {address} dev {word(device)}"
        if cause.by == "xfrm" or (cause.by == "unknown" and not cause.place and cause.packets):
            return self._by_policy(cause)
        if cause.by == "setting" and "arp_" in cause.place[0]:
            return cause.by, cause.what, f"sysctl -w {word(cause.place[0])}=0"
        return cause.by, cause.what, ""

    def _by_route(self, flow: Flow, cause: Cause) -> tuple[str, str, str]:
        packet = cause.packets[0]
        rules, every = self._host(flow.family)
        network = self._networks[flow.network]
        subnet, gateway = network.ranges[network.families.index(flow.family)]
        bridge = self._devices.get(flow.bridge)
        if bridge and (lack := own_routes.lack(subnet, gateway, (bridge, flow.bridge), every)):
            return cause.by, f"{lack} {cause.what}", REPAIR
        found = routing.find(rules, every, packet)
        if found is None:
            option = "-6 " * (flow.family == 6)
            shows = f"`ip {option}route show table all` shows what there is"
            return cause.by, cause.what, f"{shows}: none is for packets of guests"
        taken = [rule.pref for rule in rules]
        if routing.within(packet.destination, subnet):
            fix = routing.fix(found, subnet, taken)
        else:
            reply = packet if flow.way is Way.WORLD_TO_PORT and packet.sport else None
            fix = routing.fix_out(found, flow.bridge, taken, family=flow.family, reply=reply)
        words = routing.told(found, self._names)
        return cause.by, f"{words}: {cause.what}", fix

    def _host(self, family: int) -> tuple[list[Rule], list[Route]]:
        if family not in self._read:
            self._read[family] = routes.rules(family), routes.routes(family)
        return self._read[family]

    def _by_policy(self, cause: Cause) -> tuple[str, str, str]:
        policy = ipsec.stopping(self._policies, self._meant(cause.packets))
        if policy is None:
            if cause.by == "xfrm":
                return cause.by, cause.what, "see ip xfrm policy, ip xfrm policy getdefault"
            return cause.by, cause.what, ""
        words = f"the IPsec policy {ipsec.shown(policy)}"
        if policy.block:
            return "xfrm", words, ipsec.fix(policy)
        return "unknown", f"{words} takes it: {_TUNNEL}", ("test the connections of guests by hand")

    def _meant(self, packets: Sequence[Packet]) -> list[Meant]:
        """Each packet with its own sender, and as source NAT may have changed it."""
        found = []
        for packet in packets:
            senders = [packet.source] if packet.source else []
            senders += sorted(a for a in self._own if is_ipv6(a) == is_ipv6(packet.destination))
            found += [
                Meant(sender, packet.destination, packet.protocol, packet.dport)
                for sender in senders
            ]
        return found

    def partly(self, stops: Sequence[Stop]) -> list[Note]:
        """Policies that speak of some of what guests send, where no whole flow met them."""
        known = "\n".join(stop.what for stop in stops)
        found = []
        for name, network in self._networks.items():
            for policy in (p for s in network.subnets for p in ipsec.over(self._policies, s)):
                shown = ipsec.shown(policy)
                if shown in known:
                    continue
                words = f"network {name!r}: the IPsec policy {shown}"
                if policy.block:
                    told = f"{words} stops packets of guests"
                    found.append(Note("error", told, (shown,), ipsec.fix(policy)))
                else:
                    told = f"unknown: {words} takes packets of guests; {_TUNNEL}"
                    fix = "test the connections of guests by hand"
                    found.append(Note("warning", told, (shown,), fix))
        return found
