"""The installed plugin as runtimes call it: a process with variables and standard input."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hvtx.model.cni_version import VERSIONS
from integration.lab.program import Forked
from tests.cni import recorded
from tests.cni.recorded import Recorded


class Answer(NamedTuple):
    code: int
    document: Any  # None: nothing was said
    err: str


class Plugin:
    """The executable and the configuration that ``hvtx cni install`` wrote."""

    def __init__(self, base: Path, *options: str) -> None:
        self.program, self.conf = base / "bin" / "hvtx", base / "net.d" / "10-hvtx.conflist"
        places = ("--dir", str(self.program.parent), "--conf", str(self.conf))
        Forked()("cni", "install", *places, *options)

    def __call__(self, one: Recorded, **environment: str) -> Answer:
        """One call, with the environment of the test but for what the request has."""
        return self.run({**os.environ, **one.environment, **environment}, one.data)

    def run(self, environment: Mapping[str, str], data: bytes) -> Answer:
        done = subprocess.run(
            [self.program], input=data, env=environment, capture_output=True, check=False,
            timeout=60,
        )  # fmt: skip
        told = json.loads(done.stdout) if done.stdout else None
        return Answer(done.returncode, told, done.stderr.decode())


@pytest.fixture
def plugin(netns: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plugin:
    # whoever owns the checkout could change it, which is refused
    monkeypatch.setattr("hvtx.commands.cni_install.changeable", lambda: None)
    return Plugin(tmp_path, "--network", "lan", "--subnet", "10.77.0.0/24")


def test_version_is_answered_with_everything_closed(plugin: Plugin) -> None:
    wanted = {"cniVersion": "0.4.0", "supportedVersions": list(VERSIONS)}
    assert plugin(recorded.PODMAN_VERSION) == Answer(0, wanted, "")
    done = subprocess.run(
        ["sh", "-c", f"exec {plugin.program} <&- 2>&-"],
        env={"CNI_COMMAND": "VERSION"}, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, json.loads(done.stdout)["cniVersion"]) == (0, "1.1.0")


@pytest.mark.parametrize(
    ("environment", "data", "code"),
    [
        ({}, b"", 4),
        ({"CNI_COMMAND": "ADD"}, b"{}", 4),
        ({"CNI_COMMAND": "STATUS"}, b"", 6),
        ({"CNI_COMMAND": "STATUS"}, b'{"cniVersion":"1.0.0","name":"lan"}', 1),
    ],
)
def test_errors_stand_on_standard_output(
    environment: dict[str, str], data: bytes, code: int, plugin: Plugin
) -> None:
    answer = plugin.run(environment, data)
    assert answer.code == 1
    assert (answer.document["code"], answer.err) == (code, "")
