"""What pyproject.toml asks for, one requirement a line: `package` or `build`.

`package` is what hvtx needs to run, `build` what scripts/make-deb needs to make the package.
"""

import sys
import tomllib
from pathlib import Path


def wanted(name: str) -> list[str]:
    """The requirements of pyproject.toml, in order."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text())
    if name == "package":
        return sorted(project["project"]["dependencies"])
    pages = [r for r in project["project"]["optional-dependencies"]["test"] if "click-man" in r]
    return sorted([*project["build-system"]["requires"], *pages])


if __name__ == "__main__":
    print("\n".join(wanted(sys.argv[1])))
