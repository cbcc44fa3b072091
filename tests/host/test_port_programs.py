"""What holds published ports: both programs do the same, whichever interpreter is there."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from hvtx.host import port_programs

PROGRAMS = ("perl", "python")
IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class Started(NamedTuple):
    """One of the programs, as a holder starts it, but for the sockets."""

    process: subprocess.Popen[bytes]

    def say(self, word: bytes) -> None:
        """Give it a word, and nothing more."""
        assert self.process.stdin is not None
        self.process.stdin.write(word)
        self.process.stdin.close()

    def read(self, name: str) -> str:
        """A file of it below /proc."""
        return Path(f"/proc/{self.process.pid}/{name}").read_text()

    def holds(self) -> Started:
        """Itself, once it has the name of one that holds for good."""
        until(lambda: self.read("comm") == "hvtx-port\n")
        return self

    @property
    def sleeps(self) -> bool:
        """Whether it waits, and what it waits for has not come."""
        return (
            self.process.poll() is None and self.read("stat").rpartition(")")[2].split()[0] == "S"
        )


def until(seen: Callable[[], bool]) -> None:
    """Wait until ``seen()``, at most half a minute."""
    deadline = time.monotonic() + 30
    while not seen():
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.fixture(params=PROGRAMS)
def start(request: pytest.FixtureRequest) -> Iterator[Callable[..., Started]]:
    """Starts it, following a descriptor or none; what it is at the end goes."""
    begun: list[subprocess.Popen[bytes]] = []

    def started(followed: int | None = None, words: tuple[str, ...] = ("8080/tcp",)) -> Started:
        number = PROGRAMS.index(request.param)
        words_of = port_programs.command_lines(followed, words)[number]
        if not os.access(words_of[0], os.X_OK):
            pytest.skip(f"{words_of[0]} is not there")
        kept = () if followed is None else (followed,)
        begun.append(
            subprocess.Popen(words_of, stdin=-1, env={"LC_ALL": "C"}, pass_fds=kept, cwd="/tmp")
        )
        return Started(begun[-1])

    yield started
    for process in begun:
        with contextlib.suppress(BrokenPipeError, ValueError):
            process.kill()
            process.communicate()


@pytest.fixture
def guest() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is followed."""
    with subprocess.Popen(["sleep", "600"]) as process:
        yield process
        process.kill()


@pytest.mark.parametrize("word", [b"", b"go", b"no\n", b"g"])
def test_without_its_word_it_goes_away(start: Callable[..., Started], word: bytes) -> None:
    """Its starter died before that, or in the middle of it."""
    one = start()
    one.say(word)
    assert one.process.wait(30) == 0


def test_until_it_has_heard_it_has_its_programs_name(start: Callable[..., Started]) -> None:
    """By that a holder is known that may yet go away."""
    one = start()
    until(lambda: one.sleeps)
    assert one.read("comm") != "hvtx-port\n"
    assert "hvtx-port" in one.read("cmdline").split("\0")
    one.say(b"go\n")
    one.holds()
    assert os.readlink(f"/proc/{one.process.pid}/cwd") == "/"


def test_a_terminal_that_goes_away_does_not_end_it(start: Callable[..., Started]) -> None:
    """SIGTERM does; so do the words that stand there for people not change what it does."""
    one = start(None, ("-e", "--help", "-v"))
    one.say(b"go\n")
    one.holds()
    ignored = int(one.read("status").partition("SigIgn:")[2].split()[0], 16)
    assert [s for s in IGNORED if not ignored >> (s - 1) & 1] == []
    for number in (*IGNORED, signal.SIGSTOP, signal.SIGCONT):
        one.process.send_signal(number)
    time.sleep(0.05)
    until(lambda: one.sleeps)
    one.process.terminate()
    assert one.process.wait(30) == -signal.SIGTERM


def test_it_ends_with_the_process_that_it_follows(
    start: Callable[..., Started], guest: subprocess.Popen[bytes]
) -> None:
    """At once, before that is waited for; a second word, or the end of its input, is no reason."""
    followed = os.pidfd_open(guest.pid)
    try:
        one = start(followed)
        one.say(b"go\ngo\n")
        until(lambda: one.holds().sleeps)
        before = one.read("schedstat").split()[0]
        for number in (signal.SIGSTOP, signal.SIGCONT):
            one.process.send_signal(number)
            guest.send_signal(number)
        time.sleep(0.05)
        until(lambda: one.sleeps)
        spent = int(one.read("schedstat").split()[0]) - int(before)
        assert spent < 20_000_000, "it does not wait, it asks"
        guest.kill()
        assert one.process.wait(30) == 0
    finally:
        os.close(followed)


def test_it_follows_one_who_has_ended_meanwhile(
    start: Callable[..., Started], guest: subprocess.Popen[bytes]
) -> None:
    """Then there is nothing to hold for."""
    followed = os.pidfd_open(guest.pid)
    try:
        guest.kill()
        select.select([followed], [], [])
        one = start(followed)
        one.say(b"go\n")
        assert one.process.wait(30) == 0
    finally:
        os.close(followed)


def test_a_descriptor_with_a_high_number_is_followed(
    start: Callable[..., Started], guest: subprocess.Popen[bytes]
) -> None:
    """Hundreds of sockets are below it: more than select(2) of a C library takes."""
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 3000:
        pytest.skip("this process may not have as many files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 3000), hard))
    low = os.pidfd_open(guest.pid)
    high = fcntl.fcntl(low, fcntl.F_DUPFD_CLOEXEC, 2500)
    try:
        one = start(high)
        one.say(b"go\n")
        until(lambda: one.holds().sleeps)
        guest.kill()
        assert one.process.wait(30) == 0
    finally:
        os.close(low)
        os.close(high)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_it_opens_nothing_that_stays_open(start: Callable[..., Started]) -> None:
    """Three streams; no file of its interpreter, no module."""
    one = start()
    one.say(b"go\n")
    one.holds()
    until(lambda: sorted(os.listdir(f"/proc/{one.process.pid}/fd")) == ["0", "1", "2"])
    assert ".pm" not in one.read("maps")


def test_perl_comes_before_python() -> None:
    """The command lines agree in what is asked of both, and in what a holder is known by."""
    perl, python = port_programs.command_lines(7, ("web", "80/tcp"))
    assert perl[0] == "/usr/bin/perl"
    assert perl[4:] == python[5:] == ["hvtx-port", "7", "web", "80/tcp"]
    assert port_programs.command_lines(None, ())[0][4:] == ["hvtx-port", "-"]


def test_what_is_missing_is_told_from_what_fails() -> None:
    """A program that is not there is replaced; a lack of memory or of processes is not."""
    missing = (errno.ENOENT, errno.EACCES, errno.ENOEXEC)
    assert all(port_programs.is_missing(OSError(code, "")) for code in missing)
    others = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.EINTR)
    assert not any(port_programs.is_missing(OSError(code, "")) for code in others)


@pytest.mark.parametrize(
    ("program", "status", "words", "hint"),
    [
        ("/usr/bin/perl", -9, "has ended", "memory"),
        ("/usr/bin/perl", None, "has ended", "memory"),
        ("/usr/bin/perl", 127, "exit code 127", "/usr/bin/perl -e 1"),
        ("/opt/python", 1, "exit code 1", "/opt/python -I -S -c pass"),
    ],
)
def test_how_it_ended_is_told(program: str, status: int | None, words: str, hint: str) -> None:
    """Somebody killed it, or its interpreter does not run on this host."""
    said = port_programs.how_it_ended(program, status)
    assert words in said[0]
    assert hint in said[1]
