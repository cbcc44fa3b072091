"""``host.systemd``: what the configuration and the environment make of the units."""

import json
import re
from pathlib import Path

import pytest

from hvtx import Host
from hvtx.cli.main import run
from tests.api.test_cni_plugin import GIVEN

ETCD = """
[cluster]
source = "etcd"
endpoints = ["https://etcd.example:2379"]
ca = "/root/etcd-ca.pem"
"""


def printed(**given: object) -> dict[str, str]:
    with Host(**given) as host:  # type: ignore[arg-type]
        return {unit.name: unit.text for unit in host.systemd.print().units}


@pytest.fixture(autouse=True)
def of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HVTX_CONFIG", "/dev/null")


def test_units_that_ask_etcd_reach_it(tmp_path: Path) -> None:
    """Their sandbox drops every packet where nobody is asked."""
    cut_off = printed()
    (tmp_path / "config.toml").write_text(ETCD)
    asking = printed(config=str(tmp_path / "config.toml"))
    for name in ("hvtx-recover.service", "hvtx-gc.service"):
        assert "IPAddressDeny=any\n" in cut_off[name]
        assert "IPAddressDeny=\n" in asking[name]
        assert "IPAddressDeny=any" not in asking[name]
        assert "ProtectHome=read-only\n" in asking[name]
    assert "IPAddressDeny=any\n" in asking["hvtx-repair.service"]


def test_no_setting_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the environment or as arguments."""
    made = printed(**GIVEN, config="/dev/null")
    for name, value in GIVEN.items():
        monkeypatch.setenv(f"HVTX_{name.upper()}", value)
    assert printed() == made
    for name, value in {**GIVEN, "config": "/dev/null"}.items():
        for unit, text in made.items():
            if unit.endswith(".service"):
                assert f"\nEnvironment=HVTX_{name.upper()}={value}\n" in text


def shown(capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert run(["systemd", "print", *more]) == 0
    return capsys.readouterr().out


def test_what_is_split_at_the_lines_of_units_is_units_only(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As `systemctl cat` shows them; files of other programs are asked for, or stand apart."""
    text, told = shown(capsys), json.loads(shown(capsys, "--json"))
    first, *parts = re.split(r"^# /etc/systemd/system/(.+)\n", text, flags=re.MULTILINE)
    assert first == ""
    found = {name: body.strip("\n") for name, body in zip(*[iter(parts)] * 2, strict=True)}
    assert found == {unit["name"]: unit["text"].strip("\n") for unit in told["units"]}
    assert {"hvtx-recover.service", "hvtx-gc.timer", "hvtx-gc.service"} <= found.keys()
    for words in ("[Match]", "[keyfile]", "except-interface", "# /etc/NetworkManager"):
        assert words not in text
    with_files = shown(capsys, "--files")
    assert with_files.startswith(text)
    for file in told["files"]:
        assert f"# {file['path']}\n{file['text']}" in with_files
        assert file["path"] not in text
    assert len(told["files"]) == 3
