"""The examples for administrators: what they allow, and what they must not."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from hvtx.engine.units import COLLECT, RECOVER

TOP = Path(__file__).resolve().parent.parent
EXAMPLES = TOP / "docs/examples"


PLACES = ("/usr/bin/hvtx", "/usr/local/bin/hvtx")  # of the Debian package, of pipx as README has it


def allowed(program: str) -> list[str]:
    """The regular expressions of arguments that the sudoers example allows for program."""
    text = (EXAMPLES / "sudoers").read_text().replace("\\\n", "")
    alias = re.search(r"^Cmnd_Alias HVTX = (.*)$", text, re.MULTILINE)
    assert alias
    found = [re.fullmatch(r"(/\S+) (\^.*\$)", rule.strip()) for rule in alias[1].split(",")]
    assert all(found), alias[1]
    return [one[2] for one in found if one and one[1] == program]


def test_sudo_knows_hvtx_wherever_it_is_installed() -> None:
    """The same rules for each place in which README's two ways of installing put the program."""
    package = (TOP / "scripts/make-deb").read_text()
    assert f'"$tree{PLACES[0]}"' in package
    assert "PIPX_BIN_DIR=/usr/local/bin" in (TOP / "README.md").read_text()
    assert allowed(PLACES[0]) == allowed(PLACES[1]) != []


def test_visudo_takes_the_sudoers_example(tmp_path: Path) -> None:
    visudo = shutil.which("visudo") or shutil.which("visudo", path="/usr/sbin")
    if visudo is None:
        pytest.skip("sudo is not installed")
    copy = tmp_path / "sudoers"
    copy.write_text((EXAMPLES / "sudoers").read_text())
    copy.chmod(0o440)
    done = subprocess.run(
        [visudo, "-c", "-s", "-f", str(copy)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Warning" not in done.stdout + done.stderr
    copy.chmod(0o600)
    copy.write_text("%vmops ALL = (root NOPASSWD: HVTX\n")
    assert (
        subprocess.run([visudo, "-c", "-f", str(copy)], capture_output=True, check=False).returncode
        != 0
    )


@pytest.mark.parametrize("program", PLACES)
@pytest.mark.parametrize(
    "arguments", ["vm start web", "vm stop db-1", "vm logs web", "gc --plan", "explain 10.77.0.2"]
)
def test_sudo_allows(program: str, arguments: str) -> None:
    assert any(re.search(pattern, arguments) for pattern in allowed(program))


@pytest.mark.parametrize("program", PLACES)
@pytest.mark.parametrize(
    "arguments",
    [
        "vm create web -- /bin/sh", "vm run web -- /bin/sh", "vm start web --state-dir /tmp/x", "vm start --json",
        "--state-dir /tmp/x vm start web", "vm start ../web", "vm start web\nvm", "gc --plan --out /etc/passwd",
        "gc --apply", "vm rm web", "vm attach web --pid 1", "", "explain --help", "doctor --gc", "recover",
    ],
)  # fmt: skip
def test_sudo_does_not_allow(program: str, arguments: str) -> None:
    assert not any(re.search(pattern, arguments) for pattern in allowed(program))


def test_the_polkit_example_knows_our_units_only() -> None:
    text = (EXAMPLES / "50-hvtx.rules").read_text()
    assert set(re.findall(r'"([^"]+\.service)"', text)) == {COLLECT, RECOVER}
    assert 'action.lookup("verb") == "start"' in text
    assert text.count("polkit.Result.YES") == 1
    for one, other in ("()", "{}", "[]"):
        assert text.count(one) == text.count(other)
