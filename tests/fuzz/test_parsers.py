"""No parser of what others write raises what it does not name, or concludes what was not there.

The ordinary run takes some examples, always the same; the long job (:mod:`tests.fuzz.job`) goes on
with other ones for as long as one likes.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.host import netlink
from hvtx.host.nfanswers import comment_of
from hvtx.host.nfmessages import comment_data
from hvtx.model.mark import Mark, make_mark, parse_mark
from tests.fuzz.parsers import PARSERS, Parser
from tests.fuzz.property import options, property_of

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = 40


@pytest.mark.parametrize("name", PARSERS)
@pytest.mark.slow
def test_only_named_errors(name: str) -> None:
    holds = property_of(PARSERS[name])
    options(examples=EXAMPLES, derandomize=True, database=None)(holds)()


plain = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=60)


@options(examples=EXAMPLES, derandomize=True, database=None)
@given(
    st.integers(1, 2**63 - 1), st.binary(min_size=10, max_size=10), plain, st.binary(max_size=40)
)
def test_what_is_written_is_read_as_it_was(row: int, nonce: bytes, text: str, data: bytes) -> None:
    """Marks, comments in the kernel's form, netlink attributes: as they were given."""
    written = make_mark("abcdefghij", row, nonce)
    found = parse_mark(written)
    assert isinstance(found, Mark)
    assert (str(found), found.installation) == (written, "abcdefghij")
    assert comment_of(comment_data(text)) == text
    parts = netlink.attribute(3, data) + netlink.nested(4, netlink.text(5, text))
    read = netlink.attribute_map(parts)
    assert read[3] == data
    assert netlink.attribute_map(read[4])[5] == text.encode() + b"\0"


# What decodes bytes, numbers or JSON, and is in no parser's ``covers``: why it need not be.
ASIDE = {
    "cli.metrics.metrics": "text of our own making",
    "cli.metrics._write": "text of our own making",
    "cli.page.markup.visible": "text of our own making",
    "documents.encoding._well_formed": "text of our own making",
    "cli.vm._print_log": "replaces what is no text",
    "drivers.dnsmasq.driver._words": "errors are replaced",
    "host.ufw.is_enabled": "what is no text is replaced",
    "drivers.file._read": "what is no text is replaced",
    "engine.egress_guests._seen": "what is no text is replaced",
    "host.replica.newcomer": "addresses and frames of our own making",
    "planner.egress_flows.Host.network": "addresses of either length, which conntrack's parser has cut",
    "drivers.file.Marks.of": "the same, compared with it by tests/drivers/test_file.py",
    "drivers.dnsmasq.names_table._text": "errors are replaced",
    "loader._Loader.compiled": "what Python compiled, whose head says so: its own loader reads the same",
    "cni.main.run": "an answer of our own",
    "cni.main._version_asked": "reads a request as `versions` does",
    "host.firewalld._call": "errors are replaced, and an answer that is none is told",
    "host.firewalld.in_file": "errors are replaced; PARSERS has who reads the text",
    "host.held_namespaces._mounts": "names as the file system has them; PARSERS has who reads the text",
    "model.json_text.loads": "as tests/model/test_json_text.py shows; its callers are in PARSERS",
    "engine.cni_files._types_of": "what is no JSON runs nothing, as tests/engine shows",
    "engine.cni_files.text_at": "replaces what is no text",
    "host.dhcp_release": "addresses of our own",
    "host.neigh._lladdr": "an address of our own",
    "host.link_changes": "addresses of our own",
    "host.inet": "addresses of our own, and frames of our own making",
    "host.etcd": "as tests/host/test_etcd.py shows",
    "host.veth": "addresses of our own",
    "planner.attaching": "a digest and random bytes of our own",
    "planner.blocks": "subnets of our own, and of the cluster as they were claimed",
    "engine.forward": "addresses of our own",
    "model.firewall.packed_digests": "digests of our own making",
    "planner.egress_flows._within": "addresses of either length, which conntrack's parser has cut",
    "rulesets.egress_boxes.range_of": "addresses of our own, read before by planner.egress_rules",
    "engine.own_addresses": "addresses as links read them, and subnets of our own",
    "engine.uplink_checks": "addresses of our own",
    "host.replica.uncarried": "heads of messages, of a length that the kernel gives",
    "host.tc.TrafficControl._handle": "a head of a message, of a length that the kernel gives",
    "store.packing.unpack": "what is no JSON there is a damaged store, as tests/store shows",
    "store.tombstone": "rows of the store: what is no JSON there is a damaged store",
    "host.vhost.works": "an answer of ioctl, as long as was asked for",
    "host.xfrm.counted": "errors are replaced",
    "host.xfrm._direction": "as policy_of reads it",
    "host.xfrm._states": "one number of the kernel's",
    "engine.trial": "addresses of our own",
    "commands.gc_installation._traces": "replaces what is no text",
    "model.user.own_user": "the installation's own name",
    "engine.unit_files.text_at": "replaces what is no text",
    "commands.show.read_log": "replaces what is no text",
    "host.routes.beyond": "reads an address that is one already",
    "host.libnftables._run": "replaces what is no text",
    "drivers.flows._on_link": "compares addresses of any length as numbers",
    "host.lock_holder._has": "replaces what is no text; hands to holds, which is here",
    "planner.leftovers._legacy_words": "what cannot be split is told as it is",
    "host.lock_holder._described": "replaces what is no text; hands to command_of, which is here",
    "host.nftwords": "hands to xtables.parse, which is here",
    "host.network_managers._by_networkd": "replaces what is no text; hands to file_of, which is here",
    "host.locks.LockFile": "an answer of fcntl, as long as was asked for",
    "host.logger._stays_empty": "an answer of ioctl, as long as was asked for",
    "rulesets.cbpf": "addresses of our own",
    "rulesets.nftables_elements": "constants",
    "rulesets.packing": "addresses of our own",
    "rulesets.port_filter": "addresses of our own",
    "rulesets.port_shape": "a program of our own",
    "host.xtnames.listed": "names of tables, of the kernel's own /proc",
    "host.nat_detection._lists_some": "names of tables, of the kernel's own /proc",
    "host.probe_code": "constants",
    "host.probe_guest.image": "random bytes of our own",
    "host.procfs.boot_id": "the kernel's, 36 characters",
    "host.procfs.netns_cookie": "an answer of getsockopt, as long as was asked for",
    "host.procfs.command_line": "takes any bytes",
    "host.openfiles._is_made_by": "one number that an ioctl of the kernel gives",
    "host.openfiles._name": "replaces what is no text",
    "host.program._read": "replaces what is no text",
    "host.program.interpreters": "takes any bytes",
    "host.replica.nat._counted": "replaces what is no text",
    "host.replica.scratch": "a constant",
    "host.replica.tries": "a constant",
    "host.sysctl.value": "numbers and words of the kernel's own /proc",
    "host.tun.attach": "a name of our own",
    "host.xtsaved.save_text": "takes any bytes",
    "host.xtblob.info_of": "an answer of getsockopt, as long as was asked for",
    "model.mark.base32": "random bytes of our own",
    "planner.adoption.verdicts._words_of": "has no words of what cannot be split",
    "planner.provision": "random bytes of our own",
    "store.high_water_mark.HighWaterMark": "numbers of our own, in a file that only the store's owner may write",
    "store.codec": "rows of our own, in a store that only its owner may write",
    "store.history": "rows of our own, in a store that only its owner may write",
    "store.intents": "rows of our own, in a store that only its owner may write",
    "store.records": "rows of our own, in a store that only its owner may write",
    "store.view.Publisher.is_fresh": "looks at the length first",
}
DECODING = frozenset(
    ("loads", "unpack", "unpack_from", "from_bytes", "decode", "fromhex", "fromisoformat", "fsdecode",
     "iter_unpack")
)  # fmt: skip


def decoders() -> set[str]:
    """Every function of the program that decodes something, as ``room.module.function``."""
    found = set()

    def visit(node: ast.AST, path: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = isinstance(child, ast.FunctionDef | ast.ClassDef)
            visit(child, f"{path}.{child.name}" if inner else path)  # type: ignore[attr-defined]
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id in DECODING:
            found.add(path)
        if isinstance(called, ast.Attribute):
            whose = called.value.id if isinstance(called.value, ast.Name) else ""
            by_name = (whose, called.attr) in (("shlex", "split"), ("tomllib", "load"))
            if called.attr in DECODING or by_name:
                found.add(path)

    for source in (ROOT / "hvtx").rglob("*.py"):
        module = source.relative_to(ROOT / "hvtx").with_suffix("").as_posix().replace("/", ".")
        visit(ast.parse(source.read_text()), module)
    return found


def test_every_reader_of_foreign_bytes_is_here() -> None:
    """A new parser fails here until it joins PARSERS, or says in ASIDE why it need not."""
    covered = {name for parser in PARSERS.values() for name in parser.covers}

    def within(name: str, known: set[str]) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in known)

    found = decoders()
    assert sorted(n for n in found if not within(n, covered | ASIDE.keys())) == []
    idle = [one for one in ASIDE if not any(within(name, {one}) for name in found)]
    assert idle == []


def test_what_is_covered_is_there() -> None:
    """The names in ``covers`` are those of the program."""
    known = set()

    def visit(node: ast.AST, path: str) -> None:
        known.add(path)
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                visit(child, f"{path}.{child.name}")

    for source in (ROOT / "hvtx").rglob("*.py"):
        module = source.relative_to(ROOT / "hvtx").with_suffix("").as_posix().replace("/", ".")
        visit(ast.parse(source.read_text()), module)
    assert sorted({n for p in PARSERS.values() for n in p.covers} - known) == []


def steps(parser: Parser, given_: Any) -> int:
    """How many lines run for an input."""
    count = 0

    def trace(_frame: FrameType, _event: str, _argument: object) -> Callable[..., Any]:
        nonlocal count
        count += 1
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        parser.call(given_)
    except parser.errors:
        pass
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("name", [name for name, parser in PARSERS.items() if parser.grown])
def test_twice_as_much_takes_twice_as_many_steps(name: str) -> None:
    """And not four times: whoever makes a text long does not make the reader slow."""
    parser = PARSERS[name]
    assert parser.grown is not None
    steps(parser, parser.grown(1))  # what is loaded once
    small, great = (steps(parser, parser.grown(size)) for size in (150, 300))
    assert great < 2.6 * small + 200, (small, great)
