"""What holds a VM's published ports: a few lines for an interpreter that has nothing else to do.

Both programs do the same (docs/adr/0066). They have a VM's sockets open and never touch them; wait
for the word "go" on their standard input, and end without it; take the name ``hvtx-port``; and end
when the process does whose pidfd (its number is the second argument, "-" for none) they wait for.

Perl starts in a seventh of the time that Python takes, in a quarter of the memory, and waits for
descriptors without a module. Its package is essential on Debian and Ubuntu (perl-base). Where it is
missing, Python does it. A shell could do neither: it waits for its own children alone.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterable, Sequence

from hvtx.host import signals

Action = tuple[int, ...] | tuple[int, int, str, int, int]  # of posix_spawn, in the child
SIGNATURE = "hvtx-port"  # a word of its command line, and its name once it holds for good
PERL = "/usr/bin/perl"
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ENOEXEC, errno.ELIBBAD})
# `my` counts from the next statement on, so what is declared in one is used after it. 4 is EINTR:
# a module would be loaded for its name.
_PERL = """
sysread STDIN, my $word, 3;
exit if $word ne "go\\n";
$SIG{$_} = "IGNORE" for qw(HUP INT QUIT);
chdir "/";
open NAME, ">", "/proc/self/comm" or exit 1;
syswrite NAME, $ARGV[0];
close NAME;
my $followed = "";
vec($followed, $ARGV[1], 1) = 1 if $ARGV[1] ne "-";
while (select(my $ended = $followed, undef, undef, undef) < 1) { exit 1 if $! != 4 }
"""
_PYTHON = """
import os, select, sys
import _signal as signal
if os.read(0, 3) == b"go\\n":
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    with open("/proc/self/comm", "w") as name:
        name.write(sys.argv[1])
    wait = select.poll()
    if sys.argv[2] != "-":
        wait.register(int(sys.argv[2]), select.POLLIN)
    wait.poll()
"""


def command_lines(followed: int | None, words: Sequence[str]) -> list[list[str]]:
    """Command lines of the holder, the best first (pure but for where this Python is).

    ``followed``: the number of the pidfd that it ends with; ``words`` stand there for people.
    """
    told = [SIGNATURE, "-" if followed is None else str(followed), *words]
    python = sys.executable or "/usr/bin/python3"
    return [[PERL, "-f", "-e", _PERL, *told], [python, "-I", "-S", "-c", _PYTHON, *told]]


def start(command_lines: Iterable[list[str]], actions: Sequence[Action]) -> tuple[int, str]:
    """Start the first of these whose program is there: its pid, and which. Raises OSError."""
    failed = OSError(errno.ENOENT, os.strerror(errno.ENOENT))
    for words in command_lines:
        try:
            pid = os.posix_spawn(
                words[0], words, {"LC_ALL": "C"}, file_actions=actions, setsid=True, setsigmask=(),
                setsigdef=signals.ALL,
            )  # fmt: skip
        except OSError as problem:
            failed = problem
            if not is_missing(problem):
                break
        else:
            return pid, words[0]
    raise failed


def is_missing(problem: OSError) -> bool:
    """Whether a program could not be started because it is not there, or is no program here."""
    return problem.errno in _NOT_THERE


def how_it_ended(program: str, status: int | None) -> tuple[str, str]:
    """Words and a hint about a holder that ended; ``status`` below 0 is a signal (pure)."""
    if status is None or status < 0:
        return "has ended", "something killed it: the kernel's log tells of a lack of memory"
    look = f"{program} -e 1" if program == PERL else f"{program} -I -S -c pass"
    return f"has ended with exit code {status}", f"see what is wrong with its program: {look}"
