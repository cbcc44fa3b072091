"""SIGKILL at every failpoint of every command that changes something, then `recover`.

The oracle needs no lists: afterwards the host is as it was before the command or as it is after it,
nothing is under way, a plan is empty, and the command can be given again. Commands join by standing
in COMMANDS; failpoints by being passed.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration import lab
from integration.lab import attachments
from integration.lab.program import Forked, Program, preload
from integration.lab.resident import resident
from integration.lab.services import services
from integration.lab.vms import unheld_ports

BACKENDS = ["nftables", "iptables"]
NETWORK = ("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64")
CREATE = ("vm", "create", "web", "--network", "net", "-p", "8080:80")
SLEEP = ("--", "sleep", "600")


class Command(NamedTuple):
    """A command, what is done before it, and what a kill and `recover` leave of it.

    ``how`` is ``settles`` (the host is as before it or as after it), ``collects`` (neither, by
    design: `recover` and gc collect more than the command itself does) or ``again`` (it works off
    a list, and given again it comes to its end).
    """

    argv: tuple[str, ...]
    prepare: Callable[[Program], None]
    how: str = "settles"
    beside: bool = True  # whether a VM that is up all along stands it


def _network(hvtx: Program) -> None:
    hvtx(*NETWORK)


def _policy(_hvtx: Program | None = None) -> None:
    """Somebody's chain drops what nobody decided, so a network needs an accept there."""
    for tool in ("iptables-nft", "ip6tables-nft"):
        lab.run(tool, "-P", "FORWARD", "DROP")


def _network_beside_policy(hvtx: Program) -> None:
    _policy()
    _network(hvtx)


def _policy_later(hvtx: Program) -> None:
    _running(hvtx)
    _policy()


def _network_with_dhcp(hvtx: Program) -> None:
    hvtx(*NETWORK, "--dhcp")


def _created_with_dhcp(hvtx: Program) -> None:
    """What it starts with gets an address that another VM had: dnsmasq is started again."""
    _network_with_dhcp(hvtx)
    hvtx(
        "vm",
        "run",
        "old",
        "--network",
        "net",
        "--ip",
        "10.77.0.9",
        "--hypervisor",
        "command",
        *SLEEP,
    )
    hvtx("vm", "rm", "old", "--force")
    hvtx(*CREATE, "--ip", "10.77.0.9", *SLEEP)


def _created(hvtx: Program) -> None:
    _network(hvtx)
    hvtx(*CREATE, *SLEEP)


def _seeded(hvtx: Program, *, starts: bool = False) -> None:
    """A VM with what cloud-init reads, and a device of several queues."""
    _network(hvtx)
    init = Path(os.environ["HVTX_CONFIG"]).with_name("init")
    init.write_text("#!/bin/sh\n")
    hvtx(*CREATE, "--user-data", str(init), "--queues", "3", *SLEEP)
    if starts:
        hvtx("vm", "start", "web")


def _external(hvtx: Program) -> None:
    _network(hvtx)
    hvtx("vm", "create", "web", "--network", "net", "--hypervisor", "external")
    hvtx("vm", "start", "web")

    GUESTS.append(subprocess.Popen(["sleep", "600"]))


GUESTS: list[subprocess.Popen[bytes]] = []  # processes that `vm attach` is given


def end_guests() -> None:
    """End them."""
    attachments.end_boxes()
    while GUESTS:
        guest = GUESTS.pop()
        guest.kill()
        guest.wait()


@pytest.fixture(autouse=True)
def guests() -> Iterator[None]:
    yield
    end_guests()


def _running(hvtx: Program) -> None:
    _created(hvtx)
    hvtx("vm", "start", "web")


def _running_several(hvtx: Program) -> None:
    """With ports that go, that stay, and that are to lead elsewhere."""
    _network(hvtx)
    hvtx("vm", "run", *CREATE[2:], "-p", "8090:90", "-p", "8443:443", *SLEEP)


def _created_two(hvtx: Program) -> None:
    """Two that are given together: one with a published port, one without."""
    _created(hvtx)
    hvtx("vm", "create", "more", "--network", "net", *SLEEP)


def _running_two(hvtx: Program) -> None:
    _created_two(hvtx)
    for name in ("web", "more"):
        hvtx("vm", "start", name)


def _crashed(hvtx: Program) -> None:
    _running(hvtx)
    kill_vm(hvtx)


def _interrupted(hvtx: Program) -> None:
    _created(hvtx)
    hvtx("vm", "start", "web", code=-signal.SIGKILL, HVTX_FAILPOINT="acted:filter:kill")


def kill_vm(hvtx: Program, name: str = "web") -> None:
    """Its process is dead when this returns, which it is not when kill(2) does."""
    lab.end(hvtx.vm(name)["pid"])


def _crashed_several(hvtx: Program) -> None:
    """Several devices are removed by several threads."""
    _network(hvtx)
    hvtx("network", "create", "other", "--subnet", "10.78.0.0/24")
    hvtx("vm", "run", "web", "--network", "net", "--network", "other", *SLEEP)
    hvtx("vm", "run", "more", "--network", "net", *SLEEP)
    kill_vm(hvtx)
    kill_vm(hvtx, "more")


def _unrecorded(hvtx: Program) -> None:
    """A device with a mark of this installation, of which the store knows nothing."""
    _created(hvtx)
    mark = hvtx.vm("web")["resources"][0]["mark"]
    unknown = f"{mark.rpartition(':')[0]}:999999.{'a' * 16}"
    lab.run("ip", "tuntap", "add", "dev", "hvaaaaaaaaaaaa", "mode", "tap")
    lab.run("ip", "link", "set", "hvaaaaaaaaaaaa", "address", "02:00:00:00:00:77", "alias", unknown)


def _littered(hvtx: Program) -> None:
    """What another tool's dead VM left: a device, and rules that mention a network's subnet."""
    _created(hvtx)
    lab.run("ip", "tuntap", "add", "dev", "tap-dead0001", "mode", "tap")
    lab.run("ip", "link", "set", "tap-dead0001", "address", "02:00:00:00:00:99")
    for rule in _LITTER:
        lab.run("iptables-legacy", *rule)


_LITTER = (
    ("-A", "FORWARD", "-d", "10.77.0.9/32", "-j", "ACCEPT"),
    ("-t", "nat", "-A", "POSTROUTING", "-s", "10.77.0.9/32", "-j", "MASQUERADE"),
)


def _flushed(hvtx: Program) -> None:
    """Somebody flushed hvtx's rules under a running VM."""
    _running(hvtx)
    for line in lab.run("nft", "list", "tables").splitlines():
        if " hvtx-" in line:
            lab.run("nft", "delete", *line.split())
    for tool in ("iptables-legacy", "ip6tables-legacy"):
        _cut(tool, "hvtx:")


def _unbridged(hvtx: Program) -> None:
    """Somebody deleted a bridge under a running VM, and what stood on it went, too."""
    _running_with_dhcp(hvtx)
    lab.run("ip", "link", "del", hvtx("network", "show", "net", "--json").json()["bridge"])


def _cut(tool: str, *words: str) -> None:
    """Take every rule out of the legacy tables that one of the words stands in; chains stay."""
    names = {"iptables-legacy": "ip_tables_names", "ip6tables-legacy": "ip6_tables_names"}
    if not Path("/proc/self/net", names[tool]).read_text():
        return  # looking would make the tables
    text = lab.run(f"{tool}-save")
    lines = text.splitlines()
    stay = [line for line in lines if line[:2] != "-A" or not any(word in line for word in words)]
    if stay != lines:
        lab.run(f"{tool}-restore", stdin="\n".join([*stay, ""]))


# Not a name that another test process has, in its own namespace: which of two devices of one name a
# process holds must be asked of that process, and the question is one more call that may fail.
THEIR_ID = f"{os.getpid():08x}-0000-4000-8000-00000000000a"
THEIR_TAP = f"tap-{THEIR_ID[:8]}"
_HOLD = (
    "import fcntl, os, struct, sys, time;"
    "d = os.open('/dev/net/tun', os.O_RDWR);"
    "fcntl.ioctl(d, 0x400454CA, struct.pack('16sH22x', sys.argv[1].encode(), 0x1002));"
    "print('held', flush=True); time.sleep(600)"
)


def _theirs(hvtx: Program) -> None:
    """A running VM of another tool, with its device, a rule, and its state file."""
    hvtx("recover")  # the store is there before, as the import is not about making it
    lab.run("ip", "link", "add", "mybr0", "address", "02:00:00:00:01:01", "type", "bridge")
    lab.run("ip", "tuntap", "add", "dev", THEIR_TAP, "mode", "tap")
    lab.run("ip", "link", "set", THEIR_TAP, "address", "02:00:00:00:01:02", "master", "mybr0")
    rule = "-t nat -A POSTROUTING -s 10.88.0.5/32 -j MASQUERADE"
    lab.run("iptables-legacy", *rule.split())
    guest = subprocess.Popen([sys.executable, "-c", _HOLD, THEIR_TAP], stdout=subprocess.PIPE)
    GUESTS.append(guest)
    assert guest.stdout is not None
    assert guest.stdout.readline() == b"held\n"
    guest.stdout.close()
    _state_file().write_text(json.dumps({
        "id": THEIR_ID, "name": "old", "status": "running",
        "pid": guest.pid, "network_ownership": {
            "tap_device": THEIR_TAP, "bridge": "mybr0", "ip": "10.88.0.5",
            "iptables_rules": [rule.replace("-A", "-D")]},
    }))  # fmt: skip


def _state_file() -> Path:
    return Path(os.environ["HVTX_CONFIG"]).with_name("state.json")


def _once_limited(hvtx: Program) -> None:
    """A network that had a policy: what it stands on is there, which is an operation of its own."""
    _running_several(hvtx)
    hvtx("network", "set", "net", "--egress", "internet")
    hvtx("network", "set", "net", "--no-egress")


def _limited(hvtx: Program) -> None:
    """A VM with an egress policy of its own, in a network that has one."""
    _created(hvtx)
    hvtx("network", "set", "net", "--egress", "internet")
    hvtx("vm", "set", "web", "--allow", "192.0.2.0/24:80-90", "--deny", "192.0.2.7")


def _created_with_names(hvtx: Program) -> None:
    """A VM that may reach a name, in a network whose dnsmasq looks it up."""
    _created_with_dhcp(hvtx)
    hvtx("vm", "set", "web", "--egress", "none", "--allow", "example.org:443")


def _served_once_limited(hvtx: Program) -> None:
    _running_with_dhcp(hvtx)
    hvtx("network", "set", "net", "--egress", "internet")
    hvtx("network", "set", "net", "--no-egress")


def _backed_up(hvtx: Program) -> None:
    """A backup of the very store that is there, so that nothing is rolled back by it."""
    _created(hvtx)
    hvtx("store", "backup", "--force", str(_backup_file()))


def _backup_file() -> Path:
    return Path(os.environ["HVTX_CONFIG"]).with_name("backup.db")


def _running_with_dhcp(hvtx: Program) -> None:
    _network_with_dhcp(hvtx)
    hvtx(*CREATE, *SLEEP)
    hvtx("vm", "start", "web")


def _running_beside_exits(hvtx: Program) -> None:
    """A host with another device and an address by which guests could leave it."""
    lab.run("ip", "link", "add", "mybr0", "address", "02:00:00:00:01:01", "type", "bridge")
    lab.run("ip", "addr", "add", "203.0.113.7/32", "dev", "mybr0")
    _running(hvtx)


_SET = """
[networks.net]
subnet = ["10.77.0.0/24", "fd77::/64"]

[vms.web]
network = "net"
ip = "10.77.0.9"
"""


def _set_file() -> Path:
    return Path(os.environ["HVTX_CONFIG"]).with_name("vms.toml")


def _described(hvtx: Program) -> None:
    """A set of which nothing is there, but the store."""
    hvtx("recover")
    text = _SET + 'publish = "8080:80"\ncommand = ["sleep", "600"]\n'
    _set_file().write_text(text)


def _described_otherwise(hvtx: Program) -> None:
    """A VM that is up, and is to have another address; it is one of few parts."""
    _network(hvtx)
    words = ("vm", "run", "web", "--network", "net", "--hypervisor", "external")
    hvtx(*words, "--ip", "10.77.0.8")
    _set_file().write_text(_SET + 'hypervisor = "external"\n')


def _contained(hvtx: Program) -> None:
    """A network, and a container that is to be attached to it."""
    _network(hvtx)
    attachments.box()


def _contained_in_policy(hvtx: Program) -> None:
    """The same in a network with an egress policy."""
    _contained(hvtx)
    hvtx("network", "set", "net", "--egress", "none", "--allow", "192.0.2.1:443")


def _attached(hvtx: Program) -> None:
    _contained(hvtx)
    hvtx(attachments.WORD, "add", attachments.path())


def _detached(hvtx: Program) -> None:
    """Its container has ended, and nobody said so."""
    _attached(hvtx)
    attachments.end_boxes()


def _contained_again(hvtx: Program) -> None:
    """The same, and another that has its id."""
    _detached(hvtx)
    attachments.box()


COMMANDS = {
    "network create": Command(NETWORK, lambda hvtx: None),
    "network create --dhcp": Command((*NETWORK, "--dhcp"), lambda hvtx: None),
    "network rm, dhcp": Command(("network", "rm", "net"), _network_with_dhcp),
    "vm start, dhcp": Command(("vm", "start", "web"), _created_with_dhcp),
    "network rm": Command(("network", "rm", "net"), _network),
    "network set": Command(("network", "set", "net", "--isolate"), _network),
    "network set --dhcp, running": Command(
        ("network", "set", "net", "--dhcp", "--allow", "192.0.2.1"), _once_limited
    ),
    "network set --no-dhcp, running": Command(
        ("network", "set", "net", "--no-dhcp"), _running_with_dhcp
    ),
    "network set, exits": Command(
        ("network", "set", "net", "--uplink", "mybr0", "--source", "203.0.113.7", "--no-passage"),
        _running_beside_exits,
    ),
    "network create, a policy": Command(NETWORK, _policy, "collects"),
    "network rm, a policy": Command(("network", "rm", "net"), _network_beside_policy),
    "vm create": Command((*CREATE, *SLEEP), _network),
    "vm start": Command(("vm", "start", "web"), _created),
    "vm start, with a seed and queues": Command(("vm", "start", "web"), _seeded),
    "vm stop, with a seed and queues": Command(
        ("vm", "stop", "web", "--timeout", "1"), lambda hvtx: _seeded(hvtx, starts=True)
    ),
    "vm start, crashed": Command(("vm", "start", "web"), _crashed, "collects"),
    "vm run": Command(("vm", "run", *CREATE[2:], *SLEEP), _network),
    # the network `default` is an operation of its own before the VM's
    "vm run, no network": Command(("vm", "run", "web", *SLEEP), lambda hvtx: None, "collects"),
    # killed between two of them, one is as before and the other as after: `settles` knows no such
    "vm start, several": Command(("vm", "start", "web", "more"), _created_two, "collects"),
    "vm start, several crashed": Command(
        ("vm", "start", "web", "more"), _crashed_several, "collects"
    ),
    "vm stop, several": Command(
        ("vm", "stop", "web", "more", "--timeout", "1"), _running_two, "again"
    ),
    "vm rm, several": Command(("vm", "rm", "web", "more", "--force"), _running_two, "collects"),
    "vm stop": Command(("vm", "stop", "web", "--timeout", "1"), _running),
    "vm set": Command(("vm", "set", "web", "--memory", "512", "--autostart"), _created),
    "vm set, running": Command(
        (
            "vm",
            "set",
            "web",
            "--unpublish",
            "8080",
            "--unpublish",
            "8090",
            "-p",
            "8080:81",
            "-p",
            "5353:53/udp",
        ),
        _running_several,
    ),
    "vm set --limit, running": Command(
        ("vm", "set", "web", "--limit", "in=5mbit,out-packets=100"), _running
    ),
    "vm set, all that can be": Command(
        (
            *("vm", "set", "web", "--limit", "in=5mbit,out-packets=100", "--egress", "internet"),
            *("--unpublish", "8090", "-p", "9090:90"),
        ),
        _once_limited,
    ),
    "vm set, egress": Command(
        ("vm", "set", "web", "--egress", "internet", "--allow", "192.0.2.1:443"), _once_limited
    ),
    # what a dnsmasq was told of names stands in its table, open to nobody, until it starts again
    "vm start, names": Command(("vm", "start", "web"), _created_with_names, "collects"),
    "vm set, names": Command(
        ("vm", "set", "web", "--egress", "none", "--allow", "example.org:443"),
        _served_once_limited,
        "collects",
    ),
    "network set, egress": Command(
        ("network", "set", "net", "--egress", "none", "--deny", "10.0.0.0/8"), _once_limited
    ),
    "vm start, egress": Command(("vm", "start", "web"), _limited),
    # each step is an operation: killed between two of them, some are done
    "vm apply": Command(("vm", "apply", "-f", "{set}", "--yes"), _described, "collects"),
    # stop, rm, create and start; a restart has the steps of stop, set and start
    "vm apply, a replacement": Command(
        ("vm", "apply", "-f", "{set}", "--yes", "--restart", "--replace"),
        _described_otherwise,
        "collects",
    ),
    # killed after its stop, the VM is stopped, which is neither before nor after
    "vm restart": Command(("vm", "restart", "web", "--timeout", "1"), _running, "collects"),
    "vm rm": Command(("vm", "rm", "web"), _created),
    "vm rm --force": Command(("vm", "rm", "web", "--force"), _running),
    "vm attach": Command(("vm", "attach", "web", "--pid", "{pid}"), _external, "collects"),
    "gc --apply": Command(("gc", "--apply"), _crashed, "collects"),
    "gc --apply, several": Command(("gc", "--apply"), _crashed_several, "collects"),
    "gc --apply --unrecorded": Command(("gc", "--apply", "--unrecorded"), _unrecorded, "again"),
    "gc --heuristic": Command(("gc", "--heuristic", "--apply", "--yes"), _littered, "again"),
    "recover": Command(("recover",), _interrupted, "collects"),
    "repair": Command(("repair",), _flushed, "again", beside=False),
    "repair, a policy": Command(("repair",), _policy_later, "again"),
    "import": Command(("import", "my-hypervisor", "{state}"), _theirs, "again"),
    "store restore": Command(("store", "restore", "{backup}"), _backed_up, beside=False),
    "adopt": Command(("adopt", THEIR_TAP, "--vm", "old"), _theirs, "again"),
    # verbs of the library alone: what container runtimes ask for
    "cni add": Command((attachments.WORD, "add", "{netns}"), _contained),
    "cni add, a policy": Command((attachments.WORD, "add", "{netns}"), _contained_in_policy),
    # undone, its TAP device is in the namespace still, with which it goes; the next ADD makes it anew
    "cni add, a VM inside": Command(
        (attachments.WORD, "add", "{netns}", "c0ffee", "tap0"), _contained, "collects"
    ),
    "cni add, dead before": Command(
        (attachments.WORD, "add", "{netns}"),
        _contained_again,
        "collects",
    ),
    "cni del": Command((attachments.WORD, "del"), _attached),
    "cni del, dead": Command((attachments.WORD, "del"), _detached, "collects"),
    "cni del, unknown": Command((attachments.WORD, "del"), _contained, "again"),
    "cni gc": Command((attachments.WORD, "gc"), _detached, "collects"),
    "repair, a bridge": Command(("repair",), _unbridged, "again"),
}


_RANDOM = (
    (r"hvtx:1:[a-z2-7]{10}:[0-9]+\.[a-z2-7]{16}", "mark"),
    (r"(?i:hvtx)-[a-z2-7]{10}-[0-9a-f]{32}\b", "hvtx-names"),  # of a network, by its id
    (r"\bvm_[0-9a-f]{12}\b", "vm-chain"),  # by a MAC address
    (r"(?i:hvtx)-[a-z2-7]{10}\b", "hvtx-table"),  # a store that is made anew has another
    (r"hvbr[a-z2-7]{11}", "bridge"),
    (r"\bhv[a-z2-7]{12}\b", "tap"),
    (r"(02|fe)(:[0-9a-f]{2}){5}", "mac"),
    (r"\b(?:2[1-9]|3[0-2])\d{11}\b", '"mac"'),  # a set of bytes shows it as a number, 0x02…
    (r"8000\.2:[0-9a-f:]+", "bridge-id"),
    (r"fe80::[0-9a-f:]+|0xfe80[0-9a-f]{28}", "link-local"),
    (r'"(ifindex|handle|link_index|link_netnsid|ifi?)": \d+', '"number": 0'),
    (r'"user": [12][0-9]{9}\b', '"user": "own"'),
)

NEITHER = {name for name, command in COMMANDS.items() if command.how != "settles"}


def host() -> dict[str, object]:
    """A dump in which random names, numbers and marks count as what they are."""
    dump: dict[str, Any] = lab.dump()
    # a legacy table stays once it was looked at; without rules it is as good as none
    dump["legacy"] = {name: t for name, t in dump["legacy"].items() if not _is_bare(t)}
    text = json.dumps(dump, sort_keys=True)
    for pattern, kind in _RANDOM:
        text = re.sub(pattern, kind, text)
    document: dict[str, list[Any]] = json.loads(text)
    for part in ("links", "addresses", "routes4", "routes6"):  # in the order of random indexes
        document[part].sort(key=lambda item: json.dumps(item, sort_keys=True))
    document["nft"].sort(key=_table)  # in the order in which the tables were made
    for item in document["nft"]:  # nft shows elements in the order of random names and addresses
        for piece in item.values():
            if isinstance(piece.get("elem"), list):
                piece["elem"].sort(key=lambda element: json.dumps(element, sort_keys=True))
    return {**document, "services": [len(services())], "inside": [*attachments.inside()]}


def _table(item: dict[str, dict[str, str]]) -> tuple[str, str]:
    """The table of a piece of nft's JSON; what is in one keeps its order."""
    (kind, piece), *_ = item.items()
    return piece["family"], piece["name" if kind == "table" else "table"]


def _is_bare(lines: list[str]) -> bool:
    return all(line[0] in "*C" or (line.endswith(" ACCEPT") and line[0] == ":") for line in lines)


def given(name: str) -> tuple[str, ...]:
    """The command line, with the pid of a process that was started for it."""
    words = {"{pid}": str(GUESTS[-1].pid) if GUESTS else "", "{state}": str(_state_file()),
             "{backup}": str(_backup_file()), "{set}": str(_set_file()),
             "{netns}": attachments.path()}  # fmt: skip
    return tuple(words.get(word, word) for word in COMMANDS[name].argv)


def points(name: str, firewall: str, tmp_path: Path, hvtx: Program) -> list[str]:
    """Every failpoint that the command passes, the nth passage of one as ``point:kill:n``."""
    log = tmp_path / "points"
    COMMANDS[name].prepare(hvtx)
    hvtx(*given(name), HVTX_FAILPOINT_LOG=str(log))
    seen: dict[str, int] = {}
    found = []
    for point in log.read_text().split() if log.exists() else []:
        seen[point] = seen.get(point, 0) + 1
        found.append(f"{point}:kill:{seen[point]}")
    return found


def end_everything(hvtx: Program, *, but: str = "") -> None:
    """Remove all VMs and networks except those named ``but``, and what a preparation littered."""
    end_guests()
    with resident(hvtx) as quick:
        for vm in quick("vm", "ls", "--json").json()["vms"]:
            if vm["name"] != but:
                quick("vm", "rm", vm["name"], "--force")
        for network in quick("network", "ls", "--json").json()["networks"]:
            if network["name"] != but:
                quick("network", "rm", network["name"])
    devices = ("hvaaaaaaaaaaaa", "tap-dead0001", THEIR_TAP, "mybr0")
    lines = "".join(f"link del {device}\n" for device in devices)
    lab.run("ip", "-force", "-batch", "-", stdin=lines, check=False)
    _cut("iptables-legacy", "10.77.0.9/32", "10.88.0.5/32")
    if but:
        return
    for family in ("ip", "ip6"):
        lab.run("nft", "delete", "table", family, "filter", check=False)
    for setting in ("ipv4/ip_forward", "ipv6/conf/all/forwarding"):  # left on, by design
        Path("/proc/sys/net", setting).write_text("0")


def in_turns(found: list[str], name: str, firewall: str) -> list[str]:
    """Every second one: what one backend leaves out the other has; `HVTX_CRASH` takes all on both."""
    if os.environ.get("HVTX_CRASH", "sample") != "sample":
        return found
    first = (list(COMMANDS).index(name) + BACKENDS.index(firewall)) % 2
    return found[first::2] or found


def _use(hvtx: Program) -> None:
    """Make a VM in each network that is on record, and forget it."""
    for network in hvtx("network", "ls", "--json").json()["networks"]:
        hvtx("vm", "create", "probe", "--network", network["name"], *SLEEP)
        hvtx("vm", "rm", "probe")


@pytest.mark.parametrize("firewall", BACKENDS)
@pytest.mark.parametrize("name", list(COMMANDS))
def test_killed_at_every_failpoint_it_recovers(
    name: str, firewall: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    """Nothing leaks, nothing is half-done, and the command works afterwards."""
    command = COMMANDS[name]
    hvtx = Forked(HVTX_FIREWALL=firewall)
    preload()
    found = points(name, firewall, tmp_path, hvtx)
    assert found or command.how == "again", "a command that changes something passes failpoints"
    end_everything(hvtx)
    record_property("failpoints", len(found))
    for point in in_turns(found, name, firewall):
        with resident(hvtx) as quick:
            command.prepare(quick)
        before = host() if command.how == "settles" else {}
        hvtx(*given(name), code=-signal.SIGKILL, HVTX_FAILPOINT=point)
        hvtx("recover")
        with resident(hvtx) as quick:
            assert unheld_ports(quick) == [], point
            if command.how != "settles":  # `is_clean` asks it too
                assert quick("intents", "--json").json()["operations"] == [], point
            if command.how == "collects":
                quick("gc", "--apply")
            assert command.how == "again" or quick.is_clean(), point
            known = {vm["name"] for vm in quick("vm", "ls", "--json").json()["vms"]}
            logs = Path(os.environ["HVTX_STATE_DIR"], "logs").glob("*.log")
            assert {log.stem for log in logs} <= known, point
            if name != "store restore":  # whose copy would be an older one then
                _use(quick)
        after = host() if command.how == "settles" else {}
        again = hvtx(*given(name), code=None)
        others = {9} if "several" in name else set()  # of these some may be done, others not
        assert again.code in {0, 3, 4} | others, (point, again)
        if command.how == "settles":
            undone, done = lab.difference(before, after), lab.difference(after, host())
            assert not undone or not done, f"{point}\nbefore:\n{undone}\nafter:\n{done}"
        with resident(hvtx) as quick:
            assert quick.is_clean(), point
            end_everything(quick)
        left = lab.dump()
        assert left["links"][1:] == [], point  # type: ignore[index]
        assert left["nft"] == [], point
