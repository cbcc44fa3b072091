"""Known software, by the names of its devices, chains and tables; for messages only. Pure."""

from __future__ import annotations

import re

# What the names of devices, chains and tables of well-known programs look like; only a likeness.
_LIKENESS = tuple(
    (re.compile(pattern), whose)
    for pattern, whose in (
        (r"(virbr\d+|vnet\d+|LIBVIRT_|libvirt)", "libvirt's"),
        (r"(docker|br-[0-9a-f]{12}$|veth[0-9a-f]{7}$|DOCKER)", "Docker's"),
        (r"(podman\d+|cni-podman\d+|netavark|NETAVARK)", "Podman's"),
        (r"(lxcbr\d+|lxdbr\d+|incusbr\d+|lxd|incus)", "LXC's, LXD's or Incus'"),
        (r"(cni\d+|CNI-|flannel|FLANNEL|cali|cilium|CILIUM|kube-|KUBE-)", "a Kubernetes plugin's"),
        (r"(firewalld|.*_ZONES(_SOURCE)?$|(IN|FWD|FWDI|FWDO|PRE|POST)_)", "firewalld's"),
        (r"(ufw6?-)", "ufw's"),
        (r"(f2b-|fail2ban)", "fail2ban's"),
        (r"(ts-|tailscale)", "Tailscale's"),
        (r"(vmbr\d+|tap\d+i\d+$|fwbr\d+)", "Proxmox's"),
        (r"(brq|qbr|neutron-|tap[0-9a-f]{8}-[0-9a-f]{2}$)", "OpenStack's"),
        (r"(tun\d+$)", "a VPN's"),
        (r"(fc(tap|-)|tap|vmtap)", "a VM tool's or an administrator's"),
        (r"wg\d+", "WireGuard's"),
    )
)


def looks_like(name: str) -> str | None:
    """Whose things have names like this one."""
    return next((whose for pattern, whose in _LIKENESS if pattern.match(name)), None)
