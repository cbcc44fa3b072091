"""Files that people name are written: what is swapped between the look and the writing."""

from __future__ import annotations

import os

import pytest

from hvtx.host import output, paths


@pytest.fixture
def victim(tmp_path):
    path = tmp_path / "victim" / "out"
    path.parent.mkdir()
    path.write_text("untouched")
    return path


@pytest.fixture
def place(tmp_path):
    directory = tmp_path / "place"
    directory.mkdir()
    return directory / "out"


def swapped(monkeypatch, name, swap):
    """Do ``swap`` right after ``output`` called its function of that name."""
    called = getattr(output, name)

    def both(*arguments, **more):
        found = called(*arguments, **more)
        swap()
        return found

    monkeypatch.setattr(output, name, both)


@pytest.mark.parametrize("there", [False, True])
@pytest.mark.parametrize("after", ["_look", "_create"])
def test_a_link_that_comes_between_is_replaced_and_not_followed(
    place, victim, monkeypatch, there, after
):
    if there:
        place.write_text("old")

    def swap():
        place.unlink(missing_ok=True)
        place.symlink_to(victim)

    swapped(monkeypatch, after, swap)
    output.write_out(str(place), b"new")
    assert victim.read_text() == "untouched"
    assert not place.is_symlink()
    assert place.read_bytes() == b"new"


@pytest.mark.parametrize("after", ["_look", "_create"])
def test_a_directory_that_is_swapped_between_is_still_the_one(place, victim, monkeypatch, after):
    moved = place.parent.with_name("moved")

    def swap():
        place.parent.rename(moved)
        place.parent.symlink_to(victim.parent)

    swapped(monkeypatch, after, swap)
    output.write_out(str(place), b"new")
    assert victim.read_text() == "untouched"
    assert (moved / "out").read_bytes() == b"new"
    assert [path.name for path in victim.parent.iterdir()] == ["out"]


def test_a_pipe_that_is_swapped_between_is_not_written_to(place, victim, monkeypatch):
    os.mkfifo(place, 0o600)

    def swap():
        place.unlink()
        place.symlink_to(victim)

    swapped(monkeypatch, "_look", swap)
    with pytest.raises(OSError, match="replaced while"):
        output.write_out(str(place), b"new")
    assert victim.read_text() == "untouched"


@pytest.mark.parametrize("replace", [True, False])
def test_a_failure_leaves_nothing(place, monkeypatch, replace):
    def fail(*_arguments, **_more):
        raise OSError(28, "No space left on device")

    for name in ("_name", "_create"):
        with monkeypatch.context() as patched, pytest.raises(OSError, match="space"):
            patched.setattr(output, name, fail)
            output.write_out(str(place), b"new", replace=replace)
    with monkeypatch.context() as patched, pytest.raises(OSError, match="space"):
        patched.setattr(os, "write", fail)
        output.write_out(str(place), b"new", replace=replace)
    assert list(place.parent.iterdir()) == []


def test_nothing_is_replaced_unless_it_may_be(place, monkeypatch):
    swapped(monkeypatch, "_create", lambda: place.write_text("theirs"))
    with pytest.raises(FileExistsError):
        output.write_out(str(place), b"new", replace=False)
    assert place.read_text() == "theirs"
    assert [path.name for path in place.parent.iterdir()] == ["out"]


def test_a_file_system_without_hard_links(place, monkeypatch):
    def refuse(*_arguments, **_more):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    output.write_out(str(place), b"new", replace=False)
    assert place.read_bytes() == b"new"
    with pytest.raises(FileExistsError):
        output.write_out(str(place), b"newer", replace=False)


def test_what_would_be_refused_is_told_beforehand(place, tmp_path):
    assert output.refusal(str(place)) is None
    assert output.refusal(str(tmp_path / "absent/out")) is None
    place.parent.chmod(0o1777)
    place.symlink_to(tmp_path / "elsewhere")
    assert "others may put one" in output.refusal(str(place))


def test_only_descriptors_that_the_caller_opened_are_written_to(tmp_path):
    own = os.open(tmp_path / "own", os.O_RDWR | os.O_CREAT)  # not inheritable: ours
    try:
        with pytest.raises(OSError, match="nobody opened it"):
            output.write_out(f"/dev/fd/{own}", b"new")
        os.set_inheritable(own, True)
        output.write_out(f"/proc/self/fd/{own}", b"new")
    finally:
        os.close(own)
    assert (tmp_path / "own").read_bytes() == b"new"
    with pytest.raises(OSError, match="Bad file descriptor"):
        output.write_out("/dev/fd/999999", b"new")
    with pytest.raises((OSError, paths.NotRegularError)):
        output.write_out("/proc/self/fd/x", b"new")


def test_the_null_device_is_anybodys(tmp_path):
    """It keeps nothing; another device of somebody else's is refused."""
    for minor, name in ((3, "null"), (5, "zero")):
        node = tmp_path / name
        try:
            os.mknod(node, 0o20666, os.makedev(1, minor))
            os.chown(node, 103, 103)
        except PermissionError:
            pytest.skip("only root makes devices")
    output.write_out(str(tmp_path / "null"), b"new")
    with pytest.raises(paths.UnsafeError, match="belongs to user 103"):
        output.write_out(str(tmp_path / "zero"), b"new")


OWN = (
    "hvtx.db",
    "hvtx.db-wal",
    "hvtx.db-shm",
    "queue.lock",
    "reserve",
    "reserve.3",
    "logs/web.log",
)


@pytest.mark.parametrize("name", OWN)
def test_what_a_store_works_by_is_not_written_over(tmp_path, name):
    """Whether it is there or not: what lies beside it tells."""
    (tmp_path / "logs").mkdir()
    target = tmp_path / name
    for file in (tmp_path / "queue.lock", target):
        file.write_text("its own")
        with pytest.raises(OSError, match="it is a file of a state store"):
            output.write_out(str(target), b"new")
        assert file.read_text() == "its own"
    link = tmp_path / "link"
    link.symlink_to(target)
    assert output.is_of_store(str(link))


def test_elsewhere_these_are_names_like_others(tmp_path):
    for name in ("hvtx.db", "reserve", "web.log"):
        output.write_out(str(tmp_path / name), b"new")
        assert (tmp_path / name).read_bytes() == b"new"
    (tmp_path / "queue.lock").touch()
    output.write_out(str(tmp_path / "hvtx.db.bak"), b"new")
    assert not output.is_of_store(str(tmp_path / "hvtx.db.1.old"))
