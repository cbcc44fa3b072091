"""Ending flows, on a channel that answers what a kernel may answer, one error after the other."""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import ExitStack

import pytest

from hvtx.drivers import flows
from hvtx.drivers.flows import Door, FlowsRemain, flush, flush_ports
from hvtx.host import conntrack
from hvtx.host.ctmessages import parse
from hvtx.host.inet import packed
from hvtx.host.netlink import DumpInterrupted, KernelError, attribute, nested
from hvtx.model.vm import Publish

GUEST4, GUEST6, WORLD4, WORLD6 = "10.77.0.2", "fd77::2", "198.51.100.1", "2001:db8::9"
HOST4 = "203.0.113.1"
PASSING = (errno.EAGAIN, errno.EINTR, errno.ENOBUFS, errno.ENOMEM, errno.ERESTART, errno.EBUSY)
LASTING = (errno.EPERM, errno.EACCES, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT, errno.EIO)


def body(
    source: str, to: str, number: int, *, answers: str = "", ports: tuple[int, int] = (5353, 0)
) -> bytes:
    """A UDP flow as the kernel lists it; ``answers``: who sends the replies, where translated."""
    family = socket.AF_INET6 if ":" in source else socket.AF_INET
    first = 3 if family == socket.AF_INET6 else 1

    def ends(kind: int, one: str, other: str, from_port: int, to_port: int) -> bytes:
        packed = [socket.inet_pton(family, address) for address in (one, other)]
        pair = attribute(first, packed[0]) + attribute(first + 1, packed[1])
        proto = attribute(1, b"\x11") + attribute(2, struct.pack(">H", from_port))
        return nested(
            kind, nested(1, pair), nested(2, proto, attribute(3, struct.pack(">H", to_port)))
        )

    to_port, answer_port = ports
    found = struct.pack("=BBH", family, 0, 0) + ends(1, source, to, 4000, to_port)
    found += ends(2, answers or to, source, answer_port or to_port, 4000)
    return found + attribute(12, struct.pack(">I", number))


class Kernel:
    """A table of flows by id; errors that its next lists and deletions answer."""

    def __init__(self, *bodies: bytes) -> None:
        self.table = {struct.unpack(">I", one[-4:])[0]: one for one in bodies}
        self.lists: list[BaseException] = []  # raised by the next lists, in turn
        self.always: BaseException | None = None  # raised by every list
        self.refuse: dict[int, list[int]] = {}  # errnos of the next deletions of a flow
        self.before_list: Callable[[], None] = lambda: None
        self.opened = self.closed = 0
        self.listed: list[int] = []  # the families of its lists

    def channel(self, family: int) -> Kernel:
        if family == 0:
            return Addresses(self)  # type: ignore[return-value]
        self.opened += 1
        return self

    def close(self) -> None:
        self.closed += 1

    def dump(self, kind: int, asked: bytes) -> list[bytes]:
        assert kind == 0x101
        self.before_list()
        if self.lists:
            raise self.lists.pop(0)
        if self.always is not None:
            raise self.always
        self.listed.append(asked[0])
        return [one for one in self.table.values() if asked[0] in (0, one[0])]

    def refusals(self, wanted: Sequence[tuple[int, int, bytes]]) -> dict[int, KernelError]:
        failures = {}
        for n, (kind, _, asked) in enumerate(wanted):
            assert kind == 0x102
            number = struct.unpack(">I", asked[-4:])[0]
            code = self.refuse[number].pop(0) if self.refuse.get(number) else 0
            code = code or (0 if number in self.table else errno.ENOENT)
            if code:
                failures[n] = KernelError(code, os.strerror(code))
            else:
                del self.table[number]
        return failures


class Addresses:
    """What a route socket answers: the host's one address."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel

    def dump(self, kind: int, asked: bytes) -> list[bytes]:
        del kind, asked
        return [
            bytes([2, length, *bytes(6)]) + attribute(2, socket.inet_pton(socket.AF_INET, address))
            for address, length in ((HOST4, 24), ("10.77.0.1", 24))
        ]

    def close(self) -> None:
        pass


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel(
        body(GUEST4, WORLD4, 1), body(WORLD4, GUEST4, 2), body(GUEST6, WORLD6, 3),
        body("10.77.0.20", WORLD4, 9),
    )  # fmt: skip
    monkeypatch.setattr(conntrack, "Channel", made.channel)
    monkeypatch.setattr(conntrack, "tracked", lambda: len(made.table))
    monkeypatch.setattr(flows, "_PAUSE", 0.0)
    monkeypatch.setattr(flows, "_SECONDS", 0.0)
    return made


def both() -> int:
    return flush([GUEST4, GUEST6])


def test_both_families_are_listed_at_once_where_there_are_few(kernel: Kernel) -> None:
    """The kernel walks through its whole table for each list: two passes are two walks."""
    assert both() == 3
    assert kernel.listed == [0, 0]  # the last one shows that nothing is left
    assert [*kernel.table] == [9]


def test_where_there_are_many_each_family_is_asked_for(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IPv4 by the kernel's filters, an end in each of four places; IPv6 whole."""
    monkeypatch.setattr(conntrack, "_FEW", -1)
    assert both() == 3
    two, six = [socket.AF_INET] * 4, [socket.AF_INET6]
    assert kernel.listed == (two + six) * 2


def test_one_family_is_listed_by_itself(kernel: Kernel) -> None:
    assert flush([GUEST6]) == 1
    assert kernel.listed == [socket.AF_INET6] * 2


def test_what_is_read_whole_is_read_once(kernel: Kernel) -> None:
    """However many flows there are."""
    assert flows.flush_where(lambda flow: flow.destination == packed(WORLD6)) == 1
    assert kernel.listed == [0, 0]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_flow_that_ended_by_itself_is_no_error(kernel: Kernel, number: int) -> None:
    """ENOENT, whose class is not FileNotFoundError: the others are ended all the same."""
    kernel.refuse[number] = [errno.ENOENT]
    kernel.before_list = lambda: None if kernel.refuse[number] else kernel.table.pop(number, None)  # type: ignore[assignment,return-value]
    assert both() == 2
    assert set(kernel.table) == {9}


@pytest.mark.parametrize("code", PASSING)
def test_what_passes_is_tried_again(kernel: Kernel, code: int) -> None:
    """At the list, and at one flow, which keeps none of the others."""
    kernel.lists = [KernelError(code, os.strerror(code))]
    kernel.refuse = {1: [code], 3: [code]}
    assert both() == 3
    assert set(kernel.table) == {9}
    assert kernel.opened == kernel.closed == 3, "each answer that was cut short had its own socket"


def test_an_interrupted_list_proves_nothing(kernel: Kernel) -> None:
    kernel.lists = [DumpInterrupted(), DumpInterrupted()]
    assert both() == 3


@pytest.mark.parametrize("code", PASSING)
def test_what_does_not_pass_is_given_up_and_told(kernel: Kernel, code: int) -> None:
    kernel.always = KernelError(code, os.strerror(code))
    with pytest.raises(FlowsRemain, match=os.strerror(code)) as refused:
        both()
    assert refused.value.addresses == {GUEST4, GUEST6}
    assert len(kernel.table) == 4
    assert kernel.opened == kernel.closed >= 4


@pytest.mark.parametrize("code", LASTING)
def test_a_refused_list_is_told_at_once(kernel: Kernel, code: int) -> None:
    kernel.always = KernelError(code, os.strerror(code))
    with pytest.raises(FlowsRemain) as refused:
        both()
    assert refused.value.addresses == {GUEST4, GUEST6}
    assert ("not permitted" in refused.value.message) == (code in (errno.EPERM, errno.EACCES))
    assert kernel.opened == kernel.closed == 1


def test_a_kernel_without_nfnetlink_keeps_no_address(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nobody can ask or end anything, now or later: no VM is kept for it."""

    def none(_family: int) -> Kernel:
        raise OSError(errno.EPROTONOSUPPORT, "Protocol not supported")

    monkeypatch.setattr(kernel, "channel", none)
    monkeypatch.setattr("hvtx.host.conntrack.Channel", none)
    assert both() == 0


def test_a_list_that_never_comes_whole_is_told(kernel: Kernel) -> None:
    kernel.always = DumpInterrupted()
    with pytest.raises(FlowsRemain, match="cut short"):
        both()


@pytest.mark.parametrize("code", [*LASTING, errno.EINVAL])
def test_a_flow_that_may_not_be_ended_withholds_its_address_only(kernel: Kernel, code: int) -> None:
    kernel.refuse = {3: [code] * 9}
    with pytest.raises(FlowsRemain, match="could not be ended") as refused:
        flush([GUEST6, "10.77.0.3"])
    assert refused.value.addresses == {GUEST6}


def test_a_flow_that_stays_busy_withholds_its_address_only(kernel: Kernel) -> None:
    """As one that hardware forwards does on older kernels (EBUSY)."""
    kernel.refuse = {3: [errno.EBUSY] * 99}
    with pytest.raises(FlowsRemain) as refused:
        both()
    assert refused.value.addresses == {GUEST6}
    assert set(kernel.table) == {3, 9}


def test_flows_that_come_again_are_ended_until_none_does(kernel: Kernel) -> None:
    coming = [100, 101]

    def more() -> None:
        if coming:
            number = coming.pop()
            kernel.table[number] = body(GUEST4, WORLD4, number)

    kernel.before_list = more
    assert both() == 5
    assert set(kernel.table) == {9}


def test_flows_that_come_without_end_are_told(kernel: Kernel) -> None:
    numbers = iter(range(100, 100_000))

    def more() -> None:
        number = next(numbers)
        kernel.table[number] = body(WORLD4, GUEST4, number)

    kernel.before_list = more
    with pytest.raises(FlowsRemain, match="new ones come") as refused:
        both()
    assert refused.value.addresses == {GUEST4}


@pytest.mark.parametrize(
    ("flow", "done"),
    [
        (("10.77.0.20", GUEST4, ""), True),  # a neighbour, who sends to whoever is there
        (("10.77.0.1", GUEST4, ""), True),  # the host
        ((GUEST4, "10.77.0.20", ""), False),  # nobody may send so any more
        (("10.77.0.20", HOST4, GUEST4), False),  # translated: only a rule does that
        ((WORLD4, GUEST4, ""), False),  # from elsewhere
        (("fe80::7", GUEST6, ""), True),
        ((WORLD6, GUEST6, ""), False),
    ],
)
def test_new_flows_of_neighbours_hold_nobody_up(
    kernel: Kernel, flow: tuple[str, str, str], done: bool
) -> None:
    """Once a whole pass has ended all that was there, they are nobody's inheritance."""
    kernel.table[200] = body(flow[0], flow[1], 200, answers=flow[2])
    numbers = iter(range(300, 100_000))

    def more() -> None:
        number = next(numbers)
        kernel.table[number] = body(flow[0], flow[1], number, answers=flow[2])

    kernel.before_list = more
    if done:
        both()
    else:
        with pytest.raises(FlowsRemain):
            both()
    assert 200 not in kernel.table


def test_an_old_flow_of_a_neighbour_is_ended_all_the_same(kernel: Kernel) -> None:
    """It was there before, and stays: that it could not be ended is told."""
    kernel.table[200] = body("10.77.0.20", GUEST4, 200)
    kernel.refuse = {200: [errno.EBUSY] * 99}
    with pytest.raises(FlowsRemain) as refused:
        both()
    assert refused.value.addresses == {GUEST4}


def test_a_socket_that_cannot_be_had_proves_nothing(
    kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(family: int) -> Kernel:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), family)

    monkeypatch.setattr(conntrack, "Channel", none)
    with pytest.raises(FlowsRemain) as refused:
        both()
    assert refused.value.addresses == {GUEST4, GUEST6}
    with pytest.raises(FlowsRemain):
        flush_ports([Door(Publish("udp", None, 5353, 53), (GUEST4,))])


def test_closing_is_left_to_who_asks_for_it(kernel: Kernel) -> None:
    kernel.lists = [DumpInterrupted()]
    with ExitStack() as later:
        assert flush([GUEST4], later) == 2
        assert (kernel.opened, kernel.closed) == (2, 0)
    assert kernel.closed == 2


def test_an_empty_table_is_not_even_listed(kernel: Kernel) -> None:
    kernel.table.clear()
    assert both() == 0
    assert kernel.opened == 0


@pytest.mark.parametrize(
    ("there", "wanted"), [({"core"}, 0), (set(), None)], ids=["no tracking", "no /proc"]
)
def test_a_count_that_is_not_there(
    there: set[str], wanted: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without connection tracking nothing is tracked; without /proc nothing is known."""
    monkeypatch.setattr(conntrack, "_COUNT", "/nonexistent/nf_conntrack_count")
    monkeypatch.setattr(os.path, "isdir", lambda path: bool(there))
    assert conntrack.tracked() == wanted


def test_a_port_keeps_what_leads_to_its_guest(kernel: Kernel) -> None:
    """However many come: only what leads elsewhere is ended."""
    door = Door(Publish("udp", None, 5353, 53), (GUEST4,))
    kernel.table = {
        20: body(WORLD4, HOST4, 20),
        21: body(WORLD4, HOST4, 21, answers="10.77.0.9", ports=(5353, 53)),
        22: body(WORLD4, HOST4, 22, answers=GUEST4, ports=(5353, 54)),
        23: body(WORLD4, HOST4, 23, answers=GUEST4, ports=(5353, 53)),
        24: body(WORLD4, HOST4, 24, ports=(5354, 0)),
        25: body(WORLD6, "2001:db8:113::1", 25),
    }
    numbers = iter(range(100, 100_000))

    def more() -> None:
        number = next(numbers)
        kernel.table[number] = body(WORLD4, HOST4, number, answers=GUEST4, ports=(5353, 53))

    kernel.before_list = more
    assert flush_ports([door]) == 3
    assert not {20, 21, 22} & set(kernel.table)
    assert {23, 24, 25} < set(kernel.table)


WHOLE = body(GUEST4, WORLD4, 1)


@pytest.mark.parametrize(
    "wrong",
    [
        WHOLE[:4],
        WHOLE[:5],
        WHOLE[:40],
        WHOLE[:-1],
        WHOLE[:4] + attribute(1, b"") + WHOLE[4:40],
    ],
)
def test_a_flow_in_an_unknown_form_proves_nothing(kernel: Kernel, wrong: bytes) -> None:
    with pytest.raises(ValueError, match=r"tracked connection|netlink attribute|cannot be read"):
        parse(wrong)
    kernel.table[50] = wrong
    kernel.table.pop(1)
    with pytest.raises(FlowsRemain) as refused:
        flush([GUEST4, GUEST6, "10.77.0.3"])
    assert refused.value.addresses == {GUEST4, GUEST6, "10.77.0.3"}


def test_what_is_no_flow_of_ip_is_passed_over() -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        parse(b"")  # it might be anybody's
    assert parse(struct.pack("=BBH", 7, 0, 0)) is None
