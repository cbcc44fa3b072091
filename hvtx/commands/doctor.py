"""`doctor`: what keeps VMs from working on this host, with evidence and fix."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

from hvtx.engine.checks import (
    changes,
    checksums,
    cluster,
    dhcp,
    directories,
    egress,
    exits,
    kernel,
    own,
    programs,
    traffic,
)
from hvtx.engine.finding import AS_ROOT, NOWHERE, Finding
from hvtx.engine.late_errors import CHANGES_TOO_FAST
from hvtx.engine.runtime import Runtime, Settings
from hvtx.errors import HvtxError
from hvtx.host.netlink import DumpInterrupted

Check = Callable[[Runtime], Iterator[Finding]]


def diagnose(runtime: Runtime) -> list[Finding]:
    """What all checks found; one that fails itself is a warning, never a pass."""
    return _findings(runtime, CHECKS)


def without_store(settings: Settings, problem: HvtxError) -> list[Finding]:
    """The same of a host whose store cannot be opened: that first, then what needs no store."""
    told = Finding("store", "error", problem.message, (problem.code,), problem.hint)
    checks = {name: check for name, check in CHECKS.items() if name not in _OF_RECORDS}
    with closing(Runtime(settings._replace(state_directory=NOWHERE), writable=False)) as runtime:
        return [told, *_findings(runtime, checks)]


def _findings(runtime: Runtime, checks: Mapping[str, Check]) -> list[Finding]:
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings += check(runtime)
        except (HvtxError, OSError, ValueError, DumpInterrupted) as problem:
            fix = problem.hint if isinstance(problem, HvtxError) else _fix(problem)
            words = f"could not be checked: {_words(problem)}"
            findings.append(Finding(name, "warning", words, (), fix or AS_ROOT))
    return findings


def _words(problem: Exception) -> str:
    """An error without its number, which means nothing to people."""
    if isinstance(problem, DumpInterrupted):
        return CHANGES_TOO_FAST
    if isinstance(problem, OSError) and problem.strerror:
        return ": ".join(filter(None, (str(problem.filename or ""), problem.strerror)))
    return str(problem)


def _fix(problem: Exception) -> str | None:
    """What helps where it is this process's limit or the moment, and not its user."""
    if isinstance(problem, DumpInterrupted):
        return "try again: hvtx doctor"
    number = problem.errno if isinstance(problem, OSError) else None
    if number == errno.EMFILE:
        return "raise the limit on open files: ulimit -n 1024"
    if number == errno.ENFILE:
        return "raise the host's limit on open files: sysctl -w fs.file-max=1048576"
    return None


CHECKS: dict[str, Check] = {
    "permissions": own.check_permissions,
    "store": own.check_store,
    "directories": lambda runtime: directories.check_directories(runtime.settings),
    "operations": own.check_operations,
    "processes": own.check_processes,
    "tun": kernel.check_tun,
    "libraries": kernel.check_libraries,
    "netfilter": kernel.check_netfilter,
    "iptables": kernel.check_iptables,
    "hypervisors": programs.check_hypervisors,
    "users": programs.check_users,
    "kvm": programs.check_kvm,
    "forwarding": kernel.check_forwarding,
    "loopback": kernel.check_loopback6,
    "uplinks": exits.check_exits,
    "conntrack": kernel.check_conntrack,
    "checksums": checksums.check_checksums,
    "forward": traffic.check_forward,
    "egress": egress.check_egress,
    "company": changes.check_watchers,
    "routes": traffic.check_routes,
    "addresses": traffic.check_addresses,
    "ports": traffic.check_ports,
    "dhcp": dhcp.check_dhcp,
    "cluster": cluster.check_cluster,
    "damage": changes.check_damage,
    "units": own.check_units,
}
_OF_RECORDS = frozenset(
    {"store", "operations", "processes", "egress", "routes", "addresses", "ports", "dhcp"}
    | {"damage", "cluster"}
)
