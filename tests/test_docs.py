"""The documentation says what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from hvtx.documents import plan_schema

TOP = Path(__file__).parent.parent


def test_the_reference_is_the_codes_own() -> None:
    """docs/reference.md is what scripts/make-reference prints today."""
    made = subprocess.run(
        [sys.executable, str(TOP / "scripts/make-reference")],
        capture_output=True, text=True, check=True, cwd=TOP,
    )  # fmt: skip
    assert made.stdout == (TOP / "docs/reference.md").read_text(), "run scripts/make-reference"


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


def test_the_published_schema_is_the_codes_own() -> None:
    """docs/plan.schema.json is what `hvtx gc --schema` prints."""
    made = json.dumps(plan_schema.document(), indent=2) + "\n"
    published = (TOP / "docs/plan.schema.json").read_text()
    assert made == published, "run: hvtx gc --schema > docs/plan.schema.json"
