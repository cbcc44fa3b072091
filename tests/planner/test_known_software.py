"""Whose names are like this one: a likeness, by which nothing is decided."""

from __future__ import annotations

import pytest

from hvtx.planner.known_software import looks_like


@pytest.mark.parametrize(
    ("name", "whose"),
    [
        ("virbr0", "libvirt's"),
        ("LIBVIRT_FWO", "libvirt's"),
        ("docker0", "Docker's"),
        ("br-0123456789ab", "Docker's"),
        ("DOCKER-USER", "Docker's"),
        ("podman1", "Podman's"),
        ("cni-podman0", "Podman's"),
        ("cni0", "a Kubernetes plugin's"),
        ("KUBE-FORWARD", "a Kubernetes plugin's"),
        ("FWD_public", "firewalld's"),
        ("ufw6-user-forward", "ufw's"),
        ("f2b-sshd", "fail2ban's"),
        ("tailscale0", "Tailscale's"),
        ("tap100i0", "Proxmox's"),
        ("tap01234567-89", "OpenStack's"),
        ("tun0", "a VPN's"),
        ("tap0", "a VM tool's or an administrator's"),
        ("wg0", "WireGuard's"),
    ],
)
def test_likeness_knows_names_of_well_known_programs(name: str, whose: str) -> None:
    assert looks_like(name) == whose


@pytest.mark.parametrize("name", ["eth0", "br0", "br-lan", "hvbr0", "", "my-docker0", "xvirbr0"])
def test_likeness_of_any_other_name_is_none(name: str) -> None:
    assert looks_like(name) is None
