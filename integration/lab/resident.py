"""Command lines one after the other in one forked child, for what stands around a test's own matter.

A child that has run a command is several times as quick with the next one: its pages are its own by
then, and its code has been run. But what a command leaves in its process, the next one finds there.
So what a test is about has a process of its own (`integration.lab.program.Forked`), and here runs what
prepares it, asks afterwards how things are, and takes everything away.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import select
import socket
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import NoReturn

from integration.lab import program
from integration.lab.program import Forked, Program, Ran
from tests.machine.attachment_verbs import command_line

_OWN = ("HVTX_FAILPOINT", "HVTX_FAILPOINT_LOG")  # what is killed, or counted, has its own process
_REQUEST = 1 << 17  # bytes: a command line and the environment


class Resident(Program):
    """The command line in a child that was forked before; see :func:`resident`."""

    def __init__(self, channel: socket.socket, pid: int, environment: dict[str, str]) -> None:
        """``channel`` leads to the child ``pid``."""
        super().__init__(**environment)
        self._channel, self._pid = channel, pid

    def __call__(self, *arguments: str, code: int | None = 0, **environment: str) -> Ran:
        """Run it; ``code`` is the exit code to insist on (None: any)."""
        settings = {**os.environ, **self.environment, **environment}
        if any(settings.get(name) for name in _OWN):
            return Forked(**self.environment)(*arguments, code=code, **environment)
        out, err = os.memfd_create("out"), os.memfd_create("err")
        request = json.dumps([arguments, settings]).encode()
        socket.send_fds(self._channel, [request], [out, err])
        exit_code = self._answer()
        ran = Ran(exit_code, program.text_of(out), program.text_of(err))
        if code is not None and ran.code != code:
            words = " ".join(arguments)
            raise AssertionError(f"hvtx {words}: exit {ran.code}, not {code}\n{ran.out}{ran.err}")
        return ran

    def _answer(self) -> int:
        """The exit code; if the child has ended instead, that is one too."""
        ended = os.pidfd_open(self._pid)
        try:
            ready, _, _ = select.select([self._channel, ended], [], [])
        finally:
            os.close(ended)
        answer = self._channel.recv(64) if self._channel in ready else b""
        return int(answer) if answer else 70


@contextlib.contextmanager
def resident(hvtx: Program) -> Iterator[Program]:
    """The same program with one child for all that is run in the block; others stay as they are.

    The child sees namespaces and mounts as they are when the block begins, variables as they are at
    each line. What it has started gets another parent at the end, as the child of any command.
    """
    if type(hvtx) is not Forked:
        yield hvtx
        return
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    pid = os.fork()
    if pid == 0:
        here.close()
        _serve(there)
    there.close()
    try:
        yield Resident(here, pid, hvtx.environment)
    finally:
        with contextlib.suppress(BrokenPipeError):
            here.send(b"end")
        here.close()
        os.waitpid(pid, 0)


def _serve(channel: socket.socket) -> NoReturn:
    """What the child does: run each command line that comes, as `program.child` does."""
    try:
        gc.set_threshold(1 << 18)
        warnings.filterwarnings("ignore", category=ResourceWarning)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        while True:
            request, descriptors, _, _ = socket.recv_fds(channel, _REQUEST, 2)
            if request in (b"end", b""):
                break
            out, err = descriptors
            code = _run(request, out, err)
            channel.send(str(code).encode())
    finally:
        os._exit(0)


def _run(request: bytes, out: int, err: int) -> int:
    arguments, environment = json.loads(request)
    for number, descriptor in ((1, out), (2, err)):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["hvtx", *arguments]
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(number, mode, closefd=False) for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    try:
        code = command_line(tuple(arguments))
        sys.stdout.flush()
        sys.stderr.flush()
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 70
    return code
