"""Rules of iptables-nft, built and read as nf_tables expressions. All pure.

A rule that others' iptables-nft must go on reading may hold only what that tool makes itself: the
devices by ``meta``, ports by ``payload``, all else by matches of xtables with a counter and a
verdict behind them. Anything else makes every later ``iptables-nft`` refuse the whole table. Its
mark is a match ``comment``, as iptables-nft keeps comments.

The words are those of ``iptables-save``; only the few that a passage needs are known
(:mod:`hvtx.rulesets.passage_rules`). Numbers: include/uapi/linux/netfilter/nf_tables.h and
nf_tables_compat.h. Registers are told in the old way, in which 1 is the first.
"""

from __future__ import annotations

from hvtx.host.netlink import attribute, attribute_map, legible, nested, text
from hvtx.host.nfanswers import Rule, expressions, is_xt_comment
from hvtx.host.nfnumbers import ACCEPT, BE32, EXPR_DATA, EXPR_NAME
from hvtx.host.xtentry import comment_data, match_data, states_of

_REGISTER = BE32.pack(1)
_META_DREG, _META_KEY = 1, 2
_CMP_SREG, _CMP_OP, _CMP_DATA = 1, 2, 3
_LOAD_DREG, _LOAD_BASE, _LOAD_OFFSET, _LOAD_LENGTH = 1, 2, 3, 4
_MATCH_NAME, _MATCH_REVISION, _MATCH_INFO = 1, 2, 3
_VERDICT_REGISTER, _IMMEDIATE_DATA, _VERDICT, _CODE = 1, 2, 2, 1
_VALUE = 1
_TRANSPORT = BE32.pack(2)
_DPORT = (_TRANSPORT, BE32.pack(2), BE32.pack(2))
# IPv4's own field, as iptables-nft from 1.8.10 on has the protocol; before it was as in IPv6
_PROTOCOL4 = (BE32.pack(1), BE32.pack(9), BE32.pack(1))
_KEYS = {"-i": 6, "-o": 7, "-p": 16}  # NFT_META_IIFNAME, OIFNAME, L4PROTO
_OPTIONS = {number: option for option, number in _KEYS.items()}
_PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "ipv6-icmp": 58}
_NAMES = {number: name for name, number in _PROTOCOLS.items()}


def expressions_of(words: str, mark: str) -> bytes:
    """The expressions of a rule that accepts, from its words. Raises ValueError for others."""
    left = words.split(" ")
    if left[-2:] != ["-j", "ACCEPT"]:
        raise ValueError(f"cannot build a rule without -j ACCEPT: {words!r}")
    left = left[:-2][::-1]
    parts = b""
    while left:
        option = left.pop()
        if option in _KEYS:
            parts += _meta(option, left.pop())
        elif option == "-m" and len(left) > 2:
            parts += _match(left.pop(), left.pop(), left.pop())
        else:
            raise ValueError(f"cannot build a rule with {option!r}: {words!r}")
    parts += _expression("match", _match_body("comment", 0, comment_data(mark)))
    parts += _expression("counter", b"")
    verdict = nested(_VERDICT, attribute(_CODE, BE32.pack(ACCEPT)))
    return parts + _expression(
        "immediate", attribute(_VERDICT_REGISTER, bytes(4)) + nested(_IMMEDIATE_DATA, verdict)
    )


def _expression(name: str, body: bytes) -> bytes:
    return nested(1, text(EXPR_NAME, name), nested(EXPR_DATA, body))


def _compare(data: bytes) -> bytes:
    body = attribute(_CMP_SREG, _REGISTER) + attribute(_CMP_OP, bytes(4))
    return _expression("cmp", body + nested(_CMP_DATA, attribute(_VALUE, data)))


def _meta(option: str, value: str) -> bytes:
    body = attribute(_META_DREG, _REGISTER) + attribute(_META_KEY, BE32.pack(_KEYS[option]))
    if option == "-p":
        if value not in _PROTOCOLS:
            raise ValueError(f"cannot build a rule with the protocol {value!r}")
        data = bytes((_PROTOCOLS[value],))
    else:
        data = value.encode() + b"\0"  # with its end, so that no longer name matches
        if not 1 < len(data) <= 16 or value.endswith("+"):
            raise ValueError(f"cannot build a rule for the device {value!r}")
    return _expression("meta", body) + _compare(data)


def _match(name: str, option: str, value: str) -> bytes:
    if (name, option) in (("tcp", "--dport"), ("udp", "--dport")):
        body = attribute(_LOAD_DREG, _REGISTER) + attribute(_LOAD_BASE, _TRANSPORT)
        body += attribute(_LOAD_OFFSET, BE32.pack(2)) + attribute(_LOAD_LENGTH, BE32.pack(2))
        return _expression("payload", body) + _compare(int(value).to_bytes(2, "big"))
    return _expression("match", _match_body(name, *match_data(name, option, value)))


def _match_body(name: str, revision: int, data: bytes) -> bytes:
    head = text(_MATCH_NAME, name) + attribute(_MATCH_REVISION, BE32.pack(revision))
    return head + attribute(_MATCH_INFO, data)


# -- reading ---------------------------------------------------------------------------------------


@legible
def words_of(rule: Rule) -> str | None:
    """The words of a rule that :func:`expressions_of` makes; None for every other rule.

    Also of what iptables-nft makes of those words, as it does of a file that is restored.
    """
    found, loaded, protocol = [], "", ""
    accepted = False
    for name, data in expressions(rule.expressions):
        fields = attribute_map(data)
        if name == "counter" or is_xt_comment(name, data):
            continue
        if accepted:
            return None
        if name == "cmp" and loaded and fields.get(_CMP_OP) == bytes(4):
            value = attribute_map(fields[_CMP_DATA])[_VALUE]
            said = _compared(loaded, value, protocol)
            protocol = said[-1] if said and loaded == "-p" else protocol
            loaded = ""
        elif name in ("meta", "payload") and not loaded:
            loaded = _loaded(name, fields, rule.family)
            said = [] if loaded else None
        elif name == "match" and not loaded:
            said = _matched(fields)
        elif name == "immediate" and not loaded and _accepts(fields):
            accepted, said = True, ["-j", "ACCEPT"]
        else:
            return None
        if said is None:
            return None
        found += said
    return " ".join(found) if accepted else None


def _loaded(name: str, fields: dict[int, bytes], family: str) -> str:
    """The option that what was loaded is compared for; empty for none of ours."""
    if name == "meta":
        return _OPTIONS.get(int.from_bytes(fields.get(_META_KEY, b""), "big"), "")
    got = tuple(fields.get(key) for key in (_LOAD_BASE, _LOAD_OFFSET, _LOAD_LENGTH))
    if family == "ip" and got == _PROTOCOL4:
        return "-p"
    return "--dport" if got == _DPORT else ""


def _compared(option: str, value: bytes, protocol: str) -> list[str] | None:
    if option == "--dport":
        number = str(int.from_bytes(value, "big"))
        return ["-m", protocol, option, number] if protocol in ("tcp", "udp") else None
    if option == "-p":
        name = _NAMES.get(value[0]) if len(value) == 1 else None
        return None if name is None else [option, name]
    # without its end a name is a pattern; the kernel gives some back with more zeros than one
    bare = value.rstrip(b"\0")
    return [option, bare.decode(errors="replace")] if bare != value and bare else None


def _matched(fields: dict[int, bytes]) -> list[str] | None:
    name = fields.get(_MATCH_NAME, b"").rstrip(b"\0").decode(errors="replace")
    data = fields.get(_MATCH_INFO, b"")
    revision = int.from_bytes(fields.get(_MATCH_REVISION, b""), "big")
    if (name, revision) == ("conntrack", 3):
        states = states_of(data)
        return None if states is None else ["-m", name, "--ctstate", states]
    options = {"icmp": "--icmp-type", "icmp6": "--icmpv6-type"}
    if name in options and len(data) >= 4 and data[1:4] == b"\0\xff\0":
        return ["-m", name, options[name], str(data[0])]
    return None


def _accepts(fields: dict[int, bytes]) -> bool:
    verdict = attribute_map(fields.get(_IMMEDIATE_DATA, b"")).get(_VERDICT, b"")
    return attribute_map(verdict).get(_CODE) == BE32.pack(ACCEPT)
