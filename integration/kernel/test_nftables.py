"""The nftables backend against the kernel; nft and iptables-nft are oracles and others."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.drivers.base import Host, not_among
from hvtx.drivers.bridge import BridgeDriver
from hvtx.drivers.nftables import NftablesDriver
from hvtx.drivers.nftables.ruleset import listed_rules
from hvtx.drivers.nftables.session import ATTEMPTS
from hvtx.drivers.tap.driver import TapDriver
from hvtx.errors import Conflict, Contended, HostRefused, NotPermitted, UsageError
from hvtx.host import libnftables, nfmessages, nfnetlink
from hvtx.host.netlink import CREATE
from hvtx.model.mark import make_mark
from hvtx.model.place import nft_place
from hvtx.model.resource import Entry, Outcome, Resource
from hvtx.rulesets import nftables_base, nftables_elements
from integration import lab

INSTALLATION = "abcdefghij"
TABLE = f"hvtx-{INSTALLATION}"
STRANGE = "hvtx:1:zzzzzzzzzz:9.aaaaaaaaaaaaaaaa"


class Rows:
    """Makes rows as the store would hold them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, what: str, **spec: Any) -> Resource:
        self.count += 1
        mark = make_mark(INSTALLATION, self.count, os.urandom(10))
        spec = {"backend": "nftables", "what": what, **spec}
        return Resource(
            self.count,
            "filter",
            f"{what} {self.count}",
            "intended",
            mark,
            spec,
            {},
            1,
            1,
            None,
            None,
        )

    def port(self, number: int = 2, **spec: Any) -> Resource:
        known = {
            "device": f"hvtap{number}",
            "mac": f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}",
            "ipv4": f"10.77.{number >> 8}.{number & 255}",
            "ipv6": f"fd77::{number:x}",
            "bridge": "hvbr0",
            "gateway6": "fe80::77",
            "isolate": True,
            "forward": True,
        }
        return self("port", **{**known, **spec})

    def publish(self, host_port: int = 8080, **spec: Any) -> Resource:
        known = {
            "protocol": "tcp",
            "host_ip": None,
            "host_port": host_port,
            "guest_port": 80,
            "ipv4": "10.77.0.2",
            "ipv6": "fd77::2",
            "bridge": "hvbr0",
        }
        return self("publish", **{**known, **spec})

    def masquerade(self, address: str) -> Resource:
        return self("masquerade", address=address, bridge="hvbr0")

    def whole(self) -> list[Resource]:
        """A base, a network, a guest with all that it can have."""
        return [
            self("base"),
            self(
                "network", bridge="hvbr0", subnets=[], nat=True, isolate=True, gateway6="fe80::77"
            ),
            self.port(),
            self("forward", ipv4="10.77.0.9", ipv6="fd77::9", bridge="hvbr0"),
            self.masquerade("10.77.0.2"),
            self.masquerade("fd77::2"),
            self.publish(),
            self.publish(53, protocol="udp", host_ip="203.0.113.1"),
            self.publish(443, host_ip="2001:db8::1"),
        ]


@pytest.fixture
def rows() -> Rows:
    return Rows()


@pytest.fixture
def driver() -> Iterator[NftablesDriver]:
    found = NftablesDriver(Host(INSTALLATION, "/nonexistent", "/nonexistent", 10.0))
    yield found
    found.close()


def make(driver: NftablesDriver, found: list[Resource]) -> list[Resource]:
    """Create rows; they come back with what was observed."""
    observed = driver.create(found)
    return [row._replace(observed=observed[row.id]) for row in found]


def nft(*commands: str) -> str:
    return lab.run("nft", "-f", "-", stdin="\n".join(commands) + "\n")


def same(entry: Entry) -> tuple[str, str, str | None]:
    return str(entry.place), entry.text, entry.mark


def seen(driver: NftablesDriver) -> Counter[tuple[str, str, str | None]]:
    return Counter(same(entry) for entry in driver.observe())


def wanted(driver: NftablesDriver, found: list[Resource]) -> Counter[tuple[str, str, str | None]]:
    return Counter(same(entry) for row in found for entry in driver.expected(row))


def elements_of_nft() -> dict[str, list[tuple[Any, Any, str | None]]]:
    """Every set of ours as ``nft -j`` shows it: (key, data or None, comment) by family and set."""
    found: dict[str, list[tuple[Any, Any, str | None]]] = {}
    for item in json.loads(lab.run("nft", "-j", "list", "ruleset"))["nftables"]:
        thing = item.get("set") or item.get("map")
        if not thing or "elem" not in thing:
            continue
        for raw in thing["elem"]:
            key, data = (raw[0], raw[1]) if "map" in item else (raw, None)
            element = key["elem"] if isinstance(key, dict) and "elem" in key else {"val": key}
            name = f"{thing['family']} {thing['name']}"
            found.setdefault(name, []).append((element["val"], data, element.get("comment")))
    return found


def test_elements_as_nft_shows_them(driver: NftablesDriver, rows: Rows) -> None:
    found = make(driver, rows.whole())
    _, network, port, forward, masq4, masq6, web, dns, tls = (row.mark for row in found)
    own6, link = "0xfd770000000000000000000000000002", "0xfe800000000000000000000000000077"
    from_mac = "0xfe80000000000000000000fffe000002"
    shown = {name: sorted(items, key=str) for name, items in elements_of_nft().items()}
    assert shown == {
        "inet bridges": [("hvbr0", None, network)],
        "inet nat_bridges": [("hvbr0", None, network)],
        "inet within": [
            ({"concat": ["hvbr0", "hvbr0"]}, {"goto": {"target": "isolated"}}, network)
        ],
        "inet guests4": [
            ({"concat": ["10.77.0.2", "hvbr0"]}, None, port),
            ({"concat": ["10.77.0.9", "hvbr0"]}, None, forward),
        ],
        "inet guests6": [
            ({"concat": ["fd77::2", "hvbr0"]}, None, port),
            ({"concat": ["fd77::9", "hvbr0"]}, None, forward),
        ],
        "inet flows4": [
            ({"concat": ["10.77.0.2", "hvbr0"]}, None, port),
            ({"concat": ["10.77.0.9", "hvbr0"]}, None, forward),
        ],
        "inet flows6": [
            ({"concat": ["fd77::2", "hvbr0"]}, None, port),
            ({"concat": ["fd77::9", "hvbr0"]}, None, forward),
        ],
        "inet flows_link": [("hvbr0", None, network)],
        "inet masq4": [("10.77.0.2", None, masq4)],
        "inet masq6": [("fd77::2", None, masq6)],
        "inet dnat4_any": [({"concat": ["tcp", 8080]}, {"concat": ["10.77.0.2", 80]}, web)],
        "inet dnat6_any": [({"concat": ["tcp", 8080]}, {"concat": ["fd77::2", 80]}, web)],
        "inet dnat4_host": [
            ({"concat": ["203.0.113.1", "udp", 53]}, {"concat": ["10.77.0.2", 80]}, dns)
        ],
        "inet dnat6_host": [
            ({"concat": ["2001:db8::1", "tcp", 443]}, {"concat": ["fd77::2", 80]}, tls)
        ],
        "bridge ports": [("hvtap2", None, port)],
        "bridge apart": [("hvtap2", None, port)],
        "bridge macs": [({"concat": ["hvtap2", "02:00:00:00:00:02"]}, None, port)],
        "bridge lladdrs": [({"concat": ["hvtap2", 0x020000000002]}, None, port)],
        "bridge own4": [({"concat": ["hvtap2", "10.77.0.2"]}, None, port)],
        "bridge own6": [
            ({"concat": ["hvtap2", own6]}, None, port),
            ({"concat": ["hvtap2", from_mac]}, None, port),
        ],
        "bridge links6": [(from_mac, None, port)],
        "bridge new6": [("hvtap2", None, port)],
        "bridge gateways6": [({"concat": ["hvtap2", link]}, None, port)],
    }
    assert seen(driver) == wanted(driver, found)
    assert max(seen(driver).values()) == 1


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        ("", []),
        ("delete element inet {table} masq4 {{ 10.77.0.2 }}", ["masquerade 5"]),
        (
            (
                "delete element inet {table} masq4 {{ 10.77.0.2 }};"
                "add element inet {table} masq4 {{ 10.77.0.2 }}"
            ),
            ["masquerade 5"],
        ),
        (
            (
                "delete element inet {table} dnat4_any {{ tcp . 8080 }};add element inet {table}"
                ' dnat4_any {{ tcp . 8080 comment "{mark}" : 10.77.0.3 . 80 }}'
            ),
            ["publish 7"],
        ),
        ("add element inet {table} masq4 {{ 10.77.0.3 }}", []),
        ("flush chain inet {table} forward", ["base 1"]),
        ("add rule inet {table} forward counter", []),
        ("delete table bridge {table}", ["base 1", "port 3"]),
    ],
)  # fmt: skip
def test_what_is_gone_or_changed_is_lacking(
    driver: NftablesDriver, rows: Rows, change: str, lost: list[str]
) -> None:
    """As a comparison of all that is there has it."""
    found = make(driver, rows.whole())
    if change:
        nft(*change.format(table=TABLE, mark=found[6].mark).split(";"))
    assert [row.key for row in driver.lacking(found)] == lost
    assert not_among(driver.observe(), driver.expected, found) == driver.lacking(found)


def test_a_table_without_rules_is_lacking_too(driver: NftablesDriver, rows: Rows) -> None:
    (base,) = make(driver, [rows("base")])
    bare = base._replace(observed={})
    assert driver.lacking([bare]) == []
    nft(f"delete table bridge {TABLE}")
    assert driver.lacking([bare]) == [bare]


def test_texts_are_for_people(driver: NftablesDriver, rows: Rows) -> None:
    found = make(driver, rows.whole())
    texts = {(e.place.name, e.text) for e in driver.observe()}
    assert ("dnat4_any", "tcp 8080 -> 10.77.0.2:80") in texts
    assert ("dnat6_host", "[2001:db8::1] tcp 443 -> [fd77::2]:80") in texts
    assert ("within", "hvbr0 hvbr0 -> goto isolated") in texts
    assert found[2].observed == {"elements": 14}


def test_host_addresses_of_any_family(rows: Rows) -> None:
    def sets(host_ip: str | None) -> list[str]:
        spec = rows.publish(host_ip=host_ip).spec
        return [piece.set for piece in nftables_elements.pieces(INSTALLATION, spec)]

    assert sets(None) == ["dnat4_any", "dnat6_any"]
    assert sets("0.0.0.0") == ["dnat4_any"]
    assert sets("::") == ["dnat6_any"]
    assert sets("127.0.0.1") == ["dnat4_host"]
    assert sets("2001:db8::1") == ["dnat6_host"]
    assert sets("::1") == []


def test_a_long_device_name_is_refused(driver: NftablesDriver, rows: Rows) -> None:
    with pytest.raises(UsageError, match="cannot be the name"):
        driver.create([rows.port(device="a-name-too-long-x")])


def test_rules_stay_the_same_with_many_guests(driver: NftablesDriver, rows: Rows) -> None:
    made = make(driver, rows.whole())
    before = lab.run("nft", "-t", "list", "ruleset")
    many = [row for i in range(300, 500) for row in (rows.port(i), rows.publish(i))]
    make(driver, many)
    assert lab.run("nft", "-t", "list", "ruleset") == before
    assert seen(driver) == wanted(driver, made + many)
    assert "{" not in "".join(
        rule
        for s in nftables_base.SKELETONS.values()
        for c in s.chains
        for rule in c.rules
        if not rule.startswith("add @")  # what packets leave in a set with a name
    )  # an anonymous set would get another name when the ruleset is loaded again


def test_a_saved_ruleset_loaded_again(driver: NftablesDriver, rows: Rows) -> None:
    found = make(driver, rows.whole())
    whole = wanted(driver, found)
    saved = lab.run("nft", "list", "ruleset")
    nft("flush ruleset")
    assert seen(driver) == Counter()
    nft(saved)
    assert seen(driver) == whole
    dump = lab.dump()["nft"]
    nft(saved)  # without a flush every rule is there twice
    copies = seen(driver) - whole
    rules = [entry for entry in whole if entry[1] != "table" and not entry[1].count(" ")]
    assert len(copies) == sum(
        len(c.rules) for s in nftables_base.SKELETONS.values() for c in s.chains
    )
    assert set(copies) <= set(rules)
    assert driver.remove_copies(found[0]) == Outcome(True)
    assert seen(driver) == whole
    assert [x for x in lab.dump()["nft"] if "rule" in x] == [x for x in dump if "rule" in x]


def test_base_twice_is_a_conflict(driver: NftablesDriver, rows: Rows) -> None:
    make(driver, [rows("base")])
    before = lab.dump()
    with pytest.raises(Conflict, match=TABLE):
        driver.create([rows("base")])
    nft(f"delete table inet {TABLE}")
    left = lab.dump()
    with pytest.raises(Conflict, match=TABLE):  # half of it is in the way: nothing is made
        driver.create([rows("base")])
    assert lab.difference(left, lab.dump()) == ""
    assert lab.difference(before, left)


def test_create_is_whole_or_not_at_all(driver: NftablesDriver, rows: Rows) -> None:
    make(driver, [rows("base"), rows.publish(80)])
    before = lab.dump()
    with pytest.raises(Conflict, match=r"publish 4.*tcp 80 -> .*carries hvtx:1") as caught:
        driver.create([rows.publish(79), rows.publish(80, ipv4="10.77.0.3", ipv6=None)])
    assert caught.value.hint
    assert lab.difference(before, lab.dump()) == ""
    make(driver, [rows.masquerade("10.77.0.2")])
    before = lab.dump()
    with pytest.raises(Conflict, match=r"10\.77\.0\.2"):  # to add it again would change nothing
        driver.create([rows.masquerade("10.77.0.2")])
    assert lab.difference(before, lab.dump()) == ""
    nft(f"delete table bridge {TABLE}")
    before = lab.dump()
    with pytest.raises(HostRefused, match="gone") as refused:
        driver.create([rows.publish(78), rows.port()])
    assert "repair" in (refused.value.hint or "")
    assert lab.difference(before, lab.dump()) == ""


# ---------------------------------------------------------------- others and copies


def entries(driver: NftablesDriver, place: str) -> list[Entry]:
    return [entry for entry in driver.observe() if str(entry.place) == place]


def test_strangers_nat_rules_are_shown(driver: NftablesDriver, rows: Rows) -> None:
    nft(
        "table ip other { chain post { type nat hook postrouting priority 100;",
        'ip saddr 10.77.0.0/24 oifname "eth0" counter masquerade comment "by hand"',
        "tcp dport 1 accept",
        "}",
        "chain pre { type nat hook prerouting priority -100; tcp dport 99 dnat to 10.77.0.5:9",
        "}",
        "}",
    )
    for rule in (
        "-t nat -A POSTROUTING -s 10.77.0.0/24 -j MASQUERADE",
        "-t nat -A PREROUTING -p tcp --dport 1 -j DNAT --to-destination 10.77.0.7:1",
        "-A FORWARD -s 10.77.0.0/24 -j ACCEPT",
    ):
        lab.run("iptables-nft", *rule.split())
    found = driver.observe()
    assert all(entry.nat and entry.mark is None and entry.handle for entry in found)
    shown = {(str(entry.place), entry.text) for entry in found}
    assert ("nft ip other post", 'ip saddr 10.77.0.0/24 oifname "eth0" counter masquerade') in shown
    assert ("nft ip other pre", "tcp dport 99 dnat to 10.77.0.5:9") in shown
    assert {place for place, _ in shown} == {
        "nft ip other post",
        "nft ip other pre",
        "nft ip nat POSTROUTING",
        "nft ip nat PREROUTING",
    }
    by_handle = listed_rules(lab.run("nft", "-s", "-a", "list", "table", "ip", "nat"))
    for entry in found:
        if entry.place.whole == nft_place("ip", "nat"):
            assert entry.text == by_handle[entry.place.chain, entry.handle]
            assert "10.77.0" in entry.text


def test_marks_anywhere_are_seen(driver: NftablesDriver, rows: Rows) -> None:
    found = make(driver, rows.whole())
    mark = found[6].mark
    nft(
        f'table inet other {{ comment "{STRANGE}"; set s {{ type ipv4_addr;',
        f'elements = {{ 10.0.0.1 comment "{mark}", 10.0.0.2 comment "plain", 10.0.0.3 }}',
        "}",
        f'chain c {{ tcp dport 5 accept comment "{mark}"',
        "}",
        "}",
        f'table inet hvtx-zzzzzzzzzz {{ chain c {{ tcp dport 5 drop comment "{STRANGE}"',
        "}",
        "}",
    )
    rule = f"-A INPUT -p tcp --dport 7 -m comment --comment {mark} -j ACCEPT"
    lab.run("iptables-nft", *rule.split())
    extra = seen(driver) - wanted(driver, found)
    digests = [key for key in extra if key[0] == "nft inet hvtx-zzzzzzzzzz c"]
    assert len(digests) == 1
    assert digests[0][2] == STRANGE
    input_rule = next(key for key in extra if key[0] == "nft ip filter INPUT")
    assert input_rule[2] == mark
    assert "dport 7" in input_rule[1]
    assert extra - Counter([digests[0], input_rule]) == Counter(
        [
            ("nft inet other", "table", STRANGE),
            ("nft inet other s", "0a000001", mark),
            ("nft inet other c", "tcp dport 5 accept", mark),
        ]
    )


def test_changed_rules_differ(driver: NftablesDriver, rows: Rows) -> None:
    found = make(driver, rows.whole())
    rule = entries(driver, f"nft bridge {TABLE} guard_udp6")[0]
    nft(f'replace rule bridge {TABLE} guard_udp6 handle {rule.handle} accept comment "{rule.mark}"')
    changed = seen(driver) - wanted(driver, found)
    assert [(place, mark) for place, _, mark in changed] == [(str(rule.place), rule.mark)]
    nft(f"add rule bridge {TABLE} guard_udp6 udp dport 9 counter accept")
    assert (str(rule.place), "udp dport 9 counter accept", None) in seen(driver)


def test_remove_takes_just_what_was_seen(driver: NftablesDriver, rows: Rows) -> None:
    found = make(driver, rows.whole())
    mark = found[6].mark
    nft(
        "table inet other { set s { type ipv4_addr;",
        f'elements = {{ 10.0.0.1 comment "{mark}", 10.0.0.2 comment "plain" }}',
        "}",
        f'chain c {{ tcp dport 5 accept comment "{mark}"',
        f'tcp dport 5 accept comment "{mark}"',
        "tcp dport 5 accept",
        "}",
        "}",
    )
    rule, element = entries(driver, "nft inet other c")[0], entries(driver, "nft inet other s")[0]
    assert driver.remove(rule) == Outcome(True)
    left = entries(driver, "nft inet other c")
    assert [entry.handle for entry in left] == [rule.handle]
    assert driver.remove(rule) == driver.remove(rule) == Outcome(True)
    assert entries(driver, "nft inet other c") == []
    assert "tcp dport 5 accept" in lab.run("nft", "list", "chain", "inet", "other", "c")
    assert driver.remove(element._replace(mark=STRANGE)) == Outcome(True)
    assert entries(driver, "nft inet other s") == [element]
    assert driver.remove(element) == Outcome(True)
    assert "10.0.0.2" in lab.run("nft", "list", "set", "inet", "other", "s")
    web = next(e for e in driver.observe() if e.mark == mark)
    assert driver.remove(web) == Outcome(True)
    assert driver.remove(web._replace(mark=None)).reason == "foreign"
    nft(f'table ip copy {{ comment "{mark}"; chain c {{ }}', "}")
    copy = entries(driver, "nft ip copy")[0]
    assert driver.remove(copy).reason == "foreign-dependents"
    nft("delete chain ip copy c")
    assert driver.remove(copy) == Outcome(True)
    assert entries(driver, "nft ip copy") == []
    base = entries(driver, f"nft inet {TABLE}")[0]
    assert driver.remove(base).reason == "foreign-dependents"
    assert driver.remove(base._replace(mark=STRANGE)).reason == "mark-mismatch"
    driver.release(found[1:])
    assert driver.remove(base) == Outcome(True)
    assert driver.remove(base) == Outcome(True)
    assert entries(driver, f"nft inet {TABLE}") == []
    assert "table inet other" in lab.run("nft", "list", "ruleset")


# ---------------------------------------------------------------- release


def test_release_deletes_only_what_carries_the_mark(driver: NftablesDriver, rows: Rows) -> None:
    make(driver, [rows("base")])
    found = {
        name: rows.publish(port, ipv6=None)
        for port, name in enumerate(("mismatch", "stripped", "edited", "kept", "plain"), 1000)
    }
    make(driver, list(found.values()))
    where = f"element inet {TABLE} dnat4_any"
    for name, comment, to in (
        ("mismatch", f'comment "{STRANGE}"', "10.77.0.2"),
        ("stripped", "", "10.77.0.2"),
        ("edited", f'comment "{found["edited"].mark}"', "10.77.0.3"),
        ("kept", 'comment "by hand"', "10.77.0.2"),
    ):
        port = found[name].spec["host_port"]
        nft(
            f"delete {where} {{ tcp . {port} }}",
            f"add {where} {{ tcp . {port} {comment} : {to} . 80 }}",
        )
    before = elements_of_nft()
    outcomes = driver.release(list(found.values()))
    reasons = {name: outcomes[row.id].reason for name, row in found.items()}
    assert reasons == {
        "mismatch": "mark-mismatch",
        "stripped": "mark-stripped",
        "edited": "edited-copy",
        "kept": "mark-mismatch",
        "plain": "",
    }
    assert all(outcomes[row.id].message for name, row in found.items() if name != "plain")
    after = elements_of_nft()["inet dnat4_any"]
    gone = [item for item in before["inet dnat4_any"] if item not in after]
    assert [item[2] for item in gone] == [found["plain"].mark]
    assert len(after) == 4


@pytest.mark.parametrize(
    "addition",
    [
        f"add rule inet {TABLE} forward tcp dport 9 accept",
        f'add rule inet {TABLE} forward tcp dport 9 accept comment "{STRANGE}"',
        f"add chain bridge {TABLE} mine",
        f"add set inet {TABLE} mine {{ type ipv4_addr; }}",
        f"add element inet {TABLE} masq4 {{ 10.0.0.9 }}",
        f'add element bridge {TABLE} ports {{ "eth7" comment "{STRANGE}" }}',
        f"add counter inet {TABLE} mine",
    ],
)
def test_base_stays_for_strangers(driver: NftablesDriver, rows: Rows, addition: str) -> None:
    base = make(driver, [rows("base")])[0]
    nft(addition)
    before = lab.dump()
    outcome = driver.release([base])[base.id]
    assert (outcome.gone, outcome.reason) == (False, "foreign-dependents")
    assert outcome.message
    assert lab.difference(before, lab.dump()) == ""


def test_base_with_another_comment_stays(driver: NftablesDriver, rows: Rows) -> None:
    base = rows("base")
    nft(f'table inet {TABLE} {{ comment "{STRANGE}"; }}', f"table bridge {TABLE} {{ }}")
    before = lab.dump()
    assert driver.release([base])[base.id].reason == "mark-mismatch"
    nft(f"delete table inet {TABLE}")
    assert driver.release([base])[base.id].reason == "mark-stripped"
    assert len(driver.observe()) == 1
    assert lab.difference(before, lab.dump())


def test_absent_is_gone(driver: NftablesDriver, rows: Rows) -> None:
    before = lab.dump()
    found = rows.whole()
    assert all(outcome.gone for outcome in driver.release(found).values())
    assert driver.observe() == ()
    assert driver.remove_copies(found[0]) == Outcome(True)
    assert lab.difference(before, lab.dump()) == ""


# ---------------------------------------------------------------- compare and swap


def after_lookup(driver: NftablesDriver, act: Callable[[], object], times: int) -> list[int]:
    """Let ``act`` happen right after the driver read elements, the first ``times`` times."""
    channel, calls = driver._session.socket, []
    original = channel.lookup

    def lookup(pieces: Any) -> Any:
        found = original(pieces)
        calls.append(len(found))
        if len(calls) <= times:
            act()
        return found

    channel.lookup = lookup  # type: ignore[method-assign]
    return calls


def test_a_change_between_look_and_leap(driver: NftablesDriver, rows: Rows) -> None:
    row = make(driver, [rows("base"), rows.publish(ipv6=None)])[1]
    where = f"element inet {TABLE} dnat4_any"

    def usurp() -> None:
        nft(
            f"delete {where} {{ tcp . 8080 }}",
            f'add {where} {{ tcp . 8080 comment "{STRANGE}" : 10.77.0.2 . 80 }}',
        )

    calls = after_lookup(driver, usurp, 1)
    assert driver.release([row])[row.id].reason == "mark-mismatch"
    assert len(calls) == 2
    assert elements_of_nft()["inet dnat4_any"][0][2] == STRANGE


def test_absence_is_believed_only_if_it_lasts(driver: NftablesDriver, rows: Rows) -> None:
    row = make(driver, [rows("base"), rows.publish(ipv6=None)])[1]
    where = f"element inet {TABLE} dnat4_any"
    nft(f"delete {where} {{ tcp . 8080 }}")

    def restore() -> None:
        nft(f'add {where} {{ tcp . 8080 comment "{row.mark}" : 10.77.0.2 . 80 }}')

    after_lookup(driver, restore, 1)
    assert driver.release([row])[row.id] == Outcome(True)
    assert "inet dnat4_any" not in elements_of_nft()


def test_a_walk_that_repeats_itself_is_done_again(driver: NftablesDriver, rows: Rows) -> None:
    """A hash table that grows during a dump repeats elements, and may leave out others."""
    found = make(driver, rows.whole())
    original, calls = driver._session.socket.dump_elements, []

    def dump(family: str, table: str, name: str) -> list[bytes]:
        bodies = original(family, table, name)
        calls.append(name)
        return bodies * 2 if calls.count("masq4") == 1 and name == "masq4" else bodies

    driver._session.socket.dump_elements = dump  # type: ignore[method-assign]
    assert seen(driver) == wanted(driver, found)
    assert calls.count("masq4") == 2


def test_changes_without_end_are_contended(driver: NftablesDriver, rows: Rows) -> None:
    row = make(driver, [rows("base"), rows.publish()])[1]
    before = lab.dump()
    other = nfnetlink.Nftables()
    table = nfmessages.delete_table("ip", "churn")

    def churn() -> None:
        other.batch([nfmessages.Command(0, CREATE, "ip", table.body), table])

    calls = after_lookup(driver, churn, 10 * ATTEMPTS)
    outcome = driver.release([row])[row.id]
    assert (outcome.gone, outcome.reason) == (False, "contended")
    assert len(calls) == ATTEMPTS
    assert lab.difference(before, lab.dump()) == ""
    rules = driver._session.socket.rules

    def unsteady(*where: str) -> Any:
        churn()
        return rules(*where)

    driver._session.socket.rules = unsteady  # type: ignore[method-assign]
    with pytest.raises(Contended):
        driver.observe()
    other.close()


CHURN = """
i=0
while [ $i -lt 2000 ] && [ ! -e "$1" ]; do
  nft add element ip churn s "{ 10.0.$((i / 250)).$((i % 250)) }" || exit 1
  i=$((i + 1)); echo $i > "$1.count"
done
"""


def test_beside_a_stranger_in_a_hot_loop(
    driver: NftablesDriver, rows: Rows, tmp_path: Path
) -> None:
    base = make(driver, [rows("base")])
    nft("table ip churn { set s { type ipv4_addr; }", "}")
    stop = tmp_path / "stop"
    foreign_object = subprocess.Popen(["sh", "-c", CHURN, "sh", str(stop)])
    try:
        for turn in range(40):
            found = make(driver, [rows.port(turn + 2), rows.publish(turn + 1)])
            with contextlib.suppress(Contended):  # said, not hidden: whole or not at all
                assert seen(driver) == wanted(driver, base + found)
            outcomes = driver.release(found)
            assert all(outcome.gone for outcome in outcomes.values()), outcomes
    finally:
        stop.touch()
        assert foreign_object.wait(60) == 0
    added = int((tmp_path / "stop.count").read_text())
    assert added > 0
    listed = json.loads(lab.run("nft", "-j", "list", "set", "ip", "churn", "s"))["nftables"]
    assert sum(len(item["set"]["elem"]) for item in listed if "set" in item) == added
    assert seen(driver) == wanted(driver, base)


def test_many_elements_are_all_seen(driver: NftablesDriver, rows: Rows) -> None:
    base = make(driver, [rows("base")])
    many = [rows.port(i, ipv6=None, gateway6=None) for i in range(2, 3000)]
    make(driver, many)
    assert seen(driver) == wanted(driver, base + many)
    outcomes = driver.release(many)
    assert len(outcomes) == len(many)
    assert all(outcome.gone for outcome in outcomes.values())
    assert seen(driver) == wanted(driver, base)


# ---------------------------------------------------------------- repair


@pytest.mark.parametrize(
    "damage",
    [
        "flush ruleset",
        f"delete table bridge {TABLE}",
        f"delete table inet {TABLE}",
        f"flush table inet {TABLE}",
        f"flush chain bridge {TABLE} guard",
        f"flush chain inet {TABLE} prerouting\ndelete chain inet {TABLE} prerouting",
        f"flush set bridge {TABLE} macs",
        f"delete element inet {TABLE} dnat4_any {{ tcp . 8080 }}",
    ],
)
def test_fix(driver: NftablesDriver, rows: Rows, damage: str) -> None:
    found = make(driver, rows.whole())
    whole = wanted(driver, found)
    nft(damage)
    assert seen(driver) != whole
    observed = driver.repair(found)
    assert observed == {row.id: row.observed for row in found}
    assert seen(driver) == whole
    untouched = lab.dump()
    assert driver.repair(found) == observed
    assert lab.difference(untouched, lab.dump()) == ""


def test_fix_of_edits(driver: NftablesDriver, rows: Rows) -> None:
    found = make(driver, rows.whole())
    nft(f"add rule bridge {TABLE} guard_udp6 udp dport 9 accept")  # somebody else's, in our chain
    whole = seen(driver)
    rule = entries(driver, f"nft bridge {TABLE} guard_udp6")[0]
    where = f"element inet {TABLE} dnat4_any"
    nft(
        f'replace rule bridge {TABLE} guard_udp6 handle {rule.handle} accept comment "{rule.mark}"',
        f"delete {where} {{ tcp . 8080 }}",
        f'add {where} {{ tcp . 8080 comment "{found[6].mark}" : 10.77.0.3 . 80 }}',
    )
    driver.repair(found)
    assert seen(driver) == whole
    nft(
        f"delete {where} {{ tcp . 8080 }}",
        f'add {where} {{ tcp . 8080 comment "{STRANGE}" : 10.77.0.3 . 80 }}',
    )
    before = lab.dump()
    with pytest.raises(Conflict, match="tcp 8080"):
        driver.repair(found)
    assert lab.difference(before, lab.dump()) == ""


# ---------------------------------------------------------------- the edges of the host


def test_without_permission(rows: Rows) -> None:
    def attempt() -> str:
        os.setgid(65534)
        os.setuid(65534)
        driver = NftablesDriver(Host(INSTALLATION, "", "", 1.0))
        said = []
        for action in (driver.observe, lambda: driver.create([rows.port()])):
            try:
                action()
            except NotPermitted as problem:
                said.append(problem.hint or "")
        try:
            driver.create([rows("base")])
        except NotPermitted as problem:
            said.append(problem.hint or "")
        kept = driver.release([row := rows.port()])[row.id]
        return f"{len([s for s in said if 'root' in s])} {kept.gone} {kept.reason}"

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, attempt().encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as answer:
        assert answer.read() == "3 False observe-failed"
    os.waitpid(child, 0)


def test_a_kernel_without_nf_tables(
    driver: NftablesDriver, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_self: object) -> None:
        raise OSError(93, "Protocol not supported")

    monkeypatch.setattr(nfnetlink.Nftables, "__init__", refuse)
    assert driver.observe() == ()
    with pytest.raises(HostRefused, match="no nf_tables") as refused:
        driver.create([rows.port()])
    assert refused.value.exit_code == 6
    assert refused.value.hint
    row = rows.port()
    assert driver.release([row])[row.id].gone


def test_libnftables_speaks_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HostRefused, match="syntax error"):
        libnftables.run("add nonsense")
    libnftables.run("add table ip x; add chain ip x c; add rule ip x c counter accept")
    assert "counter packets 0" in libnftables.run("list ruleset")
    assert "packets" not in libnftables.run("list ruleset", stateless=True)
    assert "# handle" in libnftables.run("list ruleset", handles=True)
    assert json.loads(libnftables.run("list ruleset", json=True))["nftables"]
    libnftables._library.cache_clear()
    monkeypatch.setattr(libnftables, "LIBRARY", "libnftables.so.999")
    with pytest.raises(HostRefused) as refused:
        libnftables.run("list ruleset")
    assert "libnftables1" in (refused.value.hint or "")
    libnftables._library.cache_clear()


def test_nothing_heavy_is_imported() -> None:
    code = (
        "import sys, hvtx.drivers.nftables\n"
        "heavy = 'pyroute2 iptc subprocess logging dataclasses tenacity rich asyncio ctypes'\n"
        "print([name for name in heavy.split() if name in sys.modules])"
    )
    assert lab.run(sys.executable, "-c", code).strip() == "[]"


# ---------------------------------------------------------------- what the rules count on


def test_devices_are_made_as_the_rules_need_them(tmp_path: Path) -> None:
    """Ports in hairpin mode, and bridges that learn nothing from link-local frames."""
    host = Host(INSTALLATION, str(tmp_path), str(tmp_path), 1.0)
    bridge = Resource(
        1,
        "bridge",
        "hvbr0",
        "intended",
        make_mark(INSTALLATION, 1, os.urandom(10)),
        {"device": "hvbr0", "ifindex": 70001, "mac": "02:77:00:00:00:01", "mtu": 1500},
        {},
        1,
        1,
        None,
        None,
    )
    spec = {
        "device": "hvtap2",
        "ifindex": 70002,
        "bridge": "hvbr0",
        "master": 70001,
        "mtu": 1500,
        "mac": "fe:77:00:00:00:02",
    }
    tap = bridge._replace(id=2, kind="tap", key="hvtap2", spec=spec)
    BridgeDriver(host).create([bridge])
    taps = TapDriver(host)
    taps.create([tap])
    taps.links.close()
    links = json.loads(lab.run("ip", "-j", "-d", "link"))
    facts = {link["ifname"]: link["linkinfo"] for link in links if "linkinfo" in link}
    assert facts["hvtap2"]["info_slave_data"]["hairpin"] is True
    assert facts["hvbr0"]["info_data"]["no_linklocal_learn"] == 1
