"""Blocks that the configuration names: nobody is asked, and each is used once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


def test_a_block_goes_back_and_is_had_again(hvtx: Program) -> None:
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    create(hvtx, "one")
    hvtx("vm", "rm", "one")
    hvtx("network", "rm", "lab")
    assert hvtx("cluster", "status", "--json").json()["blocks"] == []
    hvtx("network", "create", "lab", "--subnet", "10.64.0.0/16", "--block-size", "30")
    assert create(hvtx, "one") == "10.64.0.2"


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
