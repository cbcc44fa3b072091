"""A host and a record to plan over, put together thing by thing.

Every ``*_row`` makes a row on record; ``show`` puts its object into the host, exactly as the row
would have made it. Tests then bend one thing.
"""

from __future__ import annotations

from typing import Any

from hvtx.model.place import nft_place
from hvtx.model.plan import Action, Item, NetworkFacts, OperationFacts, Plan, Snapshot, VmFacts
from hvtx.model.reason import Reason
from hvtx.model.resource import (
    BRIDGE_GROUP,
    FIREWALL_KINDS,
    Address,
    Entry,
    Kind,
    Link,
    Resource,
    State,
)
from hvtx.model.vm import Epoch, Liveness
from hvtx.planner.gc import plan_gc

OURS, THEIRS = "aaaaaaaaaa", "bbbbbbbbbb"
NOW = Epoch(7, "boot-now", 4026, recovered=True)
EARLIER = 6
TAP_FLAGS = 0x1002


def mark(row: int, nonce: str = "k", installation: str = OURS) -> str:
    return f"hvtx:1:{installation}:{row}.{nonce * 16}"


def link(index: int, name: str, kind: str = "tun", alias: str | None = None, **more: Any) -> Link:
    values: dict[str, Any] = {
        "mac": f"fe:00:00:00:{index >> 8 & 255:02x}:{index & 255:02x}",
        "mtu": 1500,
        "master": 0,
        "lower": 0,
        "group": 0,
        "up": True,
        "tun_flags": TAP_FLAGS if kind == "tun" else 0,
        "queues": 0,
        "persistent": kind == "tun",
        **more,
    }
    return Link(index, name, kind, alias, **values)


class Scene:
    """What a snapshot is taken of; every part may be changed by the test."""

    def __init__(self) -> None:
        self.rows: list[Resource] = []
        self.tombstones: dict[str, Resource] = {}
        self.vms: dict[str, VmFacts] = {}
        self.networks: dict[str, NetworkFacts] = {}
        self.operations: dict[int, OperationFacts] = {}
        self.links: list[Link] = []
        self.addresses: list[Address] = []
        self.entries: list[Entry] = []
        self.expected: dict[int, tuple[Entry, ...]] = {}
        self.holders: dict[str, tuple[str, ...]] = {}
        self.filtered: set[int] = set()
        self.files: dict[str, str] = {}
        self.failures: dict[str, str] = {}

    # -- owners --------------------------------------------------------------------------------

    def vm(self, name: str = "web", liveness: Liveness = Liveness.DEAD) -> str:
        self.vms[f"id-{name}"] = VmFacts(name, liveness, (f"evidence of {name}",), False)
        return f"id-{name}"

    def network(self, name: str = "lan", *subnets: str) -> str:
        self.networks[f"net-{name}"] = NetworkFacts(name, subnets or ("10.77.0.0/24",), False)
        return f"net-{name}"

    def operation(self, number: int, *, running: bool, vm: str | None = None) -> int:
        self.operations[number] = OperationFacts("start", vm, running)
        return number

    # -- rows ----------------------------------------------------------------------------------

    def row(
        self,
        kind: Kind,
        *,
        vm: str | None = None,
        network: str | None = None,
        state: State = State.COMMITTED,
        operation: int = 1,
        life: int = NOW.id,
        observed: dict[str, Any] | None = None,
        **spec: Any,
    ) -> Resource:
        number = 10 + len(self.rows) + len(self.tombstones)
        spec = {**self._spec(kind, number), **spec}
        key = str(spec.get("device") if kind != Kind.ADDRESS else spec["address"]) or kind
        if "path" in spec:
            key = spec["path"]
        made = Resource(
            id=number,
            kind=kind,
            key=key if key != "None" else f"{kind} {number}",
            state=state,
            mark=mark(number),
            spec=spec,
            observed=observed or {},
            operation=operation,
            life=life,
            vm=vm,
            network=network,
        )
        if state == State.RELEASED:
            self.tombstones[made.mark] = made
        else:
            self.rows.append(made)
        if kind in FIREWALL_KINDS:
            self.expected[number] = tuple(
                Entry("nftables", place, f"{kind} {number}", made.mark)
                for place in (nft_place("inet", "t", "map"), nft_place("inet", "t", "set"))
            )
        return made

    def _spec(self, kind: Kind, number: int) -> dict[str, Any]:
        if kind == Kind.TAP:
            return {"device": f"hvtap{number}", "ifindex": 1000 + number, "master": 900}
        if kind == Kind.VETH:
            mac = f"fe:00:00:00:00:{number:02x}"
            device = {"device": f"hvveth{number}", "ifindex": 1000 + number, "master": 900}
            return {**device, "mac": mac}
        if kind == Kind.NETNS:
            return {"nsid": number, "path": f"/run/netns/{number}"}
        if kind == Kind.BRIDGE:
            mac = f"02:00:00:00:00:{number:02x}"
            return {
                "device": f"hvbr{number}",
                "ifindex": 1000 + number,
                "mac": mac,
                "addresses": [],
            }
        if kind in FIREWALL_KINDS:
            return {"backend": "nftables", "what": "port"}
        if kind == Kind.FILE:
            return {"path": f"/run/hvtx/vms/{number}"}
        return {}

    def bridge_with_address(self, **more: Any) -> tuple[Resource, Resource]:
        """A bridge's row and its gateway address's."""
        bridge = self.row(Kind.BRIDGE, addresses=["10.77.0.1/24"], **more)
        address = self.row(
            Kind.ADDRESS,
            device=bridge.key,
            ifindex=bridge.spec["ifindex"],
            owner=bridge.mark,
            address="10.77.0.1/24",
            **more,
        )
        return bridge, address

    def show(self, *rows: Resource) -> None:
        """Put the rows' objects into the host."""
        for row in rows:
            if row.kind == Kind.TAP:
                self.links.append(link(row.spec["ifindex"], row.key, alias=row.mark))
            elif row.kind == Kind.VETH:
                self.links.append(link(row.spec["ifindex"], row.key, "veth", row.mark))
            elif row.kind == Kind.BRIDGE:
                self.links.append(
                    link(
                        row.spec["ifindex"],
                        row.key,
                        "bridge",
                        row.mark,
                        mac=row.spec["mac"],
                        group=BRIDGE_GROUP,
                    )
                )
            elif row.kind == Kind.ADDRESS:
                self.addresses.append(Address(row.spec["ifindex"], row.spec["address"]))
            elif row.kind == Kind.FILE:
                self.files[row.spec["path"]] = row.mark
            elif row.kind in FIREWALL_KINDS:
                self.entries += self.expected[row.id]

    def hold(self, row: Resource, who: str = "qemu-system-x86 (pid 42)") -> None:
        self.holders[row.key] = (who,)

    # -- plans ---------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return Snapshot(
            installation=OURS,
            life=NOW,
            rows=tuple(self.rows),
            tombstones=dict(self.tombstones),
            vms=dict(self.vms),
            networks=dict(self.networks),
            operations=dict(self.operations),
            links=tuple(self.links),
            addresses=tuple(self.addresses),
            entries=tuple(self.entries),
            expected=dict(self.expected),
            holders=dict(self.holders),
            filtered=frozenset(self.filtered),
            files=dict(self.files),
            failures=dict(self.failures),
        )

    def plan(self, *, everything: bool = False) -> Plan:
        return plan_gc(self.snapshot(), everything=everything)

    def verdict(self, row: Resource) -> tuple[Action, Reason]:
        """The verdict on a row's own object."""
        found = [item for item in self.plan().items if item.row == row.id and item.entry is None]
        assert len(found) == 1, found
        return found[0].action, found[0].reason

    def item(self, key: str) -> Item:
        """The one item about an object without a row of its own."""
        found = [item for item in self.plan().items if item.key == key]
        assert len(found) == 1, found
        return found[0]
