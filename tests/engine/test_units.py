"""The systemd units as text: what they promise, and that no path can break out of its directive."""

import configparser
import re
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.engine import unit_files
from hvtx.engine.checks.own import check_units
from hvtx.engine.packaged_units import drop_in, packaged, packaged_links
from hvtx.engine.runtime import Runtime, Settings
from hvtx.engine.unit_files import cut_off
from hvtx.engine.units import (
    ASKING,
    DIRECTORY,
    ENABLED,
    FIREWALLS,
    FOLLOWERS,
    MARKER,
    PACKAGED,
    Place,
    command_line,
    is_ours,
    is_packaged,
    listing,
    shields,
    units,
)
from hvtx.model.block import Cluster

PLACE = Place(("/usr/bin/hvtx",), "/var/lib/hvtx", "/run/hvtx", {})


def texts(place: Place = PLACE) -> dict[str, str]:
    return {unit.name: unit.text for unit in units(place)}


def lines(name: str, place: Place = PLACE) -> list[str]:
    return texts(place)[name].splitlines()


def value(name: str, key: str, place: Place = PLACE) -> str:
    found = [line.partition("=")[2] for line in lines(name, place) if line.startswith(f"{key}=")]
    assert found, f"{name} has no {key}="
    return " ".join(found)


def split(text: str) -> list[str]:
    """Words as systemd.syntax(7) reads them, specifiers resolved; a reader of its own."""
    words, word, quote, at, open_ = [], "", "", 0, False
    while at < len(text):
        c = text[at]
        if c == "\\":
            at += 1
            word, open_ = word + text[at], True
        elif quote:
            quote, word = ("", word) if c == quote else (quote, word + c)
        elif c in "\"'":
            quote, open_ = c, True
        elif c.isspace():
            words, word, open_ = ([*words, word] if open_ else words), "", False
        else:
            word, open_ = word + c, True
        at += 1
    assert not quote
    words += [word] if open_ else []
    assert not any(re.search(r"(?<!%)(%%)*%(?!%)", w) for w in words), "a specifier"
    return [w.replace("%%", "%") for w in words]


def test_recover_is_a_oneshot_of_the_boot() -> None:
    assert value("hvtx-recover.service", "Type") == "oneshot"
    assert value("hvtx-recover.service", "RemainAfterExit") == "yes"
    assert value("hvtx-recover.service", "WantedBy") == "multi-user.target"
    assert value("hvtx-recover.service", "ExecStart") == "/usr/bin/hvtx recover"


def test_recover_comes_after_disks_and_firewalls_and_before_whoever_starts_guests() -> None:
    after = value("hvtx-recover.service", "After").split()
    for name in (
        "local-fs.target",
        "nftables",
        "netfilter-persistent",
        "ufw",
        "firewalld",
        "docker",
    ):
        assert name in after or f"{name}.service" in after, name
    assert "libvirt-guests.service" in value("hvtx-recover.service", "Before").split()
    assert value("hvtx-recover.service", "RequiresMountsFor") == "/var/lib/hvtx"


def test_nothing_is_ordered_both_ways() -> None:
    for name in texts():
        if any(line.startswith("Before=") for line in lines(name)):
            both = set(value(name, "After").split()) & set(value(name, "Before").split())
            assert not both


def test_a_boot_makes_no_store_where_there_is_none() -> None:
    for name in ("hvtx-recover.service", "hvtx-gc.service"):
        assert value(name, "ConditionPathExists") == "/var/lib/hvtx/hvtx.db"


def test_no_unit_owns_the_run_directory_or_ends_a_vm() -> None:
    for name, text in texts().items():
        assert "RuntimeDirectory=" not in text.replace("no RuntimeDirectory=", ""), name
        if name.endswith(".service"):
            assert value(name, "KillMode") == "process"


def test_the_timer_collects_and_is_enabled_with_recover() -> None:
    assert set(ENABLED) == {"hvtx-recover.service", "hvtx-gc.timer", "hvtx-metrics.timer"}
    assert value("hvtx-gc.service", "ExecStart") == "/usr/bin/hvtx gc --apply"
    assert value("hvtx-gc.timer", "WantedBy") == "timers.target"
    assert "hvtx-recover.service" in value("hvtx-gc.service", "After")


def test_repair_follows_each_firewall_through_reload_restart_and_stop() -> None:
    name = "hvtx-repair@.service"
    assert value(name, "ReloadPropagatedFrom") == value(name, "PartOf") == "%i.service"
    assert value(name, "WantedBy") == "%i.service"
    assert {"%i.service", "hvtx-recover.service"} == set(value(name, "After").split())
    assert value(name, "ExecStart") == value(name, "ExecReload") == "/usr/bin/hvtx repair"
    assert value(name, "RemainAfterExit") == "yes"
    assert value(name, "OnSuccess") == "hvtx-repair.service"
    assert "ConditionPathExists" not in texts()[name]  # the store may be made after the boot
    after = value("hvtx-repair.service", "After").split()
    assert {f"{firewall}.service" for firewall in FIREWALLS} < set(after)
    for firewall in ("nftables", "firewalld", "ufw", "docker"):
        assert f"hvtx-repair@{firewall}.service" in FOLLOWERS


def test_the_package_follows_firewalls_by_links() -> None:
    links = packaged_links()
    assert len(links) == len(FIREWALLS)
    assert links["/usr/lib/systemd/system/ufw.service.wants/hvtx-repair@ufw.service"] == (
        "../hvtx-repair@.service"
    )


def test_files_for_programs_that_take_devices_up() -> None:
    paths = {unit.path: unit.text for unit in shields()}
    assert set(paths) == {
        "/etc/systemd/network/05-hvtx.network", "/etc/NetworkManager/conf.d/hvtx.conf",
        "/etc/dnsmasq.d/hvtx.conf",
    }  # fmt: skip
    assert all(is_ours(text) and "hv*" in text for text in paths.values())
    theirs = {unit.path for unit in packaged()}
    assert theirs >= {
        "/usr/lib/systemd/network/05-hvtx.network", "/usr/lib/NetworkManager/conf.d/hvtx.conf",
        "/usr/lib/systemd/system/hvtx-repair@.service", "/etc/dnsmasq.d/hvtx",
    }  # fmt: skip


def test_each_unit_carries_the_marker_and_is_known_by_it() -> None:
    assert all(is_ours(text) for text in texts().values())
    assert not is_ours("[Unit]\n" + MARKER)
    assert not is_ours("")


def test_the_listing_is_that_of_systemctl_cat() -> None:
    shown = listing(units(PLACE))
    for name, text in texts().items():
        assert f"# /etc/systemd/system/{name}\n{text}" in shown


def test_every_line_belongs_to_a_section() -> None:
    for text in texts().values():
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(text)
        assert set(parser.sections()) <= {"Unit", "Service", "Timer", "Install"}


def test_directories_in_tmp_are_not_hidden_from_the_services() -> None:
    assert value("hvtx-recover.service", "PrivateTmp") == "yes"
    for place in (
        PLACE._replace(state_directory="/tmp/state"),
        PLACE._replace(run_directory="/var/tmp/run"),
        PLACE._replace(program=("/tmp/v/bin/hvtx",)),
    ):
        assert value("hvtx-recover.service", "PrivateTmp", place) == "no"


def test_who_may_start_or_end_something_lets_systemd_do_it() -> None:
    names = ("recover", "repair", "repair@", "gc")
    for name in names:
        assert "HVTX_AUTOSTART=systemd-run" in texts()[f"hvtx-{name}.service"]
    assert "HVTX_AUTOSTART" not in texts()["hvtx-gc.timer"]


def test_a_control_character_is_refused() -> None:
    for place in (
        PLACE._replace(state_directory="/a\nExecStart=/bin/sh"),
        PLACE._replace(environment={"HVTX_CONFIG": "/a\rb"}),
    ):
        with pytest.raises(ValueError, match="control character"):
            units(place)


PATHS = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1).map(
    lambda text: "/" + text.replace("/", " ")
)


@given(PATHS, PATHS, PATHS)
def test_any_path_is_one_word_of_its_directive(program: str, state: str, config: str) -> None:
    place = Place((program,), state, "/run/hvtx", {"HVTX_CONFIG": config})
    for name in ("hvtx-recover.service", "hvtx-gc.service"):
        executed = split(value(name, "ExecStart", place))
        assert executed[0].replace("$$", "$") == program
        assert split(value(name, "RequiresMountsFor", place)) == [state]
        assert f"HVTX_CONFIG={config}" in split(value(name, "Environment", place))
        written = split(value(name, "ReadWritePaths", place))
        own = ["/run", f"-{state}", "-/run/hvtx"]
        assert written == ["-/proc/sys/net", "-/etc/firewalld/zones", *own]
        assert len(texts(place)[name].splitlines()) == len(texts(PLACE)[name].splitlines()) + 1


def test_a_command_line_expands_nothing() -> None:
    assert command_line(("/a b", "$HOME", "%n", "", 'q"')) == '"/a b" $$HOME %%n "" "q\\""'


def test_numbers_are_written_every_minute_where_they_are_wanted() -> None:
    """Two more units, of which the service may write beside the file; none without it."""
    place = Place(("/usr/bin/hvtx",), "/var/lib/hvtx", "/run/hvtx", {}, "/var/lib/prom/hvtx.prom")
    made = {unit.name: unit.text for unit in units(place)}
    plain = units(place._replace(metrics=None))
    assert set(made) - {unit.name for unit in plain} == {
        "hvtx-metrics.service", "hvtx-metrics.timer"
    }  # fmt: skip
    service = made["hvtx-metrics.service"]
    assert "ExecStart=/usr/bin/hvtx metrics --textfile /var/lib/prom/hvtx.prom\n" in service
    assert "ReadWritePaths=/run -/var/lib/hvtx -/run/hvtx -/var/lib/prom\n" in service
    with pytest.raises(ValueError, match="control"):
        units(place._replace(metrics="/a\nb"))


# -- beside the Debian package ---------------------------------------------------------------------


def test_a_drop_in_holds_what_differs_and_replaces_what_is_a_list() -> None:
    theirs = {unit.name: unit.text for unit in packaged()}
    assert all(is_packaged(text) and not is_ours(text) for text in theirs.values())
    same = units(Place(("/usr/bin/hvtx",), "/var/lib/hvtx", "/run/hvtx", {}))
    assert [drop_in(theirs[unit.name], unit.text) for unit in same] == [None] * len(same)
    other = units(Place(("/opt/hvtx",), "/srv/a b", "/run/hvtx", {"HVTX_FIREWALL": "iptables"}))
    made = {unit.name: drop_in(theirs[unit.name], unit.text) for unit in other}
    assert made["hvtx-gc.timer"] is None
    assert made["hvtx-gc.service"] == (
        f"{MARKER}\n"
        "\n"
        "[Unit]\n"
        'RequiresMountsFor="/srv/a b"\n'
        "ConditionPathExists=\n"
        "ConditionPathExists=/srv/a b/hvtx.db\n"
        "\n"
        "[Service]\n"
        "ExecStart=\n"
        "ExecStart=/opt/hvtx gc --apply\n"
        "Environment=HVTX_FIREWALL=iptables\n"
        'ReadWritePaths=/run "-/srv/a b" -/run/hvtx\n'
    )


# -- the sandbox -----------------------------------------------------------------------------------


def test_homes_are_hidden_unless_something_that_is_needed_lies_there() -> None:
    assert value("hvtx-gc.service", "ProtectHome") == "yes"
    for place in (
        PLACE._replace(program=("/home/u/v/bin/hvtx",)),
        PLACE._replace(reads=("/root/.local/python",)),
        PLACE._replace(environment={"HVTX_CONFIG": "/home/u/hvtx.toml"}),
        PLACE._replace(state_directory="/root"),
    ):
        assert value("hvtx-gc.service", "ProtectHome", place) == "read-only"


def test_each_service_has_less_than_the_one_that_does_more() -> None:
    place = PLACE._replace(metrics="/var/lib/prom/hvtx.prom")
    recover, gc, metrics = (
        set(value(f"hvtx-{name}.service", "CapabilityBoundingSet", place).split())
        for name in ("recover", "gc", "metrics")
    )
    assert metrics < gc
    assert recover - gc == {"CAP_CHOWN"}
    assert "/dev/net/tun" not in texts(place)["hvtx-metrics.service"]
    assert "/proc/sys" not in texts(place)["hvtx-metrics.service"]
    assert "@privileged" in value("hvtx-metrics.service", "SystemCallFilter", place)


def test_collection_publishes_as_a_member_of_the_group() -> None:
    place = PLACE._replace(group="vm%ops")
    assert value("hvtx-gc.service", "SupplementaryGroups", place) == "vm%%ops"
    for other in (PLACE, place._replace(group=None)):
        assert "SupplementaryGroups" not in texts(other)["hvtx-gc.service"]
    assert "SupplementaryGroups" not in texts(place)["hvtx-recover.service"]


ETCD = Cluster("etcd", endpoints=("https://etcd.example:2379",), ca="/etc/hvtx/ca.pem")


def test_who_asks_etcd_is_not_cut_off_and_has_a_network_at_boot() -> None:
    asking = PLACE._replace(cluster=ETCD, metrics="/var/lib/prom/hvtx.prom")
    for name, text in texts(asking).items():
        if name in ASKING:
            assert value(name, "IPAddressDeny", asking) == ""
        elif name.endswith(".service"):
            assert value(name, "IPAddressDeny", asking) == "any"
        assert ("network-online" in text) == (name == "hvtx-recover.service"), name
    static = Cluster("static", blocks={"lab": ("10.64.3.0/26",)})
    assert texts(PLACE._replace(cluster=static)) == texts()
    for name in ASKING:
        assert value(name, "IPAddressDeny") == "any"


def test_who_asks_etcd_may_read_what_it_asks_with() -> None:
    for field in ("ca", "cert", "key"):
        place = PLACE._replace(cluster=ETCD._replace(**{field: "/root/etcd.pem"}))
        for name in ASKING:
            assert value(name, "ProtectHome", place) == "read-only"
        assert value("hvtx-repair.service", "ProtectHome", place) == "yes"
        place = PLACE._replace(cluster=ETCD._replace(**{field: "/tmp/etcd.pem"}))
        assert value("hvtx-gc.service", "PrivateTmp", place) == "no"


def test_a_drop_in_takes_back_what_the_package_cuts_off() -> None:
    theirs = {unit.name: unit.text for unit in packaged()}
    for unit in units(PLACE._replace(cluster=ETCD)):
        made = drop_in(theirs[unit.name], unit.text)
        assert ("\nIPAddressDeny=\n" in (made or "")) == (unit.name in ASKING)


@pytest.mark.parametrize("name", ASKING)
def test_units_of_before_the_cluster_are_told(tmp_path: Path, name: str) -> None:
    def place(directory: str, file: str, text: str) -> None:
        where = tmp_path / directory.lstrip("/")
        where.mkdir(parents=True, exist_ok=True)
        (where / file).write_text(text)

    assert cut_off(str(tmp_path)) == []
    before, after = texts()[name], texts(PLACE._replace(cluster=ETCD))[name]
    theirs = next(unit.text for unit in packaged() if unit.name == name)
    place(PACKAGED, name, theirs)
    assert cut_off(str(tmp_path)) == [name]
    place(f"{DIRECTORY}/{name}.d", "hvtx.conf", drop_in(theirs, after) or "")
    assert cut_off(str(tmp_path)) == []
    place(f"{DIRECTORY}/{name}.d", "hvtx.conf", "")
    place(DIRECTORY, name, before)
    assert cut_off(str(tmp_path)) == [name]
    place(f"{DIRECTORY}/{name}.d", "own.conf", "[Service]\nIPAddressAllow=192.0.2.0/24\n")
    assert cut_off(str(tmp_path)) == []
    (tmp_path / DIRECTORY.lstrip("/") / f"{name}.d" / "own.conf").unlink()
    place(DIRECTORY, name, after)
    assert cut_off(str(tmp_path)) == []
    (tmp_path / DIRECTORY.lstrip("/") / name).unlink()
    assert cut_off(str(tmp_path)) == [name]
    (tmp_path / DIRECTORY.lstrip("/") / name).symlink_to("/dev/null")
    assert cut_off(str(tmp_path)) == []


def test_doctor_says_so_where_etcd_is_to_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_files, "cut_off", lambda: ["hvtx-gc.service"])
    monkeypatch.setattr(unit_files, "hidden", list)
    said = [
        list(check_units(cast(Runtime, SimpleNamespace(settings=Settings(cluster=cluster)))))
        for cluster in (None, Cluster("static"), ETCD)
    ]
    assert said[:2] == [[], []]
    assert [(one.level, one.evidence, one.hint) for one in said[2]] == [
        ("error", ("hvtx-gc.service",), "hvtx systemd install")
    ]
