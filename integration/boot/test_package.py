"""The Debian package: built from this checkout, installed in a clean Debian, used, and purged.

The Debian is a root like the boot tests' image, of the release that this system is, since the package
is built with this system's Python. It is entered by chroot in a mount namespace of its own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hvtx.engine.units import MARKER, Place, shields, units
from integration import lab
from integration.lab.boot.image import TOP, root_tar, suite_here
from integration.lab.commits import Commits

_KEEP = (
    'set -e; mount --make-rprivate /; mount -t proc proc "$1/proc"; mount --rbind /dev "$1/dev";'
    ' mount -t sysfs sysfs "$1/sys"; echo ready; exec sleep 900'
)
_ETC = "/etc/systemd/system"
pytestmark = pytest.mark.timeout(900)  # whichever comes first builds both packages
_UNITS = "/usr/lib/systemd/system"
_ALSO = ("dateutil", "markdown_it")  # modules whose packages are called otherwise


def build(checkout: Path, kept: Path) -> Path:
    quickly = {**os.environ, "DPKG_DEB_COMPRESSOR_LEVEL": "1"}  # dpkg-deb(1): the rest is the same
    done = subprocess.run(
        [checkout / "scripts/make-deb"],
        env=quickly, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    made = Path(done.stdout.splitlines()[-1])
    return shutil.copy(made, kept / made.name)


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The package of a commit, and of the next one."""
    kept = tmp_path_factory.mktemp("deb")
    made = Commits(kept / "checkout")
    made.commit()
    older = build(made.place, kept)
    made.commit()
    return older, build(made.place, kept)


@pytest.fixture
def inside(packages: tuple[Path, Path], tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Runs programs in a fresh Debian, with the packages as /old.deb and /new.deb."""
    root = tmp_path / "root"
    root.mkdir()
    lab.run("tar", "-xf", str(root_tar(suite_here())), "-C", str(root), timeout=300)
    (root / "usr/local/bin/hvtx").unlink()
    for name, package in zip(("old", "new"), packages, strict=True):
        shutil.copy(package, root / f"{name}.deb")
    keeper = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", _KEEP, "sh", str(root)], stdout=subprocess.PIPE
    )
    assert keeper.stdout is not None
    assert keeper.stdout.readline() == b"ready\n"

    def run(*argv: str, code: int = 0) -> str:
        enter = ["nsenter", "-t", str(keeper.pid), "-m", "--", "chroot", str(root)]
        clean = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]
        done = subprocess.run(
            [*enter, *clean, *argv], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == code, (argv, done.stdout, done.stderr)
        return done.stdout

    yield run
    keeper.kill()
    keeper.wait()
    keeper.stdout.close()


def test_installed_used_and_purged(inside: Callable[..., str]) -> None:
    """Whole, on its own Python packages; gone without a trace but for the record."""
    before = set(inside("find", "/usr", "/etc", "/var/lib", "-xdev").splitlines())
    assert "Warning" not in inside("sh", "-c", "dpkg -i /old.deb 2>&1")
    assert inside("dpkg", "-s", "hvtx").count("Status: install ok installed") == 1
    assert inside("hvtx", "--version").startswith("hvtx ")
    files = inside("dpkg", "-L", "hvtx").splitlines()
    for name in (
        "/usr/share/man/man1/hvtx-gc.1.gz",
        "/usr/share/bash-completion/completions/hvtx",
        "/usr/share/zsh/vendor-completions/_hvtx",
        "/usr/lib/systemd/system/hvtx-recover.service",
        "/usr/lib/systemd/system/hvtx-repair@.service",
        "/usr/lib/systemd/network/05-hvtx.network",
        "/usr/lib/NetworkManager/conf.d/hvtx.conf",
        "/usr/lib/firewalld/zones/hvtx.xml",
        "/etc/dnsmasq.d/hvtx",
    ):
        assert name in files
    inside("systemd-analyze", "verify", "/usr/lib/systemd/system/hvtx-recover.service")
    follower = "/usr/lib/systemd/system/nftables.service.wants/hvtx-repair@nftables.service"
    inside("systemd-analyze", "verify", follower)
    assert "ReloadPropagatedFrom=%i.service" in inside("cat", follower)
    enabled = inside("systemctl", "is-enabled", "hvtx-recover.service", "hvtx-gc.timer")
    assert enabled.split() == ["enabled", "enabled"]
    unit = inside("cat", "/usr/lib/systemd/system/hvtx-gc.service")
    assert "ExecStart=/usr/bin/hvtx gc --apply\n" in unit

    for backend in ("nftables", "iptables"):
        inside("hvtx", "--firewall", backend, "network", "create", backend[:3],
               "--subnet", "10.77.0.0/24" if backend == "nftables" else "10.78.0.0/24")  # fmt: skip
    inside("hvtx", "vm", "run", "web", "--network", "nft", "-p", "8080:80", "--", "sleep", "600")
    inside("hvtx", "vm", "run", "old", "--network", "ipt", "-p", "8081:80", "--", "sleep", "600")
    assert '"running"' in inside("hvtx", "vm", "ls", "--json")

    told = inside("dpkg", "--remove", "hvtx")
    assert "VMs: old web" in told
    assert "networks: ipt nft" in told
    assert "hvtx vm rm web --force" in told
    assert lab.run("ip", "-br", "link").count("\nhv") == 4, "what runs goes on"
    told = inside("dpkg", "--purge", "hvtx")
    assert "still on this host: devices: hv" in told
    assert "installed again, hvtx can remove them" in told
    inside("dpkg", "-i", "/old.deb")
    for name in ("web", "old"):
        inside("hvtx", "vm", "rm", name, "--force")
    for name in ("nft", "ipt"):
        inside("hvtx", "network", "rm", name)
    # what firewalld has kept of the zone as it was goes, and what somebody else has does not
    zones, theirs = "/etc/firewalld/zones", "/etc/firewalld/zones/other.xml.old"
    inside("mkdir", "-p", zones)
    inside("cp", "/usr/lib/firewalld/zones/hvtx.xml", f"{zones}/hvtx.xml.old")
    inside("touch", theirs)
    told = inside("dpkg", "--purge", "hvtx")
    assert inside("find", zones, "-type", "f") == f"{theirs}\n"
    inside("rm", "-r", "/etc/firewalld")
    assert "nothing that it made is left on this host" in told
    assert "no device or rule of it is left" in told
    assert "the record stays" in told
    left = set(inside("find", "/usr", "/etc", "/var/lib", "-xdev").splitlines()) - before
    record = {path for path in left if path.startswith("/var/lib/hvtx")}
    assert "/var/lib/hvtx/hvtx.db" in record
    own = {
        path for path in left - record if "/dpkg/" not in path and "/var/lib/systemd" not in path
    }
    assert own == set()


_INSIDE = """
import json, re
from importlib.metadata import distributions
found = [d for d in distributions(path=["/usr/lib/hvtx"]) if d.metadata["Name"] != "hvtx"]
print(json.dumps({re.sub("[-_.]+", "-", d.metadata["Name"]).lower(): d.version for d in found}))
"""


def test_the_list_of_what_is_inside(inside: Callable[..., str]) -> None:
    """The SBOM names exactly what the package bundles, each from a file that the lock allows."""
    inside("dpkg", "-i", "/new.deb")
    listed = json.loads(inside("cat", "/usr/share/doc/hvtx/sbom.cdx.json"))
    assert (listed["bomFormat"], listed["specVersion"]) == ("CycloneDX", "1.5")
    version = listed["metadata"]["component"]["version"]
    assert inside("dpkg-query", "-W", "-f", "${Version}", "hvtx").startswith(f"{version}~")
    really = json.loads(inside("python3", "-I", "-c", _INSIDE))
    assert {c["name"]: c["version"] for c in listed["components"]} == really
    assert "pyroute2" in really
    lock = (TOP / "requirements/package.txt").read_text()
    for part in listed["components"]:
        assert f"{part['name']}=={part['version']}" in lock
        assert f"--hash=sha256:{part['hashes'][0]['content']}" in lock
        assert part["licenses"]
        assert "unknown" not in json.dumps(part["licenses"])
    files = inside("dpkg", "-L", "hvtx").splitlines()  # without what is compiled at installation
    modules = [path for path in files if path.rpartition("/")[0] == "/usr/lib/hvtx"]
    assert len(modules) > len(really)
    known = {"hvtx", *really}
    for path in modules:  # nothing lies there that is not of something listed
        name = path.rpartition("/")[2].partition(".")[0].partition("-")[0]
        assert name.replace("_", "-").lower() in known or name in _ALSO, path


def said_of_units(inside: Callable[..., str], *argv: str) -> dict[str, str]:
    """``{path: state}`` of what `hvtx systemd` says."""
    told = json.loads(inside("hvtx", *argv, "--json"))
    assert told["schema"] == "hvtx/systemd/1"
    return {unit["path"]: unit["state"] for unit in told["units"]}


def test_the_packages_units_are_not_hidden(inside: Callable[..., str]) -> None:
    """`systemd install` and `uninstall` beside them; old copies; and nothing stays after a purge."""
    inside("dpkg", "-i", "/new.deb")
    theirs = {
        f"{_UNITS}/{name}": "packaged"
        for name in ("hvtx-recover.service", "hvtx-gc.service", "hvtx-gc.timer",
                     "hvtx-repair.service", "hvtx-repair@.service")
    }  # fmt: skip
    files = {
        "/usr/lib/systemd/network/05-hvtx.network": "packaged",
        "/usr/lib/NetworkManager/conf.d/hvtx.conf": "packaged",
        "/etc/dnsmasq.d/hvtx": "packaged",
        "/usr/lib/firewalld/zones/hvtx.xml": "packaged",
    }

    def links() -> list[str]:
        """The units' own links, each by its name: they lead to the package's units."""
        found = inside("find", _ETC, "-name", "hvtx*", "-printf", "%p %l\\n").splitlines()
        assert all("/lib/systemd/system/" in line for line in found)
        return sorted(line.partition(" ")[0] for line in found)

    before = links()
    assert len(before) == 2
    assert "come with the Debian package" in inside("sh", "-c", "hvtx systemd install 2>&1")
    assert said_of_units(inside, "systemd", "install") == theirs | files
    assert inside("find", _ETC, "-type", "f") == ""

    def enabled() -> list[str]:
        return inside("systemctl", "is-enabled", "hvtx-recover.service", "hvtx-gc.timer").split()

    assert enabled() == ["enabled"] * 2
    assert "stay as they are" in inside("sh", "-c", "hvtx systemd uninstall 2>&1")
    assert said_of_units(inside, "systemd", "uninstall") == theirs
    assert enabled() == ["enabled"] * 2
    assert links() == before

    # what is given otherwise is added to them, and goes again
    other = ("--state-dir", "/srv/hvtx", "systemd")
    states = said_of_units(inside, *other, "install", "--metrics", "/run/metrics/hvtx.prom")
    drop = f"{_ETC}/hvtx-recover.service.d/hvtx.conf"
    assert states[drop] == "written"
    assert states[f"{_ETC}/hvtx-metrics.service"] == "written"
    shown = inside("systemd-analyze", "cat-config", "systemd/system/hvtx-recover.service")
    assert "ConditionPathExists=\nConditionPathExists=/srv/hvtx/hvtx.db" in shown
    inside("systemd-analyze", "verify", f"{_UNITS}/hvtx-recover.service")
    assert said_of_units(inside, "systemd", "uninstall")[drop] == "removed"
    assert inside("find", _ETC, "-type", "f") == ""

    # copies as an earlier hvtx wrote them, which hide the package's
    write_copies(inside, "/var/lib/hvtx")
    assert said_of_units(inside, "systemd", "install")[f"{_ETC}/hvtx-gc.timer"] == "removed"
    assert links() == before
    assert enabled() == ["enabled"] * 2
    assert inside("find", "/etc", "-name", "*hvtx*", "-type", "f") == "/etc/dnsmasq.d/hvtx\n"
    write_copies(inside, "/srv/hvtx")
    told = inside("dpkg", "--purge", "hvtx")
    assert f"removing {_ETC}/hvtx-recover.service" in told
    assert inside("find", "/etc", "/usr/lib/systemd", "-name", "*hvtx*") == ""


def write_copies(inside: Callable[..., str], state: str) -> None:
    """The units, as `systemd install` of the packaged program wrote them before it knew better."""
    place = Place(("/usr/bin/hvtx",), state, "/run/hvtx", {})
    for unit in units(place):
        assert unit.text.startswith(MARKER)
        inside("sh", "-c", 'printf %s "$2" >"$1"', "sh", f"{_ETC}/{unit.name}", unit.text)
    names = ("hvtx-recover.service", "hvtx-gc.timer", "hvtx-repair@nftables.service")
    inside("systemctl", "--root=/", "reenable", "--quiet", *names)
    for unit in shields():
        inside("sh", "-c", 'mkdir -p "${1%/*}"; printf %s "$2" >"$1"', "sh", unit.path, unit.text)


def test_upgraded_under_running_vms(
    packages: tuple[Path, Path], inside: Callable[..., str]
) -> None:
    """VMs run on, with their network as it was; what an administrator turned off stays off."""

    def vms() -> list[dict[str, Any]]:
        return json.loads(inside("hvtx", "vm", "ls", "--json"))["vms"]

    release = packages[0].name.rpartition("~")[2].partition("_")[0]
    assert release in ("deb12", "deb13") or release.startswith("ubuntu")
    inside("dpkg", "-i", "/old.deb")
    older = inside("dpkg-query", "-W", "-f", "${Version}", "hvtx")
    assert older.endswith(f"~{release}")
    for backend, number in (("nftables", 77), ("iptables", 78)):
        network = ("network", "create", backend[:3], "--subnet", f"10.{number}.0.0/24")
        inside("hvtx", "--firewall", backend, *network)
        inside("hvtx", "vm", "run", f"on-{backend}", "--network", backend[:3],
               "-p", f"80{number}:80", "--", "sleep", "600")  # fmt: skip
    inside("systemctl", "disable", "--quiet", "hvtx-gc.timer")
    write_copies(inside, "/var/lib/hvtx")
    inside("rm", f"{_ETC}/timers.target.wants/hvtx-gc.timer")
    host, before = lab.dump(), vms()
    assert [vm["state"] for vm in before] == ["running"] * 2

    inside("apt-get", "install", "-q", "-y", "--no-install-recommends", "/new.deb")
    newer = inside("dpkg-query", "-W", "-f", "${Version}", "hvtx")
    inside("dpkg", "--compare-versions", "0.1.0", "lt", older)
    inside("dpkg", "--compare-versions", older, "lt", newer)
    twelve, thirteen = (f"{newer.partition('~')[0]}~deb{number}" for number in (12, 13))
    inside("dpkg", "--compare-versions", twelve, "lt", thirteen)
    assert inside("hvtx", "--version") == f"hvtx {newer.partition('~')[0]}\n"
    assert vms() == before
    assert lab.difference(host, lab.dump()) == ""
    assert inside("find", _ETC, "-name", "*hvtx*", "-type", "f") == "", "nothing hides the units"
    assert inside("find", _ETC, "-name", "hvtx-repair@*") == "", "the package has links of its own"
    inside("systemctl", "is-enabled", "hvtx-recover.service")
    assert inside("systemctl", "is-enabled", "hvtx-gc.timer", code=1) == "disabled\n"
    inside("hvtx", "repair")
    assert lab.difference(host, lab.dump()) == "", "the new one has nothing to repair"
    for vm in ("on-nftables", "on-iptables"):
        inside("hvtx", "vm", "stop", vm)
        inside("hvtx", "vm", "start", vm)
        inside("hvtx", "vm", "rm", vm, "--force")


def test_lintian_finds_nothing(packages: tuple[Path, Path]) -> None:
    """No error, no warning; the package has no pip and no library path of the building machine."""
    assert shutil.which("lintian"), "the Debian package lintian is missing"
    done = subprocess.run(
        ["lintian", "--allow-root", str(packages[1])],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.stdout == ""
    assert done.returncode == 0
    files = lab.run("dpkg-deb", "-c", str(packages[1]))
    assert "/usr/lib/hvtx/hvtx/__main__.py" in files
    assert "/usr/lib/hvtx/pip" not in files
    assert ".so" not in files, "compiled modules would need libc6 among the dependencies"
    depends = lab.run("dpkg-deb", "-f", str(packages[1]), "Depends", "Recommends")
    for name in ("python3 (>= 3.", "libnftables1", "libip4tc2", "qemu-system-x86", "jq"):
        assert name in depends
