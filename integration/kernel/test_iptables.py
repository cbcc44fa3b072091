"""The iptables backend on the real kernel: words, packets, others, losses."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import struct
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.iptables import IptablesDriver
from hvtx.errors import Busy, HostRefused
from hvtx.host import xtables, xtblob, xtnames, xtsaved
from hvtx.model.resource import GONE, Resource
from hvtx.rulesets.iptables_rules import chain_name, rules_of
from integration import lab

INSTALLATION = "abcdefghij"
BRIDGE, OTHER_BRIDGE = "hvbr0", "hvbr2"
SUBNETS = ["10.77.0.0/24", "fd77::/64"]


def row(number: int, what: str, observed: dict | None = None, **spec: object) -> Resource:
    """A row; its number is in its mark."""
    mark = f"hvtx:1:{INSTALLATION}:{number}.aaaabbbbccccdddd"
    whole = {"backend": "iptables", "what": what, **spec}
    return Resource(
        number, "filter", what, "intended", mark, whole, observed or {}, 1, 1, None, None
    )


def network(number: int = 2, **more: object) -> Resource:
    spec = {"bridge": BRIDGE, "subnets": SUBNETS, "nat": True, "isolate": False, "gateway6": None}
    return row(number, "network", **{**spec, **more})


def publish(number: int, **more: object) -> Resource:
    spec = {"protocol": "tcp", "host_ip": None, "host_port": 8080, "guest_port": 80}
    guest = {"ipv4": "10.77.0.2", "ipv6": "fd77::2", "bridge": BRIDGE}
    return row(number, "publish", **{**spec, **guest, **more})


def guest_rows(number: int, host: int, bridge: str = BRIDGE, nat: bool = True) -> list[Resource]:
    """Forward and masquerade rows of the guest with host part ``host``."""
    ipv4, ipv6 = f"10.77.0.{host}", f"fd77::{host}"
    rows = [row(number, "forward", ipv4=ipv4, ipv6=ipv6, bridge=bridge)]
    if nat:
        rows.append(row(number + 1, "masquerade", address=ipv4, bridge=bridge))
        rows.append(row(number + 2, "masquerade", address=ipv6, bridge=bridge))
    return rows


@pytest.fixture
def driver(tmp_path: Path) -> IptablesDriver:
    return IptablesDriver(Host(INSTALLATION, str(tmp_path), str(tmp_path), 10.0))


def tables() -> tuple[frozenset[str], frozenset[str]]:
    return xtnames.listed(4), xtnames.listed(6)


def ipt(*words: str, six: bool = False) -> str:
    return lab.run("ip6tables-legacy" if six else "iptables-legacy", "-w", *words)


def chain(part: str) -> str:
    return chain_name(INSTALLATION, part)


def passes(*more: str) -> list[Resource]:
    """What leads to the accepts where the policy drops; the world is at `uplink`, and at ``more``."""
    return [row(90 + f, "pass", family=f, uplinks=["uplink", *more]) for f in (4, 6)]


def everything() -> list[Resource]:
    """A row of each kind and in each form."""
    return [
        row(1, "base"),
        network(2),
        network(3, bridge="hvbr1", subnets=["10.78.0.0/24"], nat=False, isolate=True),
        network(4, bridge=OTHER_BRIDGE, subnets=["10.79.0.0/16", "fd79::/64"], isolate=True),
        *guest_rows(10, 2),
        row(14, "forward", ipv4=None, ipv6="fd77::3", bridge=BRIDGE),
        publish(20),
        publish(21, protocol="udp", host_port=53, guest_port=53),
        publish(22, host_ip="203.0.113.1", host_port=81),
        publish(23, host_ip="2001:db8:113::1", host_port=81),
        publish(24, host_ip="0.0.0.0", host_port=82),
        publish(25, host_ip="::", host_port=82),
        publish(26, host_ip="127.0.0.1", host_port=83),
        publish(28, ipv6=None, host_port=65535, guest_port=1),
        *passes(),
    ]


# Words ------------------------------------------------------------------------------------------


def test_what_is_expected_is_what_the_tool_prints(driver: IptablesDriver) -> None:
    rows = everything()
    made = driver.create(rows)
    wanted = Counter(entry for each in rows for entry in driver.expected(each))
    assert Counter(driver.observe()) == wanted
    assert len(wanted) > 50
    with pytest.raises(HostRefused, match="would correspond"):  # NAT cannot serve it
        driver.create([publish(27, host_ip="::1", host_port=84)])
    for each in rows:  # the record leads to the same rules, whatever a later version would write
        recorded = each._replace(observed=made[each.id], spec={"what": each.spec["what"]})
        if made[each.id]["rules"]:
            assert driver.expected(recorded) == driver.expected(each)
            assert rules_of(INSTALLATION, recorded) == rules_of(INSTALLATION, each)


def test_our_entries_equal_those_of_the_tool_byte_for_byte(driver: IptablesDriver) -> None:
    rows = everything()
    driver.create(rows)
    ours: dict[tuple[int, str], Counter] = {}
    for family, table in ((f, t) for f in (4, 6) for t in ("filter", "mangle", "nat")):
        blob = xtblob.read(family, table)
        ours[family, table] = Counter(xtblob.marked(family, blob, "hvtx:"))
    for family, tool in xtnames.TOOLS.items():
        saved = lab.run(f"{tool}-legacy-save")
        lab.run(f"{tool}-legacy-restore", "-w", stdin=saved)  # flushes, and makes all of it anew
        for table in ("filter", "mangle", "nat"):
            blob = xtblob.read(family, table)
            assert Counter(xtblob.marked(family, blob, "hvtx:")) == ours[family, table]


@pytest.mark.parametrize("order", [(4, 6), (6, 4)])
def test_either_family_can_come_first(order: tuple[int, int]) -> None:
    """In a fresh process: extensions are loaded once per process, for the family that asks."""
    texts = (
        "-p udp -m udp --dport 5 -m addrtype --dst-type LOCAL -j MASQUERADE",
        "-s ADDRESS -m conntrack ! --ctstate DNAT -j DNAT --to-destination ADDRESS:5",
        "-i hvbr0 -j ACCEPT",
    )
    sample = {4: "10.0.0.1", 6: "fd00::1"}
    code = "from hvtx.host.xtables import build\n" + "\n".join(
        f"build({family}, {text.replace('ADDRESS', sample[family])!r}, 'hvtx:x')"
        for family in order
        for text in texts
    )
    done = subprocess.run(
        [*lab_python(), "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert tables() == (frozenset(), frozenset())  # building opens no table


def lab_python() -> list[str]:
    import sys

    return [sys.executable, "-W", "error"]


def test_words_that_are_not_ours_are_not_built() -> None:
    for text in ("-f x -j DROP", "-j DROP --now", "-j DNAT --to-source 1.2.3.4:5", "--dport 5"):
        with pytest.raises(ValueError, match="cannot build"):
            xtables.build(4, text, "hvtx:x")


def test_what_cannot_be_made_is_refused_and_changes_nothing(driver: IptablesDriver) -> None:
    """Words of another version, and what the kernel does not have: named, with the fix."""
    rows = [row(1, "base"), network()]
    driver.create(rows)
    before = lab.dump()
    place = f"iptables filter {chain('FWD')}"
    strange = row(
        3, "forward", observed={"rules": [[place, "-m later --than this -j DROP", False]]}
    )
    with pytest.raises(HostRefused, match="later") as refused:
        driver.create([strange])
    assert "version" in refused.value.hint
    entry = xtables.build(4, "-m conntrack --ctstate DNAT -j DROP", "hvtx:x")
    unknown = entry.replace(b"conntrack\0\0", b"conntraque\0")
    with pytest.raises(HostRefused, match="lacks a match") as refused:
        xtables.edit(
            4, "filter", 5.0, lambda edit: edit.add(chain("FWD"), unknown, first=True) is None
        )
    assert "xt_conntrack" in refused.value.hint
    assert lab.difference(before, lab.dump()) == ""


SAVE = """# Generated
*nat
:PREROUTING ACCEPT [1:2]
:odd one - [0:0]
-A PREROUTING -m comment --comment "two
lines \\" and a quote" -j ACCEPT
-A PREROUTING -s 1.2.3.4/32 -m comment --comment hvtx:bare -j ACCEPT
-A PREROUTING -m comment --comment "hvtx:1:x" -j ACCEPT
COMMIT
# Completed
"""


def test_parse_reads_what_strangers_write() -> None:
    found = xtsaved.parse(SAVE)
    assert ("nat", "odd one") in found.chains
    assert [(rule.text, rule.mark) for rule in found.rules] == [
        ('-m comment --comment "two\nlines \\" and a quote" -j ACCEPT', None),
        ("-s 1.2.3.4/32 -j ACCEPT", "hvtx:bare"),
        ("-j ACCEPT", "hvtx:1:x"),
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("COMMIT\n", ""),
        (":PREROUTING ACCEPT [1:2]\n", ""),
        ("-s 1.2.3.4", "\nsomething else"),
        ('hvtx:1:x"', "hvtx:1:x"),
        ("-A PREROUTING -s", "-A NOWHERE -s"),
    ],
)
def test_parse_takes_nothing_unread_for_absent(old: str, new: str) -> None:
    assert old in SAVE
    with pytest.raises(ValueError, match=r"\w"):
        xtsaved.parse(SAVE.replace(old, new))


# Presence ---------------------------------------------------------------------------------------


def test_looking_makes_no_table(driver: IptablesDriver) -> None:
    rows = everything()
    assert driver.observe() == ()
    assert set(driver.release(rows).values()) == {GONE}
    assert driver.remove_copies(rows[0]) == GONE
    assert xtblob.read(4, "nat") is None
    assert xtsaved.saved(6) == xtsaved.NOTHING
    with pytest.raises(HostRefused) as refused:
        driver.create(guest_rows(10, 2))
    assert "repair" in refused.value.hint
    assert tables() == (frozenset(), frozenset())


def test_ipv6_tables_only_when_a_row_needs_them(driver: IptablesDriver) -> None:
    rows = [row(1, "base"), network(subnets=SUBNETS[:1]), publish(3, ipv6=None)]
    driver.create(rows)
    assert set(driver.release(rows).values()) == {GONE}
    assert tables() == ({"filter", "mangle", "nat"}, frozenset())


def test_a_table_that_cannot_be_read_is_not_an_empty_one(
    driver: IptablesDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = everything()
    driver.create(rows)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostRefused) as refused:
        driver.observe()
    assert refused.value.code == "cannot-observe"
    assert {outcome.reason for outcome in driver.release(rows).values()} == {"observe-failed"}
    broken = tmp_path / "iptables-legacy-save"
    for script in ("echo '*nat'", "echo '*nat'; echo ':A - [0:0]'; echo COMMIT", "exit 3"):
        broken.write_text(f"#!/bin/sh\n{script}\n")
        broken.chmod(0o755)
        with pytest.raises(HostRefused) as refused:
            driver.observe()
        assert refused.value.code == "cannot-observe"


# The whole way, and others -------------------------------------------------------------------


def foreign_objects() -> None:
    """Tables as an admin and Docker leave them: policies, chains, rules of all sorts."""
    for six in (False, True):
        net = "2001:db8::/32" if six else "192.0.2.0/24"
        to = "[2001:db8::7]:7" if six else "192.0.2.7:7"
        ipt("-P", "FORWARD", "DROP", six=six)
        ipt("-A", "FORWARD", "-s", net, "-m", "comment", "--comment", "a 'word\" of\\ ", six=six)
        ipt("-N", "DOCKER-USER", six=six)
        ipt("-A", "FORWARD", "-j", "DOCKER-USER", six=six)
        nat = ("-t", "nat", "-A")
        ipt(*nat, "PREROUTING", "-p", "tcp", "--dport", "7", "-j", "DNAT", "--to", to, six=six)
        ipt(*nat, "POSTROUTING", "-s", net, "-j", "MASQUERADE", six=six)
        ipt("-t", "mangle", "-A", "PREROUTING", "-j", "MARK", "--set-mark", "1", six=six)


def assert_in_place() -> None:
    """What drops comes first, in a table before those of others; what accepts comes last."""
    assert ipt("-t", "mangle", "-S", "FORWARD").splitlines()[1].endswith(chain("FWD"))
    assert ipt("-S", "FORWARD").splitlines()[-1].endswith(chain("PASS"))


def test_release_leaves_everything_as_it_was(driver: IptablesDriver) -> None:
    foreign_objects()
    before = lab.dump()
    rows = everything()
    driver.create(rows)
    assert lab.dump() != before
    assert_in_place()
    assert set(driver.release(rows).values()) == {GONE}
    assert lab.difference(before, lab.dump()) == ""
    assert set(driver.release(rows).values()) == {GONE}
    assert lab.difference(before, lab.dump()) == ""


def test_an_untouched_table_is_left_empty_and_open(driver: IptablesDriver) -> None:
    rows = everything()
    driver.create(rows)
    driver.release(list(reversed(rows)))
    for words in (words for part in lab.dump()["legacy"].values() for words in part):
        assert re.fullmatch(r"\*\w+|:[A-Z]+ ACCEPT|COMMIT", words)


def test_one_vm_leaves_and_the_others_stay(driver: IptablesDriver) -> None:
    shared = [row(1, "base"), network()]
    one, two = [*guest_rows(10, 2), publish(13)], guest_rows(20, 3)
    driver.create([*shared, *one])
    before = lab.dump()
    driver.create(two)
    assert set(driver.release(two).values()) == {GONE}
    assert lab.difference(before, lab.dump()) == ""


def test_two_networks_share_the_ipv6_chains(driver: IptablesDriver) -> None:
    first = network()
    second = network(3, bridge=OTHER_BRIDGE, subnets=["fd79::/64"])
    texts = [(e.place, e.text) for each in (first, second) for e in driver.expected(each)]
    assert len(texts) == len(set(texts))  # or one would look like a copy of the other
    driver.create([row(1, "base"), first])
    before = lab.dump()
    driver.create([second])
    assert driver.release([second])[3] == GONE
    assert lab.difference(before, lab.dump()) == ""
    assert driver.release([first])[2] == GONE
    assert not any("HVTX" in line for line in lab.dump()["legacy"]["6filter"])


def test_strangers_are_seen_as_far_as_they_matter(driver: IptablesDriver) -> None:
    foreign_objects()
    foreign = "hvtx:1:zzzzzzzzzz:5.aaaabbbbccccdddd"
    ipt("-A", "INPUT", "-m", "comment", "--comment", foreign, "-j", "ACCEPT")
    driver.create([row(1, "base")])
    ipt("-t", "mangle", "-A", chain("FWD"), "-s", "192.0.2.1", "-j", "DROP")
    ipt("-t", "mangle", "-A", "INPUT", "-j", chain("FWD"))
    seen = {(str(e.place), e.text, e.mark, e.nat) for e in driver.observe()}
    ours = {(str(e.place), e.text, e.mark, e.nat) for e in driver.expected(row(1, "base"))}
    fd = "2001:db8::/32"
    dnat = "-p tcp -m tcp --dport 7 -j DNAT --to-destination"
    assert seen - ours == {
        ("iptables nat PREROUTING", f"{dnat} 192.0.2.7:7", None, True),
        ("iptables nat POSTROUTING", "-s 192.0.2.0/24 -j MASQUERADE", None, True),
        ("ip6tables nat PREROUTING", f"{dnat} [2001:db8::7]:7", None, True),
        ("ip6tables nat POSTROUTING", f"-s {fd} -j MASQUERADE", None, True),
        ("iptables filter INPUT", "-j ACCEPT", foreign, False),
        (f"iptables mangle {chain('FWD')}", "-s 192.0.2.1/32 -j DROP", None, False),
        ("iptables mangle INPUT", f"-j {chain('FWD')}", None, False),
    }
    assert ours < seen


# Losses, copies, edits --------------------------------------------------------------------------


def test_create_puts_back_what_is_missing_and_nothing_else(driver: IptablesDriver) -> None:
    foreign_objects()
    rows = everything()
    driver.create(rows)
    whole = Counter(driver.observe())
    for words in (
        ("-t", "mangle", "-F", chain("FWD")),
        ("-F", chain("PASS")),
        ("-t", "mangle", "-D", "FORWARD", "1"),
        ("-t", "nat", "-F", chain("POST")),
        ("-t", "nat", "-F", "PREROUTING"),
    ):
        ipt(*words)
    ipt("-F", six=True)
    ipt("-X", chain("WAY"), six=True)
    ipt("-X", chain("PASS"), six=True)
    ipt("-t", "mangle", "-F", six=True)
    ipt("-t", "mangle", "-X", chain("FWD"), six=True)
    assert Counter(driver.observe()) != whole
    driver.create(rows)
    ipt("-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "7", "-j", "DNAT",
        "--to", "192.0.2.7:7")  # fmt: skip
    assert Counter(driver.observe()) == whole
    assert_in_place()
    assert any(f"! -i {BRIDGE}" in line for line in ipt("-t", "mangle", "-S").splitlines())


def test_a_lost_chain_is_named(driver: IptablesDriver) -> None:
    driver.create([row(1, "base"), network()])
    ipt("-t", "nat", "-F")
    ipt("-t", "nat", "-X")
    with pytest.raises(HostRefused, match="HVTX-abcdefghij-PRE is gone") as refused:
        driver.create([publish(3, ipv6=None)])
    assert "repair" in refused.value.hint
    driver.create([row(1, "base"), network()])
    driver.create([publish(3, ipv6=None)])


def append_all_again() -> None:
    """What `iptables-restore -n` does to a saved file whose chains are there (it adds to them)."""
    for tool in ("iptables", "ip6tables"):
        lines = lab.run(f"{tool}-legacy-save").splitlines()
        text = "\n".join(line for line in lines if not line.startswith(":")) + "\n"
        lab.run(f"{tool}-legacy-restore", "-w", "-n", stdin=text)


def test_copies_go_with_the_original(driver: IptablesDriver) -> None:
    foreign_objects()
    before = lab.dump()
    rows = [row(1, "base"), network(), *guest_rows(10, 2), publish(3), *passes()]
    driver.create(rows)
    made = ipt("-S", "INPUT")
    append_all_again()
    seen = Counter(driver.observe())
    assert all(seen[entry] == 2 for each in rows for entry in driver.expected(each))
    for each in rows:
        assert driver.remove_copies(each) == GONE
    seen = Counter(driver.observe())
    assert all(seen[entry] == 1 for each in rows for entry in driver.expected(each))
    assert_in_place()
    assert ipt("-S", "INPUT") == made  # in the same order
    append_all_again()
    assert set(driver.release(rows).values()) == {GONE}
    left = lab.dump()["legacy"]
    assert not any("hvtx" in line.lower() for part in left.values() for line in part)
    for table, lines in before["legacy"].items():  # the restore doubled theirs, we took none
        counted = Counter(left[table])
        for line in (line for line in lines if line.startswith("-A")):
            assert counted[line] == 4


def test_edited_copies_and_stripped_rules_stay(driver: IptablesDriver) -> None:
    """The copy is nobody's obstacle; what stands in a rule's own words may be that rule."""
    rows = [row(1, "base"), network(), publish(3, ipv6=None), publish(4, host_port=9, ipv6=None)]
    driver.create(rows)
    nat = ("-t", "nat")
    edited = (*nat, "-A", chain("PRE"), "-p", "tcp", "--dport", "8081", "-m", "comment",
              "--comment", rows[2].mark, "-j", "DNAT", "--to", "10.77.0.9:80")  # fmt: skip
    ipt(*edited)
    line = next(li for li in ipt(*nat, "-S", chain("OUT")).splitlines() if rows[3].mark in li)
    ipt(*nat, "-D", chain("OUT"), *line.replace('"', "").split()[2:])
    bare = re.sub(r"-m comment --comment \S+ ", "", line).split()
    ipt(*nat, *bare)
    outcomes = driver.release(rows[2:])
    assert [(o.gone, o.reason) for o in outcomes.values()] == [
        (True, ""),
        (False, "mark-stripped"),
    ]
    assert "8081" not in outcomes[4].message
    left = [(e.text, e.mark) for e in driver.observe() if "DNAT" in e.text and "to-dest" in e.text]
    assert sorted(left, key=str) == [
        ("-p tcp -m tcp --dport 8081 -j DNAT --to-destination 10.77.0.9:80", rows[2].mark),
        ("-p tcp -m tcp --dport 9 -j DNAT --to-destination 10.77.0.2:80", None),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("-t", "mangle", "-A", chain("FWD"), "-j", "DROP"),
        ("-t", "mangle", "-A", "INPUT", "-j", chain("FWD")),
        ("-t", "nat", "-A", chain("POST"), "-s", "192.0.2.1", "-j", "MASQUERADE"),
    ],
)
@pytest.mark.parametrize("six", [False, True])
def test_chains_with_strangers_rules_stay(
    driver: IptablesDriver, words: tuple[str, ...], six: bool
) -> None:
    rows = [row(1, "base"), network(), *guest_rows(10, 2)]
    driver.create(rows)
    words = tuple("2001:db8::1" if six and word == "192.0.2.1" else word for word in words)
    ipt(*words, six=six)
    outcomes = driver.release(rows)
    assert outcomes[1].reason == "foreign-dependents"
    assert all(outcome.gone for number, outcome in outcomes.items() if number != 1)
    assert {e.mark for e in driver.observe()} == {None, rows[0].mark}
    ipt(*["-D" if word == "-A" else word for word in words], six=six)
    assert driver.release(rows)[1] == GONE
    assert driver.observe() == ()
    assert not any("HVTX" in li for part in lab.dump()["legacy"].values() for li in part)


def test_the_base_stays_while_vms_have_rules(driver: IptablesDriver) -> None:
    rows = [row(1, "base"), network(), publish(3)]
    driver.create(rows)
    before = lab.dump()
    outcome = driver.release(rows[:1])[1]
    assert (outcome.gone, outcome.reason) == (False, "foreign-dependents")
    assert lab.difference(before, lab.dump()) == ""


def test_empty_chains_that_lost_their_jumps_go_too(driver: IptablesDriver) -> None:
    rows = [row(1, "base"), network()]
    driver.create(rows)
    for six in (False, True):
        for table in ("filter", "nat"):
            ipt("-t", table, "-F", six=six)
    assert set(driver.release(rows).values()) == {GONE}
    assert not any("HVTX" in li for part in lab.dump()["legacy"].values() for li in part)


def test_half_made_is_undone_whole(driver: IptablesDriver) -> None:
    foreign_objects()
    before = lab.dump()
    rows = everything()
    driver.create(rows)
    ipt("-t", "nat", "-F", chain("PRE"))
    ipt("-t", "nat", "-D", "PREROUTING", "2")
    ipt("-F", six=True)
    ipt("-A", "FORWARD", "-s", "2001:db8::/32", "-m", "comment", "--comment", "a 'word\" of\\ ",
        six=True)  # fmt: skip
    ipt("-A", "FORWARD", "-j", "DOCKER-USER", six=True)
    assert set(driver.release(rows).values()) == {GONE}
    assert lab.difference(before, lab.dump()) == ""


def test_another_installations_rules_are_not_ours(tmp_path: Path, driver: IptablesDriver) -> None:
    other = IptablesDriver(Host("zzzzzzzzzz", str(tmp_path), str(tmp_path), 10.0))
    theirs = [
        each._replace(mark=each.mark.replace(INSTALLATION, "zzzzzzzzzz")) for each in everything()
    ]
    other.create(theirs)
    before = lab.dump()
    rows = everything()
    driver.create(rows)
    assert set(driver.release(rows).values()) == {GONE}
    assert lab.difference(before, lab.dump()) == ""


# The lock (others beside it: integration/concurrency/test_concurrency.py) -------------------------


def test_a_held_lock_is_busy_and_nothing_changes(tmp_path: Path, driver: IptablesDriver) -> None:
    rows = [row(1, "base"), network()]
    driver.create(rows)
    before = lab.dump()
    hasty = IptablesDriver(Host(INSTALLATION, str(tmp_path), str(tmp_path), 0.2))
    with open(os.environ["XTABLES_LOCKFILE"], "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(Busy, match=re.escape(os.environ["XTABLES_LOCKFILE"])):
            hasty.create([publish(3)])
        assert {outcome.reason for outcome in hasty.release(rows).values()} == {"contended"}
        assert lab.difference(before, lab.dump()) == ""
        assert len(driver.observe()) == sum(len(driver.expected(each)) for each in rows)
    hasty.create([publish(3)])  # those who gave up did not keep it


def test_the_lock_is_waited_for(driver: IptablesDriver) -> None:
    driver.create([row(1, "base"), network()])
    with open(os.environ["XTABLES_LOCKFILE"], "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        let_go = threading.Timer(0.3, fcntl.flock, (held, fcntl.LOCK_UN))
        let_go.start()
        driver.create([publish(3)])
        let_go.join()
    assert publish(3).mark in {entry.mark for entry in driver.observe()}


# Packets ----------------------------------------------------------------------------------------


def socket_in(where: lab.Namespace | None, family: int, kind: int) -> socket.socket:
    """A socket of another namespace (a socket keeps the one it was made in)."""
    made: list[socket.socket] = []

    def make() -> None:
        if where is not None:
            with open(f"/proc/{where.pid}/ns/net", "rb") as namespace:
                lab.setns(namespace.fileno())
        made.append(socket.socket(family, kind))

    maker = threading.Thread(target=make)
    maker.start()
    maker.join()
    made[0].settimeout(20)
    return made[0]


def family_of(address: str) -> int:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Answering:
    """A server in a namespace that answers with its name and the client's address."""

    def __init__(self, name: str, where: lab.Namespace | None, port: int, at: str = "") -> None:
        self._name, self._sockets = name, []
        families = [family_of(at)] if at else [socket.AF_INET, socket.AF_INET6]
        for family in families:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                each = socket_in(where, family, kind)
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    each.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                each.bind((at, port))
                each.settimeout(None)
                if kind == socket.SOCK_STREAM:
                    each.listen()
                self._sockets.append(each)
                serve = self._streams if kind == socket.SOCK_STREAM else self._datagrams
                threading.Thread(target=serve, args=(each,), daemon=True).start()

    def _streams(self, listening: socket.socket) -> None:
        while True:
            try:
                client, peer = listening.accept()
            except OSError:
                return
            # who gave up meanwhile reset the connection: the next one is served all the same
            with client, contextlib.suppress(OSError):
                client.sendall(f"{self._name} {peer[0]}".encode())

    def _datagrams(self, bound: socket.socket) -> None:
        while True:
            try:
                _, peer = bound.recvfrom(100)
            except OSError:
                return
            if peer is None:  # shut down
                return
            with contextlib.suppress(OSError):  # a filter may refuse an answer
                bound.sendto(f"{self._name} {peer[0]}".encode(), peer)

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


def ask(
    where: lab.Namespace | None, address: str, port: int, *, udp: bool = False, wait: float = 20
) -> str | None:
    """What a server answers, None if nothing comes."""
    kind = socket.SOCK_DGRAM if udp else socket.SOCK_STREAM
    with socket_in(where, family_of(address), kind) as client:
        client.settimeout(wait)
        try:
            client.connect((address, port))
            if udp:
                client.send(b"?")
            return client.recv(100).decode()
        except OSError:
            return None


def add_guest(
    bridge: str, device: str, ipv4: str, ipv6: str, gateways: tuple[str, str]
) -> lab.Namespace:
    guest = lab.Namespace()
    lab.run("ip", "link", "add", device, "type", "veth", "peer", "eth0", "netns", str(guest.pid))
    lab.run("ip", "link", "set", device, "master", bridge, "up")
    # With bridge-nf a guest reaches its own published port through its own bridge port.
    lab.run("ip", "link", "set", device, "type", "bridge_slave", "hairpin", "on")
    guest.run("ip", "addr", "add", f"{ipv4}/24", "dev", "eth0")
    guest.run("ip", "addr", "add", f"{ipv6}/64", "dev", "eth0", "nodad")
    guest.run("ip", "link", "set", "eth0", "up")
    guest.run("ip", "route", "add", "default", "via", gateways[0])
    guest.run("ip", "-6", "route", "add", "default", "via", gateways[1])
    return guest


class Site:
    """The host with two bridges and three guests, and a world beyond."""

    def __init__(self, world: lab.Namespace) -> None:
        self.world = world
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
        for bridge, net in ((BRIDGE, "77"), (OTHER_BRIDGE, "79")):
            lab.run("ip", "link", "add", bridge, "type", "bridge")
            lab.run("ip", "addr", "add", f"10.{net}.0.1/24", "dev", bridge)
            lab.run("ip", "addr", "add", f"fd{net}::1/64", "dev", bridge, "nodad")
            lab.run("ip", "link", "set", bridge, "up")
            Path(f"/proc/sys/net/ipv4/conf/{bridge}/route_localnet").write_text("1")
        self.web = add_guest(BRIDGE, "hvtap1", "10.77.0.2", "fd77::2", ("10.77.0.1", "fd77::1"))
        self.two = add_guest(BRIDGE, "hvtap2", "10.77.0.3", "fd77::3", ("10.77.0.1", "fd77::1"))
        self.far = add_guest(
            OTHER_BRIDGE, "hvtap3", "10.79.0.2", "fd79::2", ("10.79.0.1", "fd79::1")
        )
        self.servers = [
            Answering("web", self.web, 80),
            Answering("two", self.two, 80),
            Answering("far", self.far, 80),
            Answering("world", world, 80),
        ]
        # The world knows the way back to guests: only the rules are in the way.
        for net, via in (("10.77.0.0/24", lab.HOST4), ("10.79.0.0/24", lab.HOST4)):
            world.run("ip", "route", "add", net, "via", via)
        for net in ("fd77::/64", "fd79::/64"):
            world.run("ip", "-6", "route", "add", net, "via", lab.HOST6)

    def close(self) -> None:
        for server in self.servers:
            server.close()
        for guest in (self.web, self.two, self.far):
            guest.close()


@pytest.fixture(params=["1", "0"], ids=["bridge-nf", "no bridge-nf"])
def site(world: lab.Namespace, request: pytest.FixtureRequest) -> Iterator[Site]:
    for family in ("iptables", "ip6tables"):
        Path(f"/proc/sys/net/bridge/bridge-nf-call-{family}").write_text(request.param)
    there = Site(world)
    try:
        yield there
    finally:
        there.close()


def far_network(number: int, **more: object) -> Resource:
    return network(number, bridge=OTHER_BRIDGE, subnets=["10.79.0.0/24", "fd79::/64"], **more)


def far_guest(number: int, nat: bool = True) -> list[Resource]:
    rows = [row(number, "forward", ipv4="10.79.0.2", ipv6="fd79::2", bridge=OTHER_BRIDGE)]
    if nat:
        for more, address in enumerate(("10.79.0.2", "fd79::2")):
            rows.append(row(number + 1 + more, "masquerade", address=address, bridge=OTHER_BRIDGE))
    return rows


def close_forward() -> None:
    """As Docker leaves it: nothing passes but what a rule accepts."""
    for six in (False, True):
        ipt("-P", "FORWARD", "DROP", six=six)


def test_published_ports_are_reached_from_everywhere(site: Site, driver: IptablesDriver) -> None:
    close_forward()
    rows = [
        row(1, "base"),
        network(),
        far_network(3),
        *guest_rows(10, 2),
        *guest_rows(20, 3),
        *far_guest(30),
        publish(40),
        publish(41, protocol="udp"),
        publish(42, host_port=8081, host_ip=lab.HOST4),
        publish(43, host_port=8082, host_ip=lab.HOST6),
        publish(44, host_port=8083, host_ip="127.0.0.1"),
    ]
    driver.create([*rows, *passes()])
    for udp in (False, True):
        assert ask(site.world, lab.HOST4, 8080, udp=udp) == f"web {lab.WORLD4}"
        assert ask(site.world, lab.HOST6, 8080, udp=udp) == f"web {lab.WORLD6}"
        assert ask(None, lab.HOST4, 8080, udp=udp) == "web 10.77.0.1"
        assert ask(None, lab.HOST6, 8080, udp=udp) == "web fd77::1"
        assert ask(None, "10.77.0.1", 8080, udp=udp) == "web 10.77.0.1"
        assert ask(None, "127.0.0.1", 8080, udp=udp) == "web 10.77.0.1"
        for guest in (site.web, site.two):
            assert ask(guest, lab.HOST4, 8080, udp=udp) == "web 10.77.0.1"
            assert ask(guest, "10.77.0.1", 8080, udp=udp) == "web 10.77.0.1"
            assert ask(guest, lab.HOST6, 8080, udp=udp) == "web fd77::1"
        assert ask(site.far, lab.HOST4, 8080, udp=udp) == "web 10.77.0.1"
    assert ask(site.world, lab.HOST4, 8081) == f"web {lab.WORLD4}"
    assert ask(None, lab.HOST4, 8081) == "web 10.77.0.1"
    assert ask(site.world, lab.HOST6, 8082) == f"web {lab.WORLD6}"
    assert ask(None, "127.0.0.1", 8083) == "web 10.77.0.1"
    for where, address, port in (
        (None, "127.0.0.1", 8081),
        (site.two, "10.77.0.1", 8081),
        (site.world, lab.HOST6, 8081),
        (site.world, lab.HOST4, 8082),
        (site.world, lab.HOST4, 8083),
        (None, "::1", 8080),
        (site.world, lab.HOST4, 9999),
    ):
        assert ask(where, address, port, wait=0.4) is None
    driver.release(rows[6:])
    for where, address in ((site.world, lab.HOST4), (None, "127.0.0.1"), (site.two, lab.HOST6)):
        assert ask(where, address, 8080, wait=0.4) is None


def test_guests_reach_the_world_and_the_world_not_them(site: Site, driver: IptablesDriver) -> None:
    close_forward()
    guests = [*guest_rows(10, 2), *far_guest(30)]
    driver.create([row(1, "base"), network(), far_network(3), *guests, *passes()])
    for udp in (False, True):
        assert ask(site.web, lab.WORLD4, 80, udp=udp) == f"world {lab.HOST4}"
        assert ask(site.web, lab.WORLD6, 80, udp=udp) == f"world {lab.HOST6}"
    assert ask(site.web, "10.77.0.3", 80) == "two 10.77.0.2"
    assert ask(site.web, "fd77::3", 80) == "two fd77::2"
    assert ask(site.two, lab.WORLD4, 80, wait=0.4) is None  # it has no forward row
    for where in (site.world, site.far):
        for address in ("10.77.0.2", "fd77::2"):
            assert ask(where, address, 80, wait=0.4) is None
            assert ask(where, address, 80, udp=True, wait=0.4) is None


def test_the_order_of_networks_and_vms_does_not_matter(site: Site, driver: IptablesDriver) -> None:
    driver.create([row(1, "base"), network(), *guest_rows(10, 2)])
    driver.create([far_network(3), *far_guest(30)])
    assert ask(site.web, "10.79.0.2", 80, wait=0.4) is None
    assert ask(site.far, "10.77.0.2", 80, wait=0.4) is None
    assert ask(site.web, lab.WORLD4, 80) == f"world {lab.HOST4}"


def test_without_nat_the_world_reaches_guests_by_their_addresses(
    site: Site, driver: IptablesDriver
) -> None:
    close_forward()
    guest = guest_rows(10, 2, nat=False)
    driver.create([row(1, "base"), network(nat=False), *guest, *passes(BRIDGE)])
    assert ask(site.world, "10.77.0.2", 80) == f"web {lab.WORLD4}"
    assert ask(site.world, "fd77::2", 80) == f"web {lab.WORLD6}"
    assert ask(site.web, lab.WORLD4, 80) == "world 10.77.0.2"
    assert ask(site.world, "10.77.0.3", 80, wait=0.4) is None


def test_isolated_guests_meet_only_at_published_ports(site: Site, driver: IptablesDriver) -> None:
    for guest, neighbour in ((site.two, "10.77.0.2"), (site.web, "10.77.0.3")):
        # LinkContext the bridge's own isolation: by way of the gateway.
        guest.run("ip", "route", "add", f"{neighbour}/32", "via", "10.77.0.1")
        guest.run("ip", "route", "flush", "cache")
    for name in ("all", BRIDGE):
        Path(f"/proc/sys/net/ipv4/conf/{name}/send_redirects").write_text("0")
    rows = [row(1, "base"), network(isolate=True), *guest_rows(10, 2), *guest_rows(20, 3)]
    driver.create([*rows, publish(40)])
    assert ask(site.two, "10.77.0.2", 80, wait=0.4) is None
    assert ask(site.two, lab.HOST4, 8080) == "web 10.77.0.1"
    assert ask(site.two, lab.HOST6, 8080) == "web fd77::1"
    assert ask(site.two, lab.WORLD4, 80) == f"world {lab.HOST4}"


def test_a_name_that_differs_in_few_bits_is_another_bridge(
    site: Site, driver: IptablesDriver
) -> None:
    """`hvbr0` and `hvbr2` differ in a bit that a careless mask does not look at."""
    close_forward()
    driver.create([row(1, "base"), network(), *guest_rows(10, 2), *passes()])
    site.far.run("ip", "addr", "add", "fd77::2/64", "dev", "eth0", "nodad")
    assert ask(site.far, lab.WORLD6, 80, wait=0.4) is None
    with socket_in(site.far, socket.AF_INET6, socket.SOCK_STREAM) as spoofing:
        spoofing.bind(("fd77::2", 0))
        spoofing.settimeout(0.4)
        with pytest.raises(OSError, match="timed out"):
            spoofing.connect((lab.WORLD6, 80))
    mask = re.compile(rb"hvbr0\0+\xff{6}\0|hvbr0\0{11}(?:\0|[\x20-\x7e]){16}\xff{6}\0", re.DOTALL)
    text = f"-i {BRIDGE} -j ACCEPT"
    for family in (4, 6):
        assert mask.search(xtables.build(family, text, "hvtx:x"))


def packets(part: str, six: bool = False) -> dict[str, int]:
    """How many packets each rule of a chain has decided, by its words."""
    found = {}
    for line in lab.run(
        "ip6tables-legacy-save" if six else "iptables-legacy-save", "-c"
    ).splitlines():
        if rule := re.fullmatch(rf"\[(\d+):\d+\] -A {chain(part)} (.*)", line):
            words = re.sub(r' -m comment --comment "[^"]*"', "", rule[2])
            found[words] = int(rule[1])
    return found


@pytest.mark.parametrize("isolate", [False, True])
def test_packets_of_a_known_flow_meet_no_rule_of_a_vm(
    site: Site, driver: IptablesDriver, isolate: bool
) -> None:
    """The first packet is looked up in the rules of all VMs, those after it are not."""
    rows = [row(1, "base"), network(isolate=isolate), far_network(3), *guest_rows(10, 2)]
    driver.create([*rows, *passes()])
    flow = "-m conntrack --ctstate RELATED,ESTABLISHED"
    for six, guest, world in (
        (False, "10.77.0.2/32", lab.WORLD4),
        (True, "fd77::2/128", lab.WORLD6),
    ):
        with socket_in(site.web, family_of(world), socket.SOCK_DGRAM) as client:
            client.connect((world, 80))
            for _ in range(20):
                client.send(b"?")
                assert client.recv(100)
        seen = packets("FWD", six)
        ways = (f"-i {BRIDGE} {flow} -j RETURN", f"-o {BRIDGE} {flow} -j RETURN")
        assert [seen[way] for way in ways] == [19, 20]
        assert set(list(seen)[:2]) == set(ways)
        seen = packets("PASS", six)
        assert seen[f"-s {guest} -i {BRIDGE} -j {chain('WAY')}"] == 1
        assert seen[f"-d {guest} -o {BRIDGE} -j {chain('WAY')}"] == 0
        ways = (f"-i {BRIDGE} {flow} -j ACCEPT", f"-o {BRIDGE} {flow},DNAT -j ACCEPT")
        assert [seen[way] for way in ways] == [19, 20]
        assert set(list(seen)[:2]) == set(ways)


def test_a_strangers_flow_is_let_through_by_nobody_but_its_own_rules(
    site: Site, driver: IptablesDriver
) -> None:
    """Flows that touch no bridge of ours are not accepted, known or not: the chain sees them too."""
    driver.create([row(1, "base"), network(), *guest_rows(10, 2)])
    with socket_in(site.far, socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((lab.WORLD4, 80))
        client.send(b"?")
        assert client.recv(100)
        ipt("-A", "FORWARD", "-s", "10.79.0.2", "-j", "DROP")
        client.settimeout(0.4)
        client.send(b"?")
        with pytest.raises(TimeoutError):
            client.recv(100)


def test_strangers_traffic_is_not_touched(site: Site, driver: IptablesDriver) -> None:
    third: Callable[..., str | None] = ask
    assert third(site.world, "10.79.0.2", 80) == f"far {lab.WORLD4}"
    driver.create([row(1, "base"), network(), *guest_rows(10, 2), publish(40)])
    assert third(site.world, "10.79.0.2", 80) == f"far {lab.WORLD4}"
    assert third(site.far, lab.WORLD4, 80) == "world 10.79.0.2"
    assert third(site.far, lab.WORLD6, 80) == "world fd79::2"


def test_the_answering_server_outlives_clients_that_give_up(world: lab.Namespace) -> None:
    """A reset connection ends no test's server: it had, on a busy machine, for good."""
    Answering("patient", None, 81, "127.0.0.1")
    for _ in range(100):
        with socket.create_connection(("127.0.0.1", 81)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert ask(None, "127.0.0.1", 81) == "patient 127.0.0.1"
