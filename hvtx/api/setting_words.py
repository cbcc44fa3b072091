"""What each setting and each variable of the environment does: docs/reference.md is made of it.

No command imports this. ``tests/api/test_setting_words.py`` compares it with what is read.
"""

from __future__ import annotations

from hvtx.api.settings import DAY, DEFAULT_CONFIG, DHCP, EGRESS, FIREWALLS
from hvtx.host import kvm
from hvtx.hypervisors.base import PLACEHOLDERS
from hvtx.model.block import SOURCES
from hvtx.model.typed import NamedTuple


class Setting(NamedTuple):
    """A key of the configuration, or a variable; ``default`` is as it is written."""

    name: str
    type: str
    default: str  # empty: none
    meaning: str


def _one_of(words: tuple[str, ...]) -> str:
    return ", ".join(f"`{word}`" for word in words)


SETTINGS = (
    Setting(
        "state_dir",
        "path",
        "/var/lib/hvtx",
        "The directory of the state store and of VMs' logs.",
    ),
    Setting(
        "run_dir",
        "path",
        "/run/hvtx",
        "The directory of locks, sockets and VMs' run-time files; a boot may empty it.",
    ),
    Setting(
        "config",
        "path",
        DEFAULT_CONFIG,
        "The configuration itself; no key of it. The default may be missing, a file that "
        "is named may not.",
    ),
    Setting(
        "firewall",
        _one_of(FIREWALLS),
        "auto",
        "What new networks have their rules in. `auto`: iptables where legacy tables are "
        "in use and nftables is not, else nftables.",
    ),
    Setting(
        "egress",
        _one_of(EGRESS),
        "",
        "What guests of a new network may reach, where `--egress` does not say. None: as `open`.",
    ),
    Setting(
        "dhcp",
        _one_of(DHCP),
        "auto",
        "Whether a new network has DHCP, router advertisements and DNS, where `--dhcp` "
        "and `--no-dhcp` do not say.",
    ),
    Setting(
        "group",
        "group",
        "",
        "Its members may read VMs, networks and the history (privileges.md).",
    ),
    Setting(
        "tap_user",
        "user",
        "",
        "Who may open TAP devices of VMs that hvtx does not start, or starts as root. "
        "None: the user that hvtx runs as.",
    ),
    Setting(
        "vm_user",
        "`auto`, `root`, or a user",
        "auto",
        "Whom VM processes run as (privileges.md).",
    ),
    Setting(
        "lock_timeout",
        f"seconds, 0 to {DAY:,}",
        "10",
        "How long a command waits for another one; 0 does not wait. Then it ends with 75.",
    ),
    Setting(
        "history_lines",
        f"number, 100 to {10**9:,}",
        "100000",
        "How many lines of the history are kept, about.",
    ),
)
CLUSTER = (
    Setting(
        "source",
        _one_of(SOURCES),
        "",
        "Where blocks of addresses come from. It has to be there.",
    ),
    Setting(
        "blocks",
        "table of lists",
        "",
        "`static`: the blocks of this host, by the name of a network.",
    ),
    Setting(
        "endpoints",
        "list of URLs",
        "",
        "`etcd`: its endpoints, `http` or `https`, with a port and without a path. At least one.",
    ),
    Setting(
        "ca",
        "path",
        "",
        "The authority whose certificates etcd has, in PEM; absolute, as the next two. "
        "None: those that the host trusts.",
    ),
    Setting("cert", "path", "", "This host's certificate for etcd; with `key` or not at all."),
    Setting("key", "path", "", "The private key of it."),
    Setting("prefix", "text", "/hvtx", "What all keys in etcd begin with; the same on all hosts."),
    Setting("address", "IP address", "", "By which other hosts reach the guests of this one."),
    Setting(
        "timeout",
        "seconds, at most 60",
        "5",
        "How long a question to all endpoints together may take.",
    ),
)
READ = (  # beside HVTX_ and a setting's name
    Setting(kvm.VARIABLE, _one_of(kvm.ACCELERATORS), "auto", "The accelerator of QEMU (below)."),
    Setting(
        "PATH",
        "directories",
        "",
        "Where hypervisors and other programs are looked for, in absolute directories alone.",
    ),
    Setting("NO_COLOR", "any text", "", "No colours. `TERM=dumb` says the same."),
    Setting("TERM", "text", "", "`dumb`: no colours."),
    Setting(
        "XTABLES_LOCKFILE",
        "path",
        "/run/xtables.lock",
        "The lock of iptables, as iptables itself reads it.",
    ),
    Setting(
        "JOURNAL_STREAM",
        "text",
        "",
        "systemd sets it: messages to the journal have priorities, and operations are lines of it.",
    ),
    Setting("NOTIFY_SOCKET", "path", "", "systemd sets it: a unit tells there what it is doing."),
    Setting(
        "_HVTX_COMPLETE",
        "text",
        "",
        "Shells set it, to complete a command line (`hvtx completion`).",
    ),
    Setting(
        "HVTX_AUTOSTART",
        "`systemd-run`",
        "",
        "The units set it: systemd starts what is to outlive them.",
    ),
    Setting(
        "HVTX_VERIFY",
        "any text",
        "",
        "For tests: each transaction checks the store's invariants.",
    ),
    Setting(
        "HVTX_FAILPOINT",
        "text",
        "",
        "For tests: where to stop, and how. Never on a host that is used.",
    ),
    Setting(
        "HVTX_FAILPOINT_LOG",
        "path",
        "",
        "For tests: a file for the names of points that are passed.",
    ),
)
GIVEN = (  # to the program of a `command` VM
    *(
        Setting(f"HVTX_{word.upper()}", "text", "", f"{meaning[0].upper()}{meaning[1:]}.")
        for word, meaning in PLACEHOLDERS.items()
    ),
    Setting("HVTX_SEED", "path", "", "The image that cloud-init reads, where the VM has one."),
)
CNI = (
    Setting(
        "CNI_COMMAND",
        "`ADD`, `DEL`, `CHECK`, `GC`, `STATUS`, `VERSION`",
        "",
        "What is asked for.",
    ),
    Setting("CNI_CONTAINERID", "id", "", "The container: ADD, CHECK, DEL."),
    Setting("CNI_NETNS", "path", "", "Its network namespace: ADD, CHECK."),
    Setting("CNI_IFNAME", "name", "", "The interface in it: ADD, CHECK, DEL."),
    Setting("CNI_ARGS", "`KEY=VALUE;…`", "", "Further wishes (cni.md)."),
)
