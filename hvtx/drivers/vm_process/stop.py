"""A VM process is ended: its guest is asked to power down, then TERM, then KILL."""

from __future__ import annotations

import time
from collections.abc import Callable

from hvtx.drivers.vm_process.gate import KILL_SECONDS, SETTLE, TERM_SECONDS, reap
from hvtx.errors import HostRefused, HvtxError, NotPermitted
from hvtx.host import logger, procfs, signals
from hvtx.hypervisors import guest as words
from hvtx.hypervisors.base import SOCKETS, PowerDown
from hvtx.model.guest import CANNOT_ANSWER
from hvtx.model.typed import NamedTuple
from hvtx.model.vm import Identity

_ASK_SECONDS = (1.0, 4.0)  # for the power-down to be taken; after the first, somebody is told
_LOOK_AGAIN = 1.0  # seconds between looks at a guest that powers down
_MOMENT = 0.05  # for an answer when there is no time left

Tell = Callable[[str], None]


class Ending(NamedTuple):
    """Which VM process is to be ended, and who hears of it while that takes its time."""

    identity: Identity
    directory: str  # its run-time directory
    power_down: PowerDown
    name: str = ""  # the VM's
    tell: Tell = lambda _: None

    @property
    def guest(self) -> str:
        """The guest in a sentence."""
        return f"the guest {self.name}" if self.name else "the guest"


def stop(
    identity: Identity,
    *,
    directory: str,
    power_down: PowerDown,
    timeout: float = 30.0,
    force: bool = False,
    name: str = "",
    tell: Tell | None = None,
) -> None:
    """End a VM process: guest power-down, then TERM, then KILL; a process that is gone is fine.

    ``directory`` is its run-time directory, ``power_down`` what its :class:`Launch` (or
    ``TRAITS``) says. The guest gets ``timeout`` seconds; where it cannot be asked, or says that it
    cannot react, TERM is the polite request, and the program gets them. ``force`` does without the
    request. ``tell`` hears in words what is waited for, once that takes more than a moment, and
    why it is waited for no longer.

    Raises NotPermitted, and HostRefused if the process cannot be told from others or ended.
    """
    pipe = logger.listen(identity.pid)
    ending = Ending(identity, directory, power_down, name, tell or (lambda _: None))
    try:
        _end(ending, timeout, force=force)
    except PermissionError as problem:
        raise NotPermitted(
            f"the VM process {identity.pid} cannot be signalled: {problem.strerror}",
            hint="run hvtx as root, or as the user that the VM process belongs to",
        ) from problem
    except OSError as problem:
        raise HostRefused(
            f"the VM process {identity.pid} cannot be inspected: {problem.strerror}",
            hint="look at the limits on open files and memory; nothing was released",
        ) from problem
    finally:
        if pipe is not None:
            logger.hear_out(pipe)


def _end(ending: Ending, timeout: float, *, force: bool) -> None:
    identity = ending.identity
    patience = TERM_SECONDS
    if not force:
        deadline = time.monotonic() + timeout
        if _ask(ending, deadline) and _wait_off(ending, timeout, deadline):
            reap(identity)
            return
        patience = timeout if ending.power_down == "none" else TERM_SECONDS
    what = f"the process of VM {ending.name}" if ending.name else "the VM process"
    for number, seconds in ((signals.SIGTERM, patience), (signals.SIGKILL, KILL_SECONDS)):
        if not procfs.signal(identity, number):
            reap(identity)
            return
        at_first = min(_LOOK_AGAIN, seconds)
        gone = procfs.wait_gone(identity, at_first)
        if not gone and seconds > at_first:
            ending.tell(f"waiting up to {seconds:g} s for {what} to end")
            gone = procfs.wait_gone(identity, seconds - at_first)
        if gone:
            reap(identity)
            return
        if number == signals.SIGTERM:
            ending.tell(f"{what} did not end within {seconds:g} s: killing it")
    raise HostRefused(
        f"the VM process {identity.pid} does not end, not even by SIGKILL",
        hint=f"it waits inside the kernel: see /proc/{identity.pid}/stack; its resources stay",
    )


def _ask(ending: Ending, deadline: float) -> bool:
    """Ask the guest to switch itself off; False if it cannot be asked, or cannot react.

    A second is for it in any case; a hypervisor that holds us up has no more than the guest has.
    """
    if ending.power_down == "none" or procfs.wait_gone(ending.identity, 0):
        return False
    ask = _ask_qmp if ending.power_down == "qmp" else _ask_api
    seconds, more = _ASK_SECONDS
    while True:
        try:
            return ask(ending, seconds)
        except TimeoutError:
            more = min(more, deadline - time.monotonic())
            if more <= 0:
                break
            told = round(seconds + more, 1)
            ending.tell(f"waiting up to {told:g} s for an answer about {ending.guest}")
            seconds, more = more, 0.0
        except (OSError, HvtxError):
            if procfs.wait_gone(ending.identity, SETTLE):
                return True  # it has ended, perhaps of what it was asked
            break
    ending.tell(f"{ending.guest} cannot be asked to power down: ending its hypervisor")
    return False


def _ask_qmp(ending: Ending, seconds: float) -> bool:
    from hvtx.host.qmp import Qmp

    with Qmp(ending.directory, SOCKETS["qmp"], seconds) as qemu:
        if _is_vain(ending, qemu.status()):
            return False
        qemu.execute("system_powerdown")
    return True


def _ask_api(ending: Ending, seconds: float) -> bool:
    from hvtx.host.vmm_api import power_off

    if power_off(ending.directory, ending.power_down, seconds):
        return True
    ending.tell(f"{ending.guest} may not be asked to power down now: ending its hypervisor")
    return False


def _wait_off(ending: Ending, timeout: float, deadline: float) -> bool:
    """Wait until a guest that was asked is off; False when it is not, or cannot be any more."""
    told = False
    while True:
        if _is_vain(ending, _now_said(ending, deadline - time.monotonic())):
            return False
        left = deadline - time.monotonic()
        if procfs.wait_gone(ending.identity, max(0.0, min(left, _LOOK_AGAIN))):
            return True
        if time.monotonic() >= deadline:
            ending.tell(
                f"{ending.guest} did not power down within {timeout:g} s: ending its hypervisor"
            )
            return False
        if not told:
            ending.tell(f"waiting up to {timeout:g} s for {ending.guest} to power down")
            told = True


def _now_said(ending: Ending, left: float) -> str:
    """The hypervisor's word for the guest's state; empty if it does not answer in time."""
    from hvtx.host.monitor_queries import SECONDS, Question, ask_one

    how = words.ASKED[ending.power_down]
    question = Question(how, ending.directory, SOCKETS[how])
    return ask_one(question, max(_MOMENT, min(SECONDS, left))) or ""


def _is_vain(ending: Ending, said: str) -> bool:
    """Whether a guest in that state cannot react; it is told."""
    guest = words.guest_of(words.ASKED[ending.power_down], said)
    if guest not in CANNOT_ANSWER:
        return False
    state = words.described(guest, said)
    ending.tell(f"{ending.guest} cannot power down, its state is {state}: ending its hypervisor")
    return True
