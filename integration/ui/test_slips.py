"""Slips of a first hour: what is there is named as what it is, and nothing is changed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from integration import lab
from integration.lab import witness
from integration.lab.program import Program
from integration.ui.test_input import SLEEP, hvtx, peopled, refused

__all__ = ["hvtx", "peopled"]  # fixtures


def hint(ran_err: str) -> str:
    return ran_err.splitlines()[1].removeprefix("hint: ")


def test_a_vm_without_a_name(peopled: Program) -> None:
    """The first word after -- is no name: it is the command of a VM that was not named."""
    for words in (("sleep", "1"), ("web",)):
        for verb in ("create", "run"):
            ran = refused(peopled, "vm", verb, "--memory", "64", "--", *words, code=2)
            assert ran.err.startswith("error: the VM has no name")
            given = f"hvtx vm {verb} NAME --memory 64 -- {' '.join(words)}"
            assert hint(ran.err) == given
    assert [vm["name"] for vm in peopled("vm", "ls", "--json").json()["vms"]] == ["web"]
    peopled("--debug", "vm", "create", "sleep", "--", "sleep", "1")  # named as its command: fine
    peopled("vm", "rm", "sleep")
    for given in (("--hypervisor", "external"), ("--kernel", sys.executable)):
        peopled("vm", "create", "--network", "net", *given, "--", "last")  # no command: a name
        peopled("vm", "rm", "last")


DESCRIBED = 'vms.last.network = "net"\nvms.last.command = ["sleep", "9"]\n'


@pytest.mark.parametrize(
    ("words", "code", "commands"),
    [
        (("gc", "--plan", "--out", "none/a b/plan.json"), 3,
         ["mkdir -p 'none/a b'", "hvtx gc --plan --out ~/plan.json"]),
        (("gc", "--heuristic", "--plan", "--out", "none/plan.json"), 3,
         ["mkdir -p none", "hvtx gc --heuristic --plan --out ~/plan.json"]),
        (("gc", "--plan", "--html", "none/plan.html"), 3,
         ["mkdir -p none", "hvtx gc --plan --html ~/plan.html"]),
        (("gc", "--plan", "--out", "/proc/plan.json"), 3, ["hvtx gc --plan --out ~/plan.json"]),
        (("gc", "--plan", "--mode", "0640"), 2, ["hvtx gc --plan --mode 0640 --out plan.json"]),
        (("gc", "--apply", "plan 1.json"), 3, ["hvtx gc --plan --out 'plan 1.json'"]),
        (("vm", "apply", "-f", "set.toml"), 2,
         ["hvtx vm apply -f set.toml --plan", "hvtx vm apply -f set.toml --yes"]),
        (("vm", "apply", "-f", "set.toml", "--plan", "--out", "none/x"), 3, ["mkdir -p none"]),
        (("store", "backup", "none/b"), 3, ["mkdir -p none"]),
        (("store", "backup", "set.toml"), 4, ["hvtx store backup set.toml --force"]),
        (("network", "create", "other"), 2, ["hvtx network create other --subnet 10.77.0.0/24"]),
        (("vm", "set", "web", "--unpublish", "127.0.0.1:8080"), 3,
         ["hvtx vm set web --unpublish 8080/tcp"]),
        (("vm", "set", "web", "-p", "8080:81"), 4,
         ["hvtx vm set web --unpublish 8080/tcp --publish 8080:81/tcp"]),
    ],
)  # fmt: skip
def test_what_a_hint_says_is_typed_as_it_stands(
    peopled: Program,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    commands: list[str],
) -> None:
    """Each is in the hint, whole; a shell takes it, and what was wrong is right then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    Path("set.toml").write_text(DESCRIBED)
    told = hint(peopled(*words, code=code).err)
    if words[0] == "network":
        peopled("vm", "rm", "web", "--force")
        peopled("network", "rm", "net")
    program = f'hvtx() {{ {shlex.quote(sys.executable)} -m hvtx "$@"; }}\n'
    for command in commands:
        assert command in told
        lab.run("sh", "-e", "-c", program + command)
    if "mkdir" in commands[0]:
        peopled(*words)
    peopled("vm", "rm", "last", "--force", code=None)


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("8080 tcp", "8080/tcp"),
        ("tcp/8080", "8080/tcp"),
        (":8080", "8080"),
        ("localhost:8080", "127.0.0.1:8080"),
        ("http://10.77.0.2/", "10.77.0.2"),
    ],
)
def test_what_a_browser_is_given_is_explained_without_it(
    peopled: Program, asked: str, meant: str
) -> None:
    told = peopled("explain", asked, code=3).err
    assert hint(told) == f"did you mean {meant}? hvtx explain {meant}"
    assert peopled("explain", meant, "--json").json()["vm"] == "web"
    assert hint(peopled("explain", "http://a b/", code=3).err).startswith("give an interface")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--memory", "512M"), "write it as --memory 512"),
        (("--memory", "1.5 GiB"), "write it as --memory 1536"),
        (("--memory", "half"), "the unit is MiB: 2048 is 2 GiB"),
        (("--hypervisor", "KVM"), "did you mean 'qemu'?"),
        (("--ip", "10.77.0.9/24"), "write it as 10.77.0.9"),
        (("--mac", "02-00-00-00-00-09"), "write it as 02:00:00:00:00:09"),
        (("-p", "8080"), "write it as 8080:8080"),
        (("-p", "15432→5432/tcp"), "write it as 15432:5432"),
        (("-p", "1:1,2:2"), "one at a time: --publish 1:1 --publish 2:2"),
        (("--network", "net,lan"), "one at a time: --network net --network lan"),
    ],
)
def test_a_value_in_another_spelling(peopled: Program, words: tuple[str, ...], says: str) -> None:
    """What `vm ls` prints, and what other programs take."""
    ran = refused(peopled, "vm", "create", "db", *words, code=2)
    assert says in hint(ran.err)


def test_a_dash_is_no_file(
    peopled: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is standard output elsewhere; here a file of that name would appear, unseen."""
    monkeypatch.chdir(tmp_path)
    for words in (
        ("gc", "--plan", "--out", "-"),
        ("gc", "--plan", "--html", "-"),
        ("store", "backup", "-"),
        ("metrics", "--textfile", "-"),
    ):
        with witness.unchanged():
            ran = peopled(*words, code=2)
        assert hint(ran.err) == "/dev/stdout is standard output, ./- is a file of that name"
    assert not (tmp_path / "-").exists()
    peopled("store", "backup", "./-")
    assert (tmp_path / "-").exists()


def test_a_directory_is_refused_before_it_is_on_record(peopled: Program, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("nowhere")
    for option in ("--kernel", "--disk"):
        ran = refused(peopled, "vm", "create", "db", option, str(tmp_path), code=2)
        assert "it is a directory, and not a regular file" in ran.err
        ran = refused(peopled, "vm", "create", "db", option, str(link), code=3)
        assert ran.err.splitlines()[0].endswith("link does not exist: it is a link to nowhere")


def test_a_disk_is_a_file_or_a_block_device(peopled: Program, tmp_path: Path) -> None:
    """Said where it is asked for: at a start QEMU would only say that it cannot lock it."""
    image, pipe = tmp_path / "image.raw", tmp_path / "pipe"
    image.write_bytes(bytes(510) + b"\x55\xaa")
    os.mkfifo(pipe)
    for path, kind in (
        ("/dev/null", "a character device"), ("/dev/zero", "a character device"),
        (str(pipe), "a pipe (FIFO)"),
    ):  # fmt: skip
        says = f"the disk {path} cannot be used: it is {kind}, and not a regular file or a block"
        ran = refused(peopled, "vm", "create", "db", "--disk", path, code=2)
        assert says in ran.err
        assert hint(ran.err) == "name an image: --disk FILE"
    peopled("vm", "create", "db", "--disk", str(image))
    ran = refused(peopled, "vm", "set", "db", "--disk", "/dev/null", code=2)
    assert "the disk /dev/null cannot be used" in ran.err
    image.unlink()
    image.symlink_to("/dev/zero")  # what is there by the time of a start is looked at again
    ran = refused(peopled, "vm", "start", "db", code=2)
    assert f"the disk {image} of VM db cannot be used: it is a character device" in ran.err
    peopled("vm", "rm", "db")


def test_a_program_that_is_none(peopled: Program, tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.write_text("no program\n")
    for first, words, says in (
        (str(plain), f"{plain}, cannot be executed", f"chmod +x {plain}, if it is a program"),
        (str(tmp_path), f"{tmp_path}, is a directory", "give a program that exists after --"),
        (
            "sleep 5",
            "sleep 5, is not on this host",
            "after -- stands each word by itself: -- sleep 5",
        ),
    ):
        ran = refused(peopled, "vm", "run", "db", "--network", "net", "--", first, code=3)
        assert words in ran.err.splitlines()[0]
        assert says in hint(ran.err)


def test_a_directory_that_is_gone(peopled: Program, tmp_path: Path) -> None:
    """Whoever stands in it is told so; what needs no directory works."""
    gone = tmp_path / "gone"
    gone.mkdir()
    peopled("vm", "create", "two", "--network", "net", *SLEEP)

    def there(*words: str) -> subprocess.CompletedProcess[str]:
        shell = f'cd {gone} && rmdir {gone}; "$@"; code=$?; mkdir -p {gone}; exit $code'
        program = [sys.executable, "-m", "hvtx"]
        argv = ["sh", "-c", shell, "sh", *program, *words]
        return subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)

    for words in (
        ("vm", "create", "db", "--network", "net", *SLEEP),
        ("vm", "set", "two", "--", "x"),
    ):
        ran = there(*words)
        assert (ran.returncode, ran.stderr.splitlines()) == (
            3,
            ["error: the current directory does not exist any more",
             "hint: go to one that does: cd /"],
        ), ran  # fmt: skip
    assert there("vm", "restart", "web").returncode == 0


def test_a_console_that_is_none_names_the_log(peopled: Program) -> None:
    ran = peopled("vm", "console", "web", code=4)
    assert hint(ran.err).startswith("`hvtx vm logs web` prints what the VM wrote")


def test_an_unknown_process_is_not_an_unknown_vm(peopled: Program) -> None:
    peopled("vm", "create", "ext", "--network", "net", "--hypervisor", "external")
    peopled("vm", "start", "ext")
    ran = refused(peopled, "vm", "start", "ext", code=4)
    assert hint(ran.err).startswith("whether its process runs cannot be proven: hvtx vm show ext")
    peopled("vm", "rm", "ext", "--force")


def test_a_single_digit_is_no_year(peopled: Program) -> None:
    """`5` was the year 5000: nothing has happened since."""
    for text in ("5", "202"):
        ran = refused(peopled, "log", "--since", text, code=2)
        assert f"{text!r} is not a time" in ran.err
    assert "web" in peopled("log", "--since", "2026").out


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ('state-dir = "/x"', 2, "did you mean 'state_dir'? known: "),
        ('firewall = "nft"', 2, "did you mean 'nftables'? it is one of"),
        ('dhcp = "yes"', 2, "did you mean 'on'? it is one of"),
        ('egress = "Internet"', 2, "did you mean 'internet'? it is one of"),
    ],
)
def test_a_configuration_that_is_nearly_right(
    hvtx: Program, tmp_path: Path, text: str, code: int, says: str
) -> None:
    config = tmp_path / "config.toml"
    config.write_text(text)
    assert says in hint(hvtx("vm", "ls", code=code).err)


def test_a_configuration_that_is_no_file(hvtx: Program, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.unlink()
    config.mkdir()
    ran = hvtx("vm", "ls", code=2)
    assert ran.err.splitlines()[0] == (
        f"error: the configuration {config} cannot be read: it is a directory, and not a regular file"
    )
