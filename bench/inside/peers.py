"""Others that make the network of one VM, each in a namespace of its own, called as they are used.

All do the same work as far as they can: a device on a bridge with an address, masquerade, one
published port. None of them but hvtx keeps a durable record. How each differs is in ``lacks``.
Methods answer requests of harness.py; seconds by the clock, whole processes.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from . import namespaces
from .namespaces import run

_TABLE = """
table ip peers {
 map ports { type inet_service : ipv4_addr . inet_service; }
 set guests { type ipv4_addr; }
 set sources { type ifname . ipv4_addr; }
 chain prerouting { type nat hook prerouting priority dstnat; dnat to tcp dport map @ports; }
 chain postrouting { type nat hook postrouting priority srcnat;
  ip saddr @guests oifname uplink masquerade; }
}
"""
_A_BRIDGE = 1000


def address(number: int) -> str:
    """Of a VM: of 10.96.0.0/11."""
    return f"10.{96 + (number >> 14)}.{(number >> 7) & 127}.{(number & 127) + 2}"


def port(number: int) -> int:
    """The host's, which leads to the guest's port 80."""
    return 10000 + number


def _processor() -> float:
    """Seconds of processor of the children that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Peer:
    """One of them. ``given``: ``directory``, and what the peer itself needs."""

    lacks = ""

    def __init__(self, given: dict[str, Any]) -> None:
        self.directory = Path(given["directory"])
        self.directory.mkdir(parents=True)
        self.given = given
        self.vms = 0
        namespaces.own_mounts()
        run("ip", "link", "set", "lo", "up")
        self.outside = namespaces.uplink()  # kept: the device goes with the namespace
        with open("/proc/sys/net/ipv4/ip_forward", "w") as file:
            file.write("1")
        self.prepare()

    def prepare(self) -> None:
        """What is there before the first VM."""

    def before(self, number: int) -> None:
        """What is not counted as a part of a start."""

    def after(self, number: int) -> None:
        """What is not counted as a part of a stop."""

    def start(self, number: int) -> None:
        """Make the network of a VM."""
        raise NotImplementedError

    def stop(self, number: int) -> None:
        """Remove it."""
        raise NotImplementedError

    def grow(self, number: int) -> dict[str, Any]:
        """So many VMs more, as the peer makes many; the seconds it took."""
        begun = time.perf_counter()
        self.fill(range(self.vms, self.vms + number))
        self.vms += number
        return {"seconds": [time.perf_counter() - begun]}

    def fill(self, numbers: range) -> None:
        """Make many, one after another where a peer knows nothing better."""
        for number in numbers:
            self.before(number)
            self.start(number)

    def one_vm(self) -> dict[str, Any]:
        """One VM more, and its end."""
        number = self.vms
        self.before(number)
        found: dict[str, Any] = {}
        for name, verb in (("start", self.start), ("stop", self.stop)):
            begun, used = time.perf_counter(), _processor()
            verb(number)
            found[name] = time.perf_counter() - begun
            found[f"{name}, processor"] = _processor() - used
        self.after(number)
        return found

    def close(self) -> None:
        """It goes with its namespaces."""


class Script(Peer):
    """A shell script that calls `ip` and `nft` for each step."""

    lacks = "no record, no liveness, no undo"

    def prepare(self) -> None:
        run("nft", "-f", "-", text=_TABLE)
        for bridge in range(6):
            run("ip", "link", "add", f"br{bridge}", "type", "bridge")
            run("ip", "link", "set", f"br{bridge}", "up")

    def start(self, number: int) -> None:
        self.shell(
            f"ip tuntap add dev tap{number} mode tap",
            f"ip link set tap{number} alias vm{number}",
            f"ip link set tap{number} master br{number // _A_BRIDGE}",
            f"ip link set tap{number} up",
            *(f"nft {line}" for line in self.elements("add", [number])),
        )

    def stop(self, number: int) -> None:
        nft = [f"nft {line}" for line in self.elements("delete", [number])]
        self.shell(*nft, f"ip link del tap{number}")

    def fill(self, numbers: range) -> None:
        run("ip", "-batch", "-", text="".join(self.devices(n) for n in numbers))
        run("nft", "-f", "-", text="\n".join(self.elements("add", numbers)) + "\n")

    @staticmethod
    def shell(*lines: str) -> None:
        """One bash with these lines; sets stand in braces, which are no words of bash."""
        quoted = (line.replace("{", "'{").replace("}", "}'") for line in lines)
        run("bash", "-c", "\n".join(("set -e", *quoted)))

    @staticmethod
    def devices(number: int) -> str:
        """Lines of `ip -batch` that make a device."""
        return (
            f"tuntap add dev tap{number} mode tap\n"
            f"link set tap{number} alias vm{number} master br{number // _A_BRIDGE} up\n"
        )

    @staticmethod
    def elements(verb: str, numbers: range | list[int]) -> list[str]:
        """Commands of nft."""
        kinds = {
            "ports": lambda n: f"{port(n)} : {address(n)} . 80",
            "guests": address,
            "sources": lambda n: f'"tap{n}" . {address(n)}',
        }
        return [
            f"{verb} element ip peers {name} {{ {', '.join(text(n) for n in numbers)} }}"
            for name, text in kinds.items()
        ]


class Batch(Script):
    """`ip -batch` and `nft -f`, one process each."""

    def start(self, number: int) -> None:
        self.fed("ip -batch -", self.devices(number), "nft -f -", self.elements("add", [number]))

    def stop(self, number: int) -> None:
        lines = self.elements("delete", [number])
        script = f"nft -f - <<'E'\n{chr(10).join(lines)}\nE\nip link del tap{number}\n"
        run("bash", "-c", f"set -e\n{script}")

    @staticmethod
    def fed(first: str, devices: str, second: str, elements: list[str]) -> None:
        """One bash with two programs that read what they do."""
        joined = "\n".join(elements)
        run("bash", "-c", f"set -e\n{first} <<'E'\n{devices}E\n{second} <<'E'\n{joined}\nE\n")

    def remove_all(self) -> dict[str, Any]:
        """All VMs, by one of each program; seconds."""
        numbers = range(self.vms)
        begun = time.perf_counter()
        run("nft", "-f", "-", text="\n".join(self.elements("delete", numbers)) + "\n")
        run("ip", "-batch", "-", text="".join(f"link del tap{n}\n" for n in numbers))
        self.vms = 0
        return {"seconds": time.perf_counter() - begun}


class _Containers(Peer):
    """Those that put a veth into a namespace, which is made beforehand and not counted."""

    def before(self, number: int) -> None:
        run("ip", "netns", "add", f"n{number}")

    def after(self, number: int) -> None:
        run("ip", "netns", "del", f"n{number}")


class Cni(_Containers):
    """The plugins bridge (with host-local) and portmap, called as a runtime does."""

    lacks = "a veth, not a TAP; no liveness"

    def start(self, number: int) -> None:
        self.results = self._call("ADD", number, None)

    def stop(self, number: int) -> None:
        self._call("DEL", number, self.results)

    def _call(self, command: str, number: int, result: Any) -> Any:
        plugins = self._plugins(number)
        for plugin in plugins if command == "ADD" else plugins[::-1]:
            asked = {**plugin, "cniVersion": "0.4.0", "name": "bench"}
            if result:
                asked["prevResult"] = result
            environment = {
                **os.environ,
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": f"vm{number}",
                "CNI_NETNS": f"/run/netns/n{number}",
                "CNI_IFNAME": "eth0",
                "CNI_PATH": self.given["cni"],
            }
            program = f"{self.given['cni']}/{plugin['type']}"
            done = subprocess.run(
                [program], input=json.dumps(asked), env=environment, capture_output=True,
                text=True, check=False,
            )  # fmt: skip
            if done.returncode != 0:
                raise RuntimeError(f"{command} {program}: {done.stdout} {done.stderr}")
            if command == "ADD":
                result = json.loads(done.stdout)
        return result

    def _plugins(self, number: int) -> list[dict[str, Any]]:
        leases = str(self.directory / "leases")
        ranges = [[{"subnet": "10.96.0.0/11"}]]
        mapped = {"hostPort": port(number), "containerPort": 80, "protocol": "tcp"}
        return [
            {
                "type": "bridge", "bridge": f"br{number // _A_BRIDGE}", "isGateway": True,
                "ipMasq": True,
                "ipam": {"type": "host-local", "dataDir": leases, "ranges": ranges},
            },
            {
                "type": "portmap", "capabilities": {"portMappings": True},
                "runtimeConfig": {"portMappings": [mapped]},
            },
        ]  # fmt: skip


class Netavark(_Containers):
    """What podman calls."""

    lacks = "a veth, not a TAP; no liveness"

    def start(self, number: int) -> None:
        self._call("setup", number)

    def stop(self, number: int) -> None:
        self._call("teardown", number)

    def _call(self, command: str, number: int) -> None:
        network = {
            "name": "bench", "id": "ab" * 32, "driver": "bridge", "network_interface": "peer0",
            "subnets": [{"subnet": "10.96.0.0/11", "gateway": "10.127.0.1"}],
            "ipv6_enabled": False, "internal": False, "dns_enabled": False,
            "ipam_options": {"driver": "host-local"},
        }  # fmt: skip
        mapped = {
            "host_ip": "", "container_port": 80, "host_port": port(number), "range": 1,
            "protocol": "tcp",
        }  # fmt: skip
        asked = {
            "container_id": f"{number:064x}",
            "container_name": f"vm{number}",
            "networks": {"bench": {"static_ips": [address(number)], "interface_name": "eth0"}},
            "port_mappings": [mapped],
            "network_info": {"bench": network},
        }
        where = f"/run/netns/n{number}"
        run(
            self.given["netavark"], "--config", str(self.directory), command, where,
            text=json.dumps(asked),
        )  # fmt: skip


class Smolvm(Peer):
    """The functions of smolvm that make and remove a VM's network, a process for each."""

    lacks = "no durable record, no liveness"

    def prepare(self) -> None:
        os.environ.update(USER="root", HOME=str(self.directory))

    def start(self, number: int) -> None:
        self._call("start", range(number, number + 1))

    def stop(self, number: int) -> None:
        self._call("stop", range(number, number + 1))

    def fill(self, numbers: range) -> None:
        self._call("start", numbers)

    def _call(self, verb: str, numbers: range) -> None:
        which = [str(numbers.start), str(numbers.stop)]
        run(self.given["python"], self.given["program"], verb, *which)


class Libvirt(Peer):
    """libvirtd with a NAT network: `virsh attach-device` of an interface to a paused domain.

    There is no stop: a paused guest does not answer a detachment, and of one that runs the guest's
    own time would be a part.
    """

    lacks = "no published port, no anti-spoofing; its daemon runs already"

    def prepare(self) -> None:
        self.daemon = self._begin()
        run("virsh", "-q", "net-create", self._file("network.xml", _NETWORK))
        run("virsh", "-q", "create", "--paused", self._file("domain.xml", _DOMAIN))

    def _begin(self) -> subprocess.Popen[bytes]:
        """The daemon, with directories that nobody else sees."""
        for place in ("/run", "/var/lib/libvirt", "/var/log/libvirt", "/var/cache/libvirt"):
            os.makedirs(place, exist_ok=True)
            run("mount", "-t", "tmpfs", "tmpfs", place)
        for name, line in _USERS.items():
            copy = self.directory / name
            copy.write_text(Path("/etc", name).read_text() + line)
            run("mount", "--bind", str(copy), f"/etc/{name}")
        os.makedirs("/run/lock", exist_ok=True)
        os.makedirs("/run/libvirt", exist_ok=True)
        settings = self.directory / "etc"
        shutil.copytree("/etc/libvirt", settings, dirs_exist_ok=True)
        (settings / "qemu.conf").write_text(_SETTINGS)
        run("mount", "--bind", str(settings), "/etc/libvirt")
        with open(self.directory / "log", "wb") as log:
            daemon = subprocess.Popen(["libvirtd"], stdout=log, stderr=log)
        for _ in range(100):
            tried = subprocess.run(["virsh", "-q", "list"], capture_output=True, check=False)
            if tried.returncode == 0:
                return daemon
            time.sleep(0.1)
        daemon.terminate()
        told = (self.directory / "log").read_text()[-500:]
        raise RuntimeError(f"libvirtd does not answer: {tried.stderr.decode()} {told}")

    def _file(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    def one_vm(self) -> dict[str, Any]:
        mac = f"52:54:00:00:00:{self.vms:02x}"
        self.vms += 1  # it stays
        file = self._file("interface.xml", _INTERFACE.format(mac=mac))
        begun = time.perf_counter()
        run("virsh", "-q", "attach-device", "bench", file, "--live")
        return {"start": time.perf_counter() - begun}

    def close(self) -> None:
        subprocess.run(["virsh", "-q", "destroy", "bench"], capture_output=True, check=False)
        self.daemon.terminate()
        self.daemon.wait(20)


# Debian's libvirt looks for them even where its settings name others.
_USERS = {
    "passwd": "libvirt-qemu:x:64055:64055::/:/bin/false\n",
    "group": "libvirt-qemu:x:64055:\n",
}
_SETTINGS = """user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
remember_owner = 0
namespaces = []
stdio_handler = "file"
"""
_NETWORK = """<network><name>bench</name><forward mode='nat'/>
<bridge name='peer0' stp='off' delay='0'/>
<ip address='10.96.0.1' netmask='255.224.0.0'/></network>
"""
_DOMAIN = """<domain type='qemu'><name>bench</name><memory unit='MiB'>16</memory><vcpu>1</vcpu>
<os><type arch='x86_64' machine='q35'>hvm</type></os>
<devices><emulator>/usr/bin/qemu-system-x86_64</emulator>
<controller type='pci' model='pcie-root'/>
PORTS</devices></domain>
""".replace("PORTS", "<controller type='pci' model='pcie-root-port'/>\n" * 28)
_INTERFACE = """<interface type='network'><source network='bench'/><mac address='{mac}'/>
<model type='virtio'/></interface>
"""
