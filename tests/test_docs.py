"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hvtx import errors
from hvtx.cli import doctor, interrupts, main
from hvtx.cli.streams import Notice
from hvtx.documents import plan_schema
from hvtx.engine.finding import Finding
from hvtx.planner import heuristic

TOP = Path(__file__).parent.parent


@pytest.mark.parametrize("page", ["reference", "json"])
def test_the_reference_is_the_codes_own(page: str) -> None:
    """docs/reference.md and docs/json.md are what scripts/make-reference prints today."""
    made = subprocess.run(
        [sys.executable, str(TOP / "scripts/make-reference"), page],
        capture_output=True, text=True, check=True, cwd=TOP,
    )  # fmt: skip
    written = (TOP / f"docs/{page}.md").read_text()
    assert made.stdout == written, f"scripts/make-reference {page} > docs/{page}.md"


def test_links_between_pages_lead_somewhere() -> None:
    """Every relative link of README, CONTRIBUTING and docs names a file that is there."""
    pages = [TOP / "README.md", TOP / "CONTRIBUTING.md", *(TOP / "docs").rglob("*.md")]
    dead = []
    for page in pages:
        targets = re.findall(r"\]\(([^)#]+)", page.read_text())
        inside = [target for target in targets if "://" not in target]
        dead += [
            f"{page.relative_to(TOP)} -> {target}"
            for target in inside
            if not (page.parent / target).exists()
        ]
    assert not dead


def test_the_names_that_the_emergency_mode_guesses_by_are_on_its_page() -> None:
    """Each name on docs/emergency.md is one, and each pattern of the code has one there."""
    page = (TOP / "docs/emergency.md").read_text()
    found = re.search(r"^The names, .*?: (.*?)\. Not (.*?)\.$", page, re.MULTILINE | re.DOTALL)
    assert found
    words, others = (re.findall(r"`([^`]+)`", part) for part in found.groups())
    names = {"tap01234abc" if word == "tap" else word.replace("*", "x1") for word in words}
    assert [name for name in names if not heuristic.named_like_a_tap(name)] == []
    assert [name for name in others if heuristic.named_like_a_tap(name)] == []
    # an optional hyphen is two names
    both = {
        form
        for one in heuristic.TAP_NAMES
        for form in (one.replace("-?", ""), one.replace("-?", "-"))
    }
    missing = {form for form in both if not any(re.fullmatch(form, name) for name in names)}
    assert not missing


def test_the_published_schema_is_the_codes_own() -> None:
    """docs/plan.schema.json is what `hvtx gc --schema` prints."""
    made = json.dumps(plan_schema.document(), indent=2) + "\n"
    published = (TOP / "docs/plan.schema.json").read_text()
    assert made == published, "run: hvtx gc --schema > docs/plan.schema.json"


def test_codes_of_signals_are_those_that_commands_end_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each row of the page that names a signal, against what an interrupted command tells."""
    page = (TOP / "docs/reference.md").read_text()
    rows = re.findall(r"\| (\d+) \| Interrupted by (\w+)", page)
    assert len(rows) == 3
    for code, name in rows:
        number = getattr(signal, name)
        monkeypatch.setattr(interrupts, "interrupted_by", lambda n=number: n)
        assert interrupts.interrupted("").exit_code == int(code)


def test_codes_of_doctor_and_of_plans(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 where a check found an error, else 0; 2 is that of a plan with something to do."""
    page = (TOP / "docs/reference.md").read_text()
    assert re.search(r"\| 1 \| .*`doctor`: a check found an error", page)
    assert re.search(rf"\| {errors.EXIT_PLAN_NOT_EMPTY} \| .*`--detailed-exitcode`", page)

    def ended(level: str) -> int:
        found = SimpleNamespace(findings=[Finding("tun", level, "m")], denied=None)
        host = SimpleNamespace(doctor=lambda: found)
        monkeypatch.setattr("hvtx.cli.doctor.host_of", lambda _: host)
        return CliRunner().invoke(doctor.doctor, [], standalone_mode=False).return_value

    assert [ended(level) for level in ("ok", "warning", "error")] == [0, 0, 1]


def test_an_error_has_the_fields_of_the_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One object on standard error, with what was noted before it; standard output is empty."""
    page = (TOP / "docs/json.md").read_text()
    (table,) = re.findall(r"^## Errors$(.*?)^Words of", page, re.DOTALL | re.MULTILINE)
    told = set(re.findall(r"^\| `([^`]+)` \|", table, re.MULTILINE))
    monkeypatch.setattr(main, "taken_notices", lambda: [Notice("note", "n")])
    for name in ("state_dir", "run_dir"):
        monkeypatch.setenv(f"HVTX_{name.upper()}", str(tmp_path / name))
    assert main.run(["--config", "/dev/null", "vm", "show", "none", "--json"]) == 3
    shown = capfd.readouterr()
    assert shown.out == ""
    found = json.loads(shown.err)
    paths = {f"error.{name}" for name in found["error"]} | {"notices[]"}
    paths |= {f"notices[].{name}" for name in found["notices"][0]}
    assert paths == told
    assert found["error"]["code"] == "not-found"
