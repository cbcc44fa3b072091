"""libcni itself with hvtx as its plugin: what it makes of our answers, in each version.

Its client (integration/lab/clients/libcni_client.go) is built by hand where Go and libcni are;
elsewhere its requests are replayed (integration/lab/clients/libcni.py).
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hvtx.model.cni_version import VERSIONS, at_least
from integration import lab
from integration.commands.test_cni_plugin import Plugin, container, path_of, plugin
from integration.lab.program import Forked

__all__ = ["plugin"]

CLIENT = os.environ.get("HVTX_LIBCNI")
pytestmark = pytest.mark.skipif(
    CLIENT is None, reason="libcni's client is not there: integration/lab/clients/libcni_client.go"
)
ASKED = {
    "portMappings": [{"hostPort": 8090, "containerPort": 80, "protocol": "tcp"}],
    "bandwidth": {"ingressRate": 1_000_000, "ingressBurst": 1000},
    "mac": "02:00:00:00:00:77",
    "ips": ["10.77.0.9/24"],
}
Call = Callable[..., Any]


class Refused(AssertionError):
    """What libcni says of a call that failed."""


@pytest.fixture
def call(plugin: Plugin, tmp_path: Path) -> Call:
    """A call of libcni's, with the configuration that was installed and what is changed in it."""

    def ask(verb: str, netns: str = "", *, changed: dict[str, Any], **more: Any) -> Any:
        assert CLIENT is not None
        conflist = {**json.loads(plugin.conf.read_text()), "disableGC": False, **changed}
        asked = {
            "verb": verb, "plugins": str(plugin.program.parent), "conflist": json.dumps(conflist),
            "cache": str(tmp_path / "cache"), "container": "web", "netns": netns,
            "interface": "eth0", **more,
        }  # fmt: skip
        done = subprocess.run(
            [CLIENT], input=json.dumps(asked), text=True, capture_output=True, check=False,
            timeout=60,
        )  # fmt: skip
        if done.returncode:
            raise Refused(done.stderr)
        return json.loads(done.stdout)

    return ask


@pytest.mark.parametrize("version", VERSIONS)
def test_libcni_understands_what_is_answered(version: str, call: Call) -> None:
    of = {"changed": {"cniVersion": version, "cniVersions": []}}
    before = lab.dump()
    assert call("VERSION", **of) == list(VERSIONS)
    with container() as inside:
        there = path_of(inside)
        made = call("ADD", there, capabilities=ASKED, **of)
        assert made["cniVersion"] == version
        assert [ip["address"] for ip in made["ips"]] == ["10.77.0.9/24"]
        assert made["interfaces"][-1]["mac"] == "02:00:00:00:00:77"
        if at_least(version, "0.4.0"):
            call("CHECK", there, capabilities=ASKED, **of)
        with pytest.raises(Refused, match=r"\(add\): .* is attached already .*; the runtime has"):
            call("ADD", there, capabilities=ASKED, **of)
        call("STATUS", **of)
        call("GC", valid=[{"containerID": "web", "ifname": "eth0"}], **of)
        assert "eth0" in inside.run("ip", "-br", "link")
        call("DEL", "", **of)
        call("DEL", there, **of)
        assert "eth0" not in inside.run("ip", "-br", "link")
    Forked()("network", "rm", "lan")
    assert lab.difference(before, lab.dump()) == ""


def test_libcni_chooses_the_newest_version_that_both_know(call: Call) -> None:
    with container() as inside:
        made = call("ADD", path_of(inside), changed={})
        assert made["cniVersion"] == "1.1.0"
        assert made["interfaces"][-1]["mtu"] == 1500
        inside.run("ip", "addr", "flush", "dev", "eth0")
        with pytest.raises(Refused, match=r"has lost 10\.77\.0\.2/24.*; hvtx .*vm rm"):
            call("CHECK", path_of(inside), changed={})
        lab.run("nft", "flush", "ruleset")
        with pytest.raises(Refused, match=r"hvtx .*repair"):
            call("STATUS", changed={})
        call("DEL", path_of(inside), changed={})
        with pytest.raises(Refused, match="is not attached to 'lan'; ADD attaches it"):
            call("CHECK", path_of(inside), changed={})
