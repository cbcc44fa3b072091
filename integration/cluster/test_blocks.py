"""Two hosts lease from blocks of a real etcd of three members: cut off, killed, copied, put back."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from integration import lab
from integration.lab.cluster.lab import ADDRESS, HOSTS, MEMBERS, SUBNET, Lab, cluster_lab
from integration.lab.cluster.package import program
from integration.lab.program import Ran


@pytest.fixture(scope="module")
def etcd() -> Path:
    """Before a test has a namespace of its own, from which nothing can be downloaded."""
    found = program()
    if found is None:
        pytest.skip("Debian's package etcd-server cannot be had")
    return found


@pytest.fixture
def two(etcd: Path, netns: None, tmp_path: Path) -> Iterator[Lab]:
    with cluster_lab(tmp_path, etcd) as made:
        for host in HOSTS:
            made.hvtx(host, "network", "create", "lab", "--subnet", SUBNET, "--block-size", "30")
        yield made


def create(two: Lab, host: str, name: str, *more: str, code: int = 0, **environment: str) -> str:
    """The address of a VM that is made."""
    ran = two.hvtx(
        host, "vm", "create", name, "--network", "lab", "--hypervisor", "external", *more, "--json",
        code=code, **environment,
    )  # fmt: skip
    return ran.json()["interfaces"][0]["ipv4"] if code == 0 else ran.err


def agree(two: Lab) -> dict[str, str]:
    """Hosts and cluster say the same; block -> installation."""
    seen = {host: two.status(host) for host in HOSTS}
    holders = {one["cidr"]: one["installation"] for one in seen["h1"]["holders"]}
    assert holders == {one["cidr"]: one["installation"] for one in seen["h2"]["holders"]}
    for known in seen.values():
        own = {b["cidr"] for b in known["blocks"] if b["state"] == "committed"}
        assert own == {cidr for cidr, who in holders.items() if who == known["installation"]}
        assert known["unrecorded"] == []
    return holders


def test_two_hosts_never_have_one_address(two: Lab) -> None:
    got = [create(two, host, f"{host}-{n}") for n in range(6) for host in HOSTS]
    assert len(set(got)) == 12
    holders = agree(two)
    assert len(holders) == 4  # two blocks of four addresses each
    for address in got:
        assert any(ipaddress.ip_address(address) in ipaddress.ip_network(c) for c in holders)

    found = two.hvtx("h1", "network", "routes", "lab", "--json").json()["routes"]
    assert {(one["cidr"], one["via"]) for one in found if not one["local"]} == {
        (cidr, ADDRESS["h2"])
        for cidr, who in holders.items()
        if who == two.status("h2")["installation"]
    }
    theirs = next(address for n, address in enumerate(got) if n % 2)
    told = two.hvtx("h1", "explain", theirs, "--json").json()["evidence"]
    assert any("at 192.0.2.5, installation" in line for line in told), told
    frr = two.hvtx("h2", "network", "routes", "--format", "frr").out.splitlines()
    assert len(frr) == 2
    for line in frr:  # what FRR would set the kernel takes, and the network stands with it
        _, _, cidr, via = line.split()
        two.spaces["h2"].run("ip", "route", "add", cidr, "via", via)
    create(two, "h2", "beside-routes")
    two.hvtx("h2", "vm", "start", "beside-routes")

    for n in range(6):
        two.hvtx("h1", "vm", "rm", f"h1-{n}")
    assert len(agree(two)) == 4
    assert "given back" in two.hvtx("h1", "gc", "--apply").err  # the spare one
    assert len(agree(two)) == 3
    two.hvtx("h1", "network", "rm", "lab")
    assert len(agree(two)) == 2


def test_an_address_of_another_hosts_block_is_refused_and_its_holder_named(two: Lab) -> None:
    theirs = create(two, "h2", "two")
    other = next(str(a) for a in ipaddress.ip_network(next(iter(agree(two)))) if str(a) != theirs)
    before = keys(two)
    said = create(two, "h1", "one", "--ip", other, code=4)
    assert keys(two) == before
    assert f"at {ADDRESS['h2']}, installation {two.status('h2')['installation']}" in said
    assert two.status("h1")["blocks"] == []  # nothing was claimed for what is refused
    mine = create(two, "h1", "one")
    create(two, "h1", "beside", "--ip", str(next(
        a for a in ipaddress.ip_network(two.status("h1")["blocks"][0]["cidr"]) if str(a) != mine
    )))  # fmt: skip


def test_a_host_that_is_cut_off_goes_on_from_its_blocks(two: Lab) -> None:
    create(two, "h1", "one")
    two.isolate("h1")
    began = time.monotonic()
    create(two, "h1", "two")
    two.hvtx("h1", "vm", "start", "two")  # no waiting for anybody
    assert "Busy" not in two.hvtx("h1", "vm", "show", "two").out
    assert time.monotonic() - began < 20
    assert "warning: cluster: no etcd answers" in two.hvtx("h1", "recover").err  # and no error
    while "error" not in (said := create_or_error(two, "h1")):
        pass
    assert "no etcd answers" in said
    assert "no etcd answers" in two.hvtx("h1", "recover", code=9).out  # the claim is open
    assert "hint: hvtx cluster status" in said
    status = two.status("h1")
    assert "no etcd answers" in status["problem"]
    two.hvtx("h1", "cluster", "status", code=75)
    assert [b["state"] for b in status["blocks"]] == ["committed", "intended"]
    told = two.hvtx("h1", "doctor", "--json", code=None).json()["findings"]
    assert [f["level"] for f in told if f["check"] == "cluster"] == ["warning"]
    create(two, "h2", "other")  # the rest of the cluster goes on
    two.heal()
    two.await_quorum("h1")
    create(two, "h1", "three")
    agree(two)
    assert two.hvtx("h1", "recover").code == 0


def create_or_error(two: Lab, host: str) -> str:
    """What is said; exit 0 or 75."""
    create_or_error.number += 1  # type: ignore[attr-defined]
    ran = two.hvtx(host, "vm", "create", f"more-{create_or_error.number}", "--network", "lab",  # type: ignore[attr-defined]
                   "--hypervisor", "external", code=None)  # fmt: skip
    assert ran.code in (0, 75), ran.err
    return ran.err


create_or_error.number = 0  # type: ignore[attr-defined]


_CLAIM = """
import sys
from contextlib import closing
from pathlib import Path
from hvtx.engine.blocks import opened
from hvtx.engine.runtime import Runtime
from hvtx.errors import Busy
from hvtx.model.block import Pool
from integration.lab.cluster.worker import settings
with closing(Runtime(settings(Path(sys.argv[1]), "h1"), writable=True)) as runtime:
    with opened(runtime) as blocks:
        blocks.source.announce()  # the connection is open, and the host registered
        blocks.confirm()  # what is left to be asked is the claim
        print("open", flush=True)
        sys.stdin.readline()
        try:
            blocks.take(Pool("lab", sys.argv[2], 30))
        except Busy as problem:
            print(problem.code, flush=True)
"""


def test_answers_that_are_lost_are_asked_for_again(two: Lab) -> None:
    """One direction only, on an open connection: the question arrives, the answer does not."""
    claiming = subprocess.Popen(
        two.spaces["h1"].argv(_python(), "-c", _CLAIM, str(two.base), SUBNET),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert claiming.stdout is not None
    assert claiming.stdout.readline() == "open\n"
    two.cut((MEMBERS, ["h1"]))
    said, _ = claiming.communicate("go\n", timeout=60)
    assert said == "cluster-unreachable\n"
    (landed,) = two.status("h2")["holders"]
    two.heal()
    two.await_quorum("h1")
    address = create(two, "h1", "one")
    assert ipaddress.ip_address(address) in ipaddress.ip_network(landed["cidr"])
    assert len(agree(two)) == 1


def test_a_claim_that_landed_and_was_not_heard_of(two: Lab) -> None:
    """Killed between the call and the commit; the next one has the answer of the same token."""
    create(two, "h1", "one", code=-9, HVTX_FAILPOINT="claimed:block:kill")
    status = two.status("h1")
    assert [b["state"] for b in status["blocks"]] == ["intended"]
    assert len(status["holders"]) == 1
    assert status["unrecorded"] == []
    address = create(two, "h1", "one")
    holders = agree(two)
    assert ipaddress.ip_address(address) in ipaddress.ip_network(next(iter(holders)))
    assert len(holders) == 1


@pytest.mark.parametrize("point", ["intended:block", "releasing:block", "released:block"])
def test_what_was_interrupted_recover_ends(two: Lab, point: str) -> None:
    if point == "intended:block":
        create(two, "h1", "one", code=-9, HVTX_FAILPOINT=f"{point}:kill")
    else:
        create(two, "h1", "one")
        two.hvtx("h1", "vm", "rm", "one")
        two.hvtx("h1", "network", "rm", "lab", code=-9, HVTX_FAILPOINT=f"{point}:kill")
    (step,) = two.hvtx("h1", "gc", "--plan", "--json").json()["blocks"]
    reasons = {"intended:block": "claim-interrupted"}
    assert step["reason"] == reasons.get(point, "return-interrupted")
    two.isolate("h1")
    (step,) = two.hvtx("h1", "gc", "--apply", "--json", code=9).json()["blocks"]
    assert step["outcome"] == "failed"
    two.heal()
    two.await_quorum("h1")
    if point == "released:block":
        (step,) = two.hvtx("h1", "gc", "--apply", "--json").json()["blocks"]
        assert step["outcome"] == "done"
    two.hvtx("h1", "recover")
    status = two.status("h1")
    assert [b["state"] for b in status["blocks"] if b["state"] != "committed"] == []
    assert len(agree(two)) == (1 if point == "intended:block" else 0)
    create(two, "h2", "other")
    agree(two)


@contextmanager
def twin(two: Lab) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """The whole state directory of h1 on another machine, which has no other: runs its commands."""
    shutil.copytree(two.base / "h1.state", two.base / "twin.state", symlinks=True)
    other = two.base / "machine-id"
    other.write_text("0123456789abcdef0123456789abcdef\n")
    env = two.environment("h1", "twin")
    env["HVTX_RUN_DIR"] = str(two.base / "twin.run")
    argv = ["unshare", "-m", "sh", "-c",
            f'mount --bind {other} /etc/machine-id && exec "$@"', "sh"]  # fmt: skip
    words = "import sys; from hvtx.cli.main import run; sys.exit(run(sys.argv[1:]))"

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            two.spaces["h1"].argv(*argv, _python(), "-c", words, *arguments),
            capture_output=True, text=True, check=False, timeout=60, env={**_environ(), **env},
        )  # fmt: skip

    moved = two.base / "h1.state.away"
    (two.base / "h1.state").rename(moved)
    try:
        yield run
    finally:
        moved.rename(two.base / "h1.state")


def test_a_block_whose_return_was_interrupted_is_had_again(two: Lab) -> None:
    """The cluster has it free, and the store has it on record still: in two blocks all is had."""
    small = ("network", "create", "small", "--subnet", "10.200.0.0/29", "--block-size", "30")
    two.hvtx("h1", *small)
    external = ("--network", "small", "--hypervisor", "external")
    two.hvtx("h1", "vm", "create", "s0", *external)
    two.hvtx("h1", "vm", "rm", "s0")
    two.hvtx("h1", "network", "rm", "small", code=-9, HVTX_FAILPOINT="released:block:kill")
    assert [b["state"] for b in two.status("h1")["blocks"]] == ["releasing"]
    two.hvtx("h1", *small)
    for n in range(5):
        two.hvtx("h1", "vm", "create", f"s{n}", *external)
    assert len(agree(two)) == 2


def test_a_copy_of_a_host_leases_nothing_of_its_originals_blocks(two: Lab) -> None:
    """Rule 4: the whole state directory, on another machine: not even while nobody can be asked."""
    create(two, "h1", "one")
    external = ("--network", "lab", "--hypervisor", "external")
    with twin(two) as run:
        two.isolate("h1")
        for asked in (
            ("vm", "create", "two", *external),
            ("vm", "run", "two", *external),
            ("vm", "start", "one"),
            ("vm", "restart", "one"),
        ):
            done = run(*asked)
            assert done.returncode == 7, (asked, done.stderr)
            assert "another machine id" in done.stderr
            assert "hvtx cluster register --yes" in done.stderr
        two.heal()
        two.await_quorum("h1")
        status = run("cluster", "status", "--json")
        assert "another machine id" in json.loads(status.stdout)["problem"]
        assert status.returncode == 7
        found = json.loads(run("doctor", "--json").stdout)["findings"]
        (told,) = (one for one in found if one["check"] == "cluster")
        assert told["level"] == "error"
        assert "cluster register" in told["hint"]
        assert run("recover").returncode == 9
        (two.base / "machine-id").write_text("")
        done = run("vm", "start", "one")
        assert done.returncode == 6
        assert "systemd-machine-id-setup" in done.stderr
    assert create(two, "h1", "two")  # the original goes on
    two.hvtx("h1", "vm", "start", "one")
    agree(two)


def test_a_host_in_another_machine_is_registered_by_a_persons_word(two: Lab) -> None:
    """Its disk is in other hardware, say; the machine that had it may not claim any more."""
    first = create(two, "h1", "one")
    external = ("--network", "lab", "--hypervisor", "external")
    with twin(two) as run:
        assert run("cluster", "register").returncode == 2
        done = run("cluster", "register", "--yes", "--json")
        assert done.returncode == 0, done.stderr
        said = json.loads(done.stdout)
        assert (said["another_machine"], said["another_etcd"], said["lost"]) == (True, False, [])
        (block,) = said["blocks"]
        assert ipaddress.ip_address(first) in ipaddress.ip_network(block["cidr"])
        assert run("cluster", "register", "--yes").returncode == 0  # twice is once
        assert run("vm", "start", "one").returncode == 0
        assert run("vm", "stop", "one", "--force").returncode == 0
        for n in range(4):  # a claim, too
            done = run("vm", "create", f"t{n}", *external)
            assert done.returncode == 0, done.stderr
        assert run("recover").returncode == 0
    # the one that had them, which was said to be gone, is told so, and leases no more
    assert "registered by another machine" in two.hvtx("h1", "recover", code=9).out
    assert "registered by another machine" in create(two, "h1", "two", code=7)
    assert "registered by another" in two.hvtx("h1", "cluster", "register", "--yes", code=7).err


def test_a_store_of_an_earlier_program_asks_which_machine_has_its_blocks(two: Lab) -> None:
    """It has no machine on record, so that it may be a copy."""
    create(two, "h1", "one")
    before = store_row(two, "SELECT machine FROM cluster")
    store_row(two, "UPDATE cluster SET machine = NULL RETURNING 1")
    two.isolate("h1")
    create(two, "h1", "two", code=75)
    two.hvtx("h1", "vm", "start", "one")
    two.heal()
    two.await_quorum("h1")
    with twin(two) as run:
        done = run("vm", "create", "t", "--network", "lab", "--hypervisor", "external")
        assert done.returncode == 7
        assert "registered by another machine" in done.stderr
    create(two, "h1", "two")
    assert store_row(two, "SELECT machine FROM cluster") == before != (None,)
    assert plugin_status(two, "h1", "lab") == (0, "")
    store_row(two, "UPDATE cluster SET machine = 'another' RETURNING 1")
    code, said = plugin_status(two, "h1", "lab")
    assert (code, "another machine id" in said) == (50, True)


def store_row(two: Lab, words: str) -> object:
    """The first row of what h1's store is asked."""
    path = two.base / "h1.state" / "hvtx.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as sql:
        return sql.execute(words).fetchone()


def test_a_copy_of_a_host_gives_back_nothing_that_is_not_its_own(two: Lab) -> None:
    """It has the tokens of its original, and what its own errors advise is to remove all."""
    create(two, "h1", "one")
    two.hvtx("h1", "vm", "rm", "one")
    (block,) = agree(two)
    with twin(two) as run:
        asked = run("cluster", "forget", block, "--yes")
        assert asked.returncode == 7, asked.stderr
        assert "registered by another machine" in asked.stderr
        done = run("network", "rm", "lab")
        assert "another machine id" in done.stderr
        assert done.returncode == 0, done.stderr
    assert list(agree(two)) == [block]


def _python() -> str:
    import sys

    return sys.executable


def _environ() -> dict[str, str]:
    import os

    return dict(os.environ)


def test_a_store_that_was_put_back(two: Lab) -> None:
    """Rule 5: blocks that it does not know are not used; those that it knows do not go back."""
    create(two, "h1", "one")
    two.hvtx("h1", "store", "backup", str(two.base / "copy"))
    for n in range(4):  # into a second block
        create(two, "h1", f"later-{n}")
    assert len(agree(two)) == 2
    for n in range(4):
        two.hvtx("h1", "vm", "rm", f"later-{n}")
    two.hvtx("h1", "store", "restore", str(two.base / "copy"))
    two.isolate("h1")
    two.hvtx("h1", "recover", "--accept-rollback", code=9)
    assert two.status("h1")["doubted"]
    create(two, "h1", "in-doubt", code=75)
    assert "hvtx recover" in two.hvtx("h1", "vm", "start", "one", code=75).err
    two.heal()
    two.await_quorum("h1")
    two.hvtx("h1", "recover")
    status = two.status("h1")
    assert not status["doubted"]
    assert [b["kept"] for b in status["blocks"]] == [True]
    two.hvtx("h1", "vm", "start", "one")
    (apart,) = status["unrecorded"]
    got = [create(two, "h1", f"new-{n}") for n in range(4)]
    block = ipaddress.ip_network(apart["cidr"])
    assert not any(ipaddress.ip_address(address) in block for address in got)
    two.hvtx("h1", "cluster", "forget", apart["cidr"], code=2)
    two.hvtx("h1", "cluster", "forget", apart["cidr"], "--yes")
    agree(two)


def test_a_disk_that_was_put_back_is_known_by_recover(two: Lab) -> None:
    """Nothing on it says so: its store is the newest that it remembers."""
    create(two, "h1", "one")
    shutil.copytree(two.base / "h1.state", two.base / "snapshot", symlinks=True)
    two.hvtx("h1", "vm", "rm", "one")
    two.hvtx("h1", "network", "rm", "lab")
    shutil.rmtree(two.base / "h1.state")
    shutil.rmtree(two.base / "h1.run")  # every boot empties it
    (two.base / "snapshot").rename(two.base / "h1.state")
    assert "not this host's any more" in two.hvtx("h1", "recover").err
    assert [b["state"] for b in two.status("h1")["blocks"]] == ["lost"]
    found = two.hvtx("h1", "doctor", "--json", code=None).json()["findings"]
    (told,) = (one for one in found if one["check"] == "cluster")
    assert told["level"] == "error"
    assert "not this host's any more" in told["message"]
    create(two, "h1", "two")
    assert "not this host's any more" in two.hvtx("h1", "vm", "start", "one", code=4).err
    two.hvtx("h1", "vm", "rm", "one")
    two.hvtx("h1", "gc", "--apply")
    assert [b["state"] for b in two.status("h1")["blocks"]] == ["committed"]
    agree(two)


def test_a_host_that_is_given_up(two: Lab) -> None:
    create(two, "h1", "one")
    create(two, "h2", "two")
    installation = two.status("h1")["installation"]
    assert "this host" in two.hvtx("h1", "cluster", "forget", installation, "--yes", code=4).err
    # both have the name of the machine that the tests run on
    said = two.hvtx("h1", "cluster", "forget", os.uname().nodename, "--yes", code=4).err
    assert "2 hosts are called" in said and "this one among them" in said
    assert f"name one by its installation: {two.status('h2')['installation']}\n" in said
    two.hvtx("h2", "cluster", "forget", "nobody", "--yes", code=3)
    two.hvtx("h2", "cluster", "forget", installation, code=2)
    assert len(agree(two)) == 2
    two.hvtx("h2", "cluster", "forget", installation, "--yes", code=-9,
             HVTX_FAILPOINT="fenced:host:kill")  # fmt: skip
    assert len(two.status("h2")["holders"]) == 2  # fenced, and nothing is free yet
    assert "given up" in two.status("h1")["problem"]
    done = two.hvtx("h2", "cluster", "forget", installation, "--yes", "--json").json()
    assert [one["installation"] for one in done["blocks"]] == [installation]
    assert "given up" in two.status("h1")["problem"]
    said = ""
    for n in range(5):
        ran = two.hvtx("h1", "vm", "create", f"x{n}", "--network", "lab", "--hypervisor", "external",
                       code=None)  # fmt: skip
        said += ran.err
        if ran.code:
            break
    assert ran.code == 7, said
    assert "given up" in said
    assert "given up" in two.hvtx("h1", "recover", code=9).out
    assert "given up" in two.hvtx("h1", "vm", "start", "one", code=75).err
    assert "given up" in two.hvtx("h1", "cluster", "status", code=7).out
    assert {one["installation"] for one in two.status("h2")["holders"]} == {
        two.status("h2")["installation"]
    }


def test_an_etcd_whose_content_was_lost_grants_nothing_to_who_had_blocks(two: Lab) -> None:
    """It has the same id as before, which is made of its members' names and addresses."""
    create(two, "h1", "one")
    two.hvtx("h1", "network", "create", "other", "--subnet", "10.200.0.0/24", "--block-size", "26")
    for name in MEMBERS:
        two.members[name].kill()
        two.members[name].wait()
        shutil.rmtree(two.base / name)
    for name in MEMBERS:
        two.start(name)
    two.await_quorum("h1")
    external = ("vm", "create", "two", "--network", "other", "--hypervisor", "external")
    assert "went back" in two.hvtx("h1", *external, code=4).err
    for n in range(40):  # the others go on, until it is as far as it was
        if "went back" not in (two.status("h1")["problem"] or ""):
            break
        two.hvtx("h2", "network", "create", f"n{n}", "--subnet", f"10.201.{n}.0/24",
                 "--block-size", "26")  # fmt: skip
    said = two.hvtx("h1", *external, code=4).err
    assert "its content was lost" in said
    assert "its content was lost" in two.status("h1")["problem"]
    assert "its content was lost" in two.hvtx("h1", "recover", code=9).out
    assert [b["state"] for b in two.status("h1")["blocks"]] == ["committed", "intended"]
    create(two, "h1", "three")  # of the block that it has
    two.hvtx("h2", "cluster", "register", "--yes")
    killed = {"HVTX_FAILPOINT": "taken-over:host:kill"}
    two.hvtx("h1", "cluster", "register", "--yes", code=-9, **killed)
    assert "(its content was lost)" in two.hvtx("h1", "recover", code=9).out
    said = two.hvtx("h1", "cluster", "register", "--yes", "--json").json()
    assert (said["another_machine"], said["another_etcd"]) == (False, True)
    assert [b["state"] for b in two.status("h1")["blocks"]] == ["committed"]
    two.hvtx("h1", *external)
    assert len(agree(two)) == 2


def anew(two: Lab) -> None:
    """The same endpoints are another etcd's."""
    for name in MEMBERS:
        two.members[name].kill()
        two.members[name].wait()
        shutil.rmtree(two.base / name)
    for name in MEMBERS:
        two.start(name, "another")
    two.await_quorum("h1")


def test_another_etcd_is_gone_on_with_by_a_persons_word(two: Lab) -> None:
    create(two, "h1", "one")
    mine = list(agree(two))
    create(two, "h2", "two")
    anew(two)
    said = create_until(two, "h1", 4)
    assert "is another one" in said
    assert "hvtx cluster register --yes" in said
    two.hvtx("h1", "cluster", "register", "--yes", code=-9, HVTX_FAILPOINT="put-back:block:kill")
    two.hvtx("h1", "cluster", "register", "--yes")
    two.hvtx("h2", "cluster", "register", "--yes")
    assert len(agree(two)) == 2
    assert set(mine) < set(agree(two))
    assert [b["state"] for b in two.status("h1")["blocks"]] == ["committed"]
    for n in range(4):
        create(two, "h1", f"n{n}")
    assert len(agree(two)) == 3
    assert two.hvtx("h1", "recover").code == 0


def down(two: Lab) -> None:
    for name in MEMBERS:
        two.members[name].terminate()
        two.members[name].wait()


def put_back(two: Lab) -> None:
    """The members' data are those that were copied to ``copy``, and go on."""
    down(two)
    for name in MEMBERS:
        shutil.rmtree(two.base / name)
        shutil.copytree(two.base / "copy" / name, two.base / name)
        two.start(name)
    two.await_quorum("h1")


def test_an_etcd_that_was_put_back_grants_nothing_that_is_had(two: Lab) -> None:
    """It has the same id, knows the hosts, and is soon as far as it was."""
    create(two, "h1", "one")
    create(two, "h2", "two")
    down(two)
    for name in MEMBERS:
        shutil.copytree(two.base / name, two.base / "copy" / name)
        two.start(name)
    two.await_quorum("h1")
    wide = ("--subnet", "10.200.0.0/16", "--block-size", "26")
    for host in ("h1", "h2"):
        two.hvtx(host, "network", "create", "other", *wide)
    external = ("--network", "other", "--hypervisor", "external")
    two.hvtx("h2", "vm", "create", "late", *external)
    two.hvtx("h1", "recover")  # asks, and writes down how far it is
    put_back(two)
    assert "went back" in two.hvtx("h1", "vm", "create", "three", *external, code=4).err
    for n in range(40):
        put(two, f"/hvtx/elsewhere/{n}", "x")
    said = two.hvtx("h2", "recover", code=9).out
    assert "knows no claim of this host above number" in said
    assert "knows no claim" in create_until(two, "h2", 4)
    two.hvtx("h2", "cluster", "register", "--yes")
    two.hvtx("h1", "cluster", "register", "--yes")
    two.hvtx("h1", "vm", "create", "three", *external)
    held = [b["cidr"] for h in ("h1", "h2") for b in two.status(h)["blocks"]]
    assert len(held) == len(set(held)) == 4


def test_a_block_that_another_host_has_in_another_etcd_is_refused(two: Lab) -> None:
    """Whoever comes second changes nothing there, and goes on once its VMs are gone."""
    create(two, "h2", "two")
    (block,) = agree(two)
    anew(two)
    installation = two.status("h1")["installation"]
    token = "000000000001.aa"
    put(two, f"/hvtx/blocks/lab/{block.replace('/', '_')}", f"{installation} {token}")
    before = keys(two)
    said = two.hvtx("h2", "cluster", "register", "--yes", code=4).err
    assert f"block {block}" in said
    assert installation in said
    assert keys(two) == before
    two.hvtx("h2", "vm", "rm", "two")
    assert "not this host's any more" in two.hvtx("h2", "cluster", "register", "--yes").err
    assert ipaddress.ip_address(create(two, "h2", "two")) not in ipaddress.ip_network(block)


def test_junk_below_the_prefix_is_named(two: Lab) -> None:
    """Whoever reaches etcd may write anything; nothing of it is a traceback, or a route."""
    create(two, "h1", "one")
    for key in ("lab/junk", "lab/10.64.0.1_30", "junk", "lab/deeper/10.64.0.0_30"):
        put(two, f"/hvtx/blocks/{key}", "x")
    for key, value in {
        "junk": "x", "x/about": "no JSON", "y/about": '{"host": [], "address": "a\nip route"}',
        "z/machine": "", "x/y/z": "", f"{two.status('h2')['installation']}/about": "[]",
    }.items():  # fmt: skip
        put(two, f"/hvtx/hosts/{key}", value)
    create(two, "h2", "two")
    ran = two.hvtx("h1", "cluster", "status", "--json")
    assert len(ran.json()["holders"]) == 2
    assert ran.err.count("left out") == 4
    assert "'/hvtx/blocks/lab/junk'" in ran.err
    two.hvtx("h1", "cluster", "status")
    put(two, "/hvtx/blocks/lab/203.0.113.0_30", "x 1.b")
    put(two, "/hvtx/hosts/x/about", '{"address": "fe80::1%\\n192.0.2.66"}')
    ran = two.hvtx("h1", "network", "routes", "--format", "frr")
    (line,) = ran.out.splitlines()
    assert line.endswith(f"/30 {ADDRESS['h2']}")
    assert f"203.0.113.0/30 of lab is no /30 in {SUBNET}" in ran.err
    two.hvtx("h1", "explain", "10.64.0.5")
    two.hvtx("h1", "doctor", code=None)
    two.hvtx("h1", "network", "create", "all", "--subnet", "10.200.0.0/29", "--block-size", "30")
    put(two, "/hvtx/blocks/all/junk", "x")
    for n in range(5):  # all that there are, by the list of what is held
        two.hvtx("h1", "vm", "create", f"a{n}", "--network", "all", "--hypervisor", "external")
    said = two.hvtx(
        "h1", "vm", "create", "a5", "--network", "all", "--hypervisor", "external", code=4
    )
    assert "no block of /30 left" in said.err
    installation = two.status("h1")["installation"]
    known = two.etcd("print(etcd.txn([], [etcd.get(sys.argv[1])]).found[0][0].value)",
                     f"/hvtx/hosts/{installation}/last").strip()  # fmt: skip
    put(two, f"/hvtx/hosts/{installation}/last", "junk")
    assert f"/hvtx/hosts/{installation}/last" in create_until(two, "h1", 6)
    assert "'junk'" in two.hvtx("h1", "recover", code=9).out
    put(two, f"/hvtx/hosts/{installation}/last", known)
    put(two, f"/hvtx/claims/{installation}/x", "junk")
    assert f"/hvtx/claims/{installation}/x" in two.hvtx("h1", "recover", code=9).out
    two.etcd("etcd.txn([], [etcd.delete(sys.argv[1])])", f"/hvtx/claims/{installation}/x")
    assert two.hvtx("h1", "recover").code == 0


def test_an_open_claim_whose_answer_is_junk_is_refused(two: Lab) -> None:
    """It was granted, killed before its commit, and somebody wrote over it: no block is made of it."""
    create(two, "h1", "one", code=-9, HVTX_FAILPOINT="claimed:block:kill")
    (block,) = two.status("h1")["holders"]
    installation = two.status("h1")["installation"]
    below = f"/hvtx/claims/{installation}/"
    key = two.etcd("print(etcd.txn([], [etcd.below(sys.argv[1])]).found[0][0].key)", below).strip()
    for value in (
        "junk",
        "lab junk",
        "lab 192.0.2.0/30",
        "lab 10.64.0.0/29",
        f"other {block['cidr']}",
    ):
        put(two, key, value)
        assert key in create(two, "h1", "one", code=6)
    put(two, key, f"lab {block['cidr']}")
    create(two, "h1", "one")
    assert list(agree(two)) == [block["cidr"]]


def plugin_status(two: Lab, host: str, network: str) -> tuple[int, str]:
    """The code and message of the CNI plugin's STATUS."""
    ran = two.spaces[host].argv(_python(), "-c", "from hvtx.cni.main import main; main()")
    done = subprocess.run(
        ran, capture_output=True, text=True, check=False, timeout=60,
        input=json.dumps({"cniVersion": "1.1.0", "name": network, "type": "hvtx", "network": network}),
        env={**_environ(), **two.environment(host), "CNI_COMMAND": "STATUS", "CNI_PATH": "/"},
    )  # fmt: skip
    said = json.loads(done.stdout) if done.stdout else {}
    return said.get("code", 0), said.get("msg", "")


def create_until(two: Lab, host: str, code: int) -> str:
    """What the first `vm create` says that needs a block and gets none."""
    for n in range(5):
        ran = two.hvtx(host, "vm", "create", f"until-{n}", "--network", "lab", "--hypervisor",
                       "external", code=None)  # fmt: skip
        if ran.code:
            assert ran.code == code, ran.err
            return ran.err
    raise AssertionError("blocks were claimed")


def put(two: Lab, key: str, value: str) -> None:
    """Write a key, as anybody may who reaches etcd."""
    two.etcd("etcd.txn([], [etcd.put(*sys.argv[1:])])", key, value)


def keys(two: Lab) -> str:
    """All that is there."""
    return two.etcd('print(etcd.txn([], [etcd.below("/")]).found)')


def test_an_endpoint_that_is_no_etcd_is_named(two: Lab) -> None:
    """The others answer; of it is told what is wrong."""
    peer = f"http://{ADDRESS['e1']}:2380"
    path = two.base / "h1.toml"
    path.write_text(path.read_text().replace("endpoints = [", f'endpoints = ["{peer}", '))
    shown = {one["endpoint"]: one for one in two.status("h1")["endpoints"]}
    assert "not as etcd does" in shown[peer]["problem"]
    assert [one["reached"] for one in shown.values()] == [False, True, True, True]


def test_another_address_of_a_host_is_told_to_the_others(two: Lab) -> None:
    create(two, "h1", "one")
    path = two.base / "h1.toml"
    path.write_text(
        path.read_text().replace(f'address = "{ADDRESS["h1"]}"', 'address = "192.0.2.77"')
    )
    two.hvtx("h1", "recover")
    (route,) = two.hvtx("h2", "network", "routes", "--json").json()["routes"]
    assert route["via"] == "192.0.2.77"


def test_a_network_is_the_same_on_every_host(two: Lab) -> None:
    """Another subnet or another size is refused before anything is made, here or in etcd."""
    create(two, "h2", "one")
    two.hvtx("h1", "network", "rm", "lab")
    before, there = lab.dump(), keys(two)
    for subnet, size in (("10.128.0.0/10", "30"), (SUBNET, "28"), ("10.64.0.0/12", "30")):
        said = two.hvtx("h1", "network", "create", "lab", "--subnet", subnet, "--block-size", size,
                        code=4).err  # fmt: skip
        assert (
            f"is {SUBNET} in blocks of /30 in the cluster, not {subnet} in blocks of /{size}"
            in said
        )
        assert f"hvtx network create lab --subnet {SUBNET} --block-size 30" in said
    assert lab.difference(before, lab.dump()) == ""
    assert keys(two) == there
    assert two.hvtx("h1", "network", "ls", "--json").json()["networks"] == []
    two.hvtx("h1", "network", "create", "lab", "--subnet", SUBNET, "--block-size", "30")


def make(
    two: Lab, host: str, size: str, *more: str, code: int | None = 0, **environment: str
) -> Ran:
    return two.hvtx(
        host, "network", "create", "typo", "--subnet", "10.200.0.0/24", "--block-size", size, *more,
        code=code, **environment,
    )  # fmt: skip


def test_a_network_that_never_had_a_block_is_forgotten_with_its_removal(two: Lab) -> None:
    """Who mistook the size of a block makes the network anew; while others have a block, nobody."""
    before = keys(two)
    make(two, "h1", "32")
    make(two, "h1", "28", code=4)
    two.hvtx("h1", "network", "rm", "typo")
    assert keys(two) == before
    make(two, "h1", "28")
    make(two, "h2", "28")
    two.hvtx("h2", "vm", "create", "web", "--network", "typo", "--hypervisor", "external")
    two.hvtx("h1", "network", "rm", "typo")
    said = make(two, "h1", "30", code=4).err
    assert "hvtx network create typo --subnet 10.200.0.0/24 --block-size 28" in said
    assert "hvtx network rm typo" in said
    two.hvtx("h2", "vm", "rm", "web")
    two.hvtx("h2", "network", "rm", "typo")
    make(two, "h1", "30")


def test_a_host_that_had_no_block_says_anew_what_a_network_is(two: Lab) -> None:
    """Another host removed the network meanwhile, and nobody had a block of it."""
    make(two, "h1", "28")
    make(two, "h2", "28")
    two.hvtx("h2", "network", "rm", "typo")
    two.hvtx("h1", "vm", "create", "web", "--network", "typo", "--hypervisor", "external")
    make(two, "h2", "30", code=4)
    make(two, "h2", "28")


def test_a_network_that_could_not_be_made_is_not_known_to_the_cluster(two: Lab) -> None:
    two.spaces["h1"].run("ip", "link", "add", "br-typo", "type", "bridge")
    before = keys(two)
    make(two, "h1", "28", "--bridge", "br-typo", code=4)
    assert keys(two) == before
    for fault in ("error", "eio"):
        assert make(two, "h1", "28", code=None, HVTX_FAILPOINT=f"acted:bridge:{fault}").code != 0
        assert keys(two) == before
    make(two, "h2", "28")
    known = keys(two)
    for fault in ("error", "eio"):
        assert make(two, "h1", "28", code=None, HVTX_FAILPOINT=f"acted:bridge:{fault}").code != 0
        assert keys(two) == known


def test_a_network_that_is_removed_while_cut_off_stays_known(two: Lab) -> None:
    make(two, "h1", "28")
    two.isolate("h1")
    said = two.hvtx("h1", "network", "rm", "typo").err
    assert "it knows network 'typo' still" in said
    two.heal()
    make(two, "h1", "30", code=4)
    make(two, "h1", "28")
    two.hvtx("h1", "network", "rm", "typo")
    make(two, "h1", "30")
