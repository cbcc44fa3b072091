"""The plugin's executable and configuration as text; the executable is run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvtx.engine import cni_files
from hvtx.errors import Conflict, HostRefused, UsageError
from hvtx.model.cni_version import VERSIONS


def run(
    text: str, where: Path, data: bytes, **environment: str
) -> subprocess.CompletedProcess[bytes]:
    path = where / "hvtx"
    path.write_text(text)
    path.chmod(0o755)
    return subprocess.run([path], input=data, env=environment, capture_output=True, check=False)


@pytest.mark.parametrize(
    ("data", "version"),
    [
        (b'{"cniVersion":"0.4.0"}', "0.4.0"),
        (b'{ "cniVersion" : "0.3.1" }', "0.3.1"),
        (b'{"name":"a",\n"cniVersion":\n"1.0.0"}', "1.0.0"),
        (b'{"cniVersion":"0.4"}', "1.1.0"),
        (b'{"cniVersion":4}', "1.1.0"),
        (b'{"cniVersion":', "1.1.0"),
        (b"\xff", "1.1.0"),
        (b"", "1.1.0"),
    ],
)
def test_version_is_answered_without_hvtx(data: bytes, version: str, tmp_path: Path) -> None:
    text = cni_files.program_text(sys.executable, ["/nowhere"])
    done = run(text, tmp_path, data, CNI_COMMAND="VERSION")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"cniVersion": version, "supportedVersions": list(VERSIONS)}
    assert done.stderr == b""


def test_version_imports_nothing(tmp_path: Path) -> None:
    """But what Python itself has loaded by then; so it costs what a bare start costs."""
    text = cni_files.program_text(sys.executable, ["/nowhere"])
    script = tmp_path / "bare.py"  # of a `-c` Python 3.13 keeps the lines, in a module more
    script.write_text("import sys; print(*sys.modules)")
    bare = subprocess.run(
        [sys.executable, "-IS", str(script)], capture_output=True, text=True, check=True
    )
    leaving = "    posix._exit(0)"
    told = text.replace(leaving, f"    posix.write(2, ' '.join(sys.modules).encode())\n{leaving}")
    done = run(told, tmp_path, b"{}", CNI_COMMAND="VERSION")
    assert set(done.stderr.decode().split()) == set(bare.stdout.split())


def test_another_command_without_hvtx_is_an_error_of_cni(tmp_path: Path) -> None:
    text = cni_files.program_text(sys.executable, ["/nowhere"])
    done = run(text, tmp_path, b"{}", CNI_COMMAND="STATUS")
    told = json.loads(done.stdout)
    assert (done.returncode, told["code"]) == (1, 199)
    assert "hvtx cni install" in told["details"]


def test_another_command_finds_hvtx(tmp_path: Path) -> None:
    text = cni_files.program_text(sys.executable, cni_files.module_path())
    done = run(text, tmp_path, b'{"cniVersion":"1.1.0"}', CNI_COMMAND="STATUS")
    told = json.loads(done.stdout)
    assert (done.returncode, told["code"]) == (1, 7), done.stderr
    assert told["msg"].startswith("name cannot be")


def test_nothing_of_the_callers_is_imported(tmp_path: Path) -> None:
    """Neither from the directory of the call nor from that of PYTHONPATH."""
    (tmp_path / "hvtx.py").write_text("raise SystemExit('the wrong hvtx')\n")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n")
    path = tmp_path / "plugin"
    path.write_text(cni_files.program_text(sys.executable, cni_files.module_path()))
    path.chmod(0o755)
    done = subprocess.run(
        [path], input=b"{}", capture_output=True, check=False, cwd=tmp_path,
        env={"CNI_COMMAND": "STATUS", "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert json.loads(done.stdout)["code"] == 1, done.stderr


@pytest.mark.parametrize("name", ["with space", "x" * 140])
def test_an_interpreter_that_no_first_line_could_name(name: str, tmp_path: Path) -> None:
    there = tmp_path / name
    there.mkdir()
    python = there / "python3"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    text = cni_files.program_text(str(python), cni_files.module_path())
    assert text.startswith("#!/bin/sh\n")
    assert cni_files.is_our_program(text)
    for command, code in (("VERSION", 0), ("STATUS", 1)):
        done = run(text, tmp_path, b"{}", CNI_COMMAND=command, PATH=os.environ["PATH"])
        assert (done.returncode, done.stderr) == (code, b"")
        assert json.loads(done.stdout)["cniVersion"] == "1.1.0"


@pytest.mark.parametrize(
    ("interpreter", "path"), [("/a\nb", "/c"), ("/a", "/c\n"), ("/it's here", "/c")]
)
def test_paths_that_no_program_could_hold(interpreter: str, path: str) -> None:
    with pytest.raises(UsageError):
        cni_files.program_text(interpreter, [path])


def test_the_configuration_to_the_letter() -> None:
    text = cni_files.configuration_text("lan", ["10.77.0.0/24"], {"state_dir": "/srv/hvtx"})
    assert json.loads(text) == {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": "lan",
        "disableGC": True,
        "plugins": [
            {
                "type": "hvtx",
                "network": "lan",
                "subnets": ["10.77.0.0/24"],
                "capabilities": {"portMappings": True, "bandwidth": True, "mac": True, "ips": True},
                "stateDir": "/srv/hvtx",
            }
        ],
    }


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (cni_files.configuration_text("lan", [], {}), True),
        ('{"plugins": [{"type": "hvtx"}, {"type": "portmap"}]}', False),
        ('{"plugins": []}', False),
        ('{"plugins": {}}', False),
        ('{"plugins": ["hvtx"]}', False),
        ("[]", False),
        ("{", False),
        ("[" * 100000, False),
    ],
)
def test_whose_a_configuration_is(text: str, ours: bool) -> None:
    assert cni_files.is_our_configuration(text) is ours


def test_whose_a_program_is() -> None:
    assert cni_files.is_our_program(cni_files.program_text("/usr/bin/python3", []))
    assert not cni_files.is_our_program("#!/bin/sh\nexec something\n")


def test_a_file_is_written_with_its_mode_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "made" / "hvtx"
    cni_files.write(str(path), "text\n", 0o755)
    assert cni_files.text_at(str(path)) == "text\n"
    assert cni_files.mode_of(str(path)) == 0o755
    cni_files.write(str(path), "more\n", 0o644)
    assert (path.read_text(), cni_files.mode_of(str(path))) == ("more\n", 0o644)
    cni_files.remove(str(path))
    assert list(path.parent.iterdir()) == []
    with pytest.raises(HostRefused):
        cni_files.remove(str(path))


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("theirs")
    (tmp_path / "hvtx").symlink_to(tmp_path / "target")
    with pytest.raises(Conflict, match="is a link"):
        cni_files.text_at(str(tmp_path / "hvtx"))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HostRefused):
        cni_files.text_at(str(tmp_path))
