"""The commands of the plugin, over the library: a document in, a document (or nothing) out."""

from __future__ import annotations

from collections.abc import Callable

from hvtx.cni import configuration, errors
from hvtx.cni.configuration import Base
from hvtx.cni.environment import Call
from hvtx.cni.errors import CniError
from hvtx.errors import HvtxError
from hvtx.model.typed import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from hvtx.model.attachment import (
        Attached,
        AttachmentKey,
        AttachmentRequest,
        Collected,
        Missing,
    )

Document = dict[str, Any]
Tell = Callable[[str], None]  # a line on standard error, which runtimes write to their log


class Attachments(Protocol):
    """What the plugin asks of the library: ``host.attachments``."""

    def add(self, asked: AttachmentRequest, /) -> Attached:
        """Make an attachment."""
        ...

    def delete(self, key: AttachmentKey, /) -> None:
        """Release an attachment, if it is there."""
        ...

    def check(self, asked: AttachmentRequest, /) -> tuple[Missing, ...]:
        """What is missing of an attachment."""
        ...

    def show(self, key: AttachmentKey, /) -> Attached | None:
        """An attachment as it is on record."""
        ...

    def collect(self, network: str, valid: Collection[tuple[str, str]], /) -> Collected:
        """Remove what is dead and not listed."""
        ...

    def status(
        self,
        bridge_network: str,
        subnets: Sequence[str],
        mtu: int | None,
        /,
        *,
        nat: bool | None,
        isolate: bool | None,
        vm: bool,
    ) -> None:
        """Raise what would keep ADD from being served."""
        ...


def answer(
    call: Call, document: Document, host: Callable[..., Attachments], tell: Tell
) -> Document | None:
    """Carry out a command other than VERSION. Raises CniError."""
    base = configuration.parse_base(document, call.command)
    try:
        return _answer(call, base, document, host, tell)
    except CniError as problem:
        from hvtx.model import own_commands

        problem.details = own_commands.with_options(problem.details, base.settings)
        raise


def _answer(
    call: Call, base: Base, document: Document, host: Callable[..., Attachments], tell: Tell
) -> Document | None:
    try:
        return _VERBS[call.command](call, base, document, host(**base.settings), tell)
    except HvtxError as problem:
        told = errors.of_library(problem)
        told.msg = configuration.in_its_words(told.msg)
        if call.command == "STATUS" and told.code != errors.LIMITED_CONNECTIVITY:
            told.code = errors.NOT_AVAILABLE
        raise told from problem


def add(call: Call, base: Base, document: Document, host: Attachments, _tell: Tell) -> Document:
    """ADD."""
    from hvtx.cni.request import parse_request
    from hvtx.cni.result import parse_dns, parse_previous, result

    asked = parse_request(call, base, document)
    previous, dns = parse_previous(document), parse_dns(document)
    made = host.add(asked)
    return result(base.version, call.netns, made, previous, dns)


def delete(call: Call, base: Base, _document: Document, host: Attachments, _tell: Tell) -> None:
    """DEL: the owner's word; needs no namespace and no ``prevResult``, and may be repeated."""
    from hvtx.cni.request import key_of

    host.delete(key_of(call, base))


def check(call: Call, base: Base, document: Document, host: Attachments, _tell: Tell) -> None:
    """CHECK: what is missing in the host, and what the runtime's record has otherwise."""
    from hvtx.cni.check import differences
    from hvtx.cni.request import parse_request
    from hvtx.cni.result import parse_previous

    asked = parse_request(call, base, document)
    previous = parse_previous(document)
    there = host.show(asked.key)
    if there is None:
        raise CniError(
            errors.UNKNOWN_CONTAINER,
            f"{asked.key.ifname} of container {asked.key.container} is not attached"
            f" to {asked.key.network!r}",
            "ADD attaches it",
        )
    if previous is None:
        raise CniError(
            errors.CONFIGURATION,
            "CHECK needs prevResult",
            "the runtime gives the result of ADD, which it keeps in its cache",
        )
    missing = host.check(asked)
    found = [(one.what, one.mend) for one in missing]
    again = "DEL, then ADD, attaches it anew"
    found += [(words, again) for words in differences(asked, there, previous)]
    if found:
        raise CniError(
            errors.CHECK_FAILED,
            "; ".join(words for words, _ in found),
            "; ".join(dict.fromkeys(mend for _, mend in found)),
        )


def collect(_call: Call, base: Base, document: Document, host: Attachments, tell: Tell) -> None:
    """GC: what is proven dead and not in the list goes; what is kept is told.

    Raises CniError (11) where something could not be looked at, or not be released.
    """
    valid = configuration.valid_attachments(document)
    done = host.collect(base.name, valid)
    for one in done.kept:
        of = f"{one.key.ifname} of container {one.key.container}"
        tell(f"hvtx: GC of {base.name} kept {of} ({one.reason}): {one.message}")
    failed = [one for one in done.kept if one.failed]
    if failed:
        first = failed[0]
        more = f", and {len(failed) - 1} more" if len(failed) > 1 else ""
        raise CniError(
            errors.TRY_AGAIN,
            f"GC of {base.name} left what it could not look at or release: {first.key.ifname} of"
            f" container {first.key.container} ({first.message}){more}",
            "`hvtx gc --apply` does the rest; `hvtx gc --plan` shows it",
        )


def status(_call: Call, base: Base, document: Document, host: Attachments, _tell: Tell) -> None:
    """STATUS: whether ADD could be served."""
    wish = configuration.parse_network(document)
    host.status(
        base.network, wish.subnets, wish.mtu, nat=wish.nat, isolate=wish.isolate, vm=wish.vm
    )


_VERBS: dict[str, Callable[[Call, Base, Document, Attachments, Tell], Document | None]] = {
    "ADD": add,
    "DEL": delete,
    "CHECK": check,
    "GC": collect,
    "STATUS": status,
}
