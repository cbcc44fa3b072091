"""How refused values are written, where what was meant is plain."""

from __future__ import annotations

import pytest

from hvtx.errors import UsageError
from hvtx.model import meant_values
from hvtx.planner import addressing, ports


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("Web", "web"),
        ("web_1", "web-1"),
        ("web.example.org", "web-example-org"),
        ("web-", "web"),
        ("é", None),
        ("", None),
        ("a/b", None),
        ("web", None),
    ],
)
def test_names(text: str, right: str | None) -> None:
    assert meant_values.name(text) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("02-AB-CD-EF-00-01", "02:ab:cd:ef:00:01"),
        ("02abcdef0001", "02:ab:cd:ef:00:01"),
        ("02ab.cdef.0001", "02:ab:cd:ef:00:01"),
        ("2:a:b:c:d:e", "02:0a:0b:0c:0d:0e"),
        ("02:00:00:00:00", None),
        ("random", None),
    ],
)
def test_mac_addresses(text: str, right: str | None) -> None:
    assert meant_values.mac(text) == right
    if right is not None:
        assert addressing.parse_mac(right) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("10.77.0.9/24", "10.77.0.9"),
        ("10.77.0.09", "10.77.0.9"),
        ("[fd77::9]", "fd77::9"),
        ("dhcp", None),
        ("10.77.0.999", None),
    ],
)
def test_addresses(text: str, right: str | None) -> None:
    assert meant_values.address(text) == right
    if right is not None:
        assert addressing.parse_address(right) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("10.1/16", "10.1.0.0/16"),
        ("10/8", "10.0.0.0/8"),
        ("010.1.0.5/24", "10.1.0.0/24"),
        (" 10.1.0.0/24", "10.1.0.0/24"),
        ("10.1.0.0 /24", "10.1.0.0/24"),
        ("10.1.0.0/ 24", "10.1.0.0/24"),
        ("fd77::1/64", "fd77::/64"),
        ("10.1.0.0/33", None),
        ("10.1.0.0", None),
        ("auto", None),
    ],
)
def test_subnets(text: str, right: str | None) -> None:
    assert meant_values.subnet(text) == right
    if right is not None:
        assert addressing.parse_subnet(right) == right


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("8080", ["8080:8080"]),
        ("8080/udp", ["8080:8080/udp"]),
        ("8080:80,8081:81", ["8080:80", "8081:81"]),
        ("localhost:8080:80", ["127.0.0.1:8080:80"]),
        ("8080→80/tcp", ["8080:80"]),
        ("9000-9009→9000-9009/udp", ["9000-9009:9000-9009/udp"]),
        ("*:8080:80", ["8080:80"]),
        ("8080:80:tcp", ["8080:80"]),
        ("udp:53:53", ["53:53/udp"]),
        ("fd77::1:8080:80", ["[fd77::1]:8080:80"]),
        ("http:80", []),
        (":80", []),
        ("8080:80/sctp", []),
        ("", []),
    ],
)
def test_published_ports(text: str, right: list[str]) -> None:
    assert meant_values.published(text) == right
    assert len(ports.parse_published(right)) == sum(10 if "-" in one else 1 for one in right)


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("512M", 512),
        ("512 MiB", 512),
        ("1G", 1024),
        ("1GiB", 1024),
        ("0.5g", 512),
        ("524288k", 512),
        ("1T", 1048576),
        ("512B", None),
        ("1k", None),
        ("50%", None),
        ("1e3", None),
        ("900T", None),
        ("9" * 400 + "G", None),
    ],
)
def test_sizes(text: str, right: int | None) -> None:
    assert meant_values.mebibytes(text) == right


@pytest.mark.parametrize(
    ("text", "right"), [("30s", 30), ("5m", 300), ("2 h", 7200), ("1.5h", 5400), ("inf", None),
                      ("24h", 86400), ("25h", None), ("9" * 400 + "h", None)]
)  # fmt: skip
def test_times(text: str, right: int | None) -> None:
    assert meant_values.seconds(text) == right


def hint(call: object, *words: object) -> str:
    with pytest.raises(UsageError) as caught:
        call(*words)  # type: ignore[operator]
    assert caught.value.hint is not None
    return caught.value.hint


def test_refusals_say_it() -> None:
    """The hint of each is the right spelling."""
    assert hint(addressing.parse_name, "Web_1", "VM").endswith("; for instance web-1")
    assert hint(addressing.parse_name, "10.1.0.0/24", "network") == (
        "a name comes first: hvtx network create NAME --subnet 10.1.0.0/24"
    )
    assert hint(addressing.parse_name, "lan,dmz", "network") == (
        "one at a time: --network lan --network dmz"
    )
    assert hint(addressing.parse_mac, "02-ab-cd-ef-00-01") == "write it as 02:ab:cd:ef:00:01"
    assert hint(addressing.parse_address, "10.77.0.9/24") == "write it as 10.77.0.9"
    assert hint(addressing.parse_subnet, "10.1/16") == "write it as 10.1.0.0/16"
    assert hint(addressing.parse_subnet, "10.1.0.0/33") == (
        "a prefix length is at most 32, or 128 for IPv6: for instance 10.77.0.0/24"
    )
    assert hint(addressing.parse_subnet, "10.1.0.0 /24") == "write it as 10.1.0.0/24"
    for alone, usual in (("10.1.2.3", "10.1.2.0/24"), ("fd00::5", "fd00::/64"),
                         ("127.0.0.1", "10.77.0.0/24")):  # fmt: skip
        assert hint(addressing.parse_subnet, alone) == (
            f"say how large it is: for instance {usual}"
        )
    assert hint(ports.parse_published, ["8080"]) == "write it as 8080:8080"
    assert hint(ports.parse_published, ["8080:80,8081:81"]) == (
        "one at a time: --publish 8080:80 --publish 8081:81"
    )
    assert hint(ports.parse_published, ["8080→80/tcp"]) == "write it as 8080:80"
    assert hint(ports.parse_published, ["tcp:8080:80"]) == "write it as 8080:80"
    assert hint(ports.parse_published, ["53:53/UDP"]) == "write it as 53:53/udp"


FORMS = ("write it as 8080:80, or 203.0.113.1:53", "write it as 8080:80, 203", "ports are 1")


@pytest.mark.parametrize(
    "text",
    ["0", "99999", "00080", "90-80", "tcp:0", "1.2.3:80:80", "300.1.1.1:80:80"],
)
def test_no_hint_is_refused_again(text: str) -> None:
    """What would not be taken either is not said: the form is."""
    assert meant_values.published(text)
    assert hint(ports.parse_published, [text]).startswith(FORMS)


def test_what_is_wrong_besides_is_told_where_that_has_a_hint() -> None:
    said = hint(ports.parse_published, ["::1:80:80"])
    assert said == "publish it on 127.0.0.1, or on another address of the host"


def test_addresses_that_nobody_can_have_are_not_proposed() -> None:
    assert hint(addressing.parse_mac, "01-23-45-67-89-ab") == "write it as 02:11:22:33:44:55"
    assert hint(addressing.parse_subnet, "10.0.0.1/31") == "write it as 10.77.0.0/24"
    with pytest.raises(UsageError) as caught:
        addressing.parse_address("fe80::1%eth0")
    assert caught.value.hint is None
