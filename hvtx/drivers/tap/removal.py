"""Removal of a TAP: attach to it, verify it again, delete and detach.

What is not the row's, is held by somebody else, or carries things of others stays, with the reason.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Callable, Sequence

from hvtx.drivers.tap.standing import Above, kept_by_others
from hvtx.host import failpoint, tun
from hvtx.host.links import Links
from hvtx.model.resource import (
    GONE,
    Link,
    Outcome,
    Resource,
    index_of,
)

_THREADS = 64
_LATE_SECONDS, _PAUSE = 3.0, 0.002


def release_one(row: Resource, links: Links, above: Above) -> Outcome:
    """Remove one device if it is the row's; the whole of the proof is in here."""
    seen = links.get(ifindex=index_of(row))
    if seen is None:
        foreign_object = links.get(name=row.key)
        if foreign_object is None or foreign_object.name != row.key:  # found by an alternative name
            return GONE
        return Outcome(
            False,
            "mark-mismatch",
            f"a device named {row.key} exists, but it is not the recorded one",
        )
    problem = wrong_mark(row, seen) or kept_by_others(seen, links, above, row.addresses)
    if problem is not None:
        return problem
    return delete_by_attaching(seen, links, lambda held: wrong_mark(row, held))


def release_held(row: Resource, links: Links, above: Above, descriptor: int, seen: Link) -> Outcome:
    """Remove a device that was seized, after one more look at it."""
    try:
        held = links.get(ifindex=seen.ifindex)
    except BaseException:
        os.close(descriptor)
        raise
    if held is None:
        return _give_up(descriptor, Outcome(False, "contended", f"{row.key} is gone by now"))
    problem = wrong_mark(row, held) or kept_by_others(held, links, above, row.addresses)
    if problem is not None:
        return _give_up(descriptor, problem)
    return delete_attached(descriptor, held, links)


def delete_by_attaching(
    seen: Link, links: Links, objection: Callable[[Link], Outcome | None]
) -> Outcome:
    """Remove the device ``seen`` if nobody holds it and ``objection`` has none once it is held.

    The attach is the lock: EBUSY while another holds the device, and while we hold it nobody else
    can. Raises OSError.
    """
    descriptor = hold(seen, links, objection)
    if isinstance(descriptor, Outcome):
        return descriptor
    return delete_attached(descriptor, seen, links)


def hold(seen: Link, links: Links, objection: Callable[[Link], Outcome | None]) -> int | Outcome:
    """Attach to a device, which keeps everybody else from it; the descriptor, or why not."""
    descriptor = tun.open_device()
    try:
        failpoint.reach("seen:tap")
        if not _attached(descriptor, seen):
            words = f"{seen.name} is held open by some process"
            return _give_up(descriptor, Outcome(False, "in-use", words))
        failpoint.reach("attached:tap")
        held = links.get(ifindex=seen.ifindex)
        if held is None or held.name != seen.name:
            changed = f"{seen.name} changed while it was inspected"
            return _give_up(descriptor, Outcome(False, "contended", changed))
        problem = objection(held)
        if problem is None and held.queues > 1:
            words = f"{held.name} has another queue that some process holds open"
            problem = Outcome(False, "in-use", words)
        return descriptor if problem is None else _give_up(descriptor, problem)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(descriptor)
        raise


def _attached(descriptor: int, seen: Link) -> bool:
    """Whether the device could be attached to: nobody has it open."""
    try:
        tun.attach_free(descriptor, seen.name, seen.tun_flags)
    except OSError as refusal:
        if refusal.errno != errno.EBUSY:
            raise
        return False
    return True


def _give_up(descriptor: int, outcome: Outcome) -> Outcome:
    os.close(descriptor)
    return outcome


def delete_attached(descriptor: int, seen: Link, links: Links) -> Outcome:
    """Remove a device that is held, by letting go of it; closes the descriptor."""
    try:
        tun.set_persistent(descriptor, False)
    finally:
        os.close(descriptor)
    if not _has_gone(seen.ifindex, links):
        return Outcome(False, "contended", f"{seen.name} still exists after its removal")
    return GONE


def _has_gone(ifindex: int, links: Links) -> bool:
    """Whether a device that was let go is gone, or goes within some seconds.

    Whoever reads our ``/proc/<pid>/fdinfo`` holds the descriptor meanwhile, and waits for RTNL to
    do so (tun_chr_show_fdinfo), so that the device goes with the reader's reference and not with
    ours. Measured: of 1,200 TAPs, removed 32 at a time beside two readers of fdinfo, 40 disappeared
    up to 52 ms after our close().
    """
    deadline = time.monotonic() + _LATE_SECONDS
    while links.get(ifindex=ifindex) is not None:
        if time.monotonic() >= deadline:
            return False
        time.sleep(_PAUSE)
    return True


def wrong_mark(row: Resource, seen: Link) -> Outcome | None:
    """Why this link is not the row's, or None if it is."""
    if seen.alias == row.mark and seen.kind == "tun":
        return None
    carried = f"its alias is {seen.alias!r}" if seen.alias else "it has no alias"
    return Outcome(
        False,
        "mark-mismatch",
        f"{seen.name} does not carry the recorded mark {row.mark}: {carried}",
    )


def in_threads(work: Callable[[Resource], None], rows: Sequence[Resource]) -> None:
    """Do ``work``, which raises nothing, for each row.

    Up to 64 at a time: they wait in the kernel, not for the CPU. Where the system gives no more
    threads (memory, a limit of tasks) the calling one, which works too, does what is left.
    """
    waiting = list(rows)

    def worker() -> None:
        while True:
            try:
                row = waiting.pop()
            except IndexError:
                return
            work(row)

    threads = []
    if len(rows) > 1:
        import threading

        with contextlib.suppress(RuntimeError, MemoryError):
            for _ in range(min(_THREADS, len(rows)) - 1):
                thread = threading.Thread(target=worker)
                thread.start()
                threads.append(thread)
    worker()
    for thread in threads:
        thread.join()


def set_alias(links: Links, planned: Link, mark: str) -> Outcome:
    """Mark a device that is still what was looked at. Raises OSError."""
    seen = links.get(ifindex=planned.ifindex)
    same = seen is not None and (seen.name, seen.alias, seen.master, seen.kind) == (
        planned.name, planned.alias, planned.master, planned.kind
    )  # fmt: skip
    if not same:
        return Outcome(False, "contended", f"{planned.name} is no longer what was looked at")
    links.change(planned.ifindex, alias=mark)
    marked = links.get(ifindex=planned.ifindex)
    if marked is None or marked.alias != mark:
        return Outcome(False, "contended", f"{planned.name} does not keep its mark")
    return GONE
