"""What the package's scripts say when it goes: of the places that the configuration names."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts" / "debian"
CONFIGURATION = "/etc/hvtx/config.toml"
PLACES = [
    ('state_dir = "/srv/hvtx"\nrun_dir = "/run/other"\n', "/srv/hvtx", "/run/other"),
    ("# state_dir = 'no'\nstate_dir='/srv/of vms' # ours\n", "/srv/of vms", "/run/hvtx"),
    ('firewall = "auto"\n', "/var/lib/hvtx", "/run/hvtx"),
    (None, "/var/lib/hvtx", "/run/hvtx"),
]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str, str]:
    """A configuration, or none, and the places that it names."""
    text, state, run = request.param
    if text is not None:
        (tmp_path / "config.toml").write_text(text)
    return tmp_path / "config.toml", state, run


def test_purge_names_the_places_of_the_configuration(place: tuple[Path, str, str]) -> None:
    path, state, run = place
    text = (SCRIPTS / "postrm").read_text()
    found = re.search(r"^setting\(\).*?^}$", text, re.MULTILINE | re.DOTALL)
    assert found
    script = found[0].replace(CONFIGURATION, str(path))
    ask = "\nset -e; setting state_dir /var/lib/hvtx; setting run_dir /run/hvtx"
    done = subprocess.run(["sh", "-c", script + ask], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [state, run]
    assert not re.search(r"echo .*(/var/lib/hvtx|/run/hvtx)", text)


def test_a_removal_names_them_too(place: tuple[Path, str, str], tmp_path: Path) -> None:
    """By the answers of a program that has one VM on record, and no network."""
    path, state, _ = place
    found = re.search(
        r"<<'PYTHON'.*?\n(.*?)^PYTHON$", (SCRIPTS / "prerm").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found
    vms = {"vms": [{"name": "web", "state": "defined"}], "networks": []}
    answer = {**vms, "summary": {}, "refused": None}
    program = tmp_path / "bin" / "hvtx"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{json.dumps(answer)}'\n")
    program.chmod(0o755)
    code = found[1].replace(CONFIGURATION, str(path))
    environment = {"PATH": f"{program.parent}:{os.environ['PATH']}"}
    call = [sys.executable, "-I", "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, check=True, env=environment)
    assert f"On record in {state} are the VMs web" in done.stdout
