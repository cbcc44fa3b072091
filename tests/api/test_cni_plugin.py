"""`host.cni_plugin`: both files written, kept and removed, whole or not at all."""

from __future__ import annotations

import inspect
import json
import os
from pathlib import Path

import pytest

from hvtx import Conflict, Host, NotPermitted, UsageError
from hvtx.api.cni_plugin import CniPlugin
from hvtx.cni.configuration import parse_base, refuse_unknown
from hvtx.commands import cni_install
from hvtx.engine import ownership

GIVEN = {
    "state_dir": "/srv/hvtx", "run_dir": "/run/other", "firewall": "nftables", "lock_timeout": "3",
    "history_lines": "1000000", "egress": "none", "dhcp": "off", "group": "root",
    "tap_user": "root", "vm_user": "root",
}  # fmt: skip


@pytest.fixture
def plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CniPlugin:
    for name in [name for name in os.environ if name.startswith("HVTX_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(ownership, "problem_of_program", lambda _words: None)
    return Host(config="/dev/null").cni_plugin


def places(base: Path) -> dict[str, str]:
    return {"dir": str(base / "bin"), "conf": str(base / "net.d" / "10-hvtx.conflist")}


def contents(base: Path) -> dict[str, tuple[str, int]]:
    return {
        str(path.relative_to(base)): (path.read_text(), path.stat().st_mode & 0o7777)
        for path in sorted(base.rglob("*"))
        if path.is_file()
    }


def states(outcome: cni_install.Outcome) -> list[str]:
    return [entry.state for entry in outcome.files]


def test_what_is_printed_is_what_is_written(plugin: CniPlugin, tmp_path: Path) -> None:
    asked = {**places(tmp_path), "network": "lan", "subnets": ["fd77::/64", "10.77.0.0/24"]}
    printed = plugin.print(**asked)
    assert printed.refused is None
    assert states(plugin.install(**asked)) == ["written", "written"]
    assert contents(tmp_path) == {
        "bin/hvtx": (printed.files[0].text, 0o755),
        "net.d/10-hvtx.conflist": (printed.files[1].text, 0o644),
    }
    (entry,) = json.loads(printed.files[1].text)["plugins"]
    assert entry["subnets"] == ["10.77.0.0/24", "fd77::/64"]
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    assert states(plugin.install(**asked)) == ["unchanged", "unchanged"]
    assert {path: path.stat() for path in tmp_path.rglob("*")} == before


def test_a_changed_mode_is_put_right(plugin: CniPlugin, tmp_path: Path) -> None:
    plugin.install(**places(tmp_path))
    (tmp_path / "bin" / "hvtx").chmod(0o777)
    assert states(plugin.install(**places(tmp_path))) == ["written", "unchanged"]
    assert contents(tmp_path)["bin/hvtx"][1] == 0o755


def test_an_older_program_of_ours_is_replaced(plugin: CniPlugin, tmp_path: Path) -> None:
    plugin.install(**places(tmp_path))
    program = tmp_path / "bin" / "hvtx"
    program.write_text(program.read_text() + "# of another version\n")
    assert states(plugin.install(**places(tmp_path))) == ["written", "unchanged"]
    assert "another version" not in program.read_text()


@pytest.mark.parametrize("which", ["bin/hvtx", "net.d/10-hvtx.conflist"])
def test_a_file_of_others_stays_and_nothing_is_written(
    which: str, plugin: CniPlugin, tmp_path: Path
) -> None:
    theirs = tmp_path / which
    theirs.parent.mkdir()
    theirs.write_text("theirs\n")
    before = contents(tmp_path)
    with pytest.raises(Conflict, match=which.rpartition("/")[2]) as caught:
        plugin.install(**places(tmp_path))
    assert "--force" in (caught.value.hint or "")
    with pytest.raises(Conflict):
        plugin.uninstall(**places(tmp_path))
    assert contents(tmp_path) == before
    assert states(plugin.install(**places(tmp_path), force=True)) == ["written", "written"]


def test_a_configuration_that_somebody_changed_stays(plugin: CniPlugin, tmp_path: Path) -> None:
    plugin.install(**places(tmp_path), network="lan")
    before = contents(tmp_path)
    with pytest.raises(Conflict, match="differs"):
        plugin.install(**places(tmp_path), network="other")
    assert contents(tmp_path) == before


def test_a_chain_with_plugins_of_others_stays(plugin: CniPlugin, tmp_path: Path) -> None:
    plugin.install(**places(tmp_path))
    conf = tmp_path / "net.d" / "10-hvtx.conflist"
    document = json.loads(conf.read_text())
    document["plugins"].append({"type": "portmap"})
    conf.write_text(json.dumps(document))
    before = contents(tmp_path)
    with pytest.raises(Conflict, match="runs other plugins too"):
        plugin.uninstall(**places(tmp_path))
    assert contents(tmp_path) == before
    assert states(plugin.uninstall(**places(tmp_path), force=True)) == ["removed", "removed"]
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("text", ['{"cniVersion"', '["hvtx"]', '{"name": "lan", "plugins": []}'])
def test_what_runs_no_plugin_is_not_called_one_that_does(
    text: str, plugin: CniPlugin, tmp_path: Path
) -> None:
    plugin.install(**places(tmp_path))
    (tmp_path / "net.d" / "10-hvtx.conflist").write_text(text)
    before = contents(tmp_path)
    with pytest.raises(Conflict, match=r"conflist is no configuration of hvtx's plugin$"):
        plugin.uninstall(**places(tmp_path))
    assert contents(tmp_path) == before


def test_another_user_is_told_of_root_before_of_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "problem_of_program", lambda _words: "others may write it")
    wanted = cni_install.make(
        (str(tmp_path / "bin/hvtx"), str(tmp_path / "10-hvtx.conflist")), "lan", (), {}
    )
    monkeypatch.setattr(os, "geteuid", lambda: 65533)
    monkeypatch.setattr(os, "access", lambda path, mode: (path, mode) != (str(tmp_path), os.W_OK))
    with pytest.raises(NotPermitted, match="needs root: this user may not write in") as told:
        cni_install.install(wanted, force=False)
    assert "sudo" in (told.value.hint or "")
    monkeypatch.setattr(os, "access", lambda _path, _mode: True)  # a place of the user's own
    with pytest.raises(NotPermitted, match="others could change it"):
        cni_install.install(wanted, force=False)
    assert contents(tmp_path) == {}


def test_uninstall_removes_what_install_wrote_and_no_more(
    plugin: CniPlugin, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "loopback").write_text("theirs\n")
    plugin.install(**places(tmp_path))
    assert states(plugin.uninstall(**places(tmp_path))) == ["removed", "removed"]
    assert list(contents(tmp_path)) == ["bin/loopback"]
    assert states(plugin.uninstall(**places(tmp_path))) == ["absent", "absent"]


def test_what_the_host_was_given_is_part_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HVTX_RUN_DIR", "run")
    monkeypatch.chdir(tmp_path)
    host = Host(config="/dev/null", state_dir=tmp_path / "state", lock_timeout=3)
    (entry,) = json.loads(host.cni_plugin.print().files[1].text)["plugins"]
    assert {key: entry[key] for key in ("stateDir", "runDir", "config", "lockTimeout")} == {
        "stateDir": str(tmp_path / "state"),
        "runDir": str(tmp_path / "run"),
        "config": "/dev/null",
        "lockTimeout": "3",
    }


def test_no_setting_is_left_behind(plugin: CniPlugin, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment or as arguments; the plugin makes of them the arguments that they were."""
    given = {**GIVEN, "config": "/dev/null"}
    assert set(given) == set(inspect.signature(Host).parameters) - {"notices", "events"}
    made = Host(**given).cni_plugin.print().files[1].text
    for name, value in given.items():
        monkeypatch.setenv(f"HVTX_{name.upper()}", value)
    assert plugin.print().files[1].text == made
    (entry,) = json.loads(made)["plugins"]
    document = {**entry, "cniVersion": "1.0.0", "name": "lan"}
    assert parse_base(document, "ADD").settings == given
    refuse_unknown(document)


def test_a_program_that_others_could_change_is_not_installed(
    plugin: CniPlugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "problem_of_program", lambda words: f"{words[0]}: mode 0777")
    with pytest.raises(NotPermitted, match="mode 0777"):
        plugin.install(**places(tmp_path))
    assert contents(tmp_path) == {}
    refused = plugin.print(**places(tmp_path)).refused
    assert refused is not None
    assert "mode 0777" in refused


def test_a_directory_in_which_others_put_links_is_refused(
    plugin: CniPlugin, tmp_path: Path
) -> None:
    """A link of somebody else's on the way to the file is not followed."""
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    (tmp_path / "real").mkdir()
    (shared / "bin").symlink_to(tmp_path / "real")
    with pytest.raises(NotPermitted, match="shared"):
        plugin.install(dir=str(shared / "bin"), conf=places(tmp_path)["conf"])
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    "asked",
    [
        {"conf": "a.conf"}, {"conf": ""}, {"dir": ""}, {"network": "Lan"}, {"network": ""},
        {"subnets": ["10.77.0.1/24"]}, {"subnets": ["10.77.0.0/24", "10.78.0.0/24"]},
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(asked: dict, plugin: CniPlugin, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        plugin.install(**{**places(tmp_path), **asked})
    assert contents(tmp_path) == {}
