"""What is inside of the Debian package, as CycloneDX 1.5 (JSON) on standard output.

    sbom.py REPORT PACKAGES VERSION

``REPORT`` is pip's, of the installation into ``PACKAGES``: it has the hash of each file that was
installed from. What was removed afterwards is not listed; what is there and not in the report is an
error. No time and no random number is in it: the same build says the same.
"""

from __future__ import annotations

import json
import re
import sys
from importlib.metadata import Distribution, distributions
from typing import Any


def key(name: str) -> str:
    """A name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def reference(name: str, version: str) -> str:
    """Which package that is, in the form of purl."""
    return f"pkg:pypi/{key(name)}@{version}"


def licences(found: Distribution) -> list[dict[str, Any]]:
    """The licence as its authors say it: an expression, or words."""
    told = found.metadata
    if expression := told.get("License-Expression"):
        return [{"expression": expression}]
    classes = [c for c in told.get_all("Classifier", []) if c.startswith("License :: ")]
    names = [c.rpartition(" :: ")[2] for c in classes if not c.endswith("OSI Approved")]
    words = names or [(told.get("License") or "unknown").splitlines()[0][:80]]
    return [{"license": {"name": word}} for word in words]


def needs(found: Distribution, inside: set[str]) -> list[str]:
    """The keys of what it needs, as far as that is inside."""
    names = {
        key(re.split(r"[^A-Za-z0-9_.-]", need, maxsplit=1)[0]) for need in found.requires or ()
    }
    return sorted(names & inside)


def main(report: str, packages: str, version: str) -> None:
    """Write the list."""
    with open(report) as file:
        installed = {key(i["metadata"]["name"]): i for i in json.load(file)["install"]}
    found = {key(d.metadata["Name"]): d for d in distributions(path=[packages])}
    own = found.pop("hvtx")
    refs = {name: reference(name, d.version) for name, d in found.items()}
    components = [
        {
            "type": "library",
            "bom-ref": refs[name],
            "name": name,
            "version": d.version,
            "purl": refs[name],
            "hashes": [{
                "alg": "SHA-256",
                "content": installed[name]["download_info"]["archive_info"]["hashes"]["sha256"],
            }],
            "licenses": licences(d),
        }
        for name, d in sorted(found.items())
    ]  # fmt: skip
    root = {"type": "application", "bom-ref": f"hvtx@{version}", "name": "hvtx", "version": version,
            "licenses": licences(own)}  # fmt: skip
    graph = [{"ref": root["bom-ref"], "dependsOn": [refs[n] for n in needs(own, set(found))]}]
    graph += [
        {"ref": refs[name], "dependsOn": [refs[n] for n in needs(d, set(found))]}
        for name, d in sorted(found.items())
    ]
    document = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
        "dependencies": graph,
    }
    json.dump(document, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
