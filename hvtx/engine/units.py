"""The systemd units of hvtx as text (pure; see docs/boot.md and docs/adr/0007-boot.md).

``hvtx-recover.service`` runs once in a boot, ``hvtx-gc.timer`` calls ``hvtx-gc.service`` hourly,
and ``hvtx-repair@.service`` follows the services of firewalls, whose reload flushes our rules.
The services are shut in as far as their work allows. No VM lives in that sandbox: systemd itself
starts each ``--autostart`` VM, in a transient service without one (:func:`start_call`).

Directives and their escapes: systemd.unit(5), systemd.exec(5), systemd.service(5) and
systemd.syntax(7).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from hvtx.engine.shut_in import AUTOSTART, BY_SYSTEMD
from hvtx.model.block import Cluster
from hvtx.model.typed import NamedTuple
from hvtx.planner import network_managers

DIRECTORY = "/etc/systemd/system"
MARKER = "# Written by `hvtx systemd install`; `hvtx systemd uninstall` removes it."
PACKAGED = "/usr/lib/systemd/system"  # where a distribution's package has its units
PACKAGE_MARKER = "# Of the Debian package hvtx."
DROP_IN = "hvtx.conf"  # in DIRECTORY/<unit>.d: what differs from the package's unit
RECOVER, COLLECT, TIMER = "hvtx-recover.service", "hvtx-gc.service", "hvtx-gc.timer"
REPAIR, REPAIR_AFTER = "hvtx-repair.service", "hvtx-repair@.service"
MEASURE, MEASURE_TIMER = "hvtx-metrics.service", "hvtx-metrics.timer"
OPTIONAL = (MEASURE, MEASURE_TIMER)
TIMERS = (TIMER, MEASURE_TIMER)
ENABLED = (RECOVER, *TIMERS)
ASKING = (RECOVER, COLLECT)  # of the cluster, for blocks of addresses
CUT_OFF = "IPAddressDeny=any"  # systemd drops every packet of the service, also to itself
# How hvtx is told that it runs in the sandbox, where it must start no VM and no dnsmasq itself.

# Whoever loads or flushes the host's rules at boot goes first, or our rules would be flushed with
# the rest. Docker too: where its FORWARD policy drops, an accept of ours must stand before it.
FIREWALLS = (
    "nftables", "iptables", "ip6tables", "netfilter-persistent", "ufw", "firewalld", "shorewall",
    "shorewall6", "ferm", "docker",
)  # fmt: skip
_FIREWALLS = " ".join(f"{name}.service" for name in FIREWALLS)
# One for each service that may take our rules away with its own: PartOf= and what propagates are
# of one service each, or the stop of one would end what follows the others.
FOLLOWERS = tuple(REPAIR_AFTER.replace("@", f"@{name}") for name in FIREWALLS)
# Whoever starts guests of its own may put them on our bridges.
_STARTERS = (
    "libvirtd.service virtqemud.service libvirt-guests.service machines.target"
    " pve-guests.service incus.service lxd.service lxc.service"
)
# The kernel loads tun, bridge and nf_tables by itself when they are asked for; ip_tables it does
# not, and the sandbox may load no module.
_MODULES = "modprobe@tun.service modprobe@ip_tables.service modprobe@ip6_tables.service"

# NET_RAW: legacy tables. DAC and FOWNER: directories, sockets and files of VMs that run as other
# users. CHOWN: the directory of a group's view, made after a boot. BIND_SERVICE: published ports
# below 1024 that nobody holds any more. PTRACE: to name in a plan
# who holds a device; recovery does without, and meets him by attaching. No service signals a VM:
# none has CAP_KILL.
_LOOKING = "CAP_NET_ADMIN CAP_NET_RAW CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH"
_CAPABILITIES = {
    RECOVER: f"{_LOOKING} CAP_FOWNER CAP_CHOWN",
    COLLECT: f"{_LOOKING} CAP_FOWNER CAP_SYS_PTRACE",
    REPAIR: f"{_LOOKING} CAP_FOWNER CAP_CHOWN CAP_NET_BIND_SERVICE",
    REPAIR_AFTER: f"{_LOOKING} CAP_FOWNER CAP_CHOWN CAP_NET_BIND_SERVICE",
    MEASURE: f"{_LOOKING} CAP_SYS_PTRACE",
}
# ProtectProc= and ProcSubset= are not here: what they hide would look like "unknown" to liveness.
_TEMPORARY = ("/tmp/", "/var/tmp/")  # noqa: S108 - what PrivateTmp= hides
_HOMES = ("/home/", "/root/", "/run/user/")  # what ProtectHome= hides
_SANDBOX = (
    "NoNewPrivileges=yes",
    "ProtectSystem=strict",
    "PrivateMounts=yes",
    "PrivateDevices=yes",
    "ProtectClock=yes",
    "ProtectControlGroups=yes",
    "ProtectHostname=yes",
    "ProtectKernelLogs=yes",
    "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
    "RestrictNamespaces=yes",
    "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes",
    "LockPersonality=yes",
    "MemoryDenyWriteExecute=yes",
    "RestrictAddressFamilies=AF_UNIX AF_NETLINK AF_INET AF_INET6",
    "SystemCallArchitectures=native",
    "SystemCallFilter=@system-service",
    "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)
# What makes and removes: TAP devices, and the settings of interfaces (forwarding, route_localnet).
_DEEDS = (
    "SystemCallFilter=~@resources",
    "BindPaths=-/dev/net/tun",
    "DeviceAllow=/dev/net/tun rw",
    "ReadWritePaths=-/proc/sys/net",
    # of a firewalld that is stopped; one that runs is asked, and writes by itself
    "ReadWritePaths=-/etc/firewalld/zones",
)
_LOOKS = ("SystemCallFilter=~@resources @privileged",)


class Unit(NamedTuple):
    """A unit file, or one for another program of the host: its name and its whole text."""

    name: str
    text: str
    directory: str = DIRECTORY

    @property
    def path(self) -> str:
        """Where it is installed."""
        return f"{self.directory}/{self.name}"


class Place(NamedTuple):
    """What the units of one installation are made for."""

    program: tuple[str, ...]  # absolute path of hvtx, or an interpreter and its arguments
    state_directory: str
    run_directory: str
    environment: Mapping[str, str]  # HVTX_… that was given at install
    metrics: str | None = None  # the file of `hvtx metrics --textfile`, if that is wanted
    reads: tuple[str, ...] = ()  # directories that the program itself is read from
    group: str | None = None  # whose view collection publishes without being able to give it away
    cluster: Cluster | None = None  # as the configuration has it


def units(place: Place) -> tuple[Unit, ...]:
    """Every unit of hvtx. Raises ValueError for a path that no unit file can hold."""
    directories = (place.state_directory, place.run_directory)
    for word in (*place.program, *directories, *place.environment.values(), place.metrics or ""):
        if any(ord(character) < 32 or ord(character) == 127 for character in word):
            raise ValueError(f"{word!r} has a control character")
    return (
        Unit(RECOVER, _recover(place)),
        Unit(COLLECT, _collect(place)),
        Unit(TIMER, _timer()),
        Unit(REPAIR, _repair(place)),
        Unit(REPAIR_AFTER, _repair_after(place)),
        *(() if place.metrics is None else _measuring(place, place.metrics)),
    )


def shields() -> tuple[Unit, ...]:
    """Files by which programs of the host leave devices of hvtx alone (docs/adr/0033, 0077)."""
    names = [network_managers.OWN_NAMES]
    network = f"{MARKER}\n{network_managers.network_file(names)}"
    keyfile = f"{MARKER}\n{network_managers.keyfile(names)}"
    dnsmasq = f"{MARKER}\n{network_managers.dnsmasq_file()}"
    return (
        Unit(network_managers.NETWORKD_FILE, network, network_managers.NETWORKD_DIRECTORY),
        Unit(network_managers.NM_FILE, keyfile, network_managers.NM_DIRECTORY),
        Unit(network_managers.DNSMASQ_FILE, dnsmasq, network_managers.DNSMASQ_DIRECTORY),
    )


def listing(made: Sequence[Unit]) -> str:
    """The units as ``systemctl cat`` shows them."""
    return "\n".join(f"# {unit.path}\n{unit.text}" for unit in made)


def is_ours(text: str) -> bool:
    """Whether a unit file was written by hvtx."""
    return text.split("\n", 1)[0] == MARKER


def is_packaged(text: str) -> bool:
    """Whether a unit file is of hvtx's Debian package."""
    return text.split("\n", 1)[0] == PACKAGE_MARKER


# -- the texts -------------------------------------------------------------------------------------


def _recover(place: Place) -> str:
    return _text(
        ("Unit",),
        "Description=hvtx recovery: networks and autostart VMs",
        *_common_conditions(place),
        f"After=local-fs.target network.target {_FIREWALLS}",
        *_online(place),
        f"Before={_STARTERS}",
        f"Wants={_MODULES}",
        f"After={_MODULES}",
        ("Service",),
        "Type=oneshot",
        *("RemainAfterExit=yes", "NotifyAccess=main"),
        f"ExecStart={command_line((*place.program, 'recover'))}",
        "# Each VM may take its time to come up; recover itself bounds every single wait.",
        "TimeoutStartSec=infinity",
        *_service(place, _apart(place), RECOVER),
        ("Install",),
        "WantedBy=multi-user.target",
    )


def _collect(place: Place) -> str:
    return _text(
        ("Unit",),
        "Description=hvtx garbage collection: remains of dead VMs and interrupted operations",
        *_common_conditions(place),
        f"After={RECOVER}",
        ("Service",),
        "Type=oneshot",
        f"ExecStart={command_line((*place.program, 'gc', '--apply'))}",
        "# Busy: another operation was at work; the next turn comes.",
        "SuccessExitStatus=75",
        "Nice=10",
        *_service(place, _apart(place), COLLECT),
    )


def _timer() -> str:
    return _text(
        ("Unit",),
        "Description=hvtx garbage collection (every hour)",
        ("Timer",),
        "OnActiveSec=15min",
        "OnUnitInactiveSec=1h",
        "RandomizedDelaySec=5min",
        ("Install",),
        "WantedBy=timers.target",
    )


def _repair(place: Place) -> str:
    """After a firewall's service was stopped, which may have flushed all rules."""
    return _text(
        ("Unit",),
        "Description=hvtx repair: rules that a firewall service removed",
        *_common_conditions(place),
        f"After={RECOVER} {_FIREWALLS}",
        ("Service",),
        "Type=oneshot",
        f"ExecStart={command_line((*place.program, 'repair'))}",
        "# Busy: another operation was at work, and puts back what it needs.",
        "SuccessExitStatus=75",
        *_service(place, _apart(place), REPAIR),
    )


def _repair_after(place: Place) -> str:
    """For the service of a firewall: when it was started, restarted or reloaded.

    It stays active, or a reload would not reach it, so it counts as done whatever repair says.
    There may be no store yet when it starts.
    """
    repair = command_line((*place.program, "repair"))
    return _text(
        ("Unit",),
        "Description=hvtx repair after %i",
        f"RequiresMountsFor={_quoted(place.state_directory)}",
        "PartOf=%i.service",
        "ReloadPropagatedFrom=%i.service",
        f"After=%i.service {RECOVER}",
        "# It is stopped before the firewall is, and this then waits for the end of that.",
        f"OnSuccess={REPAIR}",
        ("Service",),
        "Type=oneshot",
        "RemainAfterExit=yes",
        f"ExecStart={repair}",
        f"ExecReload={repair}",
        "SuccessExitStatus=1 3 4 5 6 7 9 75",
        *_service(place, _apart(place), REPAIR_AFTER),
        ("Install",),
        "WantedBy=%i.service",
    )


def _measuring(place: Place, path: str) -> tuple[Unit, Unit]:
    service = _text(
        ("Unit",),
        "Description=hvtx metrics export for a textfile collector",
        *_common_conditions(place),
        f"After={RECOVER}",
        ("Service",),
        "Type=oneshot",
        f"ExecStart={command_line((*place.program, 'metrics', '--textfile', path))}",
        "Nice=10",
        *_service(place, place.environment, MEASURE, os.path.dirname(path)),
    )
    timer = _text(
        ("Unit",),
        "Description=hvtx metrics export (every minute)",
        ("Timer",),
        "OnActiveSec=1min",
        "OnUnitInactiveSec=1min",
        ("Install",),
        "WantedBy=timers.target",
    )
    return Unit(MEASURE, service), Unit(MEASURE_TIMER, timer)


def _common_conditions(place: Place) -> tuple[str, ...]:
    """The store must be mounted, and be there: without one, a boot must not make one."""
    return (
        f"RequiresMountsFor={_quoted(place.state_directory)}",
        f"ConditionPathExists={_percents(place.state_directory.rstrip('/'))}/hvtx.db",
    )


def _asks(place: Place, name: str) -> bool:
    """Whether a service has a question to etcd."""
    return name in ASKING and place.cluster is not None and bool(place.cluster.endpoints)


def _online(place: Place) -> tuple[str, ...]:
    """What recovery waits for at boot, where it has a question to etcd."""
    online = "network-online.target"
    return (f"Wants={online}", f"After={online}") if _asks(place, RECOVER) else ()


def _network(place: Place, name: str) -> tuple[str, ...]:
    """Endpoints may be names, whose addresses change: who asks etcd is not cut off at all.

    It is said by an empty list, since a drop-in has to take back the package's.
    """
    return ("# It asks etcd.", "IPAddressDeny=") if _asks(place, name) else (CUT_OFF,)


def _certificates(place: Place, name: str) -> tuple[str, ...]:
    cluster = place.cluster
    if cluster is None or not _asks(place, name):
        return ()
    return tuple(path for path in (cluster.ca, cluster.cert, cluster.key) if path)


def _apart(place: Place) -> dict[str, str]:
    return {**place.environment, AUTOSTART: BY_SYSTEMD}


def _service(
    place: Place, environment: Mapping[str, str], name: str, *more: str
) -> tuple[str, ...]:
    """Environment and sandbox of a service; ``more`` are directories that it writes to.

    There is no RuntimeDirectory=, which would empty the run directory when the service stops.
    """
    directories = (place.state_directory, place.run_directory, *more)
    writable = " ".join(_quoted(f"-{path}") for path in directories)
    needed = (*directories, place.program[0], *place.reads, *environment.values())
    needed += _certificates(place, name)
    return (
        *(f"Environment={_quoted(f'{key}={environment[key]}')}" for key in sorted(environment)),
        "# Only the process itself is ended with the unit, and never a VM.",
        "KillMode=process",
        *_SANDBOX,
        *_network(place, name),
        f"CapabilityBoundingSet={_CAPABILITIES[name]}",
        *(_LOOKS if name == MEASURE else _DEEDS),
        *(
            (f"SupplementaryGroups={_percents(place.group)}",)
            if place.group and name == COLLECT
            else ()
        ),
        f"ProtectHome={'read-only' if _below(needed, _HOMES) else 'yes'}",
        f"PrivateTmp={'no' if _below(needed, _TEMPORARY) else 'yes'}",
        f"ReadWritePaths=/run {writable}",
    )


def _below(paths: Sequence[str], directories: tuple[str, ...]) -> bool:
    """Whether any of the paths is in one of the directories, or is one."""
    return any(f"{path}/".startswith(directories) for path in paths)


def _text(*lines: str | tuple[str]) -> str:
    """Sections (one-tuples) and their lines, under the marker."""
    made = [MARKER]
    for line in lines:
        if isinstance(line, tuple):
            made += ["", f"[{line[0]}]"]
        else:
            made.append(line)
    return "\n".join(made) + "\n"


# -- quoting ---------------------------------------------------------------------------------------


def command_line(words: Sequence[str]) -> str:
    """Words as ExecStart= wants them: nothing in them is expanded."""
    return " ".join(_quoted(word.replace("$", "$$")) for word in words)


def _quoted(word: str) -> str:
    """One word of a list of words, as it is."""
    plain = word and not any(c.isspace() or c in "\"'\\;" for c in word)
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return _percents(word if plain else f'"{escaped}"')


def _percents(text: str) -> str:
    """Text without specifiers."""
    return text.replace("%", "%%")
