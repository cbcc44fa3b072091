"""The objects of `--json`, key by key."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

from integration import lab
from integration.lab import witness
from integration.lab.program import Program
from integration.lab.verbs import (
    BACKENDS,
    KINDS,
    MARK,
    SLEEP,
    TIME,
    create,
    ended,
    hvtx,
    network,
    state,
    stopped,
)

__all__ = ["hvtx"]  # the fixture


def check_resources(resources: list[dict[str, Any]]) -> None:
    for resource in resources:
        assert set(resource) == {"kind", "key", "state", "mark"}
        assert resource["kind"] in KINDS
        assert resource["state"] in ("intended", "committed", "releasing")
        assert MARK.match(resource["mark"])


def test_the_object_of_a_vm(hvtx: Program) -> None:
    """`vm show --json` to the letter, defined and running; acting commands print the same."""
    network(hvtx)
    made = hvtx("vm", "create", "web", "--network", "net", "-p", "8080:80", "-p", "203.0.113.1:53:5353/udp",
                "--json", *SLEEP).json()  # fmt: skip
    assert made == hvtx.vm("web")
    assert {"schema", "name", "id", "state", "hypervisor", "pid", "interfaces", "resources"} <= set(
        made
    )
    assert (made["schema"], made["name"], made["state"]) == ("hvtx/vm/1", "web", "defined")
    assert (made["hypervisor"], made["pid"]) == ("command", None)
    (interface,) = made["interfaces"]
    ways = {"prefix", "gateway", "prefix6", "gateway6"}
    more = {"addresses", "mtu", "egress"}
    assert set(interface) == {"network", "device", "mac", "ipv4", "ipv6", "publish"} | ways | more
    assert (interface["network"], interface["device"]) == ("net", None)
    assert (interface["ipv4"], interface["ipv6"]) == ("10.77.0.2", None)
    assert re.match(r"02(:[0-9a-f]{2}){5}\Z", interface["mac"])
    assert interface["publish"] == [
        {"protocol": "tcp", "host_ip": None, "host_port": 8080, "guest_port": 80},
        {"protocol": "udp", "host_ip": "203.0.113.1", "host_port": 53, "guest_port": 5353},
    ]
    assert {r["kind"] for r in made["resources"]} == {"lease"}
    check_resources(made["resources"])
    started = hvtx("vm", "start", "web", "--json").json()
    assert started == hvtx.vm("web")
    assert started["state"] == "running"
    os.kill(started["pid"], 0)
    assert {k: v for k, v in started["interfaces"][0].items() if k != "device"} == {
        k: v for k, v in interface.items() if k != "device"
    }
    check_resources(started["resources"])
    assert {"tap", "publish", "masquerade", "filter", "lease", "process"} <= {
        r["kind"] for r in started["resources"]
    }
    listed = hvtx("vm", "ls", "--json").json()
    assert listed == {"schema": "hvtx/vms/1", "vms": [started]}
    assert hvtx("vm", "stop", "web", "--timeout", "1", "--json").json() == {**made}
    assert hvtx("vm", "rm", "web", "--json").json()["schema"].startswith("hvtx/")
    assert hvtx("vm", "ls", "--json").json() == {"schema": "hvtx/vms/1", "vms": []}


def test_the_object_of_a_network(hvtx: Program) -> None:
    made = hvtx("network", "create", "net", "--subnet", "fd77::/64", "--subnet", "10.77.0.0/24", "--isolate",
                "--no-nat", "--mtu", "1400", "--bridge", "br-mine", "--json").json()  # fmt: skip
    assert made == hvtx("network", "show", "net", "--json").json()
    assert set(made) == {
        "schema", "name", "id", "bridge", "subnets", "gateway", "nat", "isolate", "mtu", "firewall", "vms",
        "resources", "dhcp", "egress", "passage", "source", "uplink", "block_size",
    }  # fmt: skip
    assert (made["schema"], made["name"], made["bridge"]) == ("hvtx/network/1", "net", "br-mine")
    assert sorted(made["subnets"]) == ["10.77.0.0/24", "fd77::/64"]
    assert sorted(made["gateway"]) == ["10.77.0.1", "fd77::1"]
    assert [s.split("/")[0][:4] for s in made["subnets"]] == [g[:4] for g in made["gateway"]]
    assert (made["nat"], made["isolate"], made["mtu"], made["vms"]) == (False, True, 1400, [])
    assert made["firewall"] in BACKENDS
    check_resources(made["resources"])
    assert {"bridge", "address", "filter"} <= {r["kind"] for r in made["resources"]}
    create(hvtx)
    assert hvtx("network", "show", "net", "--json").json()["vms"] == ["web"]
    listed = hvtx("network", "ls", "--json").json()
    assert (listed["schema"], [n["name"] for n in listed["networks"]]) == (
        "hvtx/networks/1",
        ["net"],
    )
    (link,) = json.loads(lab.run("ip", "-j", "-d", "link", "show", "br-mine"))
    assert link["mtu"] == 1400
    assert MARK.match(link["ifalias"])
    by_device = [r["mark"] for r in made["resources"] if r["kind"] in ("bridge", "address")]
    assert by_device == [link["ifalias"]] * len(by_device)
    assert len(by_device) >= 3  # the bridge, and a gateway of each family
    plan = hvtx("gc", "--plan", "--json").json()["items"]
    kept = {i["key"]: i["mark"] for i in plan if i["kind"] in ("bridge", "address")}
    assert set(kept.values()) == {link["ifalias"]}
    told = hvtx("explain", "10.77.0.1", "--json").json()
    assert told["record"]["mark"] == link["ifalias"]
    assert hvtx("explain", link["ifalias"], "--json").json()["kind"] == "bridge"


def test_the_objects_of_an_empty_store(hvtx: Program) -> None:
    """A missing store reads as an empty one, and is not made by reading."""
    assert hvtx("vm", "ls", "--json").json() == {"schema": "hvtx/vms/1", "vms": []}
    assert hvtx("network", "ls", "--json").json() == {"schema": "hvtx/networks/1", "networks": []}
    assert hvtx("intents", "--json").json() == {"schema": "hvtx/intents/1", "operations": []}
    assert hvtx("log", "--json").json() == {"schema": "hvtx/log/1", "entries": []}
    plan = hvtx("gc", "--plan", "--json").json()
    assert (plan["schema"], plan["items"], plan["applied"], plan["refused"]) == (
        "hvtx/gc/1",
        [],
        False,
        None,
    )
    assert plan["summary"] == {"delete": 0, "commit": 0, "forget": 0, "skip": 0}
    hvtx("gc", "--plan", "--detailed-exitcode")
    for argv in (("vm", "show", "web"), ("network", "show", "net"), ("vm", "logs", "web")):
        hvtx(*argv, code=3)
    for argv in (("vm", "ls"), ("network", "ls"), ("intents",), ("log",), ("gc", "--plan")):
        hvtx(*argv)
    assert not Path(os.environ["HVTX_STATE_DIR"]).exists()
    assert not Path(os.environ["HVTX_RUN_DIR"]).exists()


def test_who_needs_a_vm_or_network_makes_no_store(hvtx: Program) -> None:
    """3, and nothing is made where the store would be: its directory may be on a disk to come."""
    for argv in (
        ("vm", "start"), ("vm", "stop"), ("vm", "stop", "--force"), ("vm", "restart"),
        ("vm", "rm"), ("vm", "rm", "--force"), ("vm", "attach", "--pid", str(os.getpid())),
        ("vm", "set", "--cpus", "2"), ("vm", "create", "--from-log"), ("network", "rm"),
        ("network", "set", "--isolate"), ("repair",),
    ):  # fmt: skip
        hvtx(*argv, "web", code=3)
    for verb in ("start", "stop", "rm"):
        hvtx("vm", verb, "web", "db", code=3)
    assert not Path(os.environ["HVTX_STATE_DIR"]).exists()


def test_what_is_refused_or_finds_nothing_makes_no_store(hvtx: Program, tmp_path: Path) -> None:
    """What would make one, where it does not come to that: bad input changes nothing."""
    lab.run("ip", "tuntap", "add", "dev", "mine0", "mode", "tap")
    subnet = ("network", "create", "net", "--subnet")
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "none.json").write_text("{}")
    (tmp_path / "plan").write_text(hvtx("gc", "--heuristic", "--plan", "--json").out)
    described = tmp_path / "set.toml"
    described.write_text('[networks.lab]\nsubnet = "127.0.0.0/24"\n')
    named = tmp_path / "named.toml"
    named.write_text('[vms.web]\nnetwork = "lob"\n')
    lost = ("gc", "--apply", "--yes", "--installation")
    static, silent = tmp_path / "static.toml", tmp_path / "silent.toml"
    static.write_text('[cluster]\nsource = "static"\n[cluster.blocks]\nlab = ["10.64.3.0/26"]\n')
    silent.write_text(
        '[cluster]\nsource = "etcd"\nendpoints = ["http://127.0.0.1:1"]\ntimeout = 0.5\n'
    )
    refused: list[tuple[int, tuple[str, ...]]] = [
        (3, ("vm", "create", "web", "--network", "lab", "--", "sleep", "9")),
        (3, ("vm", "run", "web", "--network", "lab", "--", "sleep", "9")),
        (3, ("vm", "run", "web", "--kernel", "/none")),
        (3, ("vm", "create", "web", "--user", "nobody-of-that-name", "--", "sleep", "9")),
        (4, (*subnet, "10.77.0.0/24", "--bridge", "lo")),
        (3, (*subnet, "10.77.0.0/24", "--uplink", "none9")),
        (3, ("vm", "apply", "--yes", "-f", str(named))),
        (3, ("adopt", "tap-none", "--vm", "web")),
        (2, ("adopt", "mine0", "--vm", "Bad Name")),
        (3, ("import", "my-hypervisor", str(empty))),
        (3, ("import", "my-hypervisor", str(tmp_path / "missing"))),
        (9, ("import", "my-hypervisor", str(tmp_path / "none.json"))),
        (0, ("gc", "--heuristic", "--apply", "--yes", str(tmp_path / "plan"))),
        (3, (*lost, "aaaaaaaaaa")),
        (2, ("cluster", "forget", "two", "--yes")),
        (2, ("cluster", "register", "--yes")),
        (4, ("--config", str(static), "cluster", "forget", "two", "--yes")),
        (75, ("--config", str(silent), "cluster", "forget", "two", "--yes")),
        (75, ("--config", str(silent), "cluster", "register", "--yes")),
    ]
    found = []
    with witness.unchanged():
        for code, argv in refused:
            ran = hvtx(*argv, code=None)
            if ran.code != code:
                found.append((ran.code, argv, ran.err))
            for name in ("HVTX_STATE_DIR", "HVTX_RUN_DIR"):
                if Path(os.environ[name]).exists():
                    found.append((name, argv, ran.err))
                    shutil.rmtree(os.environ[name])
    assert found == []
    hvtx("adopt", "mine0", "--vm", "web", "--dry-run", code=None)
    assert not Path(os.environ["HVTX_STATE_DIR"]).exists()


def test_the_objects_of_intents_and_log(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx)
    run = stopped(hvtx, "acted:tap", "vm", "start", "web")
    try:
        (operation,) = hvtx("intents", "--json").json()["operations"]
        assert {"id", "verb", "vm", "state", "since", "resources"} <= set(operation)
        assert (operation["verb"], operation["vm"], operation["state"]) == (
            "start",
            "web",
            "running",
        )
        assert TIME.match(operation["since"])
        check_resources(operation["resources"])
        assert {r["state"] for r in operation["resources"]} == {"intended"}
        assert state(hvtx) == "starting"
    finally:
        ended(run, signal.SIGKILL)
    (operation,) = hvtx("intents", "--json").json()["operations"]
    assert operation["state"] == "interrupted"
    assert "tap" in hvtx("intents").out
    hvtx("recover")
    assert hvtx("intents", "--json").json()["operations"] == []
    log = hvtx("log", "--json").json()
    assert log["schema"] == "hvtx/log/1"
    for entry in log["entries"]:
        assert set(entry) == {
            "time", "operation", "verb", "vm", "kind", "key", "event", "reason", "message",
        }  # fmt: skip
        assert TIME.match(entry["time"])
    assert [e["time"] for e in log["entries"]] == sorted(e["time"] for e in log["entries"])
    of_web = hvtx("log", "--vm", "web", "--json").json()["entries"]
    assert of_web
    assert {e["vm"] for e in of_web} == {"web"}
    assert len(hvtx("log", "-n", "2", "--json").json()["entries"]) == 2
    assert hvtx("log", "-n", "2", "--json").json()["entries"] == log["entries"][-2:]


def test_the_object_of_a_plan(hvtx: Program) -> None:
    network(hvtx)
    create(hvtx, "web", "-p", "8080:80")
    lab.end(hvtx("vm", "start", "web", "--json").json()["pid"])
    ran = hvtx("gc", "--plan", "--json", "--detailed-exitcode", code=2)
    plan = ran.json()
    assert set(plan) == {
        "schema", "plan_id", "made", "applied", "refused", "epoch", "items", "summary"
    }  # fmt: skip
    assert set(plan["epoch"]) == {"boot_id", "netns"}
    assert plan["epoch"]["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for item in plan["items"]:
        assert {
            "action",
            "reason",
            "kind",
            "key",
            "vm",
            "record",
            "evidence",
            "message",
            "outcome",
        } <= set(item)
        assert item["outcome"] is None
        assert item["record"] is None or set(item["record"]) == {"id", "state"}
        assert isinstance(item["evidence"], list)
        assert item["message"]
    counts = dict.fromkeys(("delete", "commit", "forget", "skip"), 0)
    for item in plan["items"]:
        counts[item["action"]] += 1
    assert plan["summary"] == counts
    (tap,) = [i for i in plan["items"] if i["kind"] == "tap"]
    assert (tap["action"], tap["reason"], tap["vm"]) == ("delete", "vm-dead", "web")
    assert (tap["record"]["state"]) == "committed"
    reserved = {i["kind"] for i in plan["items"] if i["reason"] == "reserved"}
    assert {"bridge", "lease"} <= reserved
    assert hvtx("gc", "--plan", "--json").json()["plan_id"] == plan["plan_id"]
    applied = hvtx("gc", "--apply", "--json").json()
    assert applied["applied"] is True
    assert {i["outcome"] for i in applied["items"] if i["action"] == "delete"} == {"done"}
    assert {i["outcome"] for i in applied["items"] if i["action"] == "skip"} == {"skipped"}
    assert hvtx.is_clean()


def test_a_failure_with_notes_is_one_object_on_standard_error(hvtx: Program) -> None:
    """Who pipes standard error to `jq` reads it, whatever was noted before; people lose nothing."""
    ran = hvtx("vm", "run", "web", "--json", "--", "false", code=6)
    told = json.loads(ran.err)
    assert (told["error"]["code"], ran.out) == ("host-refused", "")
    (note,) = told["notices"]
    assert (note["level"], "creating it" in note["message"]) == ("note", True)
    hvtx("network", "rm", "default")
    made = hvtx("vm", "create", "web", "--json", "--", "false")
    assert made.json()["name"] == "web"
    assert made.err == f"note: {note['message']}\n".replace(bridge_in(note), bridge_in(made.err))


def bridge_in(text: str | dict[str, str]) -> str:
    """The name of a bridge that is told of."""
    found = re.search(r"hvbr\w+", str(text))
    assert found
    return found[0]
