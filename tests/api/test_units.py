"""``host.systemd``: what the configuration and the environment make of the units."""

from pathlib import Path

import pytest

from hvtx import Host
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
