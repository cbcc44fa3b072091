"""The long job: a Debian as clouds have it boots from its disk, and is reached with a key.

Nothing was set up in it. `tox -e cloud` (or ``HVTX_CLOUD=all``) runs it: the image takes some
minutes to be made, once, and some to boot by emulation.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.kernel.test_vm_process import needs_qemu
from integration.lab.boot import cloud
from integration.lab.program import Forked, preload

pytestmark = [
    needs_qemu,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not os.environ.get("HVTX_CLOUD"), reason="the long job: tox -e cloud"),
]
SECONDS = 1800.0


@pytest.fixture
def hvtx(netns: None) -> Iterator[Forked]:
    preload()
    made = Forked()
    yield made
    for vm in made("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            lab.end(vm["pid"])


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user may pass, with a key and a copy of the image."""
    path = lab.open_place()
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path / "key"], check=True)
    image = cloud.disk()
    for above in (image.parent, image.parent.parent):
        assert above.is_dir()
    shutil.copyfile(image, path / "image.qcow2")
    yield path
    shutil.rmtree(path, ignore_errors=True)


def inside(place: Path, words: str) -> str:
    """What a shell in the guest says, by way of the published port."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "ConnectTimeout=20",
               "BatchMode=yes", "LogLevel=ERROR")  # fmt: skip
    argv = ["ssh", "-F", "none", "-i", str(place / "key"), "-p", "8022"]
    argv += [word for option in options for word in ("-o", option)]
    done = subprocess.run(
        [*argv, "debian@127.0.0.1", words], capture_output=True, text=True, check=False, timeout=300
    )
    return done.stdout.strip() if done.returncode == 0 else ""


@pytest.mark.parametrize("network", [("--no-dhcp",), ("--dhcp",)], ids=["told", "asks"])
def test_it_boots_and_is_reached(hvtx: Forked, place: Path, network: tuple[str, ...]) -> None:
    """Its name, its addresses, its ways out, its MTU and the key: all by the seed and the network."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64",
         "--mtu", "1400", *network)  # fmt: skip
    vm = hvtx("vm", "run", "web", "--network", "net", "--disk", str(place / "image.qcow2"),
              "--memory", "768", "--cpus", "2", "--queues", "2", "--ssh-key",
              str(place / "key.pub"), "-p", "8022:22", "--json").json()  # fmt: skip
    began, name = time.monotonic(), ""
    while not name and time.monotonic() - began < SECONDS:
        time.sleep(5)
        assert hvtx.vm("web")["state"] == "running", hvtx("vm", "logs", "web").out[-4000:]
        name = inside(place, "hostname")
    told = hvtx("vm", "logs", "web").out[-6000:]
    lab.tell(seconds_to_ssh=round(time.monotonic() - began), accelerator=vm["accelerator"])
    assert name == "web", told
    first = vm["interfaces"][0]
    assert f" {first['ipv4']}/24 " in inside(place, "ip -4 address show eth0"), told
    assert f" {first['ipv6']}/" in inside(place, "ip -6 address show eth0"), told
    assert "mtu 1400" in inside(place, "ip link show eth0")
    assert "default via 10.77.0.1 " in inside(place, "ip route")
    assert "default via fe80::" in (six := inside(place, "ip -6 route")) or "fd77::1" in six
    assert inside(place, "sudo cat /var/lib/cloud/data/instance-id") == vm["id"]
    done = inside(place, "cloud-init status --wait >/dev/null; cat /run/cloud-init/result.json")
    lab.tell(cloud_init=json.loads(done)["v1"])
    errors = json.loads(done)["v1"]["errors"]
    # nothing of the network's: cloud-init wants en_US, which this small root has not
    assert [error for error in errors if not error.startswith("('locale'")] == []
    assert "NoCloud [seed=/dev/vdb]" in json.loads(done)["v1"]["datasource"]
    if network == ("--dhcp",):
        assert "10.77.0.1" in inside(place, "resolvectl dns eth0")
        assert first["ipv4"] in inside(place, "getent ahostsv4 web.lan")
    hvtx("vm", "stop", "web", "--timeout", "120")
    assert hvtx.is_clean()
