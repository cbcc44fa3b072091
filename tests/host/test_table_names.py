"""Tables of routes that have a name."""

from __future__ import annotations

from pathlib import Path

import pytest

from hvtx.host import table_names
from hvtx.host.table_names import named_tables, numbers_in


def test_what_is_no_line_of_such_a_file_is_passed_over() -> None:
    text = "255\tlocal\n# 7 none\n100 isp1\n0x65 vpn # of a tunnel\n102\nx y\n\n-\n0x z\n"
    assert numbers_in(text) == {255, 100, 101}


def test_files_of_packages_and_of_the_administrator(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    etc, share = tmp_path / "etc", tmp_path / "share"
    (etc / "rt_tables.d").mkdir(parents=True)
    (share / "rt_tables").mkdir(parents=True)  # no file
    (etc / "rt_tables").write_text("100 isp1\n")
    (etc / "rt_tables.d" / "more.conf").write_bytes(b"\xff\n101 isp2\n")
    (etc / "rt_tables.d" / "more.off").write_text("102 isp3\n")
    monkeypatch.setattr(table_names, "_PLACES", (str(share), str(etc), str(tmp_path / "none")))
    assert named_tables() == {100, 101}
