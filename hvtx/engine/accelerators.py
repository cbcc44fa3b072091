"""`doctor`'s check of KVM: the result of starts in this boot, else of a test run now."""

from __future__ import annotations

from hvtx.drivers.vm_process.probe import this_machine
from hvtx.errors import HostRefused, UsageError
from hvtx.host import kvm, program
from hvtx.hypervisors.base import TRAITS, binary_names
from hvtx.model.typed import NamedTuple
from hvtx.model.user import User

_SLOW = "qemu guests run emulated, ten times slower"
_TRY = f"they run, only slower; {kvm.VARIABLE}=kvm uses KVM all the same, and they may hang"
_SHOWN = 5  # of the answers that are kept


class Verdict(NamedTuple):
    """``level`` is ok, warning or error, as of a finding of `doctor`."""

    level: str
    message: str
    evidence: tuple[str, ...] = ()
    hint: str | None = None


def judge(run_directory: str, user: User | None = None) -> Verdict:
    """Whether QEMU takes KVM here as ``user`` (None: as we run), and why.

    Tries it for at most 3 s, and writes nothing. A QEMU that does not run says nothing of KVM.
    Raises OSError if it cannot be tried.
    """
    try:
        decided = kvm.unseen(user)
    except UsageError as none:  # and no VM of QEMU starts
        return Verdict("error", none.message, (), none.hint)
    names = binary_names("qemu", this_machine())
    binary = program.find(names)
    if binary is not None:
        try:
            kvm.need_qemu(binary)
        except HostRefused as broken:
            return Verdict("error", broken.message, (), broken.hint)
    if decided is not None and decided.accelerator == "tcg":
        return _unseen(decided)
    problem = kvm.device_problem(user)
    if decided is not None and problem is not None:
        return _forced(problem, ())
    if binary is None:
        words = f"{kvm.DEVICE} exists; without QEMU hvtx cannot test whether it runs guests"
        over = program.passed_over(names)
        hint = TRAITS["qemu"].hint if over is None else program.believed_hint(over)
        return Verdict("warning", words, (), hint)
    question = kvm.ask(binary, None)
    answers = [
        answer
        for known, answer in kvm.all_kept(run_directory)
        if (known.boot_id, known.binary) == (question.boot_id, question.binary)
    ] or [kvm.probe(question, this_machine(), "kvm", user)]
    return _seen(answers, forced=decided is not None)


def _unseen(answer: kvm.Answer) -> Verdict:
    if answer.reason == kvm.NO_DEVICE:
        hint = "turn on virtualisation in the firmware; in a VM, nested virtualisation"
        return Verdict("warning", f"{answer.reason}: {_SLOW}", (), hint)
    if answer.reason == kvm.NOT_ALLOWED:
        hint = f"give {kvm.DEVICE} a group of its own that may read and write it, mostly kvm"
        return Verdict("warning", f"{answer.reason}: {_SLOW}", (), hint)
    return Verdict("ok", f"{answer.reason}: {_SLOW}")


def _seen(answers: list[kvm.Answer], *, forced: bool) -> Verdict:
    refused = [answer for answer in answers if answer.accelerator != "kvm"]
    if not refused:
        return Verdict("ok", answers[-1].reason)
    evidence = tuple(dict.fromkeys(answer.seen for answer in answers))[-_SHOWN:]
    if forced:
        return _forced(refused[-1].reason, evidence)
    if len(refused) < len(answers):
        words = "KVM runs some of the kernels that were tried; the others run emulated"
        return Verdict("warning", words, evidence, _TRY)
    return Verdict("warning", f"{refused[-1].reason}: {_SLOW}", evidence, _TRY)


def _forced(problem: str, evidence: tuple[str, ...]) -> Verdict:
    words = f"{kvm.VARIABLE}=kvm decides, and {problem}"
    return Verdict("error", words, evidence, f"unset {kvm.VARIABLE}, or {kvm.VARIABLE}=tcg")
