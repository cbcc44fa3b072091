"""Chains of others that may translate: those that are only jumped to are not taken apart."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvtx.host import nat_detection
from hvtx.host.netlink import attribute, nested, text
from hvtx.host.nfanswers import Rule
from hvtx.host.nfnumbers import FAMILIES

_TABLE, _NAME, _HOOK, _POLICY, _TYPE, _NUMBER, _PRIORITY = 1, 3, 4, 5, 7, 1, 2


def chain(
    family: str, table: str, name: str, kind: str | None = None, hook: int = 0, priority: int = 0
) -> bytes:
    """What the kernel tells of a chain: of one at a hook its hook, policy and type."""
    body = bytes([FAMILIES[family], 0, 0, 0]) + text(_TABLE, table)
    body += text(_NAME, name)
    if kind is None:
        return body
    where = attribute(_NUMBER, struct.pack("!I", hook))
    where += attribute(_PRIORITY, struct.pack("!i", priority))
    body += nested(_HOOK, where) + attribute(_POLICY, struct.pack("!I", 1))
    return body + text(_TYPE, kind)


_NAMES = st.sampled_from(["hvtx-abc", "kube-proxy", "nat", "filter", "route", "a"])
_CHAINS = st.builds(
    chain,
    st.sampled_from(["inet", "ip", "ip6", "bridge"]), _NAMES, _NAMES,
    st.sampled_from([None, None, "filter", "nat", "route"]), st.integers(0, 4),
    st.sampled_from([-300, -100, 0, 100]),
)  # fmt: skip


def asked(chains: Sequence[bytes], *, proxy: bool) -> tuple[bool, list[tuple[str, str]]]:
    """Whether others may translate, and the tables whose rules were read for it."""
    read: list[tuple[str, str]] = []

    def rules(family: str, table: str) -> Sequence[Rule]:
        read.append((family, table))
        return [Rule(family, table, "c", 1, b"tproxy\0" if proxy else b"", None)]

    return nat_detection._has_chains(chains, rules), read


@given(st.lists(_CHAINS, max_size=6), st.booleans())
def test_what_is_passed_over_changes_no_answer(chains: list[bytes], proxy: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nat_detection, "_TYPES", (b"",))  # nothing is passed over
        whole = asked(chains, proxy=proxy)
    assert asked(chains, proxy=proxy) == whole


def test_of_chains_that_are_jumped_to_none_is_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    apart: list[bytes] = []
    look = nat_detection.is_others_hook

    def counted(body: bytes) -> bool:
        apart.append(body)
        return look(body)

    monkeypatch.setattr(nat_detection, "is_others_hook", counted)
    many = [chain("ip", "kube-proxy", f"service-{number}") for number in range(5000)]
    base = chain("ip", "kube-proxy", "PREROUTING", "filter", 4)
    assert asked([*many, base], proxy=False) == (False, [])
    assert apart == [base]
