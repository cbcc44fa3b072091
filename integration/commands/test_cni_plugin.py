"""The installed plugin as runtimes call it: a process with variables and standard input."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from hvtx.host import nsid
from hvtx.model.cni_version import VERSIONS
from integration import lab
from integration.lab import packages, reference_plugins, witness
from integration.lab.program import Forked
from tests.cni import recorded
from tests.cni.recorded import POD, Recorded
from tests.cni.test_result import schema


class Answer(NamedTuple):
    code: int
    document: Any  # None: nothing was said
    err: str


class Plugin:
    """The executable and the configuration that ``hvtx cni install`` wrote."""

    def __init__(self, base: Path, *options: str) -> None:
        self.program, self.conf = base / "bin" / "hvtx", base / "net.d" / "10-hvtx.conflist"
        places = ("--dir", str(self.program.parent), "--conf", str(self.conf))
        Forked()("cni", "install", *places, *options)

    def __call__(self, one: Recorded, **environment: str) -> Answer:
        """One call, with the environment of the test but for what the request has."""
        return self.run({**os.environ, **one.environment, **environment}, one.data)

    def run(self, environment: Mapping[str, str], data: bytes) -> Answer:
        done = subprocess.run(
            [self.program], input=data, env=environment, capture_output=True, check=False,
            timeout=60,
        )  # fmt: skip
        told = json.loads(done.stdout) if done.stdout else None
        return Answer(done.returncode, told, done.stderr.decode())


@pytest.fixture
def plugin(netns: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    # whoever owns the checkout could change it, which is refused
    monkeypatch.setattr("hvtx.commands.cni_install.changeable", lambda: None)
    return Plugin(tmp_path, "--network", "lan", "--subnet", "10.77.0.0/24")


def test_version_is_answered_with_everything_closed(plugin: Plugin) -> None:
    wanted = {"cniVersion": "0.4.0", "supportedVersions": list(VERSIONS)}
    assert plugin(recorded.PODMAN_VERSION) == Answer(0, wanted, "")
    done = subprocess.run(
        ["sh", "-c", f"exec {plugin.program} <&- 2>&-"],
        env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["cniVersion"]) == (0, "1.1.0")


@pytest.mark.parametrize(
    ("environment", "data", "code"),
    [
        ({}, b"", 4),
        ({"CNI_COMMAND": "ADD"}, b"{}", 4),
        ({"CNI_COMMAND": "STATUS"}, b"", 6),
        ({"CNI_COMMAND": "STATUS"}, b'{"cniVersion": "1.1.0", "name', 6),
        ({"CNI_COMMAND": "STATUS"}, b'{"cniVersion":"1.0.0","name":"lan"}', 1),
    ],
)
def test_errors_stand_on_standard_output(
    environment: dict[str, str], data: bytes, code: int, plugin: Plugin
) -> None:
    answer = plugin.run(environment, data)
    assert answer.code == 1
    assert (answer.document["code"], answer.err) == (code, "")


@contextmanager
def container() -> Iterator[lab.Namespace]:
    """A network namespace as containers have them, kept by a process."""
    made = lab.Namespace()
    try:
        yield made
    finally:
        end(made)


def end(namespace: lab.Namespace) -> None:
    """End a container, and wait until the kernel has ended its namespace: its id is gone then."""
    with nsid.ids() as ids:
        with open(path_of(namespace)) as there:
            number = ids.of(there.fileno())
        namespace.close()
        deadline = time.monotonic() + 60
        while number is not None and ids.there({number}):
            assert time.monotonic() < deadline
            time.sleep(0.005)


def path_of(namespace: lab.Namespace) -> str:
    return f"/proc/{namespace.pid}/ns/net"


def within(one: Recorded, netns: str, **more: Any) -> Recorded:
    """A recorded request for a namespace that is there; ``more`` is changed in its configuration."""
    return Recorded({**one.environment, "CNI_NETNS": netns}, {**one.stdin, **more})


def link(namespace: lab.Namespace, name: str) -> dict[str, Any]:
    (found,) = json.loads(namespace.run("ip", "-j", "addr", "show", "dev", name))
    return dict(found)


def addresses(namespace: lab.Namespace, name: str) -> set[str]:
    found = link(namespace, name)["addr_info"]
    return {f"{a['local']}/{a['prefixlen']}" for a in found if a["scope"] == "global"}


def ports_of(bridge: str) -> set[str]:
    return {
        one["ifname"] for one in json.loads(lab.run("ip", "-j", "link", "show", "master", bridge))
    }


def done(answer: Answer) -> Any:
    """What a call that went well said."""
    assert answer.code == 0, answer
    return answer.document


def refused(answer: Answer, code: int) -> str:
    """The ``msg; details`` that a person sees of a call that is refused with a code."""
    assert answer.code == 1, answer
    assert answer.document["code"] == code, answer
    return f"{answer.document['msg']}; {answer.document['details']}"


@pytest.mark.parametrize("version", VERSIONS)
def test_an_attachment_is_what_the_result_says(version: str, plugin: Plugin) -> None:
    with container() as inside:
        told = done(plugin(within(recorded.CTR_ADD, path_of(inside), cniVersion=version)))
        jsonschema.validate(told, schema(version))
        bridge, host, eth0 = told["interfaces"]
        assert eth0["sandbox"] == path_of(inside)
        seen = link(inside, "eth0")
        assert seen["address"] == eth0["mac"]
        assert seen["operstate"] == "UP"
        assert addresses(inside, "eth0") == {ip["address"] for ip in told["ips"]}
        assert host["name"] in ports_of(bridge["name"])
        (mine,) = json.loads(lab.run("ip", "-j", "link", "show", "dev", host["name"]))
        assert mine["address"] == host["mac"]
        (route,) = json.loads(inside.run("ip", "-j", "route", "show", "default"))
        assert [{"dst": "0.0.0.0/0", "gw": route["gateway"]}] == told["routes"]
        # a port without a server: who answers at all is reached
        reach = f"import socket; socket.create_connection(({route['gateway']!r}, 9), 10)"
        with pytest.raises(AssertionError, match="ConnectionRefusedError"):
            inside.run("python3", "-c", reach)


def test_a_route_of_another_interface_stays_and_is_not_told(plugin: Plugin) -> None:
    with container() as inside:
        for ifname, more, routes in (
            ("eth0", {}, [{"dst": "0.0.0.0/0", "gw": "10.77.0.1"}]),
            ("eth1", {"name": "pods", "network": "pods", "subnets": ["10.78.0.0/24"]}, []),
        ):
            asked = within(recorded.CTR_ADD, path_of(inside), **more)
            asked.environment["CNI_IFNAME"] = ifname
            told = done(plugin(asked))
            assert told["routes"] == routes
            check = recorded.call("CHECK", {**asked.stdin, "prevResult": told}, "default-web",
                                  path_of(inside), ifname)  # fmt: skip
            assert plugin(check) == Answer(0, None, "")
        (route,) = json.loads(inside.run("ip", "-j", "route", "show", "default"))
        assert (route["dev"], route["gateway"]) == ("eth0", "10.77.0.1")


DELS = {
    "ctr's: no namespace": ("", True),
    "the first of CRI: everything": ("path", True),
    "further ones of CRI: no namespace, no result": ("", False),
}


@pytest.mark.parametrize("form", DELS)
def test_a_del_leaves_the_host_as_it_was(form: str, plugin: Plugin) -> None:
    with container() as inside:
        add = within(recorded.CRI_ADD, path_of(inside))
        done(plugin(add))  # the first makes the network
        done(plugin(recorded.CRI_DEL_AGAIN))
        before = lab.dump()
        told = done(plugin(add))
        assert lab.difference(before, lab.dump())
        where, with_result = DELS[form]
        netns = path_of(inside) if where else ""
        more = {"prevResult": told} if with_result else {}
        delete = within(recorded.CRI_DEL_AGAIN, netns, **more)
        for _ in range(3):
            assert plugin(delete) == Answer(0, None, "")
        assert lab.difference(before, lab.dump()) == ""
        names = [one["ifname"] for one in json.loads(inside.run("ip", "-j", "link"))]
        assert "eth0" not in names


def test_a_del_of_what_never_was_is_done(plugin: Plugin) -> None:
    before = lab.dump()
    for one in (recorded.CTR_DEL, recorded.CRI_DEL_AGAIN, recorded.CRI_DEL_AFTER_REBOOT):
        assert plugin(one) == Answer(0, None, "")
    assert lab.difference(before, lab.dump()) == ""


def test_a_living_attachment_is_refused_and_a_dead_one_made_anew(plugin: Plugin) -> None:
    """Nomad asks up to three times without a DEL between; podman restarts in another namespace."""
    with container() as first:
        told = done(plugin(within(recorded.NOMAD_ADD, path_of(first))))
        before = lab.dump()
        assert "DEL" in refused(plugin(within(recorded.NOMAD_ADD, path_of(first))), 100)
        assert lab.difference(before, lab.dump()) == ""
    with container() as second:
        again = done(plugin(within(recorded.NOMAD_ADD, path_of(second))))
        assert addresses(second, "eth0") == {ip["address"] for ip in again["ips"]}
        assert len(ports_of(again["interfaces"][0]["name"])) == 1
    assert told["interfaces"][0] == again["interfaces"][0]


def test_podman_asks_by_arguments_and_reloads_in_the_same_namespace(plugin: Plugin) -> None:
    subnets = ["10.77.0.0/24", "fd77::/64"]
    with container() as inside:
        done(plugin(recorded.PODMAN_VERSION))
        told = done(plugin(within(recorded.PODMAN_ADD, path_of(inside), subnets=subnets)))
        assert told["interfaces"][2]["mac"] == "02:11:22:33:44:55"
        assert "10.77.0.9/24" in addresses(inside, "eth0")
        shown = json.loads(
            lab.run("ip", "-j", "link", "show", "dev", told["interfaces"][1]["name"])
        )
        assert shown
        delete = within(recorded.CRI_DEL_AGAIN, path_of(inside), subnets=subnets)
        done(plugin(delete))
        reload = within(recorded.PODMAN_RELOAD, path_of(inside), subnets=subnets)
        told = done(plugin(reload))
        assert {ip["address"] for ip in told["ips"]} == {"10.77.0.9/24", "fd77::9/64"}
        assert addresses(inside, "eth1") == {"10.77.0.9/24", "fd77::9/64"}


def test_gc_cuts_nobody_off_whatever_list_comes(plugin: Plugin) -> None:
    """Missing, empty, of another runtime: what lives stays, and what is kept is told."""
    others = [{"containerID": "somebody", "ifname": "eth0"}]
    lists: tuple[dict[str, Any], ...] = (
        {},
        {"cni.dev/valid-attachments": None},
        {"cni.dev/valid-attachments": [], "cni.dev/attachments": []},
        {"cni.dev/valid-attachments": others, "cni.dev/attachments": others},
    )
    with container() as inside:
        done(plugin(within(recorded.CRI_ADD, path_of(inside))))
        before = lab.dump()
        for more in lists:
            answer = plugin(recorded.call("GC", recorded.conf("1.1.0", **more)))
            assert (answer.code, answer.document) == (0, None), answer
            assert f"kept eth0 of container {POD} (vm-alive)" in answer.err
            assert lab.difference(before, lab.dump()) == ""


def test_gc_removes_what_is_dead_and_not_listed(plugin: Plugin) -> None:
    listed = {"containerID": "default-web", "ifname": "eth0"}
    with container() as inside:
        done(plugin(within(recorded.CTR_ADD, path_of(inside))))
        told = done(plugin(within(recorded.CRI_ADD, path_of(inside))
                           ._replace(environment={**recorded.CRI_ADD.environment,
                                                  "CNI_NETNS": path_of(inside),
                                                  "CNI_IFNAME": "eth1"})))  # fmt: skip
        bridge = told["interfaces"][0]["name"]
    hvtx = Forked()
    assert len(hvtx("vm", "ls", "--json").json()["vms"]) == 2
    done(plugin(recorded.call("GC", recorded.conf("1.1.0", **{"cni.dev/attachments": [listed]}))))
    assert len(hvtx("vm", "ls", "--json").json()["vms"]) == 1, "what is listed stays to its DEL"
    done(plugin(recorded.LIBCNI_GC_ALL))
    assert hvtx("vm", "ls", "--json").json()["vms"] == []
    assert ports_of(bridge) == set()


def test_check_finds_what_is_missing_and_names_the_command(plugin: Plugin) -> None:
    with container() as inside:
        told = done(plugin(within(recorded.CRI_ADD, path_of(inside))))
        check = recorded.call(
            "CHECK", {**recorded.CRI_ADD.stdin, "prevResult": told}, POD, path_of(inside), "eth0"
        )
        assert plugin(check) == Answer(0, None, "")
        inside.run("ip", "link", "set", "dev", "eth0", "down")
        inside.run("ip", "link", "set", "dev", "eth0", "address", "02:00:00:00:00:77")
        inside.run("ip", "link", "set", "dev", "eth0", "up")
        lab.run("nft", "flush", "ruleset")
        words = refused(plugin(check), 105)
        assert "hvtx repair" in words
    unknown = recorded.call("CHECK", check.stdin, "nobody", "/proc/self/ns/net", "eth0")
    assert "nobody" in refused(plugin(unknown), 3)


def test_status_says_whether_add_would_be_served(plugin: Plugin, tmp_path: Path) -> None:
    assert plugin(recorded.LIBCNI_STATUS) == Answer(0, None, "")
    with container() as inside:
        done(plugin(within(recorded.CTR_ADD, path_of(inside))))
        assert plugin(recorded.LIBCNI_STATUS) == Answer(0, None, "")
        lab.run("nft", "flush", "ruleset")
        assert "hvtx repair" in refused(plugin(recorded.LIBCNI_STATUS), 51)
    (tmp_path / "broken").mkdir(mode=0o700)
    (tmp_path / "broken" / "hvtx.db").write_bytes(b"no store" * 1000)
    stdin = {**recorded.LIBCNI_STATUS.stdin, "stateDir": str(tmp_path / "broken")}
    refused(plugin(Recorded(recorded.LIBCNI_STATUS.environment, stdin)), 50)


def test_status_of_a_network_that_add_would_not_make(plugin: Plugin) -> None:
    """The first container makes a network that is declared, and `default`, and no other."""

    def ask(**more: Any) -> Answer:
        stdin = {**recorded.LIBCNI_STATUS.stdin, "subnets": None, **more}
        return plugin(Recorded(recorded.LIBCNI_STATUS.environment, stdin))

    assert ask(network="default").code == 0
    assert ask(network="pods", subnets=["10.78.0.0/24"]).code == 0
    assert "hvtx network create pods --subnet" in refused(ask(network="pods"), 50)
    Forked()("network", "create", "pods", "--subnet", "10.78.0.0/24")
    assert ask(network="pods").code == 0


def test_a_policy_that_install_was_given_holds_for_the_network(
    plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The runtime's own environment knows nothing of it."""
    monkeypatch.setenv("HVTX_EGRESS", "none")
    Plugin(tmp_path, "--network", "lan", "--subnet", "10.77.0.0/24", "--force")
    (ours,) = json.loads(plugin.conf.read_text())["plugins"]
    monkeypatch.delenv("HVTX_EGRESS")
    with container() as inside:
        add = within(recorded.CTR_ADD, path_of(inside))
        done(plugin(Recorded(add.environment, {**add.stdin, **ours})))
        network = Forked()("network", "show", "lan", "--json").json()
        assert network["egress"]["mode"] == "none"
        wrong = Recorded(add.environment, {**add.stdin, **ours, "egress": "nobody"})
        assert "egress cannot be 'nobody'" in refused(plugin(wrong), 7)


def test_what_cannot_be_changes_nothing(plugin: Plugin) -> None:
    with container() as inside:
        done(plugin(within(recorded.CTR_ADD, path_of(inside))))
        witness.settle(inside)
        before, within_before = lab.dump(), inside.run("ip", "-d", "link")
        for more, code in (
            ({"isolat": True}, 2),
            ({"network": "Not A Name", "subnets": ["10.99.0.0/24"]}, 7),
            ({"subnets": ["10.77.0.1/24"]}, 7),
            ({"runtimeConfig": {"ips": ["192.0.2.1"]}}, 7),
            ({"runtimeConfig": {"mac": "01:00:00:00:00:01"}}, 7),
            ({"prevResult": {"ips": [3]}}, 7),
        ):
            one = within(recorded.CRI_ADD, path_of(inside), **more)
            one.environment["CNI_IFNAME"] = "eth1"
            refused(plugin(one), code)
        for path in ("/run/netns/none", "/dev/null", "/proc/self/ns/net"):
            assert "CNI_NETNS" in refused(plugin(within(recorded.CRI_ADD, path)), 4)
        # the kernel has the name already: the specification wants an error
        taken = within(recorded.CRI_ADD, path_of(inside))
        assert "eth0" in refused(plugin(taken), 100)
        assert lab.difference(before, lab.dump()) == ""
        assert inside.run("ip", "-d", "link") == within_before


@pytest.fixture(scope="module")
def reference() -> Path:
    """Before a test has a namespace of its own, from which nothing can be downloaded."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    try:
        return reference_plugins.directory()
    except packages.Unavailable as problem:
        pytest.skip(str(problem))


def test_a_chain_with_plugins_of_others(reference: Path, plugin: Plugin) -> None:
    """`loopback` before, `portmap` and `bandwidth` behind, of Debian's package, as libcni calls."""

    def call(name: str, one: Recorded) -> Any:
        ran = subprocess.run(
            [reference / name], input=one.data, env={**os.environ, **one.environment},
            capture_output=True, check=False, timeout=60,
        )  # fmt: skip
        assert ran.returncode == 0, ran
        return json.loads(ran.stdout) if ran.stdout else None

    def chained(command: str, kind: str, **more: Any) -> Recorded:
        capabilities = {"runtimeConfig": {"portMappings": ports}} if kind == "portmap" else {}
        stdin = {"cniVersion": "1.0.0", "name": "lan", "type": kind, **capabilities, **more}
        return recorded.call(command, stdin, POD, path_of(inside), "eth0")

    ports = [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}]
    own = {"subnets": ["10.77.0.0/24"]}
    with container() as inside:
        first = call("loopback", chained("ADD", "loopback"))
        told = done(plugin(chained("ADD", "hvtx", prevResult=first, **own)))
        assert told["interfaces"][: len(first["interfaces"])] == first["interfaces"]
        assert told["ips"][: len(first["ips"])] == first["ips"]
        last = call("portmap", chained("ADD", "portmap", prevResult=told))
        assert last["interfaces"] == told["interfaces"]
        # portmap lets guests reach the host's own loopback (`snat`, its default), which hvtx tells;
        # the container has all that it needs, so that its runtime is not to end it
        check = chained("CHECK", "hvtx", prevResult=last, **own)
        answer = plugin(check)
        assert answer[:2] == (0, None)
        assert answer[2].startswith("hvtx: warning: bridge ")
        assert answer[2].strip().endswith("(route_localnet); hvtx repair")
        Forked()("repair")
        assert plugin(check) == Answer(0, None, "")
        limit = {"ingressRate": 10_000_000, "ingressBurst": 1_000_000}
        slow = call("bandwidth", chained("ADD", "bandwidth", prevResult=last, **limit))
        assert plugin(chained("CHECK", "hvtx", prevResult=slow, **own)) == Answer(0, None, "")
        call("bandwidth", chained("DEL", "bandwidth", prevResult=slow, **limit))
        host = told["interfaces"][len(first["interfaces"]) + 1]["name"]
        assert "qdisc tbf" in lab.run("tc", "qdisc", "show", "dev", host)  # its DEL leaves that
        call("portmap", chained("DEL", "portmap", prevResult=last))
        assert plugin(chained("DEL", "hvtx", prevResult=last, **own)) == Answer(0, None, "")
        assert host not in lab.run("ip", "-o", "link", "show")
        call("loopback", chained("DEL", "loopback", prevResult=last))


def test_a_vm_gets_a_tap_as_firecracker_looks_for_it(plugin: Plugin) -> None:
    with container() as inside:
        told = done(plugin(within(recorded.FIRECRACKER_ADD, path_of(inside))))
        jsonschema.validate(told, schema("0.3.1"))
        *_, tap, vm = told["interfaces"]
        assert (tap["name"], tap["sandbox"]) == ("tap1", path_of(inside))
        assert (vm["name"], vm["sandbox"]) == ("tap1", "vm-1")
        assert vm["mac"] == link(inside, "veth0")["address"]
        places = [told["interfaces"][ip["interface"]] for ip in told["ips"]]
        assert [(one["name"], one["sandbox"]) for one in places] == [
            ("tap1", "vm-1"), ("veth0", path_of(inside)),
        ]  # fmt: skip
        (device,) = json.loads(inside.run("ip", "-d", "-j", "link", "show", "dev", "tap1"))
        made = device["linkinfo"]["info_data"]
        assert (made["type"], str(made["user"]), str(made["group"])) == ("tap", "123", "456")
        assert plugin(
            recorded.call("DEL", recorded.FIRECRACKER_ADD.stdin, "vm-1", "", "veth0")
        ) == (Answer(0, None, ""))
        names = {one["ifname"] for one in json.loads(inside.run("ip", "-j", "link"))}
        assert "veth0" not in names
        again = done(plugin(within(recorded.FIRECRACKER_ADD, path_of(inside))))
        assert [one["name"] for one in again["interfaces"]][2:] == ["veth0", "tap1", "tap1"]
