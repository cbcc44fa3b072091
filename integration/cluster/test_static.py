"""Blocks that the configuration names: nobody is asked, and each is used once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, cast

import pytest

from hvtx import Host, HvtxError
from hvtx.cni import errors
from hvtx.errors import Busy, NoRoom
from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from integration import lab
from integration.lab.program import Program


@pytest.fixture
def hvtx(netns: None) -> Program:
    configure('lab = ["10.64.0.0/30", "10.64.9.0/30"]')
    return Program()


def configure(blocks: str) -> None:
    Path(os.environ["HVTX_CONFIG"]).write_text(
        f'[cluster]\nsource = "static"\n[cluster.blocks]\n{blocks}\n'
    )


def create(hvtx: Program, name: str, code: int = 0) -> str:
    ran = hvtx(
        "vm", "create", name, "--network", "lab", "--hypervisor", "external", "--json", code=code
    )
    return ran.json()["interfaces"][0]["ipv4"] if code == 0 else ran.err


def test_blocks_are_used_in_their_order_and_then_there_is_none(hvtx: Program) -> None:
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    got = [create(hvtx, f"v{n}") for n in range(6)]
    assert got == ["10.64.0.2", "10.64.0.3", *(f"10.64.9.{n}" for n in range(4))]
    assert "no block of /30 left" in create(hvtx, "v6", code=4)
    said = create(hvtx, "v6", code=4)
    assert "name one of /30 in its subnet" in said and "[cluster.blocks], lab = " in said
    assert create(hvtx, "v0", code=4)  # the name is taken, and nothing else was left behind
    assert len(hvtx("cluster", "status", "--json").json()["blocks"]) == 2
    configure('lab = ["10.64.0.0/30", "10.64.9.0/30", "10.64.7.0/30"]')
    assert create(hvtx, "v6") == "10.64.7.0"


def test_a_network_without_a_cluster_is_refused_before_anything_is_made(hvtx: Program) -> None:
    Path(os.environ["HVTX_CONFIG"]).write_text("")
    before = lab.dump()
    ran = hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "26", code=2)
    assert "[cluster]" in ran.err
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx("cluster", "status", code=2)
    assert hvtx("network", "routes", "--json").json()["routes"] == []


def test_doctor_names_blocks_that_no_network_uses(hvtx: Program) -> None:
    def told() -> dict[str, Any]:
        found = hvtx("doctor", "--json", code=None).json()["findings"]
        (one,) = (finding for finding in found if finding["check"] == "cluster")
        return cast("dict[str, Any]", one)

    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    assert told()["level"] == "ok"
    configure('lab = ["10.64.0.0/30", "10.64.9.0/29"]\nlob = ["10.64.3.0/30"]')
    assert told()["level"] == "warning"
    assert told()["evidence"] == [
        "lab: 10.64.9.0/29 is no /30 in 10.64.0.0/16",
        "lob: no network of that name is on record",
    ]
    assert create(hvtx, "one") == "10.64.0.2"


def test_a_block_goes_back_and_is_had_again(hvtx: Program) -> None:
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    create(hvtx, "one")
    hvtx("vm", "rm", "one")
    hvtx("network", "rm", "lab")
    assert hvtx("cluster", "status", "--json").json()["blocks"] == []
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    assert create(hvtx, "one") == "10.64.0.2"


def test_of_other_hosts_the_configuration_says_nothing(hvtx: Program) -> None:
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    create(hvtx, "one")
    assert "its block 10.64.0.0/30 is this host's" in hvtx("explain", "10.64.0.3").out
    other = hvtx("explain", "10.64.8.1").out
    assert "of others the configuration says nothing" in other
    assert "no host has its block" not in other
    ran = hvtx("cluster", "forget", "node7", "--yes", code=4)
    assert "source is static" in ran.err


def test_containers_lease_from_blocks(hvtx: Program) -> None:
    """An ADD that needs a block when nobody can be asked is to be tried again, and made nothing."""
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    box, got = lab.Namespace(), list[str]()

    def add(number: int, **more: tuple[str, ...]) -> str:
        key = AttachmentKey("lab", "c0ffee", f"eth{number}")
        wanted = AttachmentRequest(key, "lab", f"/proc/{box.pid}/ns/net", **more)
        [one] = host.attachments.add(wanted).addresses
        assert one.gateway == "10.64.0.1"
        return one.address

    def refused(number: int, **more: tuple[str, ...]) -> int:
        before = lab.dump()
        with pytest.raises(HvtxError) as caught:
            add(number, **more)
        assert lab.difference(before, lab.dump()) == ""
        assert len(host.vm.ls()) == len(got)
        return errors.of_library(caught.value).code

    try:
        with Host() as host:
            host.attachments.status("lab")  # a block is to be had
            assert refused(0, addresses=("10.64.5.5",)) == errors.CONFLICT  # no block of this host
            got += [add(n) for n in range(6)]
            assert got == [f"10.64.{of}/16" for of in ("0.2", "0.3", "9.0", "9.1", "9.2", "9.3")]
            assert refused(6) == errors.CONFLICT  # the configuration names no more
            with pytest.raises(NoRoom, match="no block of /30 left"):
                host.attachments.status("lab")
        Path(os.environ["HVTX_CONFIG"]).write_text(
            '[cluster]\nsource = "etcd"\nendpoints = ["http://127.0.0.1:1"]\n'
        )
        with Host() as host:
            assert refused(6) == errors.TRY_AGAIN
            with pytest.raises(Busy, match="no etcd answers"):
                host.attachments.status("lab")
            host.attachments.delete(AttachmentKey("lab", "c0ffee", "eth2"))
            host.attachments.status("lab")
            assert add(7) == got[2]  # a block that is had needs nobody's answer
    finally:
        box.close()


def test_a_set_that_describes_blocks_of_another_size(hvtx: Program, tmp_path: Path) -> None:
    """A network with blocks is not made anew but on request; where none are named any will do."""
    described = tmp_path / "set.toml"
    apply = ("vm", "apply", "-f", str(described), "--yes")
    described.write_text('[networks.lab]\nsubnet = ["10.64.0.0/16"]\nblock-size = "30"\n')
    hvtx(*apply)
    assert "as described" in hvtx(*apply).out
    described.write_text('[networks.lab]\nsubnet = ["10.64.0.0/16"]\n')
    assert "as described" in hvtx(*apply).out
    described.write_text('[networks.lab]\nsubnet = ["10.64.0.0/16"]\nblock-size = "28"\n')
    before = lab.dump()
    ran = hvtx(*apply, code=None)
    assert ran.code == 4, (ran.code, ran.out, ran.err)
    assert "block-size" in ran.out + ran.err
    assert lab.difference(before, lab.dump()) == ""
    assert hvtx("network", "show", "lab", "--json").json()["block_size"] == 30


def test_a_block_that_was_taken_out_of_the_configuration_and_put_back(hvtx: Program) -> None:
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    assert create(hvtx, "one") == "10.64.0.2"
    configure('lab = ["10.64.9.0/30"]')
    hvtx("gc", "--apply")
    assert create(hvtx, "two") == "10.64.9.0"
    configure('lab = ["10.64.0.0/30", "10.64.9.0/30"]')
    hvtx("gc", "--apply")
    assert [create(hvtx, f"v{n}") for n in range(4)][-1] == "10.64.0.3"


def test_what_gc_does_about_blocks_is_in_its_plan(hvtx: Program, tmp_path: Path) -> None:
    """Saved, compared, carried out, told; a plan writes nothing."""
    configure('lab = ["10.64.0.0/30", "10.64.9.0/30", "10.64.8.0/30"]')
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    made = [create(hvtx, f"v{n}") for n in range(7)]
    assert made[-1] == "10.64.8.0"
    assert "blocks" not in hvtx("gc", "--plan", "--json").json()
    assert hvtx("gc", "--plan", "--detailed-exitcode").code == 0
    for n in (0, 2, 3, 4, 5):  # one of the two in the first, all in the second
        hvtx("vm", "rm", f"v{n}")
    before = lab.dump()
    plan = tmp_path / "plan"
    ran = hvtx("gc", "--plan", "--detailed-exitcode", "--out", str(plan), code=2)
    assert "give-back lab 10.64.9.0/30" in ran.out
    assert "nothing to do" not in ran.out
    (step,) = hvtx("gc", "--plan", "--json").json()["blocks"]
    assert (step["action"], step["reason"], step["outcome"]) == ("give-back", "block-spare", None)
    assert len(hvtx("cluster", "status", "--json").json()["blocks"]) == 3
    assert lab.difference(before, lab.dump()) == ""
    hvtx("vm", "rm", "v1")  # and so is the first: nothing of it is in the plan that was saved
    ran = hvtx("gc", "--apply", str(plan), "--json")
    assert "1 more to do since the plan was saved" in ran.err
    done = ran.json()
    assert [(one["cidr"], one["outcome"]) for one in done["blocks"]] == [("10.64.9.0/30", "done")]
    assert done["plan_id"] != hvtx("gc", "--plan", "--json").json()["plan_id"]
    assert "was give-back" in hvtx("gc", "--apply", str(plan), code=8).err
    saved = plan.read_text().replace(step["claim"], "000000000009.00")
    plan.write_text(saved)
    hvtx("gc", "--apply", str(plan), code=8)
    assert len(hvtx("cluster", "status", "--json").json()["blocks"]) == 2
    assert "give-back lab 10.64.0.0/30" in hvtx("gc", "--apply").out
    assert len(hvtx("cluster", "status", "--json").json()["blocks"]) == 1


def test_a_cluster_that_does_not_answer_is_a_status_of_its_own(hvtx: Program) -> None:
    """Scripts go by the exit code; the object is whole either way, and nothing is made."""
    hvtx("cluster", "status")  # ends with 0: the configuration answers
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    create(hvtx, "one")
    nobody = "http://127.0.0.1:9"  # of this namespace, where nothing listens
    Path(os.environ["HVTX_CONFIG"]).write_text(
        f'[cluster]\nsource = "etcd"\nendpoints = ["{nobody}"]\n'
    )
    before = lab.dump()
    told = hvtx("cluster", "status", "--json", code=75)
    shown = told.json()
    assert (shown["source"], shown["holders"]) == ("etcd", None)
    assert json.loads(told.err)["error"]["code"] == "cluster-unreachable"
    assert [(one["endpoint"], one["reached"]) for one in shown["endpoints"]] == [(nobody, False)]
    assert "no etcd answers" in shown["problem"]
    assert [block["cidr"] for block in shown["blocks"]] == ["10.64.0.0/30"]
    text = hvtx("cluster", "status", code=75)
    assert "no etcd answers" in text.out and "10.64.0.0/30" in text.out
    assert text.err.startswith("error: no etcd answers")
    assert lab.difference(before, lab.dump()) == ""


def free(hvtx: Program) -> list[str]:
    """What the metric of free addresses says, its labels and numbers."""
    name = "hvtx_blocks_free_addresses"
    return [
        line.removeprefix(name)
        for line in hvtx("metrics").out.splitlines()
        if line.startswith(name)
    ]


def test_free_addresses_are_those_that_a_guest_can_have(hvtx: Program) -> None:
    """None is counted that no guest is leased: at 0 the next VM needs the cluster."""
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    create(hvtx, "v0")
    assert free(hvtx) == ['{network="lab"} 1.0'], "neither the network's address nor the gateway"
    create(hvtx, "v1")
    assert free(hvtx) == ['{network="lab"} 0.0']
    create(hvtx, "v2")
    assert free(hvtx) == ['{network="lab"} 3.0']
    lab.run("ip", "addr", "add", "10.64.9.3/32", "dev", "lo")
    assert free(hvtx) == ['{network="lab"} 2.0'], "the host has one itself"
    copy = str(Path(os.environ["HVTX_STATE_DIR"]).parent / "copy")
    hvtx("store", "backup", copy)
    hvtx("store", "restore", copy)
    assert free(hvtx) == ['{network="lab"} 0.0'], "an older store leases none"
