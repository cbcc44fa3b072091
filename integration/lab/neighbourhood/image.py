"""The root file system of a host with all neighbours installed and none of them enabled.

It is a directory in ``.cache/boot``: made once (some minutes, 1.5 GB), then the lower layer of every
host that a row boots. As a program it makes what is missing::

    sudo python -m integration.lab.neighbourhood.image
"""

from __future__ import annotations

import shlex
import sys

from integration.lab.boot import image as boot
from integration.lab.boot.bootstrap import KeptRoot
from integration.lab.entered import PATH

SUITE = "bookworm"
PACKAGES = (
    *boot.PACKAGES, "procps", "iputils-ping", "busybox-static", "ethtool", "util-linux",
    "docker.io", "firewalld", "ufw", "libvirt-daemon-system", "libvirt-clients",
    "libvirt-daemon-config-network", "dnsmasq", "qemu-system-x86", "podman", "netavark", "crun",
    "lxd", "lxd-client", "network-manager", "fail2ban", "keepalived", "conntrackd", "conntrack",
    "prometheus-node-exporter", "tcpdump",
)  # fmt: skip
# ufw's package refuses to stand beside these; their files do not mind.
UNPACKED = ("netfilter-persistent", "iptables-persistent")
# What a package enables when it is installed; each row starts its own neighbour.
QUIET = (
    "docker.service", "docker.socket", "containerd.service", "firewalld.service", "ufw.service",
    "libvirtd.service", "libvirtd.socket", "libvirtd-ro.socket", "libvirtd-admin.socket",
    "virtlogd.socket", "virtlockd.socket", "libvirt-guests.service", "dnsmasq.service",
    "podman.service", "podman.socket", "podman-auto-update.timer", "podman-restart.service",
    "lxd.service", "lxd.socket", "lxd-containers.service", "lxcfs.service", "lxc.service",
    "lxc-net.service", "NetworkManager.service", "NetworkManager-wait-online.service",
    "NetworkManager-dispatcher.service", "ModemManager.service", "wpa_supplicant.service",
    "fail2ban.service", "keepalived.service", "conntrackd.service", "ipp-usb.service",
    "prometheus-node-exporter.service", "nftables.service", "netfilter-persistent.service",
    "systemd-networkd.service", "apparmor.service", "qemu-kvm.service", "udisks2.service",
    "prometheus-node-exporter-apt.timer", "prometheus-node-exporter-ipmitool-sensor.timer",
    "prometheus-node-exporter-mellanox-hca-temp.timer", "prometheus-node-exporter-nvme.timer",
    "prometheus-node-exporter-smartmon.timer", "logrotate.timer", "man-db.timer",
    "virtlogd-admin.socket", "virtlockd-admin.socket", "cron.service", "ssh.service",
)  # fmt: skip
# What would reach beyond the host's namespaces, or only costs time.
MASKED = (
    "systemd-udev-trigger.service", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
    "sys-kernel-config.mount", "sys-fs-fuse-connections.mount", "systemd-binfmt.service",
    "proc-sys-fs-binfmt_misc.automount", "systemd-modules-load.service", "modprobe@.service",
    "lxcfs.service", "apparmor.service",
)  # fmt: skip


def _hooks() -> list[str]:
    """What mmdebstrap's shell does in the root ``$1`` once the packages are in (pure)."""
    aside = " ".join(UNPACKED)
    masks = " ".join(f"/etc/systemd/system/{unit}" for unit in MASKED)
    out = "dpkg-deb --fsys-tarfile $p | tar -x --keep-directory-symlink -C /"
    unpack = f"cd /tmp && apt-get download {aside} && for p in *.deb; do {out}; done"
    disable = 'systemctl --root="$1" disable --quiet $unit 2>/dev/null || true'
    return [
        f'chroot "$1" env PATH={PATH} sh -c {shlex.quote(f"{unpack}; rm -f *.deb")}',
        f"for unit in {' '.join(QUIET)}; do {disable}; done",
        *boot.hooks(boot.dependencies()),
        'rm -f "$1"/etc/systemd/system/systemd-networkd.service',
        f'for unit in {masks}; do ln -sf /dev/null "$1$unit"; done',
        'rm -f "$1"/etc/libvirt/qemu/networks/autostart/* "$1"/etc/resolv.conf',
        'echo neighbours >"$1"/etc/hostname',
    ]


ROOT = KeptRoot(
    boot.CACHE, "neighbourhood", SUITE, PACKAGES, _hooks(), (*UNPACKED, *boot.dependencies())
)


if __name__ == "__main__":
    sys.exit(ROOT.main("root file system with neighbours"))
