"""What a real guest sees of what it is given: Debian's kernel under QEMU, by emulation."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration import lab
from integration.kernel.test_vm_process import needs_qemu
from integration.lab import real_guest
from integration.lab.program import Forked, preload

pytestmark = [needs_qemu, pytest.mark.usefixtures("guest_files")]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f me@here"


@pytest.fixture
def hvtx(netns: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forked]:
    monkeypatch.setenv("HVTX_QEMU_ACCEL", "tcg")
    preload()
    made = Forked()
    yield made
    for vm in made("vm", "ls", "--json").json()["vms"]:
        if vm["pid"]:
            lab.end(vm["pid"])


# QEMU 10.0.13 under TCG, with two processors: one boot of seven on a busy host ended by this of its own.
ABORTED = "iotlb_to_section: Assertion"


def said(hvtx: Forked, name: str = "web") -> str:
    """All that a guest wrote until it was done, without carriage returns.

    Where QEMU aborted by that fault of its own, the VM is started once more.
    """
    again = True
    for _ in range(2400):
        told = hvtx("vm", "logs", name).out.replace("\r", "")
        if "guest: done" in told:
            return told
        if again and ABORTED in told:
            again = False
            hvtx("vm", "start", name)
        assert hvtx.vm(name)["state"] == "running", told
        time.sleep(0.1)
    raise AssertionError(told)


def values(told: str) -> dict[str, str]:
    """Lines like ``guest: key=value``."""
    return dict(re.findall(r"^guest: (\w+)=(.*)$", told, re.MULTILINE))


LOOKS = """
say() { echo "guest: $1=$2"; }
say mtu "$(cat /sys/class/net/eth0/mtu)"
say queues "$(ls -d /sys/class/net/eth0/queues/rx-* | wc -l)"
say random "$(cat /sys/class/misc/hw_random/rng_available 2>/dev/null)"
disk=$(findfs LABEL=cidata)
say disk "$disk"
mkdir /seed
mount -t iso9660 -o ro "$disk" /seed
for name in user-data meta-data network-config; do
    say "$(echo $name | tr -d -)" "$(base64 <"/seed/$name" | tr -d '\\n')"
done
echo x >"$disk" && say written yes || say written no
ip link set eth0 up
say mac "$(cat /sys/class/net/eth0/address)"
"""


def test_a_guest_sees_its_queues_its_mtu_and_its_seed(hvtx: Forked, tmp_path: Path) -> None:
    """Nothing was said to it by its kernel's command line: the card and the disk are enough."""
    import base64

    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--mtu", "1400")
    place = lab.open_place()
    init = place / "init"
    init.write_bytes(b"#!/bin/sh\n\xff\n")
    key = place / "key"
    key.write_text(f"{KEY}\n")
    initrd = real_guest.initramfs(LOOKS, tmp_path / "initrd.img")
    hvtx("vm", "run", "web", "--network", "net", "--kernel", str(real_guest.GUEST / "vmlinuz"),
         "--initrd", str(initrd), "--append", "quiet", "--cpus", "2", "--queues", "2",
         "--user-data", str(init), "--ssh-key", str(key))  # fmt: skip
    seen = values(said(hvtx))
    vm = hvtx.vm("web")
    assert seen["mtu"] == "1400"
    assert seen["queues"] == "2"
    assert seen["mac"] == vm["interfaces"][0]["mac"]
    assert seen["disk"] == "/dev/vda"
    assert seen["written"] == "no"
    assert base64.b64decode(seen["userdata"]) == b"#!/bin/sh\n\xff\n"
    told = json.loads(base64.b64decode(seen["metadata"]))
    assert told == {"instance-id": vm["id"], "local-hostname": "web", "public-keys": [KEY]}
    cards = json.loads(base64.b64decode(seen["networkconfig"]))["ethernets"]
    assert cards["eth0"]["match"]["macaddress"] == seen["mac"]
    device = vm["interfaces"][0]["device"]
    shown = json.loads(lab.run("ip", "-j", "-d", "link", "show", device))[0]["linkinfo"]
    assert shown["info_data"]["numqueues"] == 2  # the guest's driver took both into use
    hvtx("vm", "stop", "web", "--force")
    assert hvtx.is_clean()


ASKS = """
say() { echo "guest: $1=$2"; }
mkdir -p /etc /var
cat >/bin/four <<'HOOK'
#!/bin/sh
[ "$1" = bound ] || exit 0
ip address add "$ip/$mask" dev eth0
ip route add default via "$router"
[ -z "$mtu" ] || ip link set eth0 mtu "$mtu"
echo "$dns" >/dns4
echo "guest: search=$search"
HOOK
cat >/bin/six <<'HOOK'
#!/bin/sh
[ -n "$new_ip6_address" ] || exit 0
ip -6 address add "$new_ip6_address/$new_ip6_prefixlen" dev eth0
echo "$new_dhcp6_name_servers" >/dns6
HOOK
chmod +x /bin/four /bin/six
ip link set lo up
ip link set eth0 up
until ip -6 address show dev eth0 scope link | grep fe80 | grep -qv tentative; do usleep 100000; done
udhcpc -i eth0 -n -q -t 10 -O mtu -O search -s /bin/four
/usr/sbin/dhclient -6 -1 -lf /leases -pf /pid -sf /bin/six eth0
tries=0
until ip -6 route | grep -q ^default || [ $tries -ge 100 ]; do tries=$((tries + 1)); usleep 100000; done
sleep 2
say mtu "$(cat /sys/class/net/eth0/mtu)"
say mtu6 "$(cat /proc/sys/net/ipv6/conf/eth0/mtu)"
say four "$(ip -4 address show dev eth0 | sed -n 's/^ *inet \\([^ ]*\\).*/\\1/p')"
say six "$(ip -6 address show dev eth0 scope global | sed -n 's/^ *inet6 \\([^/ ]*\\).*/\\1/p')"
say way "$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')"
say way6 "$(ip -6 route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')"
say dns "$(cat /dns4)"
say dns6 "$(cat /dns6)"
for name in web.lan other.lan; do
    nslookup $name "$(cat /dns4)" | grep -A9 ^Name | sed -n 's/^Address[^:]*: *//p' >/found
    say "$(echo $name | tr -d .)" "$(sort </found | tr '\\n' ' ')"
done
nslookup web.lan "$(cat /dns6)" | grep -q "$(cat /dns6)" && say asked6 yes || say asked6 no
ping -c 1 -W 10 "$(ip route | sed -n 's/^default via \\([^ ]*\\).*/\\1/p')" >/dev/null && say ping yes
ping -6 -c 1 -W 10 "$(cat /dns6)" >/dev/null && say ping6 yes
"""


def test_a_guest_that_asks_by_dhcp_gets_all_it_needs(hvtx: Forked, tmp_path: Path) -> None:
    """Address, way out, MTU and names in both families: what is on record, and nothing else."""
    hvtx("network", "create", "net", "--subnet", "10.77.0.0/24", "--subnet", "fd77::/64",
         "--mtu", "1400", "--dhcp")  # fmt: skip
    hvtx("vm", "run", "other", "--network", "net", "--", "sleep", "600")
    initrd = real_guest.initramfs(ASKS, tmp_path / "initrd.img", ["/usr/sbin/dhclient"])
    hvtx("vm", "run", "web", "--network", "net", "--kernel", str(real_guest.GUEST / "vmlinuz"),
         "--initrd", str(initrd), "--append", "quiet")  # fmt: skip
    told = said(hvtx)
    seen = values(told)
    web, other = (hvtx.vm(name)["interfaces"][0] for name in ("web", "other"))
    expected = {
        "mtu": "1400", "mtu6": "1400",
        "four": f"{web['ipv4']}/24", "six": web["ipv6"], "way": "10.77.0.1",
        "dns": "10.77.0.1", "dns6": "fd77::1", "search": "lan",
        "weblan": " ".join(sorted([web["ipv4"], web["ipv6"]])) + " ",
        "otherlan": " ".join(sorted([other["ipv4"], other["ipv6"]])) + " ",
        "asked6": "yes", "ping": "yes", "ping6": "yes",
    }  # fmt: skip
    assert {name: seen.get(name) for name in expected} == expected, told
    assert seen["way6"].startswith("fe80::")
