"""Answers of a bus or of a firewalld that are none: each is an error of hvtx's, which names it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from hvtx.host import firewalld, program
from hvtx.host.firewalld import Firewalld, NotAnswered
from hvtx.model.firewalld_zone import Zone, with_interface

ODD = [
    b"",
    b"{}",
    b"5",
    b"\xff\xfe",
    b"[" * 100_000,
    b'{"data":null}',
    b'{"data":[]}',
    b'{"data":[[1]]}',
    b'{"data":[NaN]}',
    b'{"data":[1e400]}',
    b'{"data":[true, 1]}',
    b'{"data":[{"public":["interfaces"]}]}',
    b'{"data":[{"public":{"interfaces":"virbr0"}}]}',
]
MADE = with_interface(None, "hvbr0", "hvtx:1:aaaaaaaaaa:1.b")
ASKED: dict[str, Callable[[Firewalld], object]] = {
    "zones": Firewalld.zones,
    "zone of": lambda daemon: daemon.permanent_zone_of("hvbr0"),
    "lasting": Firewalld.lasting,
    "keep": lambda daemon: daemon.keep(Zone(("hvbr0",), "")),
    "forget": lambda daemon: daemon.forget(MADE),
}


def answer(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Whatever is asked, this is said."""
    monkeypatch.setattr(program, "find", lambda names: "/usr/bin/busctl")
    monkeypatch.setattr(program, "capture", lambda argv, seconds: program.Captured(0, said, b""))


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("said", ODD, ids=range(len(ODD)))
def test_an_odd_answer_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, said: bytes, asked: str
) -> None:
    answer(monkeypatch, said)
    with pytest.raises(NotAnswered) as caught:
        ASKED[asked](Firewalld("/usr/bin/busctl"))
    assert caught.value.message.startswith("firewalld: ")
    assert len(caught.value.message) < 200


@pytest.mark.parametrize("said", ODD, ids=range(len(ODD)))
def test_who_gives_no_pid_is_no_firewalld(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    answer(monkeypatch, said)
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(firewalld, "_is_here", lambda pid: pytest.fail(f"{pid} is no pid"))
    assert firewalld.running() is None


@pytest.mark.parametrize(
    ("said", "errors", "answered"),
    [(b'{"data":[["public"]]}', b"", True), (b"", b"Call failed: no such method\n", False)],
)
def test_its_answer_counts_where_nobody_knows_how_busctl_ended(
    monkeypatch: pytest.MonkeyPatch, said: bytes, errors: bytes, answered: bool
) -> None:
    ended = program.Captured(program.UNTOLD, said, errors)
    monkeypatch.setattr(program, "capture", lambda argv, seconds: ended)
    if answered:
        assert firewalld._call("/usr/bin/busctl", ("a", "b", "c", "getZones")) == ["public"]
        return
    with pytest.raises(NotAnswered, match="no such method"):
        firewalld._call("/usr/bin/busctl", ("a", "b", "c", "getZones"))
