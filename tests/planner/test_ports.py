"""Published ports as people write them, and a VM with other ports."""

from __future__ import annotations

import pytest

from hvtx.errors import Conflict, NotFound, UsageError
from hvtx.model.vm import Publish, Vm
from hvtx.planner import ports
from hvtx.planner.exits import parse_exits
from hvtx.planner.ports import Asked, Unpublished

from .test_provision import DMZ, LAN, PORTS, VM

NETWORKS = {LAN.id: LAN, DMZ.id: DMZ}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080:80", [Asked(None, Publish("tcp", None, 8080, 80))]),
        ("53:53/udp", [Asked(None, Publish("udp", None, 53, 53))]),
        ("dmz/8080:80", [Asked("dmz", Publish("tcp", None, 8080, 80))]),
        ("8080/8080:80", [Asked("8080", Publish("tcp", None, 8080, 80))]),
        ("dmz/[2001:db8::1]:53:53/udp", [Asked("dmz", Publish("udp", "2001:db8::1", 53, 53))]),
        (
            "8000-8001:90-91/udp",
            [Asked(None, Publish("udp", None, n, n - 7910)) for n in (8000, 8001)],
        ),
        (
            "127.0.0.1:8000-8001:8000-8001",
            [Asked(None, Publish("tcp", "127.0.0.1", n, n)) for n in (8000, 8001)],
        ),
        ("8000-8000:80", [Asked(None, Publish("tcp", None, 8000, 80))]),
    ],
)
def test_what_publish_says(text: str, expected: list[Asked]) -> None:
    assert list(ports.parse_published([text])) == expected


def test_an_address_that_is_none_is_told_with_its_option() -> None:
    whole = "[fe80::1%lan]:80"
    with pytest.raises(UsageError, match=r"^--unpublish '\[fe80::1%lan\]:80': 'fe80::1%lan' is "):
        ports.parse_unpublished([whole])
    with pytest.raises(UsageError, match=r"^--source 'host' is not an IP address$"):
        parse_exits(None, ["host"], families=[4], nat=True)


@pytest.mark.parametrize(
    "text",
    [
        "8000-8002:80-81", "8000-8002:80", "8002-8000:82-80", "8000-:80-", "-8000:-80",
        "65535-65536:1-2", "0-1:1-2", "1-1025:1-1025", "8000-8001:80-81/sctp", "8000-8001",
        "Net/8080:80", "/8080:80", "dmz/", "dmz/8080", "[::1]:8080:80", "[::1]:80-81:80-81",
        "8080:80/udp/tcp", "8000-8001-8002:1-3", "08000-8001:80-81", "a-b:c-d",
    ],
)  # fmt: skip
def test_what_publish_cannot_say(text: str) -> None:
    with pytest.raises(UsageError) as told:
        ports.parse_published([text])
    assert told.value.hint


@pytest.mark.parametrize(
    "text",
    ["80/80", "dmz/8080", "dmz/:80:80", "dmz/8080:80/sctp", "dmz/0:80", "8000-8001:80-81/sctp"],
)
def test_a_refusal_quotes_what_was_written(text: str) -> None:
    """Whole, also where a network stands before it or it is a range."""
    with pytest.raises(UsageError) as told:
        ports.parse_published([text])
    assert told.value.message.startswith(f"--publish {text!r}"), told.value.message


def test_one_port_is_published_once() -> None:
    for texts in (["8000-8010:1-11", "8005:80"], ["8080:80", "127.0.0.1:8080:81"]):
        with pytest.raises(UsageError, match="published twice"):
            ports.parse_published(texts)
    assert len(ports.parse_published(["127.0.0.1:80:80", "127.0.0.2:80:80", "80:80/udp"])) == 3


def test_so_many_and_no_more() -> None:
    assert len(ports.parse_published(["1000-2023:1000-2023"])) == ports.MOST
    with pytest.raises(UsageError, match="at most 1024"):
        ports.parse_published(["1000-2023:1000-2023", "80:80"])


def test_a_network_that_the_vm_is_not_in() -> None:
    assert ports.parse_published(["dmz/80:80"], ["lan", "dmz"])
    with pytest.raises(UsageError, match="not in"):
        ports.parse_published(["dmz/80:80"], ["lan"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8080", [Unpublished("tcp", None, 8080)]),
        ("8080/udp", [Unpublished("udp", None, 8080)]),
        ("203.0.113.1:8080", [Unpublished("tcp", "203.0.113.1", 8080)]),
        ("[2001:db8::1]:8080/udp", [Unpublished("udp", "2001:db8::1", 8080)]),
        ("0.0.0.0:8080", [Unpublished("tcp", None, 8080)]),
        ("[::1]:8080", [Unpublished("tcp", "::1", 8080)]),  # of an earlier version's record
        ("8000-8001", [Unpublished("tcp", None, 8000), Unpublished("tcp", None, 8001)]),
    ],
)
def test_what_unpublish_says(text: str, expected: list[Unpublished]) -> None:
    assert list(ports.parse_unpublished([text, text])) == expected


@pytest.mark.parametrize("text", ["", "80:", ":80", "80/", "80/sctp", "x", "0", "65536", "9-8"])
def test_what_unpublish_cannot_say(text: str) -> None:
    with pytest.raises(UsageError, match="--unpublish"):
        ports.parse_unpublished([text])


# -- a VM with other ports -------------------------------------------------------------------------


@pytest.mark.parametrize(("text", "meant"), [
    ("8080:80", "8080"), ("8080:80/udp", "8080/udp"), ("lab/8080", "8080"),
    ("lab/9000-9001:80-81/tcp", "9000-9001/tcp"), ("127.0.0.1:5432:5432", "127.0.0.1:5432"),
    ("[2001:db8::1]:443:443", "[2001:db8::1]:443"),
])  # fmt: skip
def test_as_it_was_published_it_is_told_how_to_be_written(text: str, meant: str) -> None:
    with pytest.raises(UsageError, match="--unpublish") as told:
        ports.parse_unpublished([text])
    assert told.value.hint == f"write it as {meant}"


def changed(publish: str = "", unpublish: str = "") -> Vm:
    return ports.changed(
        VM,
        NETWORKS,
        ports.parse_published(publish.split()),
        ports.parse_unpublished(unpublish.split()),
    )


def test_ports_come_and_go() -> None:
    vm = changed("9090:90 dmz/9091:91", "8080")
    first, second = vm.interfaces
    assert first.publish == (PORTS[1], Publish("tcp", None, 9090, 90))
    assert second.publish == (Publish("tcp", None, 9091, 91),)
    assert vm._replace(interfaces=VM.interfaces) == VM


def test_what_is_published_is_published() -> None:
    assert changed("8080:80") == VM


def test_a_port_leads_elsewhere_only_with_a_word() -> None:
    with pytest.raises(Conflict, match="already") as told:
        changed("8080:81")
    assert "--unpublish 8080/tcp" in (told.value.hint or "")
    assert changed("8080:81", "8080").interfaces[0].publish[1].guest_port == 81
    with pytest.raises(Conflict):
        changed("127.0.0.1:8080:80")
    with pytest.raises(Conflict, match=r"already, to its port 80 in network 'lan'$") as told:
        changed("dmz/8080:80")
    assert "--unpublish 8080/tcp --publish dmz/8080:80/tcp" in (told.value.hint or "")


def test_what_is_not_published_cannot_go() -> None:
    with pytest.raises(NotFound):
        changed("", "8081")
    with pytest.raises(NotFound) as told:
        changed("", "53/udp")
    assert "--unpublish [2001:db8::1]:53/udp" in (told.value.hint or "")
    with pytest.raises(NotFound, match="no interface"):
        changed("nosuch/80:80")


def test_so_many_of_a_vm() -> None:
    with pytest.raises(UsageError, match="at most"):
        changed("1000-2022:1000-2022")
