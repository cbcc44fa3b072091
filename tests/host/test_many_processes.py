"""Many processes looked at once: what is said of each is what one look says."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from hvtx.host import many_processes, procfs
from hvtx.host.many_processes import look_at_all
from hvtx.model.vm import Identity


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Identity]]:
    """Living ones, one that has ended, one that was reaped, one whose pid is another's by now."""
    monkeypatch.setattr(many_processes, "_AT_ONCE", 2)
    children = [subprocess.Popen(["sleep", "60"]) for _ in range(5)]
    found = [procfs.identify(child.pid) for child in children]
    children[1].kill()
    assert procfs.wait_gone(found[1], 5)
    children[2].kill()
    children[2].wait()
    found[3] = found[3]._replace(start=found[3].start + 1, inode=found[3].inode + 1)
    found.append(found[0]._replace(pidns=1))
    found.append(found[0]._replace(inode=0))
    yield found
    for child in children:
        child.kill()
        child.wait()


def test_each_is_said_of_what_one_look_says(known: list[Identity]) -> None:
    assert look_at_all(known) == [procfs.look_again(one) for one in known]
    seen = look_at_all(known)
    assert [f.exists and not f.ended for f in seen] == [1, 0, 0, 1, 1, 0, 1]


def test_what_cannot_be_opened_is_looked_at_by_itself(
    known: list[Identity], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = [procfs.look_again(one) for one in known]

    def none_left(pid: int) -> int:
        raise OSError(24, "Too many open files", pid)

    monkeypatch.setattr(many_processes.os, "pidfd_open", none_left)
    monkeypatch.setattr(
        many_processes.procfs, "look_again", dict(zip(known, wanted, strict=True)).get
    )
    assert look_at_all(known) == wanted
