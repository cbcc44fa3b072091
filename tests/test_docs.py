"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from hvtx import errors
from hvtx.cli import doctor, interrupts, main
from hvtx.cli.streams import Notice
from hvtx.documents import plan_schema
from hvtx.engine import transient_units, units
from hvtx.engine.finding import Finding
from hvtx.planner import heuristic
from tests.protocol import test_model

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


def test_the_page_about_the_library_has_each_call() -> None:
    """Of Host, and of what its properties give: docs/library.md names it."""
    page = (TOP / "docs/library.md").read_text()
    surface = (TOP / "tests/api/surface.txt").read_text()
    classes = dict(re.findall(r"^class (\w+)\n((?:  .*\n)+)", surface, re.MULTILINE))
    verbs = classes["Host"]
    for group in re.findall(r"^  \w+ -> (\w+)$", classes["Host"], re.MULTILINE):
        verbs += classes.get(group, "")
    calls = set(re.findall(r"^  ([a-z]\w*)\(", verbs, re.MULTILINE))
    assert len(calls) > 40
    assert not {name for name in calls if not re.search(rf"\b{name}\b", page)}


def test_the_figures_of_the_model_are_of_its_worlds() -> None:
    """docs/protocol.md has a line for each world and part; the sums of reliability.md are its own."""
    page = (TOP / "docs/protocol.md").read_text().partition("\n## Figures\n")[2]
    worlds = dict(re.findall(r"^\| ([^|`]+) \| ([0-9,]+) \| [0-9 ]*\|$", page, re.MULTILINE))
    states = {name: int(count.replace(",", "")) for name, count in worlds.items()}
    together = states.pop("together")
    assert list(states) == list(test_model.WORLDS)
    assert together == sum(states.values())
    left_out = re.findall(r"^\| ((?:`[\w-]+`(?:, )?)+) \| [0-9,]+ \|", page, re.MULTILINE)
    parts = [" ".join(re.findall(r"`([\w-]+)`", words)) for words in left_out]
    assert parts == [rules for rules, *_ in test_model.WEAKENINGS]
    reliability = (TOP / "docs/reliability.md").read_text()
    assert f"in {len(states)} worlds, with no violation" in reliability
    assert f"| {together:,} |" in reliability
    assert f"counterexample in the model | {len(parts)} |" in reliability


def test_the_page_about_boot_knows_each_unit() -> None:
    """Those that are installed, with the numbers' too, and those that systemd-run makes."""
    page = (TOP / "docs/boot.md").read_text()
    place = units.Place(
        ("/usr/bin/hvtx",), "/var/lib/hvtx", "/run/hvtx", {}, "/var/lib/p/hvtx.prom"
    )
    calls = [transient_units.start_call((), (), ["NAME"], {})]
    calls += [
        make((), (), {}) for make in (transient_units.serve_call, transient_units.collect_call)
    ]
    made = {word.removeprefix("--unit=") for call in calls for word in call if "--unit=" in word}
    named = {unit.name for unit in units.units(place)} | {f"{name}.service" for name in made}
    assert len(made) == 3
    assert not {name for name in named if f"`{name}`" not in page}


def test_the_layers_are_those_that_are_checked() -> None:
    """CONTRIBUTING has the order of import-linter's contract, to the word."""
    settings = tomllib.loads((TOP / "pyproject.toml").read_text())
    contracts = settings["tool"]["importlinter"]["contracts"]
    (layers,) = (each["layers"] for each in contracts if each["type"] == "layers")
    rooms = [layer.replace("hvtx.", "") for layer in layers]
    chain = " > ".join(f"({room})" if "|" in room else room for room in rooms)
    assert f"`{chain}`" in " ".join((TOP / "CONTRIBUTING.md").read_text().split())


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
