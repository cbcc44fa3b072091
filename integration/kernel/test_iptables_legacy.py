"""The iptables backend and the host that it stands on: what it needs, starts and leaves behind."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine import forward_accepts
from hvtx.host import libiptc, xtblob, xtnames, xtneeds
from hvtx.planner import provision
from hvtx.planner.provision import ResourceSpec
from hvtx.rulesets import iptables_rules as iptables
from integration import lab
from integration.lab.program import Forked, Program, Ran, preload

SLEEP = ("--", "/bin/sleep", "600")
STRANGER = ("-t", "nat", "-A", "POSTROUTING", "-s", "192.0.2.9", "-j", "MASQUERADE")


@pytest.fixture
def hvtx() -> Forked:
    preload()
    return Forked()


def tables() -> list[str]:
    """The families of hvtx's nftables tables."""
    lines = lab.run("nft", "list", "tables").splitlines()
    return sorted(line.split()[1] for line in lines if " hvtx-" in line)


def make(hvtx: Program, name: str, firewall: str) -> None:
    subnet = f"10.{77 + len(name)}.0.0/24"
    hvtx("--firewall", firewall, "network", "create", name, "--subnet", subnet,
         "--subnet", f"fd{77 + len(name)}::/64")  # fmt: skip


# What it leaves in nftables -----------------------------------------------------------------------


def test_of_nftables_only_the_bridge_family(hvtx: Forked) -> None:
    """No table inet and no hook of NAT, not even an empty one; and nothing at the end."""
    make(hvtx, "net", "iptables")
    assert tables() == ["bridge"]
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    assert tables() == ["bridge"]
    ruleset = lab.run("nft", "list", "ruleset")
    assert "table bridge hvtx-" in ruleset
    assert not re.search(
        "hook|table", re.sub(r"table bridge hvtx-.*?\n}", "", ruleset, flags=re.DOTALL)
    )
    assert "nat" not in re.findall(r"type (\w+) hook", ruleset)
    hvtx("vm", "stop", "web", "--timeout", "1")
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "net")
    assert lab.run("nft", "list", "ruleset") == ""
    assert hvtx.is_clean()


@pytest.mark.parametrize("order", [("nftables", "iptables"), ("iptables", "nftables")])
def test_a_table_goes_with_the_last_network_of_its_backend(
    hvtx: Forked, order: tuple[str, str]
) -> None:
    """In whatever order networks came; what the other backend stands on is not touched."""
    names = {"nftables": "new", "iptables": "old1"}
    for firewall in order:
        make(hvtx, names[firewall], firewall)
    assert tables() == ["bridge", "inet"]
    assert "HVTX-" in lab.run("iptables-legacy-save")
    hvtx("network", "rm", "new")
    assert tables() == ["bridge"]
    assert hvtx("repair", "--json").json()["repaired"] == []
    make(hvtx, "new", "nftables")
    hvtx("network", "rm", "old1")
    assert tables() == ["bridge", "inet"]
    assert "HVTX-" not in lab.run("iptables-legacy-save")
    hvtx("network", "rm", "new")
    assert tables() == []
    assert hvtx.is_clean()


# What an earlier version made ---------------------------------------------------------------------


def as_before(patch: pytest.MonkeyPatch) -> None:
    """Rows as the version before wrote them: one base for both tables, the network in both."""
    missing, network = provision.missing_bases, provision.want_network

    def bases(firewall: str, there: Any, **named: Any) -> list[str]:
        found = missing(firewall, there, **named)
        return [*(["nftables"] if "nftables bridge" in found else []),
                *(["iptables"] if "iptables" in found else [])]  # fmt: skip

    def both(*arguments: Any, **named: Any) -> tuple[list[ResourceSpec], list[ResourceSpec]]:
        shared, own = network(*arguments, **named)
        last = own[-1]
        native = {**last.spec, "backend": "nftables"}
        return shared, [*own[:-1], last._replace(key=f"nftables {last.key}", spec=native), last]

    patch.setattr(provision, "missing_bases", bases)
    patch.setattr(provision, "want_network", both)
    patch.setattr(iptables, "_loopback_guard", lambda *_: ())


def test_networks_of_an_earlier_version_are_kept_repaired_and_removed(hvtx: Forked) -> None:
    """Their table inet serves them to the end; it goes with the last of them, beside new ones."""
    before = lab.dump()
    with pytest.MonkeyPatch.context() as patch:
        as_before(patch)
        make(hvtx, "net", "iptables")
        hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    assert tables() == ["bridge", "inet"]
    assert hvtx.is_clean()
    assert hvtx("repair", "--json").json()["repaired"] == []
    whole = lab.dump()
    make(hvtx, "net2", "iptables")  # stands on what is there
    hvtx("network", "rm", "net2")
    assert lab.difference(whole, lab.dump()) == ""
    for command in ("flush ruleset", "delete table inet {}"):
        name = re.search(r"table bridge (hvtx-\S+)", lab.run("nft", "list", "tables"))
        assert name
        lab.run("nft", command.format(name[1]))
        hvtx("repair")
        assert rules(whole) == rules(lab.dump())
    hvtx("vm", "rm", "web", "--force")
    hvtx("network", "rm", "net")
    after = lab.dump()
    assert after["nft"] == []
    assert not any("hvtx" in line.lower() for part in after["legacy"].values() for line in part)
    assert after["links"] == before["links"]
    assert hvtx.is_clean()


def rules(dump: dict[str, Any]) -> list[str]:
    """The nftables part of a dump without its handles, in a fixed order."""
    texts = [re.sub(r'"handle": \d+', "", json.dumps(item)) for item in dump["nft"]]
    return sorted(texts)


def test_a_network_of_an_earlier_version_keeps_its_table_beside_others(hvtx: Forked) -> None:
    """Its elements stand in the table inet, which therefore outlives the last of nftables."""
    with pytest.MonkeyPatch.context() as patch:
        as_before(patch)
        make(hvtx, "net", "iptables")
    make(hvtx, "new1", "nftables")
    hvtx("network", "rm", "new1")
    assert tables() == ["bridge", "inet"]
    assert hvtx("repair", "--json").json()["repaired"] == []
    hvtx("network", "rm", "net")
    assert tables() == []


# One chain that came first, and accepted ------------------------------------------------------------


def with_one_chain(patch: pytest.MonkeyPatch) -> None:
    """Rules as versions before wrote them: one chain, first in FORWARD, with drops and accepts."""
    rule, compilers = iptables.Rule, dict(iptables._COMPILERS)

    def moved(found: iptables.Rule, installation: str) -> iptables.Rule:
        own = iptables.chain_name(installation, "FWD")
        text = re.sub(r"-j (RETURN|HVTX-\w+-WAY)$", "-j ACCEPT", found.text)
        chain = own if found.chain.endswith(("-FWD", "-PASS")) else found.chain
        chain = "INPUT" if chain == "PREROUTING" else chain  # limits of connections
        return rule(found.family, "filter", chain, text, found.first)

    def before(what: str) -> Callable[..., tuple[iptables.Rule, ...]]:
        def compiled(installation: str, spec: Any) -> tuple[iptables.Rule, ...]:
            found = [
                moved(one, installation) if one.table in ("mangle", "filter") else one
                for one in compilers[what](installation, spec)
                if "-j MARK " not in one.text  # which the table filter does not have
            ]
            return tuple(dict.fromkeys(found))

        return compiled

    for what in ("base", "network", "forward"):
        patch.setitem(iptables._COMPILERS, what, before(what))
    patch.setattr(iptables, "_CHAINS", {"filter": ("FWD",), "nat": ("PRE", "OUT", "POST")})
    patch.setattr(iptables, "_FORMER", {})
    patch.setattr(iptables, "brings_chains", lambda row, family, _table: row.spec["what"] == (
        "base" if family == 4 else "network"))  # fmt: skip
    patch.setattr(forward_accepts, "change", lambda _: forward_accepts.Change((), (), (), ()))


def forward_chains() -> list[str]:
    """Where our jumps in FORWARD lead, in the order in which a packet meets them."""
    texts = [lab.run("iptables-legacy", "-t", t, "-S", "FORWARD") for t in ("mangle", "filter")]
    return re.findall(r"-j HVTX-\w+-(\w+)", "".join(texts))


@pytest.mark.parametrize("by", ["repair", "vm run", "rm"])
def test_a_chain_that_accepted_first_goes(hvtx: Forked, by: str) -> None:
    """By the next start, and by `repair`, under running VMs; or with its network, as it is."""
    for table in ("mangle", "nat", "filter"):
        lab.run("iptables-legacy", "-t", table, "-S")
        lab.run("ip6tables-legacy", "-t", table, "-S")
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        lab.run(tool, "-P", "FORWARD", "DROP")
    before = lab.dump()
    with pytest.MonkeyPatch.context() as patch:
        with_one_chain(patch)
        make(hvtx, "net", "iptables")
        hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
        assert forward_chains() == ["FWD"]
        assert hvtx.is_clean()
    assert hvtx.is_clean()
    if by != "rm":
        assert {f["hint"] for f in hvtx("doctor", "--json", code=1).json()["findings"]
                if f["check"] == "damage"} == {"hvtx repair"}  # fmt: skip
        more = ("vm", "run", "more", "--network", "net", *SLEEP)
        hvtx(*(("repair",) if by == "repair" else more))
        assert forward_chains() == ["FWD", "PASS"]
        assert "-FWD" not in lab.run("iptables-legacy-save", "-t", "filter")
        assert "-FWD" not in lab.run("ip6tables-legacy-save", "-t", "filter")
        assert hvtx("repair", "--json").json()["repaired"] == []
        assert hvtx.is_clean()
        hvtx("vm", "rm", "more", "--force", code=0 if by == "vm run" else 3)
    hvtx("vm", "rm", "web", "--force")
    hvtx("network", "rm", "net")
    after = lab.dump()
    assert lab.difference(before["legacy"], after["legacy"]) == ""
    assert hvtx.is_clean()


# What it starts -----------------------------------------------------------------------------------


def executed(log: Path, path: str, *argv: str) -> list[str]:
    """The names of all programs that a command ran, itself included, with this PATH."""
    subprocess.run(
        ["/usr/bin/strace", "-f", "-o", str(log), "-e", "trace=execve,execveat",
         sys.executable, "-m", "hvtx", *argv],
        check=True, capture_output=True, timeout=120, stdin=subprocess.DEVNULL,
        env={**os.environ, "PATH": path, "HVTX_FIREWALL": "iptables"},
    )  # fmt: skip
    lines = log.read_text().splitlines()
    calls = [re.search(r'execve(?:at)?\([^"]*"([^"]+)".* = 0$', line) for line in lines]
    return [Path(found[1]).name for found in calls if found]


def test_a_start_runs_no_compiler_and_needs_no_ldconfig(tmp_path: Path) -> None:
    """Nothing searches for libraries by programs, and none of them need be there.

    On the first PATH there is nothing but what hvtx runs itself, on the second one whatever could
    be asked for a library, too; each would be seen.
    """
    bare, full = tmp_path / "bare", tmp_path / "full"
    for place in (bare, full):
        place.mkdir()
        for tool in ("iptables-legacy-save", "ip6tables-legacy-save"):
            (place / tool).symlink_to(shutil.which(tool) or "")
    for tool in ("gcc", "cc", "c99", "ld", "ldconfig", "collect2", "objdump", "pkg-config"):
        (full / tool).write_text(f"#!/bin/sh\necho {tool} >>{tmp_path}/asked\n")
        (full / tool).chmod(0o755)
    hypervisor = {"sleep", "systemd-run"}
    for path in (str(bare), f"{full}:{os.environ['PATH']}"):
        for argv in (
            ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64"),
            ("vm", "create", "web", "--network", "net", "--hypervisor", "external"),
            ("vm", "start", "web"),
            ("vm", "show", "web"),
            ("vm", "stop", "web", "--timeout", "1"),
            ("vm", "rm", "web"),
            ("network", "rm", "net"),
        ):
            names = executed(tmp_path / "log", path, *argv)
            others = [name for name in names[1:] if name not in hypervisor]
            assert all(re.fullmatch(r"(xtables-legacy-multi|ip6?tables-legacy-save|python[\d.]*)", n)
                       for n in others), (argv, names)  # fmt: skip
    assert not (tmp_path / "asked").exists()


# What it needs ------------------------------------------------------------------------------------

Take = Callable[[pytest.MonkeyPatch, Path], None]


def no_library(patch: pytest.MonkeyPatch, _: Path) -> None:
    """As without libip4tc2."""
    patch.setattr(libiptc, "LIBRARIES", {4: "libip4tc.so.999", 6: "libip6tc.so.999"})
    libiptc.library.cache_clear()


def no_tool(patch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As without iptables-legacy-save."""
    (tmp_path / "empty").mkdir(exist_ok=True)
    patch.setenv("PATH", str(tmp_path / "empty"))


def no_tables(patch: pytest.MonkeyPatch, _: Path) -> None:
    """As on a kernel that has no legacy tables, nor a module for them."""
    patch.setattr(xtnames, "NAMES", {4: "/nonexistent/4", 6: "/nonexistent/6"})
    patch.setattr(xtneeds, "_MODULES", {4: "no_such_module", 6: "no_such_module"})


LACKS: dict[str, tuple[Take, str, str]] = {
    "library": (no_library, "cannot load libip4tc.so.999", "libip4tc2"),
    "tool": (no_tool, "there is no iptables-legacy-save", "install the package iptables"),
    "kernel": (no_tables, "no legacy iptables tables", "load the module"),
}


@pytest.fixture(params=sorted(LACKS))
def lack(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[Callable[[], pytest.MonkeyPatch], str, str]]:
    """Takes something away when called, until it is undone; what is said of it, and the fix."""
    patch = pytest.MonkeyPatch()
    take, words, fix = LACKS[request.param]

    def away() -> pytest.MonkeyPatch:
        take(patch, tmp_path)
        return patch

    yield away, words, fix
    patch.undo()
    libiptc.library.cache_clear()


def refused(ran: Ran, words: str, fix: str) -> None:
    """6, with what is missing and what to do, and no word of a bug."""
    assert ran.code == 6, ran
    assert words in ran.err
    assert fix in ran.err
    assert "--firewall nftables" in ran.err
    assert "bug" not in ran.err


def finding(hvtx: Program, **environment: str) -> dict[str, Any]:
    found = hvtx("doctor", "--json", code=None, **environment).json()["findings"]
    (own,) = [f for f in found if f["check"] == "iptables"]
    return dict(own)


def test_what_the_backend_lacks_is_said_before_anything_is_made(
    hvtx: Forked, lack: tuple[Callable[[], pytest.MonkeyPatch], str, str]
) -> None:
    """By the command and, before it is met, by doctor; where nothing needs it, all is well."""
    away, words, fix = lack
    assert finding(hvtx)["level"] == "ok"
    before = lab.dump()
    away()
    command = ("network", "create", "net", "--subnet", "10.77.0.0/24")
    refused(hvtx("--firewall", "iptables", *command, code=None), words, fix)
    assert hvtx("network", "ls", "--json").json()["networks"] == []
    told = finding(hvtx, HVTX_FIREWALL="iptables")
    assert (told["level"], words in told["message"], fix in told["hint"]) == ("error", True, True)
    assert finding(hvtx)["level"] == "ok"
    hvtx(*command)
    assert hvtx("network", "show", "net", "--json").json()["firewall"] == "nftables"
    hvtx("network", "rm", "net")
    with pytest.MonkeyPatch.context() as patch:
        patch.undo()
        libiptc.library.cache_clear()
    assert lab.difference(before, dump_with_tools()) == ""


def dump_with_tools() -> dict[str, object]:
    """A dump with the PATH that the tests were started with."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        return lab.dump()


@pytest.mark.parametrize("take", [no_library, no_tool])
def test_auto_does_not_choose_what_cannot_work(hvtx: Forked, take: Take, tmp_path: Path) -> None:
    """Where this host's rules stand in legacy tables it says what is missing, and makes nothing."""
    _, words, fix = next(known for known in LACKS.values() if known[0] is take)
    lab.run("iptables-legacy", *STRANGER)
    before = lab.dump()
    with pytest.MonkeyPatch.context() as patch:
        take(patch, tmp_path)
        command = ("network", "create", "net", "--subnet", "10.77.0.0/24")
        ran = hvtx(*command, code=None)
        refused(ran, words, fix)
        assert "own rules stand in legacy iptables tables" in ran.err
        told = finding(hvtx)
        assert (told["level"], told["evidence"]) == (
            "error", ["rules or policies of this host stand in legacy tables"],
        )  # fmt: skip
        assert lab.difference(before, dump_with_tools()) == ""
        if take is no_library:  # without the tool the other backend cannot see all either
            hvtx("--firewall", "nftables", *command)
            hvtx("network", "rm", "net")
    libiptc.library.cache_clear()
    hvtx(*command)
    assert hvtx("network", "show", "net", "--json").json()["firewall"] == "iptables"


def test_what_went_missing_later_stops_no_stop(
    hvtx: Forked, lack: tuple[Callable[[], pytest.MonkeyPatch], str, str]
) -> None:
    """A VM can be ended all the same; what could not be removed is told, and goes afterwards."""
    away, words, fix = lack
    if "kernel" in words or "no legacy" in words:
        pytest.skip("no kernel loses what a network stands on")
    make(hvtx, "net", "iptables")
    hvtx("vm", "run", "web", "--network", "net", "-p", "8080:80", *SLEEP)
    hvtx("vm", "create", "two", "--network", "net", *SLEEP)
    patch = away()
    refused(hvtx("vm", "start", "two", code=None), words, fix)
    assert finding(hvtx)["evidence"] == ["network 'net' lives in the legacy tables"]
    ran = hvtx("vm", "stop", "web", "--timeout", "1", code=None)
    assert ran.code == 9, ran
    assert "bug" not in ran.err
    patch.undo()
    libiptc.library.cache_clear()
    assert hvtx.vm("web")["state"] != "running"
    hvtx("vm", "stop", "web")
    assert "8080" not in lab.run("iptables-legacy-save")
    hvtx("vm", "start", "two")
    hvtx("vm", "rm", "two", "--force")
    hvtx("vm", "rm", "web")
    hvtx("network", "rm", "net")
    assert hvtx.is_clean()


@pytest.mark.parametrize(
    ("words", "used"),
    [
        ((), False),
        (("-S",), False),
        (("-N", "EMPTY"), False),
        (("-P", "INPUT", "DROP"), True),
        (("-t", "nat", "-A", "POSTROUTING", "-j", "ACCEPT"), True),
    ],
)
def test_what_counts_as_a_legacy_table_in_use(words: tuple[str, ...], used: bool) -> None:
    """A rule or a policy of somebody's; neither a table that was looked at nor an empty chain."""
    for tool, family in (("iptables-legacy", 4), ("ip6tables-legacy", 6)):
        if words:
            lab.run(tool, *words)
        assert xtblob.in_use(family) is used
