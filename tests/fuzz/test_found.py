"""What the fuzzers found, each as the plain input that showed it."""

from __future__ import annotations

import errno
import json
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from hvtx.commands import published_view as view
from hvtx.engine import saved_plan
from hvtx.engine.runtime import Settings
from hvtx.errors import HvtxError, NotPermitted, UsageError
from hvtx.host import (
    capabilities,
    kvm,
    netlink,
    nfanswers,
    nfttext,
    openfiles,
    routes,
    socket_table,
    store_location,
    xtblob,
    xtsaved,
)
from hvtx.host.netlink import Garbled, attribute, message, u32
from hvtx.host.replica import ruleset
from hvtx.model.foreign_rule import ForeignRule
from hvtx.model.place import legacy_place
from hvtx.model.routing import Packet
from hvtx.model.vm import ProcessFacts
from hvtx.planner import adoption
from hvtx.planner.adoption import verdicts
from tests.fuzz.mutating import sample
from tests.fuzz.parsers import VIEWS, Told, ToldTables, blob, links

DEEP = "[" * 100_000


def test_garbled_is_an_error_of_the_system_and_of_a_value() -> None:
    """Whoever expects either hears of it: a look that failed is never an empty one."""
    problem = Garbled("x")
    assert isinstance(problem, OSError)
    assert isinstance(problem, ValueError)
    assert (problem.errno, problem.strerror) == (errno.EBADMSG, "x")


@pytest.mark.parametrize("body", [b"", b"\0\0", struct.pack("=i", -(2**31)), struct.pack("=i", 7)])
def test_an_answer_that_is_no_error(body: bytes) -> None:
    with pytest.raises(Garbled):
        netlink.kernel_error(body, 0)


@pytest.mark.parametrize("payload", [b"\0", struct.pack("=i", -(2**31))])
def test_a_dump_whose_end_is_garbled(payload: bytes) -> None:
    told = Told(datagrams=[message(3, 2, 2, payload)])
    with pytest.raises(Garbled):
        told.dump(1, b"")


@pytest.mark.parametrize("size", [0, 4, 15])
def test_answers_that_are_cut_off(size: int) -> None:
    def cut(name: str) -> Any:
        return links([sample(name)[0][: min(size, 7)]])

    for look in (
        cut("links").all,
        lambda: cut("links").tun_owner(1),
        cut("addresses").addresses,
        cut("qdiscs").filtered,
        cut("neighbours").neighbours,
        lambda: routes.ask(
            Told([sample("route")[0][: min(size, 11)] or b"\0"]), Packet("10.0.0.1")
        ),
    ):
        with pytest.raises(Garbled):
            look()


def test_a_link_without_a_name_is_none() -> None:
    with pytest.raises(Garbled):
        links([sample("links")[0][:16]]).all()


@pytest.mark.parametrize("length", [0, 3, 5, 15])
def test_addresses_of_odd_lengths(length: int) -> None:
    odd = attribute(1, bytes(length))
    with pytest.raises(Garbled):
        links([struct.pack("=BBBBI", 2, 24, 0, 0, 1) + odd]).addresses()
    with pytest.raises(Garbled):
        links([struct.pack("=BxxxiHBB", 2, 1, 2, 0, 0) + odd]).neighbours()


def test_answers_of_nf_tables_that_lack_what_each_has() -> None:
    for body in (b"", bytes(4), bytes(4) + attribute(1, b"table\0")):
        with pytest.raises(Garbled):
            nfanswers.parse_rule(body)
    with pytest.raises(Garbled):
        nfanswers.parse_table(b"")
    with pytest.raises(Garbled):
        ToldTables([bytes(4) + u32(2, 1)]).generation()
    with pytest.raises(Garbled):
        nfanswers.parse_rule(
            bytes(4) + attribute(1, b"t\0") + attribute(2, b"c\0") + attribute(3, b"\1")
        )


def test_elements_that_are_cut_off() -> None:
    whole = sample("elements")[0]
    for size in range(36, len(whole)):
        data = bytearray(whole[:size])
        with pytest.raises(Garbled):
            nfanswers.parse_elements(bytes(data), [])


@pytest.mark.parametrize("name", ["legacy4 nat", "legacy4 filter", "legacy6 filter"])
def test_a_legacy_table_that_is_cut_off_has_not_fewer_rules(name: str) -> None:
    """Not even where it is cut between two entries: the kernel said how many there are."""
    family, whole = int(name[6]), sample(name)[1]
    assert xtblob.entries(family, blob(name))
    for size in range(len(whole)):
        with pytest.raises(Garbled):
            xtblob.entries(family, blob(name, whole[:size]))
        with pytest.raises(Garbled):
            xtblob.marked(family, blob(name, whole[:size]), "hvtx:")


def test_a_mark_that_is_no_text_stands_in_a_legacy_table() -> None:
    """Somebody's comment; it is read as iptables-save prints it."""
    data = sample("legacy4 nat")[1]
    at = data.index(b"hvtx:")
    (found,) = xtblob.marked(
        4, blob("legacy4 nat", data[: at + 5] + b"\xff" + data[at + 6 :]), "hvtx:"
    )
    assert found.mark.startswith("hvtx:\udcff")


def test_a_quotation_mark_that_stays_open_is_not_looked_at_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each line of the text once, however many follow."""
    looked: list[int] = []

    class Escaped:
        def sub(self, _with: str, text: str) -> str:
            looked.append(len(text))
            return text.replace('\\"', "")

    monkeypatch.setattr(xtsaved, "_ESCAPED", Escaped())
    text = '*nat\n:A - [0:0]\n-A A -m comment --comment "open\n' + 'a \\" b\n' * 500
    with pytest.raises(ValueError, match="open quotation mark"):
        xtsaved.parse(text)
    assert sum(looked) <= len(text)


def test_lines_of_a_quoted_text_are_one() -> None:
    text = '*nat\n:A - [0:0]\n-A A -m comment --comment "a\\"\n# b\n\\\\" -j DROP\nCOMMIT\n# "\n'
    (rule,) = xtsaved.parse(text).rules
    assert rule.text == '-m comment --comment "a\\"\n# b\n\\\\" -j DROP'


@pytest.mark.parametrize(
    "state",
    [
        DEEP,
        json.dumps({"id": "\ud800"}),
        json.dumps({"id": "a\0b"}),
        json.dumps({"id": "a", "name": "\udfff"}),
        json.dumps({"id": "a", "network": {"tap": "tap\0", "iptables": []}}),
        json.dumps({"id": "a", "network": {"iptables": [[1, 2]]}}),
        json.dumps({"id": "a", "network": {"iptables": [["-D", None]]}}),
        json.dumps({"id": "a", "network": {"iptables": ["-D A\0"]}}),
        json.dumps({"id": "a", "pid": [[]]}),
    ],
)
def test_a_state_that_nobody_can_have(state: str) -> None:
    """It is not taken for one: neither the kernel nor the store can hold such words."""
    with pytest.raises(adoption.NotAState) as told:
        adoption.parse_state(state, "/x/state.json")
    assert len(str(told.value)) < 300
    str(told.value).encode()


def test_rules_are_taken_apart_once_however_many_are_claimed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[str] = []
    split = verdicts.shlex.split
    monkeypatch.setattr(verdicts.shlex, "split", lambda text: calls.append(text) or split(text))  # type: ignore[func-returns-value]
    rules = [
        ForeignRule(
            "iptables",
            legacy_place("iptables", "nat", "POSTROUTING"),
            f"-s 10.88.0.{n}/32 -j DROP",
            None,
            "",
            n,
        )
        for n in range(50)
    ]
    claimed = [f"-t nat -D POSTROUTING -s 10.88.0.{n}/32 -j DROP" for n in range(50)]
    claim = adoption.parse_state(
        json.dumps({"id": "a", "pid": 7, "network": {"ip": "10.88.0.5", "iptables": claimed}}), "/x"
    )
    seen = adoption.AdoptFacts([], {}, rules, {7: ProcessFacts(True, 1)}, {}, {})
    (verdict,) = adoption.judge([claim], seen)
    assert [f.proven for f in verdict.findings].count(True) == 1
    assert len(calls) <= 3 * (len(rules) + len(claimed))


def test_a_saved_plan_of_guesses_with_other_things_than_words(tmp_path: Path) -> None:
    item = {"action": ["delete"], "reason": "guess-name", "kind": "tap", "key": "t"}
    path = tmp_path / "plan"
    path.write_text(json.dumps({"schema": saved_plan.SCHEMA, "heuristic": True, "items": [item]}))
    with pytest.raises(UsageError, match="is not a whole plan: an item's words are not text"):
        saved_plan.load_plan(str(path), heuristic=True)


@pytest.mark.parametrize(
    "change",
    [lambda v: v.update(vms=[7]), lambda v: v.update(networks=7), lambda v: v.update(life=[1, 2]),
     lambda v: v.update(vms=[{"vm": [], "rows": []}]), lambda v: v.update(history=7)],
)  # fmt: skip
def test_a_damaged_view_says_so(tmp_path: Path, change: Any) -> None:
    known = Settings(f"{tmp_path}/state", str(tmp_path), "auto", 1.0)
    where = view.place_of(known)
    os.makedirs(where.directory, mode=0o700)
    seen = {**json.loads(json.dumps(VIEWS[0])), "state_directory": known.state_directory}
    change(seen)
    Path(where.document).write_text(json.dumps(seen))

    def ask_all() -> None:
        source = view._read(known, NotPermitted("no", hint="no"))
        source.list_vms()
        source.list_networks()
        source.show_network("net")
        source.list_history(limit=1)

    with pytest.raises(NotPermitted, match="cannot be read"):
        ask_all()


def test_a_view_that_is_nested_too_deep(tmp_path: Path) -> None:
    known = Settings(f"{tmp_path}/state", str(tmp_path), "auto", 1.0)
    where = view.place_of(known)
    os.makedirs(where.directory, mode=0o700)
    Path(where.document).write_text(DEEP)
    with pytest.raises(HvtxError, match="cannot be read"):
        view._read(known, NotPermitted("no", hint="no"))


def test_answers_about_kvm_that_are_none(tmp_path: Path) -> None:
    lines = [DEEP, '[["b", [], null], ["kvm", 7, ""]]', '[["b", [], null], ["kvm", "it runs", ""]]']
    (tmp_path / "accel").write_text("\n".join(lines))
    assert [answer.reason for _, answer in kvm.all_kept(str(tmp_path))] == ["it runs"]


@pytest.mark.parametrize(
    "trace",
    [
        "1:1:/a\0b",
        "9" * 5000 + ":1:/a",
        "1:1:/a\ud800",
        f"1:1:/{'a' * 5000}/b",
        "1:1:" + "/a" * 4000,
    ],
)
def test_a_trace_that_leads_nowhere_is_unseen(trace: str) -> None:
    """Never gone: what a store's absence proves lets its things be removed."""
    assert store_location.follow(trace).verdict == "unseen"


def test_a_store_that_may_not_be_looked_at_is_unseen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refused look is no absence, although its directory is there, and on the same disk."""
    device = tmp_path.stat().st_dev
    path = f"{tmp_path}/hvtx.db"
    real = os.lstat

    def refusing(name: str) -> os.stat_result:
        if name == path:
            raise PermissionError(13, "no")
        return real(name)

    assert store_location.follow(f"{device}:{device}:{path}").verdict == "gone"
    monkeypatch.setattr(os, "lstat", refusing)
    assert store_location.follow(f"{device}:{device}:{path}").verdict == "unseen"


def test_a_device_whose_name_is_no_text() -> None:
    """Anybody may make one in a namespace of their own; who holds what is still told."""
    assert openfiles.device_in(b"pos:\t0\niff:\t\xff\xfe\n") == "\udcff\udcfe"


@pytest.mark.parametrize(
    "table", ["head\nx\n", "head\n 0: zz:0016 0:0 0A\n", "head\n 0: 00:0016 0:0 0A\n"]
)
def test_lines_that_are_no_sockets(table: str) -> None:
    with pytest.raises(ValueError):
        socket_table.sockets_in(table, "0A")


def test_capabilities_that_are_no_number() -> None:
    with pytest.raises(ValueError):
        capabilities.sets_in(b"CapEff:\tno\n")


def test_an_element_without_a_key_is_no_element() -> None:
    """It would be shown as nothing, and stand for a row whose key is empty."""
    whole = sample("elements")[0]
    at = whole.index(struct.pack("=HHHH", 12, 1, 8, 1))  # KEY, with a VALUE of four bytes
    empty = whole[: at + 4] + struct.pack("=HH", 4, 1) + whole[at + 8 :]
    assert nfanswers.all_elements([whole])
    with pytest.raises(Garbled):
        nfanswers.parse_elements(empty, [])


def test_an_element_whose_device_has_no_name_is_shown() -> None:
    """Anybody may add one to a set; a plan that shows nothing would tell nobody what it means."""
    assert nfttext.render("inet", "bridges", bytes(16), b"") == '""'
    accepts = attribute(1, struct.pack(">i", 1))
    assert nfttext.render("inet", "network_input", b"br0\0", accepts) == "br0 -> accept"


def test_numbers_that_are_longer_than_the_kernel_has_them() -> None:
    """Flags of a set, and a rule's protocol: handed back to a kernel they would not fit."""
    flags = bytes(4) + attribute(1, b"t\0") + attribute(2, b"s\0") + attribute(3, b"\1" + bytes(4))
    with pytest.raises(Garbled):
        ruleset.parts(ruleset.Ruleset(sets=(flags,)), ())
