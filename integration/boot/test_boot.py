"""The systemd units, and a host that is cut off and boots again."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hvtx.engine.packaged_units import packaged_zone
from hvtx.engine.units import ASKING, ENABLED, FOLLOWERS, Place, units
from hvtx.model.block import Cluster
from integration import lab
from integration.lab.boot import image
from integration.lab.boot.container import Host, booted
from integration.lab.program import Program, installer
from integration.lab.waiting import until

# Docker's client leaves closing its sockets to the collector of garbage.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
EXPOSURE = 2.5
PROM = "/var/lib/node/hvtx.prom"
NUMBERS = ("--metrics", PROM)
OPTIONAL = ("hvtx-metrics.service", "hvtx-metrics.timer")
NAMES = (
    "hvtx-recover.service", "hvtx-gc.service", "hvtx-gc.timer", "hvtx-repair.service",
    "hvtx-repair@.service", *OPTIONAL,
)  # fmt: skip
SHIELD = "05-hvtx.network"  # by which systemd-networkd leaves our devices alone
NETWORK_MANAGERS = "hvtx.conf"


# -- the units, without a systemd that runs ----------------------------------------------------------


@pytest.fixture
def hvtx(monkeypatch: pytest.MonkeyPatch) -> Program:
    return installer(monkeypatch, HVTX_STATE_DIR="/var/lib/hvtx", HVTX_RUN_DIR="/run/hvtx")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root directory of another system."""
    place = tmp_path / "root"
    (place / "etc/systemd/system").mkdir(parents=True)
    return place


def files(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): os.readlink(path) if path.is_symlink() else path.read_text()
        for path in root.rglob("*")
        if path.is_symlink() or path.is_file()
    }


def test_systemd_finds_no_fault_in_the_units(hvtx: Program, tmp_path: Path) -> None:
    for unit in hvtx("systemd", "print", *NUMBERS, "--json").json()["units"]:
        (tmp_path / unit["name"]).write_text(unit["text"])
    (tmp_path / "hvtx-repair@nftables.service").symlink_to(tmp_path / "hvtx-repair@.service")
    names = ["hvtx-repair@nftables.service" if "@" in name else name for name in NAMES]
    done = subprocess.run(
        ["systemd-analyze", "verify", *(str(tmp_path / name) for name in names)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def exposure(path: Path) -> float:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(path)],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    found = re.search(r"exposure level for .*: ([0-9.]+)", done.stdout)
    assert found, done.stdout
    return float(found[1])


def test_each_service_is_shut_in(tmp_path: Path) -> None:
    for unit in units(Place(("/usr/bin/env",), "/var/lib/hvtx", "/run/hvtx", {}, PROM)):
        if unit.name.endswith(".service"):
            (tmp_path / unit.name).write_text(unit.text)
            assert exposure(tmp_path / unit.name) <= EXPOSURE
    etcd = Cluster("etcd", endpoints=("https://etcd.example:2379",))
    asking = Place(("/usr/bin/env",), "/var/lib/hvtx", "/run/hvtx", {}, cluster=etcd)
    for unit in units(asking):
        if unit.name in ASKING:
            (tmp_path / unit.name).write_text(unit.text)
            assert exposure(tmp_path / unit.name) <= EXPOSURE + 0.1


def test_print_shows_what_install_writes(hvtx: Program, root: Path) -> None:
    hvtx("systemd", "install", *NUMBERS, "--root", str(root))
    shown = hvtx("systemd", "print", *NUMBERS).out
    for name in NAMES:
        text = (root / "etc/systemd/system" / name).read_text()
        assert f"# /etc/systemd/system/{name}\n{text}" in shown


def test_install_enables_and_uninstall_leaves_nothing(hvtx: Program, root: Path) -> None:
    before = files(root)
    first = hvtx("systemd", "install", *NUMBERS, "--root", str(root), "--json").json()
    assert {unit["state"] for unit in first["units"]} == {"written"}
    assert "boots" in first["note"]
    links = {Path(path).name for path in files(root) if ".wants/" in path}
    assert links == {*ENABLED, *FOLLOWERS}
    installed = files(root)

    again = hvtx("systemd", "install", *NUMBERS, "--root", str(root), "--json").json()
    assert {unit["state"] for unit in again["units"]} == {"unchanged"}
    assert files(root) == installed

    gone = hvtx("systemd", "uninstall", "--root", str(root), "--json").json()
    assert {unit["state"] for unit in gone["units"]} == {"removed"}
    assert files(root) == before
    nothing = hvtx("systemd", "uninstall", "--root", str(root), "--json").json()
    assert {unit["state"] for unit in nothing["units"]} == {"absent"}


def test_without_numbers_there_are_no_units_for_them(hvtx: Program, root: Path) -> None:
    made = hvtx("systemd", "install", "--root", str(root), "--json").json()
    assert {unit["name"] for unit in made["units"]} == {*NAMES, SHIELD} - set(OPTIONAL)
    gone = hvtx("systemd", "uninstall", "--root", str(root), "--json").json()
    assert gone["units"] == [{**unit, "state": "removed"} for unit in made["units"]]


def test_an_older_unit_of_ours_is_replaced(hvtx: Program, root: Path) -> None:
    hvtx("systemd", "install", *NUMBERS, "--root", str(root))
    path = root / "etc/systemd/system/hvtx-gc.timer"
    wanted = path.read_text()
    path.write_text(wanted + "# older\n")
    done = hvtx("systemd", "install", *NUMBERS, "--root", str(root), "--json").json()
    states = {unit["name"]: unit["state"] for unit in done["units"]}
    assert states == dict.fromkeys((*NAMES, SHIELD), "unchanged") | {"hvtx-gc.timer": "written"}
    assert path.read_text() == wanted


def test_managers_of_networks_get_a_file_that_keeps_them_off(hvtx: Program, root: Path) -> None:
    """NetworkManager's where it is installed; both are taken away again, and an older one renewed."""
    (root / "usr/lib/NetworkManager").mkdir(parents=True)
    made = hvtx("systemd", "install", "--root", str(root), "--json").json()
    assert {u["name"] for u in made["units"]} >= {SHIELD, NETWORK_MANAGERS}
    network = root / "etc/systemd/network" / SHIELD
    keyfile = root / "etc/NetworkManager/conf.d" / NETWORK_MANAGERS
    wanted = network.read_text()
    assert "[Match]\nName=hv*\n\n[Link]\nUnmanaged=yes\n" in wanted
    assert "[keyfile]\nunmanaged-devices+=interface-name:hv*\n" in keyfile.read_text()
    network.write_text(wanted.replace("hv*", "hvbr*"))
    hvtx("systemd", "install", "--root", str(root))
    assert network.read_text() == wanted
    gone = hvtx("systemd", "uninstall", "--root", str(root), "--json").json()
    assert {u["path"] for u in gone["units"] if u["state"] == "removed"} >= {
        str(network), str(keyfile),
    }  # fmt: skip
    assert not network.exists()
    assert not keyfile.exists()


def test_a_dnsmasq_of_the_host_gets_a_file_too(hvtx: Program, root: Path) -> None:
    """Where it is installed; the package's file, of another name, needs none beside it."""

    def said(verb: str) -> dict[str, str]:
        done = hvtx("systemd", verb, "--root", str(root), "--json").json()
        return {u["path"]: u["state"] for u in done["units"] if "dnsmasq.d/" in u["path"]}

    file, packages = (root / "etc/dnsmasq.d" / name for name in ("hvtx.conf", "hvtx"))
    assert said("install") == {}
    file.parent.mkdir()
    assert said("install") == {str(file): "written"}
    assert file.read_text().endswith("`hvtx systemd uninstall` removes it.\nexcept-interface=hv*\n")
    assert said("uninstall") == {str(file): "removed"}
    packages.write_text("# Of the Debian package hvtx.\nexcept-interface=hv*\n")
    assert said("install") == {str(packages): "packaged"}
    assert not file.exists()


def test_firewalld_gets_a_zone_that_stays(hvtx: Program, root: Path) -> None:
    """Where it is installed and no package has brought one; somebody else's of the name is kept."""

    def said(verb: str) -> dict[str, str]:
        done = hvtx("systemd", verb, "--root", str(root), "--json").json()
        return {u["path"]: u["state"] for u in done["units"] if u["name"] == "hvtx.xml"}

    zone = root / "etc/firewalld/zones/hvtx.xml"
    assert said("install") == {}
    zone.parent.parent.mkdir()
    assert said("uninstall") == {}
    assert said("install") == {str(zone): "written"}
    wanted = zone.read_text()
    assert '<zone target="ACCEPT">' in wanted
    assert said("install") == {str(zone): "unchanged"}
    assert said("uninstall") == {str(zone): "removed"}
    assert list(zone.parent.iterdir()) == []
    zone.write_text(wanted.replace("Bridges of VM networks, kept by hvtx.", "Mine."))
    theirs = zone.read_text()
    assert said("install") == {str(zone): "kept"}
    assert said("uninstall") == {}
    assert zone.read_text() == theirs
    brought = root / "usr/lib/firewalld/zones/hvtx.xml"
    brought.parent.mkdir(parents=True)
    brought.write_text(packaged_zone().text)
    assert said("install") == {str(brought): "packaged"}
    assert zone.read_text() == theirs


@pytest.mark.parametrize("theirs", ["file", "mask"])
def test_a_strangers_file_for_networkd_stays(hvtx: Program, root: Path, theirs: str) -> None:
    """Written by a person, after doctor's hint say, or masked; the units are installed all the same."""
    path = root / "etc/systemd/network" / SHIELD
    path.parent.mkdir()
    if theirs == "file":
        path.write_text("[Match]\nName=hv* br-web\n\n[Link]\nUnmanaged=yes\n")
    else:
        path.symlink_to("/dev/null")
    before = files(root)
    for verb in ("install", "uninstall"):
        done = hvtx("systemd", verb, "--root", str(root), "--json").json()
        assert {u["name"]: u["state"] for u in done["units"]}[SHIELD] == "kept"
        assert files(root).items() >= before.items()
    assert files(root) == before


@pytest.mark.parametrize("verb", ["install", "uninstall"])
@pytest.mark.parametrize("theirs", ["file", "mask", "link"])
def test_a_strangers_unit_stops_all_of_it(
    hvtx: Program, root: Path, verb: str, theirs: str
) -> None:
    path = root / "etc/systemd/system/hvtx-gc.timer"
    if theirs == "file":
        path.write_text("[Timer]\nOnCalendar=daily\n")
    else:
        path.symlink_to("/dev/null" if theirs == "mask" else "/srv/own.timer")
    before = files(root)
    ran = hvtx("systemd", verb, "--root", str(root), code=4)
    assert "hvtx-gc.timer" in ran.err
    assert files(root) == before


def test_what_is_given_to_the_command_is_in_the_units(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text('state_dir = "/srv/from file"\n')
    environment = {"HVTX_STATE_DIR": "", "HVTX_RUN_DIR": "", "HVTX_CONFIG": ""}
    text = Program(**environment)(
        "--config", str(tmp_path / "my.toml"), "--run-dir", "/srv/run", "systemd", "print"
    ).out
    assert 'RequiresMountsFor="/srv/from file"' in text
    assert f"HVTX_CONFIG={tmp_path}/my.toml" in text
    assert "HVTX_RUN_DIR=/srv/run" in text
    assert "HVTX_STATE_DIR" not in text


def test_only_root_installs_and_anyone_prints() -> None:
    place = Path("/run") / f"hvtx-test-{os.getpid()}"
    place.mkdir(mode=0o755)
    try:
        for words, code in (("install", 5), ("uninstall", 5), ("print", 0)):
            script = (
                "import os, sys; sys.argv = ['hvtx', 'systemd', *sys.argv[1:]];"
                "from hvtx.cli.main import run; import hvtx.cli.systemd, hvtx.commands.systemd;"
                "import hvtx.engine.runtime, locale; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
                "sys.exit(run(sys.argv[1:]))"
            )
            done = subprocess.run(
                [shutil.which("python3", path=os.path.dirname(sys.executable)) or "python3",
                 "-c", script, words, *(["--root", str(place)] if code else [])],
                capture_output=True, text=True, check=False, timeout=60,
                env={k: v for k, v in os.environ.items() if not k.startswith("HVTX_")},
            )  # fmt: skip
            assert done.returncode == code, done.stderr
        assert not any(place.iterdir())
    finally:
        place.rmdir()


def test_a_host_without_systemd_is_told_so(hvtx: Program, root: Path, tmp_path: Path) -> None:
    """Here neither does systemd run nor, in a scratch mount namespace, is systemctl there."""
    script = (
        "mount -t tmpfs none /run; for p in /usr/bin/systemctl /bin/systemctl; do"
        " [ ! -e $p ] || mount --bind /dev/null $p; done;"
        f' exec "$0" -m hvtx systemd install --root {root}'
    )
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, sys.executable],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 6, done.stderr
    assert "no systemd" in done.stderr
    assert not files(root)


def test_a_strangers_systemd_is_not_told_our_pids(tmp_path: Path) -> None:
    """A container that sees the host's /run has pids which mean other processes to its systemd."""
    (tmp_path / "busctl").write_text('#!/bin/sh\n: >"$0.called"\n')
    (tmp_path / "busctl").chmod(0o755)
    script = (
        "import os, sys; from hvtx.drivers.vm_process import scope; scope.SYSTEMD = sys.argv[1];"
        "assert scope.enter_scope('web', os.getpid()) is None"
    )
    lab.run(
        "unshare", "--pid", "--fork", "--mount-proc", "env", f"PATH={tmp_path}", sys.executable,
        "-c", script, str(tmp_path),
    )  # fmt: skip
    assert not (tmp_path / "busctl.called").exists()


# -- a real boot -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A container with a systemd that has booted; made outside the tests' own namespaces."""
    if os.geteuid() != 0:
        pytest.skip("needs root: a Docker daemon of its own")
    with contextlib.ExitStack() as stack:
        try:
            image.root_tar()
            image.docker_path()
        except image.Unavailable as problem:
            pytest.fail(str(problem))
        yield stack.enter_context(booted())
    gc.collect()


GUEST = 'while :; do echo "$HVTX_IP"; sleep 0.1; done >>'


def size(host: Host, path: str) -> int:
    return int(host.run("stat", "-c", "%s", path))


def writes(host: Host, path: str) -> bool:
    """Whether a file grows."""
    before = size(host, path)
    return bool(until(f"growth of {path}", lambda: size(host, path) > before, 10))


def vm(host: Host, name: str) -> dict:  # type: ignore[type-arg]
    return host.json("hvtx", "vm", "show", name, "--json")


def taps(host: Host) -> list[str]:
    links = host.json("ip", "-j", "-d", "link", "show")
    return sorted(x["ifname"] for x in links if x.get("linkinfo", {}).get("info_kind") == "tun")


def leases(host: Host) -> dict[str, list[tuple[str, str]]]:
    shown = host.json("hvtx", "vm", "ls", "--json")["vms"]
    return {v["name"]: [(i["mac"], i["ipv4"]) for i in v["interfaces"]] for v in shown}


def status(host: Host, pid: int, *keys: str) -> list[str]:
    lines = host.run("cat", f"/proc/{pid}/status").splitlines()
    return [line for line in lines if line.partition(":")[0] in keys]


def test_a_cut_off_host_boots_into_what_it_was(host: Host) -> None:
    host.run("mkdir", "-p", str(Path(PROM).parent))
    host.run("hvtx", "systemd", "install", *NUMBERS)
    host.run("hvtx", "network", "create", "lan", "--subnet", "10.91.0.0/24")
    host.run("mkdir", "-p", "-m", "1777", "/home/vms", "/srv/vms")  # each VM is a user of its own
    for name, path, more in (
        ("web", "/home/vms/web.disk", ["--autostart", "--publish", "8080:80"]),
        ("db", "/srv/vms/db.disk", ["--autostart"]),
        ("idle", "/srv/vms/idle.disk", []),
    ):
        command = ["--", "sh", "-c", f"{GUEST} {path}"]
        host.run("hvtx", "vm", "create", name, "--network", "lan", *more, *command)
    host.run("hvtx", "vm", "start", "web")
    host.run("hvtx", "vm", "start", "idle")
    assert writes(host, "/home/vms/web.disk")
    before, old_taps = leases(host), taps(host)
    assert len(old_taps) == 2

    host.cut()
    host.boot()

    assert host.run("systemctl", "is-active", "hvtx-recover.service").strip() == "active"
    assert host.run("systemctl", "is-active", "hvtx-gc.timer").strip() == "active"
    assert leases(host) == before
    states = {name: vm(host, name)["state"] for name in before}
    assert states == {"web": "running", "db": "running", "idle": "defined"}
    assert host.json("hvtx", "network", "show", "lan", "--json")["gateway"] == ["10.91.0.1"]
    assert "10.91.0.1/24" in host.run("ip", "-4", "-br", "address")
    assert "8080" in host.run("nft", "list", "ruleset")
    assert taps(host) == sorted(vm(host, n)["interfaces"][0]["device"] for n in ("web", "db"))
    assert not set(taps(host)) & set(old_taps)
    assert not host.json("hvtx", "intents", "--json")["operations"]
    host.run("hvtx", "gc", "--plan", "--detailed-exitcode")
    assert not host.json("hvtx", "repair", "--json")["repaired"]


def test_the_journal_has_each_deed_with_its_fields(host: Host) -> None:
    """What the recovery of this boot did, by field; what it recovered is in the numbers too."""
    text = host.run("journalctl", "-b", "-o", "json", "HVTX_VERB=recover", "HVTX_EVENT=made")
    lines = [json.loads(line) for line in text.splitlines()]
    bridge = host.json("hvtx", "network", "show", "lan", "--json")["bridge"]
    found = next(line for line in lines if line["HVTX_KIND"] == "bridge")
    assert (found["HVTX_KEY"], found["SYSLOG_IDENTIFIER"]) == (bridge, "hvtx")
    assert found["_SYSTEMD_UNIT"] == "hvtx-recover.service"
    assert bridge in found["MESSAGE"]
    host.run("systemctl", "start", "hvtx-metrics.service")
    assert 'hvtx_vms{state="running"} 2.0' in host.run("cat", PROM)
    assert host.run("stat", "-c", "%a", PROM).strip() == "644"


def test_autostarted_vms_live_apart_from_the_unit(host: Host) -> None:
    """No sandbox of the unit's, a scope of their own; they outlive the unit, its restart and its removal."""
    pids = {name: vm(host, name)["pid"] for name in ("web", "db")}
    for name, pid in pids.items():
        assert host.run("cat", f"/proc/{pid}/cgroup").count(f"/hvtx-{name}.scope") > 0
        filters = [int(status(host, p, "Seccomp_filters")[0].split()[1]) for p in (pid, 1)]
        assert filters[0] == filters[1] + 1  # hvtx's own of one ioctl, and none of the unit's
        assert status(host, pid, "CapEff") == [f"CapEff:\t{0:016x}"]
        uid = vm(host, name)["user"]
        assert status(host, pid, "Uid") == ["Uid:" + f"\t{uid}" * 4]
        for kind in ("mnt", "net", "uts"):
            mine, first = (host.run("readlink", f"/proc/{p}/ns/{kind}") for p in (pid, 1))
            assert mine == first
    host.run("systemctl", "stop", "hvtx-recover")
    for name, path in (("web", "/home/vms/web.disk"), ("db", "/srv/vms/db.disk")):
        assert vm(host, name)["pid"] == pids[name]
        assert vm(host, name)["state"] == "running"
        assert writes(host, path)
    host.run("systemctl", "start", "hvtx-recover")
    host.run("systemctl", "start", "hvtx-gc.service")
    assert {name: vm(host, name)["pid"] for name in pids} == pids


def test_the_collecting_unit_may_ask_systemd(host: Host) -> None:
    """Its sandbox has no CAP_KILL, and lets it have systemd do what takes it, outside.

    What that ends is shown in integration/network/test_dhcp.py: this host has no dnsmasq.
    """
    host.run("hvtx", "systemd", "install", *NUMBERS)
    host.run("hvtx", "network", "create", "passing", "--subnet", "10.94.0.0/24")
    assert "HVTX_AUTOSTART=systemd-run" in host.run("systemctl", "cat", "hvtx-gc.service")
    drop_in, told = "/run/systemd/system/hvtx-gc.service.d/ask.conf", "/run/hvtx-told"
    look = f"grep CapEff /proc/self/status >>{told}"
    asks = "systemd-run --quiet --collect --unit=hvtx-collect --property=Type=oneshot"
    lines = f"[Service]\nExecStart=\nExecStart=sh -c '{look}; exec {asks} -- sh -c \"{look}\"'"
    host.run("mkdir", "-p", str(Path(drop_in).parent))
    host.run("sh", "-c", f'echo "$1" >{drop_in}', "sh", lines)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "hvtx-gc.service")
    inside, outside = (int(line.split()[1], 16) for line in host.run("cat", told).splitlines())
    assert (inside >> 5 & 1, outside >> 5 & 1) == (0, 1)
    host.run("rm", "-r", str(Path(drop_in).parent), told)
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "start", "hvtx-gc.service")
    host.run("hvtx", "network", "rm", "passing")


def test_the_sandbox_lets_legacy_tables_be_rebuilt(host: Host) -> None:
    host.run(
        "hvtx", "--firewall", "iptables", "network", "create", "old", "--subnet", "10.92.0.0/24"
    )
    more = ["--network", "old", "--autostart", "--publish", "8092:80"]
    host.run("hvtx", "vm", "run", "elder", *more, "--", "sleep", "100000")
    before = host.run("iptables-legacy", "-t", "nat", "-S").splitlines()
    assert any("8092" in rule for rule in before)

    host.cut()
    host.boot()

    assert host.run("systemctl", "is-active", "hvtx-recover").strip() == "active"
    assert vm(host, "elder")["state"] == "running"
    after = host.run("iptables-legacy", "-t", "nat", "-S").splitlines()
    assert len(after) == len(before)
    assert any("8092" in rule for rule in after)
    host.run("hvtx", "gc", "--plan", "--detailed-exitcode")
    host.run("hvtx", "vm", "rm", "elder", "--force")
    host.run("hvtx", "network", "rm", "old")


def test_the_sandbox_lets_a_stopped_firewalld_have_its_zone_changed(host: Host) -> None:
    """The file of the zone alone may be written, by what collects, recovers and repairs."""
    host.run("mkdir", "-p", "/etc/firewalld/zones")
    for name in ("hvtx-gc", "hvtx-recover", "hvtx-repair", "hvtx-repair@nftables"):
        place = f"/run/systemd/system/{name}.service.d"
        for path, code in ((f"/etc/firewalld/zones/{name}", 0), (f"/etc/firewalld/{name}", 1)):
            text = f"[Service]\\nExecStart=\\nExecStart=touch {path}\\n"
            host.run("sh", "-c", f"mkdir -p {place}; printf '{text}' >{place}/touch.conf")
            host.run("systemctl", "daemon-reload")
            host.run("systemctl", "restart", f"{name}.service", code=None)
            host.run("test", "-e", path, code=code)
        host.run("rm", "-r", place)
    host.run("rm", "-r", "/etc/firewalld")
    host.run("systemctl", "daemon-reload")
    host.run("systemctl", "reset-failed")
    host.run("systemctl", "restart", "hvtx-recover")


def test_what_a_firewalls_service_takes_away_is_put_back(host: Host) -> None:
    """Its reload, restart, stop and start; after a boot as well, and with a VM that runs."""
    host.run("systemctl", "enable", "nftables")
    host.cut()
    host.boot()
    assert host.run("systemctl", "is-active", "hvtx-repair@nftables").strip() == "active"
    assert "inactive" in host.run("systemctl", "is-active", "hvtx-repair@ufw", code=None)
    device = vm(host, "web")["interfaces"][0]["device"]

    def whole() -> bool:
        told = host.json("hvtx", "doctor", "--json")["findings"]
        return [f["level"] for f in told if f["check"] == "damage"] == ["ok"]

    def flushed() -> bool:
        """Whether the rules are other ones than before: handles are given anew."""
        now = host.run("nft", "-a", "list", "ruleset")
        return now != before and device in now

    for act in ("reload", "restart", "stop", "start", "reload"):
        before = host.run("nft", "-a", "list", "ruleset")
        host.run("systemctl", act, "nftables")
        until(f"the repair after {act}", flushed, 30)
        until(f"the end of the repair after {act}", whole, 30)
    assert host.run("systemctl", "is-active", "nftables", "hvtx-repair@nftables").split() == [
        "active", "active",
    ]  # fmt: skip
    assert not host.json("hvtx", "intents", "--json")["operations"]
    host.run("systemctl", "disable", "--now", "nftables")


def test_a_vm_that_cannot_start_fails_the_unit_and_nothing_else(host: Host) -> None:
    host.run("sh", "-c", "printf '#!/bin/sh\\nsleep 600\\n' >/opt/guest; chmod 755 /opt/guest")
    host.run("hvtx", "vm", "create", "lost", "--network", "lan", "--autostart", "--", "/opt/guest")
    host.run("rm", "/opt/guest")
    host.cut()
    host.boot()
    assert host.run("systemctl", "is-active", "hvtx-recover", code=None).strip() == "failed"
    shown = host.run("systemctl", "show", "hvtx-recover", "--property=ExecMainStatus")
    assert shown.strip() == "ExecMainStatus=9"
    assert "lost" in host.run("journalctl", "-b", "--no-pager", "-u", "hvtx-recover")
    assert "/opt/guest" in host.run("journalctl", "-b", "--no-pager", "-u", "hvtx-start-*")
    for name, state in (("web", "running"), ("db", "running"), ("lost", "defined")):
        assert vm(host, name)["state"] == state
    host.run("hvtx", "vm", "rm", "lost")
    host.run("hvtx", "gc", "--plan", "--detailed-exitcode")


def test_units_on_a_running_host_are_rated_and_removed(host: Host) -> None:
    units = [name.replace("@", "@nftables") for name in NAMES]
    for name in (name for name in units if name.endswith(".service")):
        rated = host.run("systemd-analyze", "security", "--no-pager", name)
        found = re.search(r"exposure level for .*: ([0-9.]+)", rated)
        assert found
        assert float(found[1]) <= EXPOSURE
    assert not host.run("systemd-analyze", "verify", *units).strip()
    pid = vm(host, "web")["pid"]
    done = host.json("hvtx", "systemd", "uninstall", "--json")
    assert {unit["state"] for unit in done["units"]} == {"removed"}
    assert done["running"]
    assert "hvtx" not in host.run("systemctl", "list-unit-files", "hvtx-*", code=None).replace(
        "hvtx-web.scope", ""
    ).replace("hvtx-db.scope", "")
    assert vm(host, "web")["pid"] == pid
    assert writes(host, "/home/vms/web.disk")
    host.run("hvtx", "vm", "stop", "web", "--timeout", "2")
    host.run("hvtx", "vm", "rm", "db", "--force")
    assert not taps(host)
    assert json.loads(host.run("ip", "-j", "link", "show", "type", "bridge"))
