"""What keeps managers of networks from devices, in commands."""

from __future__ import annotations

from hvtx.planner import network_managers

THERE = network_managers.kept_files()


def test_networkd_is_told_of_our_names() -> None:
    taken = [("hvbra", "/etc/systemd/network/50-all.network"), ("hvtap", "/x/50-all.network")]
    assert network_managers.networkd_fix(taken, ["hvbra"], ()).split("; ") == [
        "mkdir -p /etc/systemd/network",
        (
            "printf '[Match]\\nName=hv*\\n\\n[Link]\\nUnmanaged=yes\\n'"
            " >/etc/systemd/network/05-hvtx.network"
        ),
        "networkctl reload",
        "hvtx repair",
    ]
    assert (
        network_managers.networkd_fix(taken, ["hvbra"], THERE) == "networkctl reload; hvtx repair"
    )


def test_a_bridge_of_another_name_is_named() -> None:
    taken = [("br-web", "/run/systemd/network/10-netplan.network")]
    fix = network_managers.networkd_fix(taken, ["hvbra", "br-web", "br-old"], THERE)
    assert "Name=br-old br-web\\n" in fix
    assert ">/etc/systemd/network/05-hvtx-bridges.network" in fix
    assert "05-hvtx.network" not in fix
    assert "interface-name:br-old;interface-name:br-web\\n" in network_managers.network_manager_fix(
        ["br-web"], ["br-web", "br-old", "hvbra"], THERE
    )


def test_the_file_sorts_before_the_one_that_matches() -> None:
    for first, wanted in (
        ("50-all", "05-hvtx"), ("05-i", "05-hvtx"), ("05-a", "00-hvtx"), ("00-a", "0-00-hvtx"),
    ):  # fmt: skip
        fix = network_managers.networkd_fix([("hvx", f"/etc/{first}.network")], (), THERE)
        written = f">/etc/systemd/network/{wanted}.network"
        assert (written in fix) == (wanted != "05-hvtx"), first
        assert wanted == "05-hvtx" or f"{wanted}.network" < f"{first}.network"


def test_networkmanager_is_told_and_reads_it() -> None:
    fix = network_managers.network_manager_fix(["hvbra"], ["hvbra"], ())
    assert fix.split("; ")[1:] == [
        (
            "printf '[keyfile]\\nunmanaged-devices+=interface-name:hv*\\n'"
            " >/etc/NetworkManager/conf.d/hvtx.conf"
        ),
        "systemctl reload NetworkManager",
    ]
    assert (
        network_managers.network_manager_fix(["hvx"], [], THERE)
        == "systemctl reload NetworkManager"
    )
