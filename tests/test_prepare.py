"""What scripts/test and scripts/demo install first (scripts/lib/prepare.sh), with an apt of the test's own."""

from __future__ import annotations

import subprocess
from pathlib import Path

TOP = Path(__file__).parents[1]
# On Ubuntu 24.04: a package of no version that chromium-browser provides, which asks for the snap.
APT = """#!/bin/sh
case "${0##*/} $1 $2" in
"apt-cache policy chromium") printf 'chromium:\\n  Installed: (none)\\n  Candidate: (none)\\n' ;;
"apt-cache policy fonts") printf 'fonts:\\n  Installed: (none)\\n  Candidate: 2.37-8\\n' ;;
"apt-get "*) echo "$@" >>"$ASKED" ;;
dpkg-query*) exit 1 ;;
esac
"""


def test_a_name_that_another_package_provides_is_no_package(tmp_path: Path) -> None:
    """It is said and left out; before, the other one was installed at every run."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("apt-cache", "apt-get", "dpkg-query"):
        (programs / name).write_text(APT)
        (programs / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-euc", 'top=$1; . "$2"; install_packages_if_known chromium fonts nonsense', "-",
         tmp_path, TOP / "scripts/lib/prepare.sh"],
        capture_output=True, text=True, check=True,
        env={"PATH": f"{programs}:/usr/bin:/bin", "ASKED": str(tmp_path / "asked")},
    )  # fmt: skip
    left_out = "This distribution has no package {}: what needs it is left out"
    assert [left_out.format(name) in done.stdout for name in ("chromium", "fonts", "nonsense")] == [
        True, False, True,
    ]  # fmt: skip
    [installed] = [
        line for line in (tmp_path / "asked").read_text().splitlines() if "install" in line.split()
    ]
    assert installed.endswith("--no-install-recommends fonts")
