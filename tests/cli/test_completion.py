"""Shell completion: the scripts of the shells, and the words that they are given."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hvtx.cli.main import COMMANDS
from hvtx.store.database import open_store
from tests.store.shelf import add_network, network


def completed(words: str, tmp_path: Path, *, shell: str = "bash") -> list[str]:
    """What is offered for the last word of a command line."""
    environment = {
        **os.environ,
        "HVTX_STATE_DIR": str(tmp_path / "state"),
        "HVTX_RUN_DIR": str(tmp_path / "run"),
        "HVTX_CONFIG": os.devnull,
        "_HVTX_COMPLETE": f"{shell}_complete",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    done = subprocess.run(
        [sys.executable, "-m", "hvtx"], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_options_and_names(tmp_path: Path) -> None:
    """Of VMs and networks on record, also where the store is named before the command."""
    store = open_store(str(tmp_path / "state"), str(tmp_path / "run"), writable=True)
    add_network(store, network("lan"))
    store.close()
    assert completed("hvtx ", tmp_path) == list(COMMANDS)
    assert completed("hvtx net", tmp_path) == ["network"]
    assert "create" in completed("hvtx vm ", tmp_path)
    assert "--publish" in completed("hvtx vm create web --p", tmp_path)
    assert completed("hvtx network show ", tmp_path) == ["lan"]
    assert completed("hvtx network rm x", tmp_path) == []
    assert completed("hvtx vm create web --network l", tmp_path) == ["lan"]
    assert completed("hvtx repair ", tmp_path) == ["lan"]
    elsewhere = f"hvtx --state-dir {tmp_path}/none network show "
    assert completed(elsewhere, tmp_path) == []


def test_a_store_that_cannot_be_read_offers_nothing(tmp_path: Path) -> None:
    """No error disturbs the prompt."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "hvtx.db").write_text("no store")
    assert completed("hvtx vm show ", tmp_path) == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_are_their_shells_own(shell: str) -> None:
    """Printed for each; those shells that are here take them without a word."""
    done = subprocess.run(
        [sys.executable, "-m", "hvtx", "completion", shell],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "_HVTX_COMPLETE" in done.stdout
    if shutil.which(shell):
        flag = "--no-execute" if shell == "fish" else "-n"
        checked = subprocess.run(
            [shell, flag], input=done.stdout, capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stderr) == (0, "")
