"""What each hypervisor is started with, whole: the expected values are written out."""

from __future__ import annotations

import importlib
import json
from itertools import pairwise
from typing import Any

import pytest

from hvtx.hypervisors import base, cloud_hypervisor, command, external, firecracker, qemu
from hvtx.hypervisors.base import Nic, Probes
from hvtx.model.passed_fds import PassedDescriptors
from hvtx.model.vm import Vm

WEB = Vm(
    id="v1",
    name="web",
    hypervisor="qemu",
    memory=256,
    cpus=2,
    kernel="/boot/vmlinuz",
    initrd="/boot/initrd",
    append=None,
    disks=(),
    command=(),
    directory="/home/someone",
    autostart=False,
    interfaces=(),
)
FIRST = Nic(
    device="hvaaaaaaaaaa",
    mac="02:00:00:00:00:01",
    ipv4="10.77.0.2",
    ipv6=None,
    prefix4=24,
    gateway4="10.77.0.1",
    gateway6=None,
    netmask="255.255.255.0",
)
SECOND = Nic(
    device="hvbbbbbbbbbb",
    mac="02:00:00:00:00:02",
    ipv4="10.78.0.9",
    ipv6="fd00:78::9",
    prefix4=24,
    gateway4="10.78.0.1",
    gateway6="fd00:78::1",
    netmask="255.255.255.0",
)
SIX = Nic("hvcccccccccc", "02:00:00:00:00:03", None, "fd00::2", None, None, "fd00::1", None)
TCG = Probes("/usr/bin/qemu-system-x86_64", kvm=False, machine="x86_64")
IP = "ip=10.77.0.2::10.77.0.1:255.255.255.0:web::off"
REST = f"console=ttyS0 panic=10 {IP}"


def test_qemu_with_a_kernel_and_two_networks():
    launch = qemu.render(WEB, (FIRST, SECOND), TCG, "/run/hvtx/web")
    assert launch.argv == (
        "/usr/bin/qemu-system-x86_64",
        *("-nodefaults", "-no-user-config"),
        *("-display", "none"),
        *("-name", "web"),
        *("-machine", "q35"),
        *("-accel", "tcg"),
        *("-cpu", "max"),
        *("-smp", "2"),
        *("-m", "256"),
        *("-device", "virtio-rng-pci"),
        *("-kernel", "/boot/vmlinuz"),
        *("-initrd", "/boot/initrd"),
        *("-append", f"console=ttyS0 panic=10 {IP}"),
        *("-netdev", "tap,id=net0,fd=4"),
        *("-device", "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,romfile="),
        *("-netdev", "tap,id=net1,fd=5"),
        *("-device", "virtio-net-pci,netdev=net1,mac=02:00:00:00:00:02,romfile="),
        "-chardev",
        (
            "socket,id=console0,path=console.sock,server=on,wait=off,"
            "logfile=/proc/self/fd/1,logappend=on"
        ),
        *("-serial", "chardev:console0"),
        *("-qmp", "unix:qmp.sock,server=on,wait=off"),
        *("-qmp", "unix:monitor.sock,server=on,wait=off"),
        *("-device", "pvpanic"),
    )
    assert launch[1:] == (
        {},
        "/run/hvtx/web",
        {},
        "qmp",
        "qmp",
        "console.sock",
        ("qmp.sock", "monitor.sock", "console.sock"),
        (PassedDescriptors("tap", "hvaaaaaaaaaa"), PassedDescriptors("tap", "hvbbbbbbbbbb")),
        True,
    )


def after(argv: tuple[str, ...], option: str) -> list[str]:
    """Every value of an option that may be repeated."""
    return [argv[i + 1] for i, word in enumerate(argv) if word == option]


def test_qemu_disks_formats_and_commas():
    vm = WEB._replace(kernel=None, disks=("/d/a.qcow2", "/d/b,c.img", "/d/cloud.img"))
    probes = TCG._replace(kvm=True, formats={"/d/cloud.img": "qcow2"})
    argv = qemu.render(vm, (), probes, "/run/x").argv
    once = "file.auto-read-only=off"
    assert after(argv, "-drive") == [
        f"if=none,id=disk0,format=qcow2,file.driver=file,file.filename=/dev/fdset/0,{once}",
        f"if=none,id=disk1,format=raw,file.driver=file,file.filename=/dev/fdset/1,{once}",
        f"if=none,id=disk2,format=qcow2,file.driver=file,file.filename=/dev/fdset/2,{once}",
    ]
    assert after(argv, "-add-fd") == ["fd=4,set=0", "fd=5,set=1", "fd=6,set=2"]
    assert [path for _, path in qemu.render(vm, (), probes, "/run/x").handed] == list(vm.disks)
    assert after(argv, "-device")[1:4] == [
        "virtio-blk-pci,drive=disk0,bootindex=1",
        "virtio-blk-pci,drive=disk1,bootindex=2",
        "virtio-blk-pci,drive=disk2,bootindex=3",
    ]
    assert (after(argv, "-accel"), after(argv, "-cpu")) == (["kvm"], ["host"])
    assert "-kernel" not in argv and "-append" not in argv


def test_qemu_opens_no_disk_by_its_name():
    vm = WEB._replace(kernel=None, disks=("/d/a.qcow2", "/dev/sdz"))
    probes = TCG._replace(
        read_only=frozenset({"/d/a.qcow2"}),
        blocks=frozenset({"/dev/sdz"}),
        named={"/d/a.qcow2": (("backing.file.filename", "/d/base,1"),)},
    )
    launch = qemu.render(vm, (FIRST,), probes, "/run/x")
    first = ("file.filename=/dev/fdset/0", "read-only=on", "backing.file.filename=/d/base,,1")
    second = ("file.filename=/dev/fdset/1", "file.auto-read-only=off")
    assert after(launch.argv, "-drive") == [
        ",".join(("if=none,id=disk0,format=qcow2,file.driver=file", *first)),
        ",".join(("if=none,id=disk1,format=raw,file.driver=host_device", *second)),
    ]
    assert launch.handed == (
        PassedDescriptors("read-only disk", "/d/a.qcow2"),
        PassedDescriptors("disk", "/dev/sdz"),
        PassedDescriptors("tap", "hvaaaaaaaaaa"),
    )
    assert launch.names()["/dev/fdset/1"] == "/dev/sdz"
    assert launch.names()["/proc/self/fd/6"] == "hvaaaaaaaaaa"


@pytest.mark.parametrize("name", ["qemu", "firecracker", "cloud-hypervisor"])
def test_a_file_that_the_user_cannot_open_is_handed_over(name):
    module = importlib.import_module(base.REGISTRY[name])
    probes = TCG._replace(shut=frozenset({"/boot/vmlinuz", "/boot/initrd"}))
    launch = module.render(WEB, (), probes, "/run/x")
    assert launch.handed == (
        PassedDescriptors("kernel", "/boot/vmlinuz"),
        PassedDescriptors("initrd", "/boot/initrd"),
    )
    told = [*launch.argv, *(content.decode() for content in launch.files.values())]
    assert "/boot/" not in " ".join(told)
    assert any("/proc/self/fd/4" in words for words in told)
    one = module.render(WEB, (), probes._replace(shut=frozenset({"/boot/initrd"})), "/run/x")
    assert one.handed == (PassedDescriptors("initrd", "/boot/initrd"),)


def test_a_program_that_the_user_cannot_reach_is_handed_over():
    launch = base.by_descriptor(qemu.render(WEB, (FIRST,), TCG, "/run/x"))
    assert launch.argv[0] == "/proc/self/fd/5"
    assert launch.handed[-1] == PassedDescriptors("program", "/usr/bin/qemu-system-x86_64")


def test_the_sandbox_is_asked_for_where_qemu_has_one():
    assert after(qemu.render(WEB, (), TCG._replace(sandbox="on"), "/r").argv, "-sandbox") == ["on"]
    assert "-sandbox" not in qemu.render(WEB, (), TCG, "/r").argv


def test_qemu_on_arm():
    probes = Probes("/usr/bin/qemu-system-aarch64", kvm=True, machine="aarch64")
    argv = qemu.render(WEB, (FIRST,), probes, "/run/x").argv
    assert after(argv, "-machine") == ["virt"]
    assert after(argv, "-append") == [f"console=ttyAMA0 panic=10 {IP}"]
    assert after(argv, "-device")[-1] == "pvpanic-pci"
    disk = WEB._replace(kernel=None, disks=("/d/a.raw",))
    with pytest.raises(ValueError, match="firmware"):
        qemu.render(disk, (), probes, "/run/x")
    argv = qemu.render(disk, (), probes._replace(firmware="/fw/EFI.fd"), "/run/x").argv
    assert after(argv, "-bios") == ["/fw/EFI.fd"]


@pytest.mark.parametrize(
    ("append", "expected"),
    [
        (None, f"console=ttyS0 panic=10 {IP}"),
        ("quiet", f"quiet console=ttyS0 panic=10 {IP}"),
        ("console=hvc0 root=/dev/vda1", f"console=hvc0 root=/dev/vda1 panic=10 {IP}"),
        ("ip=dhcp", "ip=dhcp console=ttyS0 panic=10"),
        ("panic=-1 ip=off console=null", "panic=-1 ip=off console=null"),
        ("tip=x", f"tip=x console=ttyS0 panic=10 {IP}"),
        ("{vm} {ip}/{gateway} {odd} {}", f"web 10.77.0.2/10.77.0.1 {{odd}} {{}} {REST}"),
    ],
)
def test_kernel_arguments(append, expected):
    vm = WEB._replace(append=append)
    assert after(qemu.render(vm, (FIRST,), TCG, "/r").argv, "-append") == [expected]


def test_no_ip_argument_without_ipv4_or_network():
    for ports in ((), (SIX,)):
        assert after(qemu.render(WEB, ports, TCG, "/r").argv, "-append") == [
            "console=ttyS0 panic=10"
        ]


def test_command_replaces_and_exports():
    vm = WEB._replace(
        hypervisor="command",
        command=("vmm", "--net={tap},{mac}", "{ip}/{netmask}", "{tap_2}", "{tap_3}", "{x}", "{vm}"),
    )
    launch = command.render(vm, (FIRST, SECOND), Probes("/usr/bin/vmm", False, "x86_64"), "/run/x")
    assert launch.argv == (
        "vmm",
        "--net=hvaaaaaaaaaa,02:00:00:00:00:01",
        "10.77.0.2/255.255.255.0",
        "hvbbbbbbbbbb",
        "{tap_3}",
        "{x}",
        "web",
    )
    assert launch.environment == {
        "HVTX_VM": "web",
        "HVTX_TAP": "hvaaaaaaaaaa",
        "HVTX_MAC": "02:00:00:00:00:01",
        "HVTX_IP": "10.77.0.2",
        "HVTX_GATEWAY": "10.77.0.1",
        "HVTX_NETMASK": "255.255.255.0",
        "HVTX_IP6": "",
        "HVTX_GATEWAY6": "",
        "HVTX_MTU": "1500",
        "HVTX_TAP_2": "hvbbbbbbbbbb",
        "HVTX_MAC_2": "02:00:00:00:00:02",
        "HVTX_IP_2": "10.78.0.9",
        "HVTX_GATEWAY_2": "10.78.0.1",
        "HVTX_NETMASK_2": "255.255.255.0",
        "HVTX_IP6_2": "fd00:78::9",
        "HVTX_GATEWAY6_2": "fd00:78::1",
        "HVTX_MTU_2": "1500",
        "HVTX_QUEUES": "1",
    }
    assert launch.directory == "/home/someone"
    assert (launch.ready, launch.power_down, launch.console) == ("exec", "none", None)
    with pytest.raises(ValueError, match="program"):
        command.render(vm._replace(command=()), (), TCG, "/run/x")


def test_a_value_is_not_replaced_again():
    vm = WEB._replace(name="{tap}", command=("x", "{vm}"))
    assert command.render(vm, (FIRST,), TCG, "/r").argv == ("x", "{tap}")


def test_firecracker():
    vm = WEB._replace(hypervisor="firecracker", initrd=None, disks=("/d/root.ext4", "/d/data.img"))
    probes = Probes("/opt/firecracker", kvm=True, machine="x86_64")
    launch = firecracker.render(vm, (FIRST, SECOND), probes, "/run/x")
    assert launch.argv == (
        "/opt/firecracker",
        *("--id", "web"),
        *("--api-sock", "api.sock"),
        *("--config-file", "firecracker.json"),
    )
    expected: dict[str, Any] = {
        "boot-source": {
            "kernel_image_path": "/boot/vmlinuz",
            "boot_args": f"console=ttyS0 reboot=k panic=1 pci=off {IP}",
        },
        "drives": [
            {
                "drive_id": "disk0",
                "path_on_host": "/d/root.ext4",
                "is_root_device": True,
                "is_read_only": False,
            },
            {
                "drive_id": "disk1",
                "path_on_host": "/d/data.img",
                "is_root_device": False,
                "is_read_only": False,
            },
        ],
        "network-interfaces": [
            {
                "iface_id": "eth0",
                "host_dev_name": "hvaaaaaaaaaa",
                "guest_mac": "02:00:00:00:00:01",
            },
            {
                "iface_id": "eth1",
                "host_dev_name": "hvbbbbbbbbbb",
                "guest_mac": "02:00:00:00:00:02",
            },
        ],
        "machine-config": {"vcpu_count": 2, "mem_size_mib": 256},
        "logger": {"level": "Warning", "show_level": True, "show_log_origin": False},
    }
    assert list(launch.files) == ["firecracker.json"]
    assert json.loads(launch.files["firecracker.json"]) == expected
    assert (launch.ready, launch.power_down, launch.console, launch.sockets) == (
        "firecracker api",
        "ctrl-alt-del api",
        None,
        ("api.sock",),
    )


def test_firecracker_with_an_initrd_has_no_root_device():
    vm = WEB._replace(disks=("/d/root.ext4",))
    made = firecracker.configuration(vm, (), TCG, base.Handing())
    assert made["boot-source"]["initrd_path"] == "/boot/initrd"
    assert made["drives"][0]["is_root_device"] is False


def test_firecracker_refuses_what_it_cannot_do():
    with pytest.raises(ValueError, match="--kernel"):
        firecracker.render(WEB._replace(kernel=None), (), TCG, "/r")
    with pytest.raises(ValueError, match=r"raw disks only.*a\.qcow2"):
        firecracker.render(WEB._replace(disks=("/d/a.qcow2",)), (), TCG, "/r")


def test_cloud_hypervisor():
    vm = WEB._replace(hypervisor="cloud-hypervisor", disks=("/d/a.raw", "/d/b.qcow2"))
    probes = Probes("/opt/cloud-hypervisor", kvm=True, machine="x86_64")
    launch = cloud_hypervisor.render(vm, (FIRST, SECOND), probes, "/run/x")
    assert launch.argv == (
        "/opt/cloud-hypervisor",
        *("--api-socket", "path=api.sock"),
        *("--cpus", "boot=2"),
        *("--memory", "size=256M"),
        *("--kernel", "/boot/vmlinuz"),
        *("--initramfs", "/boot/initrd"),
        *("--cmdline", f"console=ttyS0 panic=1 {IP}"),
        "--disk",
        "path=/d/a.raw,image_type=raw",
        "path=/d/b.qcow2,image_type=qcow2,backing_files=on",
        "--net",
        "tap=hvaaaaaaaaaa,mac=02:00:00:00:00:01",
        "tap=hvbbbbbbbbbb,mac=02:00:00:00:00:02",
        *("--serial", "tty", "--console", "off"),
    )
    assert launch.ready == "cloud-hypervisor api"
    assert (launch.power_down, launch.console) == ("power-button api", None)
    with pytest.raises(ValueError, match="--kernel"):
        cloud_hypervisor.render(vm._replace(kernel=None), (), probes, "/r")
    with pytest.raises(ValueError, match="comma"):
        cloud_hypervisor.render(vm._replace(disks=("/d/a,b.raw",)), (), probes, "/r")


@pytest.mark.parametrize(
    ("hypervisor", "kernel", "disks", "formats", "words"),
    [
        ("firecracker", None, (), {}, "needs --kernel"),
        ("cloud-hypervisor", None, ("/d/a.raw",), {}, "needs --kernel"),
        ("cloud-hypervisor", "/k", ("/d/a.raw", "/d,/b.raw"), {}, "comma in its path: /d,/b.raw"),
        ("firecracker", "/k", ("/d/a.img", "/d/b.qcow2"), {}, "raw disks only, and /d/b.qcow2"),
        ("firecracker", "/k", ("/d/a.img",), {"/d/a.img": "qcow2"}, "raw disks only"),
    ],
)
def test_what_a_hypervisor_can_never_start(hypervisor, kernel, disks, formats, words):
    why = base.unfit(hypervisor, kernel, disks, formats)
    assert words in why[0]
    assert f"--hypervisor {hypervisor}" in why[0]
    assert "--hypervisor qemu" in why[1]
    assert base.unfit("qemu", kernel, disks, formats) is None
    assert base.unfit(hypervisor, "/k", ("/d/a.raw",)) is None


def test_external_launches_nothing():
    assert external.render(WEB, (FIRST,), TCG, "/r").argv == ()


def test_the_registry_and_the_traits_agree_with_what_is_rendered():
    assert set(base.REGISTRY) == set(base.TRAITS)
    vm = WEB._replace(command=("x",))
    for name, module in base.REGISTRY.items():
        launch = importlib.import_module(module).render(vm, (FIRST,), TCG, "/r")
        traits = base.TRAITS[name]
        assert (launch.ready, launch.power_down, launch.console) == traits[:3], name


def test_binary_names():
    assert base.binary_names("qemu", "aarch64")[0] == "qemu-system-aarch64"
    assert base.binary_names("firecracker") == ("firecracker",)
    assert base.binary_names("command") == base.binary_names("external") == ()


# -- what a guest is given beside its disks ----------------------------------------------------------

SEEDED = WEB._replace(disks=("/d/a.raw",), ssh_keys=("ssh-ed25519 AAAA",))
PCI = "virtio-net-pci,netdev=net0,mac=02:00:00:00:00:01,romfile="


def pairs(argv: tuple[str, ...], option: str) -> list[str]:
    return [value for word, value in pairwise(argv) if word == option]


def test_qemu_gets_the_seed_as_the_last_disk():
    """Read-only, behind the network cards: they stay at the addresses that they have without."""
    launch = qemu.render(SEEDED, (FIRST,), TCG, "/run/v")
    plain = qemu.render(SEEDED._replace(ssh_keys=()), (FIRST,), TCG, "/run/v")
    assert pairs(launch.argv, "-drive")[1:] == [
        "if=none,id=seed,format=raw,file.driver=file,file.filename=/dev/fdset/1,read-only=on"
    ]
    assert pairs(launch.argv, "-add-fd") == ["fd=4,set=0", "fd=6,set=1"]
    assert launch.handed[-1] == PassedDescriptors("read-only disk", "/run/v/seed.iso")
    devices, before = (
        [d for d in pairs(one.argv, "-device") if "pvpanic" not in d] for one in (launch, plain)
    )
    assert devices == [*before, "virtio-blk-pci,drive=seed"]
    assert not [word for word in plain.argv if "seed" in word]


def test_qemu_with_several_queues():
    launch = qemu.render(WEB._replace(queues=3), (FIRST,), TCG, "/run/v")
    assert "tap,id=net0,fds=4:5:6" in launch.argv
    assert f"{PCI},mq=on,vectors=8" in launch.argv
    assert launch.handed == (PassedDescriptors("tap queue", "hvaaaaaaaaaa"),) * 3


def test_qemu_with_vhost():
    """As many of its descriptors as there are queues, whoever may open the device."""
    probes = TCG._replace(kvm=True, vhost="/dev/vhost-net")
    launch = qemu.render(WEB, (FIRST, SECOND), probes, "/run/v")
    assert pairs(launch.argv, "-netdev") == [
        "tap,id=net0,fd=4,vhost=on,vhostfd=5",
        "tap,id=net1,fd=6,vhost=on,vhostfd=7",
    ]
    assert launch.handed[1] == PassedDescriptors("vhost", "/dev/vhost-net")
    launch = qemu.render(WEB._replace(queues=2), (FIRST,), probes, "/run/v")
    assert pairs(launch.argv, "-netdev") == ["tap,id=net0,fds=4:5,vhost=on,vhostfds=6:7"]


@pytest.mark.parametrize(
    ("mtu", "more"), [(1500, ""), (9000, ",host_mtu=9000"), (1280, ",host_mtu=1280")]
)
def test_qemu_tells_an_unusual_mtu(mtu, more):
    launch = qemu.render(WEB, (FIRST._replace(mtu=mtu),), TCG, "/run/v")
    assert f"{PCI}{more}" in launch.argv


def test_a_command_is_told_all_of_it():
    vm = SEEDED._replace(command=("run", "{mtu}/{mtu_2}/{queues}"), queues=4)
    launch = command.render(vm, (FIRST._replace(mtu=9000), SECOND), TCG, "/run/v")
    assert launch.argv == ("run", "9000/1500/4")
    told = launch.environment
    assert (told["HVTX_MTU"], told["HVTX_MTU_2"], told["HVTX_QUEUES"]) == ("9000", "1500", "4")
    assert told["HVTX_SEED"] == "/run/v/seed.iso"


def test_firecracker_gets_the_seed_behind_its_disks():
    made = firecracker.configuration(SEEDED, (FIRST,), TCG, base.Handing())
    assert made["drives"][1] == {
        "drive_id": "seed",
        "path_on_host": "seed.iso",
        "is_root_device": False,
        "is_read_only": True,
    }


def test_cloud_hypervisor_gets_the_seed_and_its_queues():
    """It counts the queues of both directions; the MTU it asks of the TAP itself."""
    vm = SEEDED._replace(cpus=4, queues=4)
    argv = cloud_hypervisor.render(vm, (FIRST._replace(mtu=9000),), TCG, "/run/x").argv
    assert "path=seed.iso,image_type=raw,readonly=on" in argv
    assert argv[argv.index("--disk") + 2] == "path=seed.iso,image_type=raw,readonly=on"
    assert "tap=hvaaaaaaaaaa,mac=02:00:00:00:00:01,num_queues=8" in argv
