"""Every parser of what others write: what it is given, and which errors it may raise.

A new one joins ``PARSERS``; ``tests/fuzz/test_parsers.py`` finds what reads foreign bytes or texts
and is in no parser's ``covers``.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Self

from hypothesis import strategies as st

from hvtx.api import settings as cli
from hvtx.cli import described as sets_of
from hvtx.cni import configuration as cni_configuration
from hvtx.cni.environment import Call
from hvtx.cni.errors import CniError
from hvtx.cni.main import versions
from hvtx.cni.request import parse_request as cni_request
from hvtx.cni.result import parse_dns, parse_previous
from hvtx.commands import published_view as view
from hvtx.commands import show_history
from hvtx.drivers import foreign_rules
from hvtx.drivers.nftables.ruleset import listed_rules
from hvtx.drivers.vm_process.gate import tail as tail_of
from hvtx.drivers.vm_process.probe import look_into
from hvtx.engine import etcd_values, guest_options, packaged_units, runtime, state_files, units
from hvtx.engine import saved_set as saved_sets
from hvtx.engine.saved_plan import load_plan
from hvtx.errors import HvtxError, NotPermitted, UsageError
from hvtx.host import (
    capabilities,
    ctmessages,
    devroutes,
    egress_devices,
    filter_chains,
    filters,
    held_namespaces,
    images,
    kvm,
    libnftables,
    lock_holder,
    monitor_socket,
    mounts,
    named_sets,
    nat_detection,
    netlink,
    network_managers,
    nfanswers,
    nfbulk,
    nfnetlink,
    nftseen,
    nftshape,
    nfttext,
    nfxt,
    nsid,
    openfiles,
    portowner,
    procfs,
    qmp,
    rate_filter,
    redirect,
    routes,
    sock_diag,
    socket_table,
    store_location,
    table_names,
    tap_filter_check,
    trust,
    vmm_api,
    vmuser,
    xfrm,
    xtables,
    xtblob,
    xtentry,
    xtsaved,
)
from hvtx.host.link_settings import LinkSettingsSocket
from hvtx.host.links import Links
from hvtx.host.program import Ended
from hvtx.host.replica import (
    causes,
    copying,
    frames,
    limits,
    making,
    memory,
    nat,
    sameness,
    sources,
    topology,
    trace,
    xtwords,
)
from hvtx.host.replica import legacy as counters
from hvtx.host.replica import ruleset as replica_rules
from hvtx.hypervisors import guest
from hvtx.model import firewalld_zone, limiting, mark, nearest
from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import parse_place
from hvtx.model.resource import Entry, Link
from hvtx.model.routing import Packet
from hvtx.model.vm import ProcessFacts
from hvtx.planner import (
    addressing,
    adoption,
    egress_rules,
    exits,
    ipsec,
    known_software,
    peer_ports,
)
from hvtx.planner import heuristic as guesses
from hvtx.planner import ports as planner_ports
from hvtx.planner.gc import foreign
from hvtx.planner.mentions import mentions as mentions_of
from hvtx.store import backup
from hvtx.store.database import FILE
from hvtx.store.opening import open_store
from tests.cni import recorded as requests
from tests.fuzz import mutating
from tests.fuzz.mutating import (
    encoded,
    json_bytes,
    mutated,
    recorded,
    sample,
    spoken,
    texts,
    words,
)
from tests.fuzz.shapes import bodies, dumps, pieces_of, reshaped
from tests.host.test_images import header as qcow2

Errors = tuple[type[Exception], ...]


class Parser(NamedTuple):
    """A parser: its call, its inputs, the errors that its docstring names.

    ``covers`` names functions of the program that it runs through (``room.module.function``);
    ``grown`` makes an input of a size, of which twice as much must take about twice as many steps.
    The call itself may assert what must hold of a result.
    """

    call: Callable[[Any], Any]
    inputs: st.SearchStrategy[Any]
    errors: Errors
    covers: Sequence[str]
    grown: Callable[[int], Any] | None = None


# A kernel that says what it is told ---------------------------------------------------------------


class Told(netlink.Channel):
    """A channel whose answers are given: bodies of messages, or whole datagrams."""

    def __init__(
        self,
        bodies: Sequence[bytes] = (),
        datagrams: Sequence[bytes] | None = None,
        by_kind: Mapping[int, Sequence[bytes]] | None = None,
    ) -> None:
        """Open no socket; ``by_kind`` has what is said to questions of other kinds."""
        self._bodies, self._datagrams, self._seq = bodies, list(datagrams or ()), 1
        self._by_kind = by_kind or {}
        self._raw = datagrams is not None
        self._socket = self  # type: ignore[assignment]

    def send(self, data: bytes) -> int:
        """Nobody hears it."""
        return len(data)

    def recvmsg(self, _size: int) -> tuple[bytes, list[Any], int, tuple[int, int]]:
        """The next datagram; silence after the last."""
        if not self._datagrams:
            raise TimeoutError
        return self._datagrams.pop(0), [], 0, (0, 0)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The given bodies, or what the datagrams say."""
        return (
            super().dump(kind, body) if self._raw else list(self._by_kind.get(kind, self._bodies))
        )

    def get(self, kind: int, body: bytes, flags: int = 0) -> bytes:
        """The first of the given bodies."""
        if self._raw or not self._bodies:
            return super().get(kind, body, flags)
        return self._bodies[0]


class ToldTables(Told, nfnetlink.Nftables):
    """The same for nf_tables."""


def links(bodies: Sequence[bytes], filters: Sequence[bytes] | None = None) -> Links:
    """Links that a kernel told of so."""
    found = object.__new__(Links)
    found._channel = Told(bodies, by_kind={} if filters is None else {46: filters})
    found._held = set()
    return found


def traits(body: bytes) -> LinkSettingsSocket:
    """Settings that a kernel told of so."""
    found = object.__new__(LinkSettingsSocket)
    found._channel = Told([body])
    return found


def etcd_read(text: str) -> None:
    """What is believed of it is what hvtx writes: a prefix, an address, a name without a line's end."""
    held = etcd_values.block_of_key(text, text)
    claim = etcd_values.claim_of_value(text)
    for cidr in (held and held.cidr, claim and claim[1]):
        assert cidr is None or str(ipaddress.ip_network(cidr)) == cidr
    number = etcd_values.number_of(text)
    assert number is None or number >= 0
    about = etcd_values.about_of(text)
    assert about.host.isprintable()
    assert about.address is None or str(ipaddress.ip_address(about.address)) == about.address
    for member in etcd_values.members_of({text: text, f"aaaaaaaaaa/{text}": text}):
        assert "/" not in member.installation


def every_link(bodies: list[bytes]) -> None:
    """As many links as messages, or an error: none is left out."""
    found = links(bodies).all()
    assert len(found) == len(bodies)
    assert all(link.name for link in found), "a device without a name"
    if bodies:
        assert links(bodies).get(1) == found[0]


def every_address(bodies: list[bytes]) -> None:
    """Likewise for addresses."""
    assert len(links(bodies).addresses()) == len(bodies)


def tables(bodies: list[bytes]) -> None:
    """What nf_tables' answers are read as."""
    told = ToldTables(bodies)
    for read in (told.tables, told.rules, told.sets, told.chains, told.objects):
        assert len(read()) >= len(bodies), read
    told.chain_comments("store")
    for shape in (nftshape.flags, nftshape.hooks, nftseen.sets, nftseen.objects):
        shape(told, "hvtx-abc")
    for rule in told.rules():
        nfanswers.xt_comment(rule)
        nfanswers.translates(rule.expressions)
        foreign_rules._unmoved(rule)
        filter_chains.chain_rule(rule)
        words = nfxt.words_of(rule)
        assert words is None or words.endswith("-j ACCEPT")


def elements(bodies: list[bytes]) -> None:
    """Elements of a set, and how people read them."""
    for element in nfanswers.all_elements(bodies):
        for family, name in nfttext._RENDER:
            assert nfttext.render(family, name, element.key, element.data)
            nftseen.spelt(family, name, element.key)
        assert nfttext.render("ip", "theirs", element.key, element.data)


def dumped(datagrams: list[bytes]) -> None:
    """A dump is whole, or an error: the kernel's last word was in it."""
    with contextlib.suppress(OSError, ValueError):
        Told(datagrams=datagrams).get(1, b"")
    told = Told(datagrams=datagrams)
    told.dump(1, b"")
    said = b"".join(datagrams)
    ends = any(struct.unpack_from("=H", said, at)[0] == 3 for at in range(4, len(said) - 1))
    assert ends, "a dump without an end is no list"


def answered(datagrams: list[bytes]) -> None:
    """An acknowledgement or the kernel's error."""
    Told(datagrams=datagrams).request(1, 0, b"")


def refused(datagrams: list[bytes]) -> None:
    """Answers to messages of which the last alone is acknowledged."""
    Told(datagrams=datagrams).refusals([(1, 0, b"")])


# errors with what the kernel asked (whole, and capped to its header), and its words
TOLD_WHY = [
    struct.pack("=iIHHII", -22, size, 1, 0, 2, 0) + bytes(size - 16) + netlink.text(1, "no such thing")
    for size in (16, 20, 36)
]  # fmt: skip


def datagram(draw: Any, pieces: Sequence[bytes]) -> bytes:
    """Messages of a dump in one datagram, with kinds and flags of every sort."""
    data = b""
    for body in draw(st.lists(mutated(pieces), max_size=3)):
        kind = draw(st.sampled_from((2, 3, 4, 16, 20)))
        flags = draw(st.sampled_from((2, 2, 2, 0x12, 0x100, 0x200, 0x300)))
        seq = draw(st.sampled_from((2, 2, 2, 2, 7)))
        data += netlink.message(kind, flags, seq, body) + bytes(-len(body) & 3)
    return data


@st.composite
def conversations(draw: Any) -> list[bytes]:
    """Datagrams of an answer, the last of which may end it."""
    pieces = [*sample("links"), struct.pack("=i", 0), struct.pack("=i", -1), struct.pack("=i", 2**31 - 1),
              struct.pack("=i", -(2**31)), struct.pack("=iIHHII", -17, 20, 1, 0, 2, 0) + bytes(8), b"", *TOLD_WHY]  # fmt: skip
    found = [datagram(draw, pieces) for _ in range(draw(st.integers(0, 3)))]
    if draw(st.booleans()):
        found.append(netlink.message(3, 2, 2, bytes(4)))
    return [draw(mutated([d])) if d and draw(st.integers(0, 4)) == 0 else d for d in found]


# Legacy tables ------------------------------------------------------------------------------------


def blob(name: str, data: bytes | None = None) -> xtblob.Blob:
    """A recorded legacy table, with other bytes."""
    head, whole = sample(name)
    count, starts = json.loads(head)
    return xtblob.Blob(count, tuple(map(tuple, starts)), whole if data is None else data)


def legacy(given: tuple[str, bytes]) -> None:
    """Every entry of a table, or an error: a table that is cut off has not fewer rules."""
    name, data = given
    family, table = int(name[6]), blob(name, data)
    rules = xtblob.entries(family, table)
    list(xtblob._decides(family, table))
    for chain, _ in table.starts:
        end = xtblob.end_of(family, table, chain)
        assert len(end.last) <= len(end.rules)
    for found in xtblob.marked(family, table, "hvtx:"):
        assert found.mark.startswith("hvtx:")
    for entry in (entry for found in rules.values() for entry in found):
        xtentry.with_comment(family, entry, "hvtx:")
        filter_chains.legacy_rule(family, entry, rules)
    if len(data) < len(blob(name).data):
        # the kernel said how many there are; what is missing was not read
        assert sum(map(len, rules.values())) >= sum(
            map(len, xtblob.entries(family, blob(name)).values())
        ), "rules were lost"


def paired(text: str) -> None:
    """Printed rules and entries, joined: each of a table's entries has its words, or nothing has."""
    saved, table = xtsaved.parse(text), blob("legacy4 nat")
    seen = {"nat": xtblob.marked(4, table, "hvtx:")}
    marks = frozenset(entry.mark for entry in seen["nat"])
    found = xtables.pair(saved.rules, seen, marks)
    if found is not None:
        assert sum(map(len, found.values())) == len(seen["nat"])
    rules = {("nat", chain): each for chain, each in xtblob.entries(4, table).items()}
    together = foreign_rules._paired(saved.rules, rules)
    if together is not None:
        assert len(together) == sum(map(len, rules.values()))


def saved_text(text: str) -> None:
    """Rules stand in chains that were declared; nothing is lost at the end."""
    found = xtsaved.parse(text)
    assert {(r.table, r.chain) for r in found.rules} <= found.chains
    lines = [line for line in text.split("\n") if line.startswith("-A ")]
    if '"' not in text:
        assert len(found.rules) == len(lines)


# Conversations ------------------------------------------------------------------------------------


def conversation(dialogue: qmp.Dialogue, pieces: list[bytes]) -> str:
    """The word at the end of a conversation; ConnectionError as its text says."""
    next(dialogue)
    for piece in [*(p for p in pieces if p), b""]:
        try:
            dialogue.send(piece)
        except StopIteration as end:
            assert isinstance(end.value, str)
            for how in guest.WORDS:
                guest.described(guest.guest_of(how, end.value), end.value)  # type: ignore[arg-type]
            return end.value
    raise AssertionError("it went on after the end")


def lines_of(samples: Sequence[Any]) -> st.SearchStrategy[list[bytes]]:
    """JSON lines in pieces: a conversation as it is held and changed, or any lines."""
    line = json_bytes(samples).map(lambda data: data + b"\n")
    whole = [json.dumps(one).encode() + b"\n" for one in samples]
    return st.one_of(spoken(whole, line), st.lists(st.one_of(line, mutated(whole)), max_size=6))


QMP = (
    {"QMP": {"version": {"qemu": {"major": 7}}, "capabilities": ["oob"]}},
    {"return": {}, "id": "qmp_capabilities"},
    {"event": "NIC_RX_FILTER_CHANGED", "data": {"path": "/machine"}},
    {"event": "STOP", "timestamp": {"seconds": 1}},
    {"return": {"status": "running", "running": True}, "id": "query-status"},
    {"return": {}, "id": "system_powerdown"},
    {"error": {"class": "GenericError", "desc": "no"}, "id": "query-status"},
    {"error": "no", "id": "system_powerdown"},
)
HTTP = (
    b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"state": "Running"}',
    b"HTTP/1.1 204 \r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Length:                               5\r\n\r\nwrong",
    b'HTTP/1.1 200 OK\r\n\r\n{"id": "a", "state": "Not started"}',
    b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"a":\r\n',
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 20\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 3000,
)


class Wire:
    """A socket that says what it is told."""

    def __init__(self, pieces: Sequence[bytes]) -> None:
        self._pieces = list(pieces)

    def recv(self, _size: int) -> bytes:
        """The next piece; nothing after the last."""
        return self._pieces.pop(0) if self._pieces else b""

    def settimeout(self, _seconds: float) -> None: ...
    def sendall(self, _data: bytes) -> None: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None: ...


@contextlib.contextmanager
def in_place_of(place: Any, name: str, value: Any) -> Iterator[None]:
    """Another thing under a name, for a moment."""
    before = getattr(place, name)
    setattr(place, name, value)
    try:
        yield
    finally:
        setattr(place, name, before)


def qmp_commands(pieces: list[bytes]) -> None:
    """A whole conversation with commands and events."""
    with (
        in_place_of(monitor_socket, "_patiently", lambda *_: Wire(pieces)),
        qmp.Qmp("/nonexistent", "qmp.sock", 60) as link,
    ):
        assert isinstance(link.status(), str)
        link.wait_event(0.01)
        link.execute("system_powerdown")


def told_in_time(pieces: list[bytes]) -> None:
    """A conversation over a socket."""
    with (
        in_place_of(monitor_socket, "_patiently", lambda *_: Wire(pieces)),
        monitor_socket.MonitorSocket("/nonexistent", ("api.sock",), 60) as link,
    ):
        assert isinstance(link.hold(vmm_api.asks_power_off("ctrl-alt-del api")), str)


def strict(data: bytes) -> None:
    """An object of JSON: the same as any other reader finds, or an error."""
    assert monitor_socket.parsed(data) == json.loads(data)


def said(value: Any) -> None:
    """Words for messages."""
    assert monitor_socket.word(value).isascii()
    assert monitor_socket.sentence(value).isprintable()


# Files --------------------------------------------------------------------------------------------

_place: list[Path] = []


def file_of(data: bytes, name: str = "file") -> str:
    """A file with these bytes, private to this process."""
    if not _place:
        import tempfile

        base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        _place.append(Path(tempfile.mkdtemp(prefix="hvtx-fuzz-", dir=base)))
    path = _place[0] / name
    path.write_bytes(data)
    return str(path)


def saved_plan(data: bytes) -> None:
    """What a saved plan chooses can be compared with what is planned now."""
    for identity in load_plan(file_of(data)):
        assert hash(identity) is not None
        assert len(identity) == 6


def saved_guesses(data: bytes) -> None:
    """Likewise for the emergency mode."""
    for identity in load_plan(file_of(data), heuristic=True):
        assert hash(identity) is not None
        assert len(identity) == 4


def configuration(data: bytes) -> None:
    """A file of settings."""
    path = file_of(data, "config.toml")
    found = cli.settings({"config": path})
    assert found.lock_timeout >= 0
    assert found.history_lines >= 100


def peer_of(body: bytes) -> int | None:
    """Where the other end of a pair with our alias is."""
    ids = nsid.NamespaceIds.__new__(nsid.NamespaceIds)
    ids._channel = Told([body])
    return ids.of_peer(7, "ours")


def cni_requested(given: tuple[bytes, str]) -> None:
    """What a container runtime writes, on standard input and in CNI_ARGS."""
    data, args = given
    versions(data)
    document = cni_configuration.decode(data)
    base = cni_configuration.parse_base(document, "ADD")
    call = Call("ADD", "c1", "/run/netns/c1", "eth0", args)
    for part in (
        lambda: cni_request(call, base, document),
        lambda: parse_previous(document),
        lambda: parse_dns(document),
        lambda: cni_configuration.valid_attachments(document),
    ):
        with contextlib.suppress(CniError):
            part()


def environment(pairs: dict[str, str]) -> None:
    """Settings of the environment."""
    before = dict(os.environ)
    with contextlib.suppress(ValueError):  # what no environment can hold
        os.environ.update(pairs)
    try:
        cli.settings({"config": "/dev/null"})
        kvm.wanted_accelerator(os.environ.get(kvm.VARIABLE, ""))
    finally:
        for name in pairs:
            os.environ.pop(name, None)
        os.environ.update(before)


def published(data: bytes) -> None:
    """A view: every question is answered, or it is said that the view cannot be read."""
    base = os.path.dirname(file_of(b""))
    known = runtime.Settings(f"{base}/state", base, "auto", 1.0)
    where = view.place_of(known)
    os.makedirs(where.directory, mode=0o700, exist_ok=True)
    Path(where.document).write_bytes(data.replace(b"/state", f"{base}/state".encode()))
    Path(where.numbers).write_bytes(struct.pack("<QQ", 7, 7))
    seen = view._read(known, NotPermitted("no", hint="no"))
    for ask in (
        seen.list_vms,
        seen.list_networks,
        lambda: seen.list_history(limit=10, since="2h", verb="start", vm="web"),
        lambda: seen.show_vm("web"),
        lambda: seen.show_network("net"),
    ):
        with contextlib.suppress(HvtxError):
            ask()


_TAP = Link(7, "tap-a", "tun", None, "02:00:00:00:00:01", 1500, 3, 0, 0, True, 0x1002, 0, True)
_BRIDGE = Link(3, "mybr0", "bridge", None, "02:00:00:00:00:03", 1500, 0, 0, 0, True, 0, 0, False)
_OF_IPTABLES = ForeignRule(
    "iptables",
    parse_place("iptables nat POSTROUTING"),
    "-s 10.88.0.5/32 -j MASQUERADE",
    None,
    "",
    1,
)
_OF_FORWARD = ForeignRule(
    "iptables", parse_place("iptables filter FORWARD"), "-i tap-a -j ACCEPT", None, "", 2
)
_NO_HOST = adoption.AdoptFacts([], {}, [_OF_IPTABLES], {4242: ProcessFacts(True, 77)}, {}, {})
_HOST = _NO_HOST._replace(
    links=[_BRIDGE, _TAP], holders={"tap-a": (4242,)}, rules=[_OF_IPTABLES, _OF_FORWARD]
)
SIGHTS = (
    _NO_HOST,
    _HOST,
    _HOST._replace(holders={"tap-a": (4242, 99)}),
    _HOST._replace(holders={}, processes={4242: ProcessFacts(False)}),
    _HOST._replace(processes={4242: ProcessFacts(True, 77, error="hidepid")}),
    _HOST._replace(links=[_BRIDGE, _TAP._replace(alias="theirs")]),
    _HOST._replace(links=[_TAP._replace(kind="veth", tun_flags=0), _BRIDGE]),
    _HOST._replace(links=[_TAP._replace(master=9), _BRIDGE]),
    _HOST._replace(recorded={"tap-a": "another"}, names={"first": "another"}),
    _HOST._replace(recorded={"tap-a": "another"}),
    _HOST._replace(rules=[_OF_IPTABLES, _OF_IPTABLES, _OF_FORWARD._replace(doubt="cut off")]),
    _HOST._replace(rules=[_OF_IPTABLES._replace(mark="hvtx:1:abcdefghij:7.abcdefghijklmnop")]),
)


def state_file(data: bytes) -> None:
    """A `state.json`: read, and judged on hosts that have what it names and that do not."""
    claims, unread = state_files.read_states([Path(file_of(data, "state.json"))])
    assert len(claims) + len(unread) == 1
    for item in unread:
        item.message.encode()
    claim = adoption.parse_state(data.decode(), "/x/state.json")
    for text in claim.rules:
        with contextlib.suppress(ValueError):
            adoption.parse_deletion(text)
    for seen in SIGHTS:
        (verdict,) = adoption.judge([claim], seen)
        json.dumps([verdict.vm_name, verdict.message]).encode()
        owned = {"tap-a"} if any(link.name == "tap-a" for link in seen.links) else set()
        assert {f.key for f in verdict.findings if f.proven and f.link} <= owned
        for found in verdict.findings:
            assert not found.proven or found.link or found.rule in seen.rules
        if verdict.reason and verdict.reason != adoption.Why.GONE:
            assert not any(found.proven for found in verdict.findings), "refused, and taken"
    for value in (claim.id, claim.name, claim.device, claim.bridge, claim.ip, *claim.rules):
        assert value is None or "\0" not in value
        (value or "").encode()  # it goes to the kernel and the store


def listed_access(data: bytes) -> None:
    """Whether somebody else may write a file, by its access control list."""
    seen = os.stat_result((0o100664, 1, 1, 1, 0, 0, 1, 0, 0, 0))
    with in_place_of(os, "getxattr", lambda *_: data):
        words = trust.open_to_others(seen, "/nonexistent")
    whole = data[:4] == b"\2\0\0\0" and len(data) % 8 == 4
    assert whole or words, "a list that is not understood lets nobody in"


def described(command: list[str]) -> None:
    """Who holds a lock, in words that a person may see."""
    told = lock_holder.command_of(command)
    assert told.isprintable()
    assert "\n" not in told


def installation(data: bytes) -> None:
    """The store of another installation."""
    assert isinstance(backup.installation_at(file_of(data, "hvtx.db")), str)


def whole_store(data: bytes) -> None:
    """A backup."""
    draft = Path(file_of(b"", "draft"))
    draft.unlink()
    try:
        backup.draft_of(file_of(data, "backup.db"), str(draft))
    finally:
        for name in ("draft", "draft-wal", "draft-shm", "draft-journal"):
            draft.with_name(name).unlink(missing_ok=True)


def followed(trace: str) -> None:
    """A trace leads somewhere or nowhere; what cannot be is never called gone."""
    found = store_location.follow(trace)
    assert found.verdict in ("there", "gone", "unseen")
    if found.verdict == "gone":
        assert "\0" not in found.path


def kept_answers(data: bytes) -> None:
    """What was kept of the probe of KVM."""
    place = os.path.dirname(file_of(data, "accel"))
    for _, answer in kvm.all_kept(place):
        assert all(isinstance(word, str) for word in answer)


@cache
def store_bytes() -> bytes:
    """A store as its file has it."""
    import tempfile

    with tempfile.TemporaryDirectory() as place:
        open_store(f"{place}/state", f"{place}/run", writable=True, lock_timeout=5).close()
        return Path(place, "state", FILE).read_bytes()


def mentions(text: str) -> None:
    """What a rule speaks of: in the emergency mode, and in gc."""
    import ipaddress

    spans = [
        (ipaddress.ip_network("10.0.0.0/24"), "net"),
        (ipaddress.ip_network("fd00::/64"), "net"),
    ]
    mentions_of(text, spans)
    foreign.mentions(text, [foreign.subnet(str(span), name) for span, name in spans])
    for place in (
        "nft ip nat post",
        "nft inet firewalld a",
        "iptables nat DOCKER",
        "iptables raw A",
    ):
        rule = ForeignRule("nftables", parse_place(place), text, None, "", 1)
        guesses.keeper_of(rule)
    adoption.kind_of(text)
    adoption.bare_text(rule)
    known_software.looks_like(text)


def others_ports(text: str) -> None:
    """What others publish."""
    marked = "hvtx:1:zzzzzzzzzz:7.abcdefghijklmnop"
    for backend in ("iptables", "nftables"):
        entry = Entry(backend, parse_place("nft inet hvtx-zzzzzzzzzz dnat4_any"), text, marked)
        peer_ports.published_by_others([entry], "abcdefghij")


def encoded_text(pieces: Sequence[bytes]) -> st.SearchStrategy[str]:
    """JSON as a tool prints it."""
    return json_bytes([json.loads(piece) for piece in pieces]).map(
        lambda b: b.decode(errors="replace")
    )


def user_words(text: str) -> None:
    """What people type: each is read, or is a mistake of theirs."""
    for read in (
        addressing.parse_mac, addressing.parse_subnet, addressing.parse_address,
        addressing.parse_publish, addressing.parse_device, addressing.parse_uplink,
        lambda t: planner_ports.parse_published([t]), lambda t: planner_ports.parse_unpublished([t]),
        lambda t: egress_rules.parse_rule("allow", t), limiting.parse_limit,
        lambda t: exits.parse_exits(t, (t,), families=(4, 6), nat=True), lambda t: addressing.parse_name(t, "VM"),
        show_history.moment, lambda t: vmuser.numeric_id("group", t) if t.isascii() and t.isdigit() else 0,
    ):  # fmt: skip
        with contextlib.suppress(HvtxError):
            read(text)


def in_a_replica(pieces: tuple[bytes, ...]) -> None:
    """What is made of a ruleset's dumps, compared and counted."""
    table, chain, rule, set_, elements_, flowtable, object_ = pieces
    whole = replica_rules.Ruleset(
        (table,), (chain,), (flowtable,), (object_,), (set_,), (elements_,), (rule,)
    )
    replica_rules.parts(whole, {"lo"})
    assert sameness.differences(whole, whole, {"lo"}) == []
    replica_rules.handles(whole, whole)
    replica_rules.protocol_of("ip", nfanswers.expressions(rule))
    memory.filled(whole)
    raw = netlink.attribute_map(rule, 4).get(4, b"")
    assert copying.looks(limits.of_rule(raw)) is not None
    copying.before(raw, "s")
    assert limits.of_rule(limits.of_rule(raw)) == limits.of_rule(raw)


def chain_before(body: bytes) -> None:
    """What a chain of others may do with packets for this host."""
    nat_detection.is_others_hook(body)
    nat_detection.translates(body)
    nat_detection.may_proxy(body)
    nat_detection.table_of(body)


def saved_rules(text: str) -> None:
    """Rules of legacy tables, as the replica has them."""
    made = xtwords.quiet(text)
    assert xtwords.quiet(made.text).text == made.text
    xtwords.without(made, 2)
    sources.addresses_in(text, 4)


def replica_routes(body: bytes) -> None:
    """A route for the replica, and what the kernel says of the way to an address."""
    topology.route_of(body, {2})
    topology.route_words(body)
    causes.elsewhere(causes.Leg("", b"", bytes(4), "br0"), body, {2: "br0"})
    causes.leads(Told([body]), causes.Leg("", b"", bytes(4), "br0"))
    topology.route_key(body)
    devroutes.route_of(body)


def entry_in_a_replica(body: bytes) -> None:
    """A neighbour's entry, a rule's mark, a nexthop."""
    topology.is_entered(body)
    topology.has_failed(body)
    causes.neighbour(body)
    causes.marks([body])
    making.nexthop_of(body)


def of_ipsec(body: bytes) -> None:
    """A policy, and what is made of it."""
    policy = xfrm.policy_of(body)
    ipsec.shown(policy)
    ipsec.over([policy], "10.77.0.0/24" if policy.family == 4 else "fd77::/64")


POLICY = struct.pack(
    "=16s16sHHHHHBBBxxxiI",
    bytes(16),
    bytes((10, 77, 0, 0)) + bytes(12),
    0,
    0,
    0,
    0,
    2,
    0,
    24,
    0,
    0,
    0,
)
POLICY += (
    bytes(96)
    + struct.pack("=IIBBBB", 7, 2, 2, 1, 0, 0)
    + bytes(4)
    + netlink.attribute(5, bytes(64))
)


def frame_of(data: bytes) -> None:
    """A frame, or a packet."""
    for ether in (True, False):
        frames.read("tap0", data, ether=ether)


FRAMES = [
    frames.frame(bytes(6), bytes(6), frames.tcp(bytes(4), bytes(4), (1, 2), 2, 3)),
    frames.frame(bytes(6), bytes(6), frames.udp(bytes(16), bytes(16), (1, 2), b"payload")),
    frames.asks(bytes(6), bytes(4), bytes(4)), frames.asks(bytes(6), bytes(16), bytes(16)),
    frames.frame(bytes(6), bytes(6), frames.echo(bytes(16), bytes(16), 1, 2, b"x", reply=True)),
]  # fmt: skip
TRACED = netlink.message(10 << 8 | 17, 0, 0, bytes(4) + netlink.text(1, "t") + netlink.text(2, "c") + netlink.attribute(
    4, bytes((0, 0, 0, 3))) + netlink.nested(5, netlink.attribute(1, bytes(4))) + netlink.attribute(8, bytes(40)))  # fmt: skip


def unit_texts(text: str) -> None:
    """Unit files that are there."""
    units.is_ours(text)
    units.is_packaged(text)
    packaged_units.drop_in(text, packaged_units.packaged()[0].text)


def tail(data: bytes) -> None:
    """A log's end, for a message."""
    told = tail_of(file_of(data, "log"))
    assert told.isprintable() or "\n" in told
    guest.telling(data.decode(errors="replace").split("\n"), 7)


def probed(text: str) -> None:
    """What a guest's console says."""
    kvm.lacks_root(text)
    assert len(kvm.told(Ended(1, text)).splitlines()) <= 1


def names(text: str) -> None:
    """Marks, and what looks like them."""
    found = mark.parse_mark(text)
    if isinstance(found, mark.Mark):
        assert str(found) == text
    mark.without_marks(text)
    nearest.meant(text, ["web", "db"], "none")


# The list -----------------------------------------------------------------------------------------

GARBLED: Errors = (OSError, ValueError)

MARK = "hvtx:1:abcdefghij:7.abcdefghijklmnop"
STAT = sample("/proc/self/stat")
MOUNTS = (
    "22 1 0:21 / / rw,relatime shared:1 - ext4 /dev/vda rw\n"
    "30 22 0:25 / /run rw shared:2 master:7 - tmpfs tmpfs rw\n"
    "31 30 0:26 /a\\040b /mnt/a\\040b\\134c rw - nfs4 host:/a rw\n"
    "42 22 0:51 / /home/a rw,nosuid,nodev - fuse.sshfs a@b:/c rw,user_id=1000,group_id=1000,allow_other\n"
)
LOCKS = (
    "pos:\t0\nflags:\t02100002\nmnt_id:\t30\nino:\t15502083\n"
    "lock:\t1: OFDLCK ADVISORY  WRITE -1 fd:00:15502083 7 7\nlock:\t2: FLOCK  ADVISORY  WRITE 4242 00:19:12 0 EOF\n"
)
MOUNTS_OF_NAMESPACES = (
    MOUNTS + "40 30 0:4 net:[4026532281] /run/netns/cni-a\\040b rw shared:9 - nsfs nsfs rw\n"
    "41 30 0:4 mnt:[4026532282] /run/mnt rw - nsfs nsfs rw\n"
)
ZONE_FILE = f"""<?xml version="1.0" encoding="utf-8"?>
<zone target="ACCEPT">
  <short>hvtx</short>
  <description>Bridges of VM networks, kept by hvtx. hvbr0={MARK} hvbr1={MARK[:-1]}x</description>
  <interface name="hvbr0"/>
  <interface name="hvbr1"/>
  <service name="dhcp"/>
  <forward/>
</zone>
"""
PLAN_ITEM = {
    "action": "delete", "reason": "vm-dead", "kind": "tap", "key": "hv3k", "vm": "web",
    "record": {"id": 17, "state": "committed"}, "evidence": [], "message": "", "mark": MARK,
}  # fmt: skip
PLANS = (
    {"schema": "hvtx/gc/1", "plan_id": "1", "items": [PLAN_ITEM, {**PLAN_ITEM, "record": None}]},
    {"schema": "hvtx/gc/1", "heuristic": True, "items": [PLAN_ITEM]},
)
STATES = (
    {"id": "aaaa1111-0000-4000-8000-00000000000a", "name": "first", "status": "running", "pid": 4242,
     "network_ownership": {"tap_device": "tap-a", "bridge": "mybr0", "ip": "10.88.0.5", "iptables_rules":
                           ["-t nat -D POSTROUTING -s 10.88.0.5/32 -j MASQUERADE"]}},
    {"uuid": "x", "runtime_state": {"process_id": 7, "network": {"tap": "t", "firewall_rules":
                                    [["iptables", "-D", "FORWARD", "-i", "t", "-j", "ACCEPT"]]}}},
    {"vm_id": "b", "vm_name": "First", "state": "running", "process_id": 4242, "network": {"tap_name": "tap-a", "bridge_name": "mybr0",
     "guest_ip": "10.88.0.5/24", "iptables": ["iptables -D FORWARD -i tap-a -j ACCEPT", "-t nat -D POSTROUTING -s 10.88.0.5 -j MASQUERADE",
                                              "-D FORWARD -i tap-b -j ACCEPT", "-D FORWARD 3", "-t nat -A X", "-D FORWARD -s 10.88.0.5 -j DROP"]}},
    {"id": "c", "pid": None, "ownership": {"tap": "tap-a"}},
)  # fmt: skip
VIEWS = (
    {"schema": "hvtx/view/1", "state_directory": "/state", "as_of": "2026-01-02T03:04:05Z", "seq": 7,
     "life": [1, "boot", 7, True], "lives": [[1, "boot", 7, True]],
     "vms": [{"vm": ["i", "web", "qemu", 512, 1, None, None, None, [], [], "", False,
                     [[0, "n", "net", "02:00:00:00:00:01", "10.0.0.2", None, [["tcp", None, 80, 80]]]]],
              "verb": "start", "writer": ["boot", 7, 8, 9, 0],
              "rows": [["process", "web", "committed", 1, {"boot_id": "boot", "pid": 7, "start": 8, "inode": 9}]]}],
     "networks": [{"id": "n", "name": "net", "bridge": "br0", "subnets": ["10.0.0.0/24"], "gateway": ["10.0.0.1"],
                   "nat": True, "isolate": False, "mtu": 1500, "firewall": "nftables", "vms": ["web"],
                   "resources": [{"kind": "bridge", "key": "br0", "state": "committed", "mark": None}]}],
     "history": [{"time": "2026", "operation": 1, "verb": "start", "vm": "web", "kind": None, "key": None, "event": "made",
                  "reason": None, "message": "m"}]},
)  # fmt: skip
RULE_TEXTS = (
    "-s 10.0.0.5/32 -d fd00::5/128 -o tap-y ! -i br+ -m addrtype ! --dst-type LOCAL -j MASQUERADE",
    "-d 10.0.0.5/32 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
    "-i br0 -m conntrack --ctstate NEW -m connlimit --connlimit-above 16384 --connlimit-mask 32 --connlimit-saddr -j DROP",
    "-p udp -m udp ! --dport 53 -j DNAT --to-destination [fd00::5]:53",
    '-s 10.0.0.5/32 -i tap-x -m comment --comment "a b" -p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.5:80',
    'iifname "br0" ip saddr != { 10.0.0.0/24, fd00::5 } counter drop comment "no -i eth0"',
    "10.77.0.5 tcp 8080 -> 10.77.0.2:80",
    f"-d 203.0.113.1/32 -p udp -m comment --comment {MARK} --dport 53 -j MINE",
)
TYPED = (
    *("10.77.0.5", "fd77::5/64", "02:00:00:00:00:01", "01:00:00:00:00:01", "10.0.0.0/24", "10.0.0.0/31", "10.0.0.0/4"),
    *("fe80::/64", "127.0.0.0/8", "10.0.0.5", "2026-05-01T12:30Z", "2h", "99999999999d", "hv-br0", "8080:80", "8080:80/sctp"),
    *("[fd77::1]:8080:80/udp", "[::1]:80:80", "[fe80::1]:80:80", "127.0.0.1:80:80", "224.0.0.1:80:80", "0.0.0.0:80:80"),
    *("192.0.2.0/24:443", "[2001:db8::/32]:80-90/udp", "example.org:443", "10.0.0.1:1-99999"),
    *("net/8000-8010:80-90/udp", "8000-9:1-2", "127.0.0.1:8080/udp", "8000-8010"),
    *("[::]:80:80", "fd77::1:80:80", "0:80", "65536:80", "4294967295", "web", "a" * 64),
)  # fmt: skip
LITERALS = (
    *('"auto"', '"nftables"', '"/a"', '""', '"\\u0000"', "10", "0", "-1", "inf", "nan", "1e400", "1000", "999", "0x10"),
    *("true", "[1]", "{a = 1}", "1979-05-27", "'x'", '"""\na"""', "1_000", "10.5", "99999999999999999999", "07:32:00"),
)  # fmt: skip


@st.composite
def settings_file(draw: Any) -> bytes:
    """A configuration: lines with known keys and values of every kind, or a text."""
    keys = st.sampled_from((*sorted(cli._KEYS), "lock-timeout", "[table]\na"))
    lines = draw(st.lists(st.tuples(keys, st.one_of(st.sampled_from(LITERALS), words)), max_size=5))
    text = "\n".join(f"{key} = {value}" for key, value in lines)
    return text.encode(errors="surrogatepass")


CONFIGURATION = 'firewall = "nftables"\nlock_timeout = 10\nhistory_lines = 1000\nstate_dir = "/a"\ngroup = "vm"\n'
SAVED = [sample(name)[0].decode() for name in ("save4", "save6")]
COUNTED = [re.sub("(?m)^-A", "[3:180] -A", text) for text in SAVED]
LISTING = [sample("listing")[0].decode()]
NAMED = {
    "nftables": [
        {"table": {"family": "inet", "name": "hvtx-i-n"}},
        {
            "map": {
                "name": "owners",
                "elem": [["02:00:00:00:00:01", {"jump": {"target": "vm_020000000001"}}]],
            }
        },
        {
            "set": {
                "name": "n4",
                "elem": [{"elem": {"val": "192.0.2.1", "expires": 7}}, "192.0.2.2"],
            }
        },
        {
            "chain": {
                "name": "names",
                "type": "filter",
                "hook": "forward",
                "prio": -161,
                "policy": "accept",
            }
        },
        {"rule": {"chain": "names", "expr": [{"accept": None}]}},
    ]
}
RULESET = [json.loads(sample("ruleset")[0])["nftables"]]
LEGACY = [name for name in recorded() if name.startswith("legacy")]


@st.composite
def legacy_inputs(draw: Any) -> tuple[str, bytes]:
    """A recorded table, its bytes changed."""
    name = draw(st.sampled_from(LEGACY))
    return name, draw(mutated([sample(name)[1]]))


OWN_FILTER = struct.pack("=BxxxiIII", 0, 1, 0x68767478, 0xFFFFFFF2, 0x6876 << 16) + netlink.text(
    1, "bpf"
) + netlink.nested(2, netlink.attribute(5, bytes(16)))  # fmt: skip
FILTERS = st.one_of(st.just(OWN_FILTER), mutated([OWN_FILTER]), reshaped([OWN_FILTER], 20))

SET = """
[networks.lab]
subnet = ["10.77.0.0/24", "fd77::/64"]
isolate = true
no-nat = true
egress = "internet"
[vms.web]
network = ["lab"]
ip = "10.77.0.5"
publish = ["8080:80", "lab/8443-8445:443-445/tcp"]
memory = 512
limit = "in=10mbit"
deny = "192.0.2.0/24:80"
command = ["sh", "-c", "echo {ip}"]
start = false
[vms."db"]
kernel = "vmlinuz"
append = "quiet"
"""
KEYS = sorted({*sets_of.keys("networks"), *sets_of.keys("vms"), "memroy", "user_data", '""', "a.b"})
SAVED_SETS = (
    {
        "schema": "hvtx/apply/1", "options": {"restart": False, "replace": True, "start": True},
        "reviewed": [["create", "absent", "vm", "web", [], "0" * 32], ["start", "down", "vm", "web", [], None]],
        "described": [{"file": "f", "directory": "/none", "tables": {"vms": {
            "web": {"publish": ["8080:80"], "memory": 256, "command": ["sleep", "1"], "start": True}}}}],
    },
)  # fmt: skip


@st.composite
def sets(draw: Any) -> bytes:
    """A set: tables with known keys and values of every kind."""
    tables = st.sampled_from(
        ("[vms.web]", "[networks.lab]", "[vms.db]", "[other]", "[vms]", "[[vms.web]]")
    )
    lists = st.lists(st.sampled_from(LITERALS), max_size=3).map(lambda some: f"[{', '.join(some)}]")
    values = st.one_of(st.sampled_from(LITERALS), lists, words)
    lines = []
    for table in draw(st.lists(tables, max_size=3)):
        keys = draw(st.lists(st.tuples(st.sampled_from(KEYS), values), max_size=4))
        lines += [table, *(f"{key} = {value}" for key, value in keys)]
    return "\n".join(lines).encode(errors="surrogatepass")


def described_set(data: bytes) -> None:
    """What a file describes: requests whose names are names, or an error with its place."""
    try:
        found = sets_of.request([sets_of.Source("f", "/none", sets_of.parsed("f", data))])
    except HvtxError as problem:
        assert problem.message.startswith("f")
        raise
    for asked in (*found.networks.values(), *found.vms.values()):
        assert re.fullmatch("[a-z0-9-]{1,63}", asked.request.name)
        assert asked.where.startswith("f: [")
    found.described(None)


def saved_set(data: bytes) -> None:
    """A saved plan with what it describes."""
    saved = saved_sets.load(file_of(data), "hvtx/apply/1")
    names = sets_of.Source._fields  # what else stands there is not read, as in `vm apply`
    sets_of.request([sets_of.Source(*(each[name] for name in names)) for each in saved.described])


CNI_REQUESTS = [
    requests.CRI_ADD, requests.PODMAN_RELOAD, requests.LIBCNI_GC, requests.LIBCNI_CHECK,
    requests.FIRECRACKER_ADD, requests.NOMAD_ADD,
]  # fmt: skip

PARSERS: dict[str, Parser] = {
    # netlink
    "netlink attributes": Parser(
        netlink.attribute_map, bodies("links"), GARBLED, ("host.netlink.attributes",),
        lambda n: netlink.u32(7, 7) * n,
    ),
    "netlink errors": Parser(
        lambda given: netlink.kernel_error(*given),
        st.tuples(mutated(TOLD_WHY), st.sampled_from((0, 0x100, 0x200, 0x300))),
        GARBLED, ("host.netlink.kernel_error",),
    ),
    "ids of peers' namespaces": Parser(
        peer_of, mutated([bytes(16) + netlink.attribute(20, b"ours\0") + netlink.u32(37, 7)]),
        (OSError,), ("host.nsid.NamespaceIds.of_peer", "host.nsid._link", "host.nsid._id"),
    ),
    "ids of namespaces": Parser(
        nsid._nsid,
        mutated([struct.pack("=BxxxHHi", 0, 8, 1, 7), struct.pack("=BxxxHHiHHi", 0, 8, 1, -1, 8, 3, 9)]),
        GARBLED, ("host.nsid._nsid",), lambda n: bytes(4) + netlink.u32(7, 7) * n + netlink.u32(1, 7),
    ),
    "sockets that listen": Parser(
        lambda body: [sock_diag._listener(body, family) for family in (socket.AF_INET, socket.AF_INET6)],
        mutated([struct.pack(">xxxxH2x16s32x", 8080, bytes(16)) + struct.pack("=12xII", 1000, 4242)]),
        GARBLED, ("host.sock_diag._listener",),
    ),
    "netlink dumps": Parser(
        dumped, conversations(), (*GARBLED, netlink.DumpInterrupted),
        ("host.netlink.Channel.dump", "host.netlink.Channel._answers", "host.netlink.Channel.get"),
    ),
    "netlink acknowledgements": Parser(answered, conversations(), GARBLED, ("host.netlink.Channel.transact",)),
    "netlink refusals": Parser(refused, conversations(), GARBLED, ("host.netlink.Channel.refusals",)),
    "links": Parser(
        every_link, dumps("links"), GARBLED,
        ("host.links.Links.all", "host.links._link", "host.links._number", "host.links._what_it_is", "host.links._tun",
         "host.links._altnames", "host.link_shape.LinkReader", "host.link_shape._filled_in"),
        lambda n: sample("links") * n,
    ),
    "owners of tun devices": Parser(
        lambda bodies: links(bodies).tun_owner(1), bodies("links").map(lambda one: [one]), GARBLED,
        ("host.links.Links.tun_owner",),
    ),
    "what stands in etcd": Parser(
        etcd_read,
        texts(["lab/10.64.1.0_26", "lab 10.64.1.0/26", "aaaaaaaaaa 000000000001.bb", "aaaaaaaaaa/about", "000000000007",
               '{"host": "one", "address": "192.0.2.1"}', '{"host": [1], "address": 5}', "lab/x_y", "forgotten"]),
        (), ("engine.etcd_values.about_of",),
    ),
    "what networkd makes of a link": Parser(
        network_managers.file_of, texts(["ADMIN_STATE=configured\nNETWORK_FILE=/etc/systemd/network/50-x.network\n"]), (), ("host.network_managers.file_of",)
    ),
    "what nmcli prints": Parser(
        network_managers.states_of, texts(["hvbr:connected (externally)\nlo:unmanaged\n"]), (), ("host.network_managers.states_of",)
    ),
    "settings of links": Parser(
        lambda body: traits(body).get(1), bodies("links"), GARBLED, ("host.link_settings._traits", "host.link_settings._settings")
    ),
    "addresses": Parser(every_address, dumps("addresses"), GARBLED, ("host.links._address",)),
    "traffic control": Parser(
        lambda given: (links(*given).filtered(), list(map(filters._preference, given[0]))),
        st.tuples(dumps("qdiscs"), st.lists(FILTERS, max_size=3)), GARBLED,
        ("host.tc.TrafficControl.filtered", "host.tc.TrafficControl._only_ours", "host.filters._preference")
    ),
    "a filter of ours": Parser(
        lambda body: links([body]).guarding(1), FILTERS, GARBLED,
        ("host.tc.TrafficControl.guarding",),
    ),
    "the name of a filter's program": Parser(
        rate_filter._name, FILTERS, GARBLED, ("host.rate_filter._name",)
    ),
    "where a filter leads": Parser(redirect._target, FILTERS, GARBLED, ("host.redirect._target",)),
    "the tag of a filter's program": Parser(
        tap_filter_check._tag, FILTERS, GARBLED, ("host.tap_filter_check._tag",)
    ),
    "neighbours": Parser(
        lambda bodies: links(bodies).neighbours(), dumps("neighbours"), GARBLED, ("host.neigh.NeighbourTable.neighbours",)
    ),
    "a bridge's own address": Parser(
        lambda bodies: links(bodies).knows_itself(1, "02:00:00:00:00:01"), dumps("neighbours"), GARBLED,
        ("host.neigh.NeighbourTable.knows_itself",),
    ),
    "ways": Parser(
        egress_devices.ways_in, dumps("routes"), GARBLED,
        ("host.egress_devices.ways_in", "host.egress_devices._devices", "host.egress_devices._index"),
    ),
    "entries made by hand": Parser(
        lambda bodies: links(bodies).fixed_neighbours(), dumps("neighbours"), GARBLED,
        ("host.neigh.NeighbourTable.fixed_neighbours", "host.neigh._may_forget"),
    ),
    "what is in bridges' tables for good": Parser(
        lambda bodies: links(bodies).fixed_in_bridges(), dumps("neighbours"), GARBLED,
        ("host.neigh.NeighbourTable.fixed_in_bridges",),
    ),
    "addresses that the host answers for": Parser(
        lambda bodies: routes.local(Told(bodies), 4), dumps("route"), GARBLED,
        ("host.routes.local", "host.routes._is_shared"),
    ),
    "names of tables of routes": Parser(
        table_names.numbers_in, texts(["255\tlocal\n#\n0x64 vpn # of a tunnel\n1 inr.ruhep\n"]), (),
        ("host.table_names.numbers_in", "host.table_names.named_tables"),
    ),
    "routes": Parser(
        lambda body: routes.ask(Told([body]), Packet("10.0.0.1")), bodies("route"), GARBLED,
        ("host.routes.ask", "host.routes._answer", "host.routes._address"),
    ),
    "tables, chains, rules, sets": Parser(
        tables, st.one_of(*(dumps(name) for name in ("table", "chain", "rule", "set", "object", "flowtable"))), GARBLED,
        ("host.nfanswers.parse_table", "host.nfanswers.chain_comment", "host.nfanswers.parse_rule",
         "host.nfanswers._rule", "host.nfanswers.parse_named", "host.nfanswers._named",
         "host.nfanswers.expressions", "host.nfanswers.xt_comment",
         "host.nfanswers._string", "host.nfanswers.comment_of", "drivers.foreign_rules._unmoved",
         "host.nftshape._table", "host.nftshape._chain", "host.nftseen._set", "host.nftseen._object",
         "host.nftshape._devices", "host.nftshape.string", "host.nftshape.number",
         "host.nftshape.family_of", "host.filter_chains.chain_rule", "host.filter_chains._verdict",
         "host.nfxt.words_of", "host.nfxt._loaded", "host.nfxt._compared", "host.nfxt._matched",
         "host.nfxt._accepts"),
    ),
    "generations": Parser(
        lambda body: ToldTables([body]).generation(), reshaped([bytes(4) + netlink.attribute(1, bytes(4))], 4), GARBLED,
        ("host.nfnetlink._generation_in",),
    ),
    "elements": Parser(
        elements, dumps("elements"), GARBLED,
        ("host.nfanswers.parse_elements", "host.nfanswers._parse_list",
         "host.nfanswers._is_catch_all", "host.nfanswers._statement", "host.nfttext.render",
          "host.nfttext._verdict", "host.nfttext._name", "host.nftseen.spelt", "host.nftseen._device",
          "host.nftseen._v4", "host.nftseen._v6", "host.nftseen._mac", "host.nftseen._service"),
        lambda n: [sample("elements")[0]] * n,
    ),
    "elements by the thousand": Parser(
        lambda bodies: list(map(nfbulk.comment_in, nfbulk.read_bulk(bodies).tails)), dumps("elements"), GARBLED,
        ("host.nfbulk.comment_in", "host.nfbulk._sort_out", "host.nfbulk._in_columns", "host.nfbulk._form"),
        lambda n: [sample("elements")[0]] * n,
    ),
    "flows": Parser(ctmessages.parse, bodies("flows"), GARBLED, ("host.ctmessages.parse",)),
    # legacy tables, and what tools print
    "legacy tables": Parser(
        legacy, legacy_inputs(), GARBLED,
        ("host.xtblob.marked", "host.xtblob.entries", "host.xtblob._decides", "host.xtblob._ends",
         "host.xtblob._portable", "host.xtblob._walk", "host.xtblob._verdict",
         "host.xtblob.end_of", "host.xtblob._target_name", "host.xtentry.with_comment",
         "host.filter_chains.legacy_rule"),
    ),
    "iptables-save": Parser(
        saved_text, texts(SAVED), (ValueError,),
        ("host.xtsaved.parse", "host.xtsaved._lines", "host.xtsaved._rule"),
        lambda n: '*nat\n:A - [0:0]\n-A A -m comment --comment "open\n' + "-A A -j DROP\n" * n,
    ),
    "iptables-save and its entries": Parser(
        paired, texts(SAVED), (ValueError,), ("host.xtables.pair", "drivers.foreign_rules._paired")
    ),
    "words of a rule": Parser(
        lambda text: xtentry.build(4, text, "x"), texts(RULE_TEXTS, " "), (ValueError,),
        ("host.xtentry.build", "host.xtentry._ports", "host.xtentry._target", "host.xtentry._Addresses._network"),
    ),
    "nft list ruleset": Parser(
        libnftables.rules_in, texts(LISTING), (), ("host.libnftables.rules_in",), lambda n: LISTING[0] * n
    ),
    "nft -j list table": Parser(
        lambda data: named_sets.parsed(data.decode(errors="replace"), None), json_bytes((NAMED,)), (HvtxError,), ("host.named_sets",)
    ),
    "nft -a list table": Parser(listed_rules, texts(LISTING), (), ("drivers.nftables.ruleset.listed_rules",)),
    "a ruleset for the replica": Parser(
        in_a_replica, st.tuples(*(
            st.one_of(st.sampled_from(pieces_of(name)), bodies(name))
            for name in ("table", "chain", "rule", "set", "elements", "flowtable", "object"))),
        GARBLED, ("host.replica.ruleset", "host.replica.sameness", "host.replica.limits", "host.replica.memory",
                  "host.replica.copying"),
    ),
    "saved rules for the replica": Parser(
        saved_rules, texts(SAVED), (), ("host.replica.xtwords", "host.replica.sources")
    ),
    "links for the replica": Parser(
        topology.device_of, bodies("links"), GARBLED, ("host.replica.topology", "host.replica.making")
    ),
    "addresses for the replica": Parser(topology.address_of, bodies("addresses"), GARBLED, ("host.replica.topology.address_of",)),
    "routes for the replica": Parser(replica_routes, st.one_of(bodies("route"), bodies("routes")), GARBLED, ("host.replica.causes", "host.devroutes")),
    "neighbours for the replica": Parser(
        entry_in_a_replica, bodies("neighbours"), GARBLED, ("host.replica.making",)
    ),
    "policies of IPsec": Parser(of_ipsec, mutated([POLICY]), GARBLED, ("host.xfrm.policy_of", "host.xfrm._prefix")),
    "counts of IPsec": Parser(
        xfrm.counts_of, texts(["XfrmInError             \t0\nXfrmOutPolBlock\t7\n"]), (), ("host.xfrm.counts_of",)
    ),
    "frames in the replica": Parser(frame_of, mutated(FRAMES), (), ("host.replica.frames",)),
    "traces of nf_tables": Parser(
        lambda data: trace.culprit(trace.steps([data]), ours=False), st.one_of(mutated([TRACED]), reshaped([TRACED], 20)), GARBLED, ("host.replica.trace",)
    ),
    "chains that translate": Parser(
        chain_before, bodies("chain"), GARBLED, (
            "host.nat_detection.is_others_hook", "host.nat_detection.translates",
            "host.nat_detection.may_proxy", "host.nat_detection.table_of")
    ),
    "counters of rules that translate": Parser(
        nat.counted_in, texts(COUNTED), (), ("host.replica.nat.counted_in",)
    ),
    "rules that translate": Parser(
        nat.translates_to, bodies("rule"), GARBLED, ("host.replica.nat.translates_to",)
    ),
    "counters of legacy tables": Parser(
        lambda text: counters.moved(counters.lines(text), counters.lines(text)), texts(COUNTED), (), ("host.replica.legacy",)
    ),
    "what a rule speaks of": Parser(
        mentions, texts(RULE_TEXTS, " "), (), ("planner.mentions.mentions", "planner.gc.foreign.mentions"),
        lambda n: "1:2::" * n + " 10.0.0.1" * n,
    ),
    "ports of others": Parser(others_ports, texts(RULE_TEXTS, " "), (), ("planner.peer_ports.published_by_others",)),
    # hypervisors and guests
    "QMP": Parser(lambda pieces: conversation(qmp.asks_status(), pieces), lines_of(QMP), (ConnectionError,),
                  ("host.qmp.asks_status", "host.qmp.Stream", "host.qmp._status_in")),
    "QMP, commands": Parser(qmp_commands, lines_of(QMP), (HvtxError, OSError), ("host.qmp.Qmp.execute",)),
    "API": Parser(
        lambda pieces: conversation(vmm_api.asks_state("/"), pieces), st.one_of(spoken(HTTP[:1], mutated(HTTP)), st.lists(mutated(HTTP), max_size=4)), (ConnectionError,),
        ("host.vmm_api.asks_state", "host.vmm_api.whole", "host.vmm_api.state_in", "host.vmm_api.succeeded"),
    ),
    "API, JSON": Parser(
        lambda data: vmm_api.state_in(b"HTTP/1.1 200 OK\r\n\r\n" + data), json_bytes(({"state": "Running"},)), (ConnectionError,),
        ("host.vmm_api.state_in",),
    ),
    "API, power": Parser(
        told_in_time, st.lists(mutated(HTTP), max_size=4), (OSError,), ("host.vmm_api.asks_power_off", "host.monitor_socket.MonitorSocket")
    ),
    "JSON of hypervisors": Parser(
        strict, json_bytes((*QMP, {"state": "Running"})), (ConnectionError,), ("host.monitor_socket.parsed", "host.monitor_socket._refuse_depth"),
        lambda n: b'{"a": "' + b"[" * n + b'"}',
    ),
    "words of hypervisors": Parser(said, mutating.values, (), ("host.monitor_socket.word", "host.monitor_socket.sentence")),
    "a guest's log": Parser(tail, encoded(texts(("error: a\n\x1b[31mb\x1b[0m\r\nc\n" * 20,))), (), ("drivers.vm_process.gate.tail",)),
    "a probe's console": Parser(
        probed, texts(("[ 0.1] Kernel panic - not syncing: VFS: Unable to mount root fs\nKVM internal error",)), (),
        ("host.kvm.lacks_root", "host.kvm.told"),
    ),
    "disk headers": Parser(
        lambda data: look_into(file_of(data, "disk")), mutated([b"QFI\xfb\0\0\0\3" + bytes(72), bytes(80)]),
        (HvtxError,), ("drivers.vm_process.probe.look_into",),
    ),
    "names in disk headers": Parser(
        images.named, mutated([qcow2(b"base.raw"), qcow2(b"", data=b"data.raw")]), (),
        ("host.images.named", "host.images._extension"),
    ),
    "public keys": Parser(
        lambda data: guest_options.public_keys(data, "k.pub"),
        mutated([b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAAA me\n", b'from="a b" ssh-rsa AAAAB3NzaC1yc2EAAAAB\n', b"# x\n"]),
        (UsageError,),
        ("engine.guest_options.public_keys", "engine.guest_options.is_public_key", "engine.guest_options._named_in"),
        grown=lambda size: b"ssh-rsa AAAAB3NzaC1yc2EAAAAB\n" * size,
    ),
    # files
    "state.json": Parser(
        state_file, json_bytes(STATES), (ValueError,),
        ("engine.state_files.read_states", "planner.adoption.state_json.parse_state", "planner.adoption.verdicts.judge",
         "planner.adoption.state_json._rules", "planner.adoption.verdicts._by_words"),
    ),
    "rules in delete form": Parser(
        adoption.parse_deletion, texts((
            "-t nat -D POSTROUTING -s 10.88.0.5/32 -j MASQUERADE", "sudo /sbin/ip6tables-nft -w --table filter --delete FORWARD --source fd00::5 --jump DROP",
            "iptables -D INPUT -p tcp --dport 80 -j ACCEPT", "iptables -D INPUT 3", "-D FORWARD -i tap-a -j 'a b'", *RULE_TEXTS), " "),
        (ValueError,), ("planner.adoption.deletion.parse_deletion",), lambda n: "-D A -s ::1 'a b' " * n,
    ),
    "access control lists": Parser(
        listed_access, mutated([struct.pack("<IHHIHHIHHI", 2, 1, 6, 0xFFFFFFFF, 2, 6, 54321, 16, 6, 0xFFFFFFFF)]), (),
        ("host.trust._entries",),
    ),
    "saved plans": Parser(saved_plan, json_bytes(PLANS), (HvtxError,), ("engine.files.read_plan", "engine.saved_plan.load_plan", "engine.saved_plan._identity")),
    "described sets": Parser(
        described_set, st.one_of(sets(), encoded(texts((SET,)))), (HvtxError,),
        ("cli.described", "engine.files.read_set"),
        lambda n: b"".join(b'[vms.a%d]\nnetwork = "lab"\n' % number for number in range(n)),
    ),
    "saved sets": Parser(saved_set, json_bytes(SAVED_SETS), (HvtxError,), ("engine.saved_set", "engine.files.read_believed_plan")),
    "saved guesses": Parser(saved_guesses, json_bytes(PLANS), (HvtxError,), ("engine.saved_plan.load_plan",)),
    "requests of container runtimes": Parser(
        cni_requested,
        st.tuples(
            json_bytes([one.stdin for one in CNI_REQUESTS]),
            texts([one.environment["CNI_ARGS"] for one in CNI_REQUESTS], ";="),
        ),
        (CniError,), ("cni.configuration.decode", "cni.main.versions"),
    ),
    "views": Parser(published, json_bytes(VIEWS), (HvtxError,), ("commands.published_view._parsed", "store.view.read")),
    "stores of others": Parser(installation, mutated([store_bytes()]), (HvtxError, OSError), ("store.backup.installation_at",)),
    "backups": Parser(whole_store, mutated([store_bytes()]), (HvtxError, OSError), ("store.backup.draft_of",)),
    "configuration": Parser(configuration, st.one_of(settings_file(), encoded(texts((CONFIGURATION,)))), (HvtxError,), ("api.settings._from_file",)),
    "environment": Parser(
        environment,
        st.dictionaries(
            st.sampled_from([f"HVTX_{n.upper()}" for n in (*sorted(cli._KEYS), "qemu_accel")]),
            st.one_of(words, st.sampled_from(("0", "10", "inf", "1e3", "nftables", "both", "1000", "kvm", "tcg"))), max_size=4
        ),
        (HvtxError,), ("api.settings.settings", "api.settings._checked", "host.kvm.wanted_accelerator"),
    ),
    "answers about KVM": Parser(
        kept_answers, json_bytes(([["boot", ["/qemu", 1, 2], None], ["kvm", "it runs", ""]],)), (), ("host.kvm.all_kept",)
    ),
    "traces": Parser(
        followed, texts(("64512:64512:/var/lib/hvtx/hvtx.db",), ":"), (), ("host.store_location.follow",), lambda n: "1:1:/" + "a/" * min(n, 400)
    ),
    "unit files": Parser(unit_texts, texts([unit.text for unit in packaged_units.packaged()]), (), ("engine.packaged_units.drop_in",)),
    # /proc
    "stat": Parser(procfs.start_time, mutated(STAT), (ValueError,), ("host.procfs.start_time",)),
    "status": Parser(
        lambda data: (procfs.field_of(data, b"Tgid:"), capabilities.sets_in(data)), mutated(sample("/proc/self/status")),
        (ValueError,), ("host.procfs.field_of", "host.capabilities.sets_in"),
    ),
    "fdinfo of tun": Parser(
        openfiles.device_in,
        mutated([b"pos:\t0\nflags:\t0100002\nmnt_id:\t25\nino:\t9\niff:\ttap0\n"]),
        (),
        ("host.openfiles.device_in",),
    ),
    "command lines": Parser(
        lambda text: described(text.split("\0")),
        texts(("/usr/bin/python3\0-m\0hvtx\0--state-dir\0/s\0vm\0run\0web\0--append\0x", "sleep\0600"), "\0"), (),
        ("host.lock_holder.command_of",), lambda n: "hvtx\0" + "--a\0b\0" * n,
    ),
    "mounts of namespaces": Parser(
        held_namespaces.mounted, texts((MOUNTS_OF_NAMESPACES,)), (), ("host.held_namespaces.mounted",),
        lambda n: MOUNTS_OF_NAMESPACES * n,
    ),
    "a zone of firewalld": Parser(
        lambda text: (firewalld_zone.zone_in(text), firewalld_zone.text_without(text, MARK)), texts((ZONE_FILE,)),
        (), ("model.firewalld_zone.zone_in", "model.firewalld_zone.text_without"), lambda n: ZONE_FILE * n,
    ),
    "mountinfo": Parser(
        lambda text: (mounts.find_mount(text, "/mnt/a b"), trust.find_mounter(text, "0:51"), mounts.find_place(text, "/mnt/a b"),
            mounts.mounted(text, "0:26")),
        texts((MOUNTS,)), (),
        ("host.mounts.find_mount", "host.trust.find_mounter", "host.mounts.find_place", "host.mounts.mounted"),
        lambda n: MOUNTS * n,
    ),
    "sockets": Parser(
        lambda text: [
            (socket_table.sockets_in(text, state), socket_table.listeners_in(text, state))
            for state in ("0A", "01", "06", "07")
        ],
        texts([sample(f"/proc/self/net/{name}")[0].decode() for name in ("tcp", "tcp6", "udp")]), (ValueError,),
        ("host.socket_table.sockets_in", "host.socket_table.spelt", "host.socket_table.listeners_in"),
    ),
    "locks of a descriptor": Parser(
        lambda text: (
            lock_holder.holds(text, "OFDLCK", ("253:0", 15502083), 7), lock_holder.holds(text, "FLOCK", ("0:25", 12), None)
        ),
        texts([LOCKS]), (), ("host.lock_holder.holds",), lambda n: LOCKS * n,
    ),
    "control groups": Parser(
        portowner.unit_in, texts(["0::/system.slice/nginx.service\n1:name=systemd:/user.slice/u.service\n"], "/"), (),
        ("host.portowner.unit_in",),
    ),
    # words
    "marks": Parser(names, texts((MARK, f"a {MARK} b"), ":"), (), ("model.mark.parse_mark",), lambda n: "hvtx:1:" * n),
    "what people type": Parser(
        user_words,
texts(TYPED),
        (),
        (
            "planner.addressing", "planner.egress_rules", "planner.ports.parse_published",
            "planner.ports.parse_unpublished", "commands.show_history.moment", "host.vmuser.numeric_id",
        ),
    ),
}  # fmt: skip
