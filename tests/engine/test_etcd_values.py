"""What stands below etcd's prefix: what hvtx would not have written is nothing."""

from __future__ import annotations

import pytest

from hvtx.engine.etcd_values import (
    About,
    about_of,
    block_of_key,
    claim_of_value,
    granted,
    members_of,
    number_of,
)
from hvtx.model.block import Held, Member, Pool

POOL = Pool("lab", "10.64.0.0/16", 26)


def test_a_block_and_whose_it_is() -> None:
    found = block_of_key("lab/10.64.1.0_26", "aaaaaaaaaa 000000000001.bb")
    assert found == Held("lab", "10.64.1.0/26", "aaaaaaaaaa", "000000000001.bb")
    six = block_of_key("lab/fd00:1::_122", "aaaaaaaaaa 000000000001.bb")
    assert six is not None
    assert six.cidr == "fd00:1::/122"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lab/junk", "aaaaaaaaaa 1.b"),
        ("lab/10.64.1.5_26", "aaaaaaaaaa 1.b"),
        ("lab/10.64.1.0", "aaaaaaaaaa 1.b"),
        ("lab", "aaaaaaaaaa 1.b"),
        ("", ""),
        ("lab/deeper/10.64.1.0_26", "aaaaaaaaaa 1.b"),
        ("lab/10.64.1.0_26", ""),
        ("lab/10.64.1.0_26", "\N{REPLACEMENT CHARACTER}\n x"),
        ("a b/10.64.1.0_26", "aaaaaaaaaa 1.b"),
        ("lab/fd00::%x_64", "aaaaaaaaaa 1.b"),
        ("lab/fd00::%x\n _64", "aaaaaaaaaa 1.b"),
    ],
)
def test_what_is_no_block(key: str, value: str) -> None:
    assert block_of_key(key, value) is None


def test_a_claim_is_of_its_own_pool() -> None:
    assert claim_of_value("lab 10.64.1.0/26") == ("lab", "10.64.1.0/26")
    assert granted("lab 10.64.1.0/26", POOL) == "10.64.1.0/26"
    for value in ("lab", "lab junk", "x 10.64.1.0/26", "lab 10.64.1.0/27", "lab 10.65.0.0/26", ""):
        assert granted(value, POOL) is None, value


def test_numbers() -> None:
    assert number_of("000000000012") == 12
    for text in ("", "x", "-1", "\N{SUPERSCRIPT TWO}", "9" * 19):
        assert number_of(text) is None, text


@pytest.mark.parametrize(
    ("text", "about"),
    [
        ('{"host": "one", "address": "192.0.2.1"}', About("one", "192.0.2.1")),
        ('{"host": "one\\nip route", "address": "192.0.2.1\\nip route ::/0 ::1"}', About()),
        ('{"address": "fe80::1%eth0"}', About()),
        ('{"address": "fe80::1%\\nip route 10.0.0.0 255.0.0.0 192.0.2.66"}', About()),
        ('{"host": ["x"], "address": 5}', About()),
        ('["one"]', About()),
        ("no JSON", About()),
        ("[" * 100_000, About()),
    ],
)
def test_what_a_host_says_of_itself_comes_into_files_of_others(text: str, about: About) -> None:
    """`network routes --format frr` has addresses of it: a line's end in one would be a route."""
    assert about_of(text) == about


def test_hosts_are_put_together_of_their_keys() -> None:
    found = members_of({
        "aaaaaaaaaa/machine": "forgotten", "aaaaaaaaaa/about": '{"host": "one"}',
        "bbbbbbbbbb/about": '{"address": "192.0.2.2"}', "junk": "x", "a/b/c": "x", "cc/other": "x",
    })  # fmt: skip
    assert found == [
        Member("aaaaaaaaaa", forgotten=True, host="one"),
        Member("bbbbbbbbbb", forgotten=False, address="192.0.2.2"),
    ]
