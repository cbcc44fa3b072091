"""The table ``[cluster]`` of the configuration."""

from __future__ import annotations

import pytest

from hvtx.api.cluster_settings import parse
from hvtx.errors import UsageError

GOOD = {"source": "etcd", "endpoints": ["https://192.0.2.1:2379"]}


def test_what_is_written_and_what_is_not() -> None:
    found = parse({**GOOD, "address": "2001:db8:0::1", "prefix": "/h/", "timeout": 2}, "c")
    assert found.endpoints == ("https://192.0.2.1:2379",)
    assert (found.address, found.prefix, found.timeout) == ("2001:db8::1", "/h", 2.0)
    assert parse(GOOD, "c").prefix == "/hvtx"
    static = parse({"source": "static", "blocks": {"lab": ["10.64.0.0/26"]}}, "c")
    assert static.blocks == {"lab": ("10.64.0.0/26",)}


@pytest.mark.parametrize(
    "table",
    [
        [],
        {},
        {"source": "consul"},
        {"source": "etcd"},
        {**GOOD, "endpoint": "x"},
        {**GOOD, "endpoints": "https://192.0.2.1:2379"},
        {**GOOD, "endpoints": ["192.0.2.1:2379"]},
        {**GOOD, "endpoints": ["https://192.0.2.1"]},
        {**GOOD, "endpoints": ["https://192.0.2.1:2379/v3"]},
        {**GOOD, "endpoints": ["https://192.0.2.1:x"]},
        {**GOOD, "cert": "/c"},
        {**GOOD, "address": "host"},
        {**GOOD, "prefix": "/"},
        {**GOOD, "timeout": True},
        {**GOOD, "timeout": 0},
        {**GOOD, "address": "fe80::1%eth0"},
        {**GOOD, "ca": 7},
        {**GOOD, "ca": "etcd-ca.pem"},
        {**GOOD, "ca": ""},
        {**GOOD, "cert": "/c", "key": "./k"},
        {"source": "static", "blocks": []},
        {"source": "static", "blocks": {"a": "10.64.0.0/26"}},
        {"source": "static", "blocks": {"a": ["10.64.0.1/26"]}},
        {"source": "static", "blocks": {"a": [7]}},
        {"source": "static", "blocks": {"a": ["fd00::%x/122"]}},
        {"source": "static", "blocks": {"a": ["10.64.0.0/26"], "b": ["10.64.0.0/26"]}},
        {"source": "static", "blocks": {"a": ["10.64.0.0/26", "10.64.0.0/255.255.255.192"]}},
    ],
)
def test_what_is_wrong_is_refused_with_the_file(table: object) -> None:
    with pytest.raises(UsageError, match="the configuration /etc/c"):
        parse(table, "/etc/c")


@pytest.mark.parametrize("endpoint", ["https://root:s3cret@192.0.2.1:2379", "root:s3cret@etcd"])
def test_a_user_of_etcd_is_refused_and_the_password_not_repeated(endpoint: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse({**GOOD, "endpoints": [endpoint]}, "c")
    assert "s3cret" not in f"{caught.value} {caught.value.hint}"
    assert "sends no password" in caught.value.message
