"""Whether ufw is on, as its own configuration says."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtx.engine import firewalld_zone
from hvtx.host import ufw

OWN = "# /etc/ufw/ufw.conf\n#\n\n# Set to yes to start on boot.\nENABLED={}\n\nLOGLEVEL=low\n"


@pytest.mark.parametrize(
    ("text", "enabled"),
    [(OWN.format("yes"), True), (OWN.format("no"), False), ("#ENABLED=yes\n", False), ("", False)],
)
def test_it_is_on_where_it_says_so(
    text: str, enabled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ufw.conf"
    path.write_text(text)
    monkeypatch.setattr(ufw, "CONFIGURATION", str(path))
    assert ufw.is_enabled() is enabled
    words = "firewall-cmd --reload; ufw reload" if enabled else "firewall-cmd --reload"
    assert firewalld_zone.with_ufw("firewall-cmd --reload") == words
    assert firewalld_zone.with_ufw("hvtx repair") == "hvtx repair"
    path.unlink()
    assert not ufw.is_enabled()
