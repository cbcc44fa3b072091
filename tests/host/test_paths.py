"""Where a path leads, and who else has a hand in it."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

from hvtx.host import paths, trust

STRANGER = 54321
NOBODY = 0xFFFFFFFF
LIST = "system.posix_acl_access"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


def acl(*entries):
    return (2).to_bytes(4, "little") + b"".join(
        tag.to_bytes(2, "little") + allowed.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, allowed, who in entries
    )


def seen_as(mode, uid=0, gid=0):
    return os.stat_result((mode, 1, 1, 1, uid, gid, 0, 0, 0, 0))


OWNER, OTHERS = (0x01, 6, NOBODY), (0x20, 4, NOBODY)


@pytest.mark.parametrize(
    ("entries", "word"),
    [
        (None, None),
        ([OWNER, (0x02, 6, STRANGER), (0x04, 4, NOBODY), (0x10, 6, NOBODY), OTHERS], "user 54321"),
        ([OWNER, (0x02, 6, STRANGER), (0x04, 6, NOBODY), (0x10, 4, NOBODY), OTHERS], None),
        ([OWNER, (0x02, 4, STRANGER), (0x04, 6, NOBODY), (0x10, 6, NOBODY), OTHERS], None),
        ([OWNER, (0x02, 6, 0), (0x04, 6, NOBODY), (0x10, 6, NOBODY), OTHERS], None),
        ([OWNER, (0x04, 4, NOBODY), (0x08, 6, STRANGER), (0x10, 6, NOBODY), OTHERS], "group 54321"),
        ([OWNER, (0x04, 4, NOBODY), (0x08, 6, 0), (0x10, 6, NOBODY), OTHERS], None),
        ([OWNER, (0x04, 6, NOBODY), OTHERS], None),
    ],
)
@pytest.mark.parametrize("kind", [stat.S_IFREG, stat.S_IFDIR])
def test_who_may_write_by_an_access_control_list(monkeypatch, entries, word, kind):
    def read(_path, name):
        assert name == LIST
        if entries is None:
            raise OSError(errno.ENODATA, "none")
        return acl(*entries)

    monkeypatch.setattr(os, "getxattr", read)
    problem = trust.problem_of(seen_as(kind | 0o664), "x")
    assert (problem is None) == (word is None), problem
    assert word is None or word in problem


@pytest.mark.parametrize(
    ("mode", "gid", "code", "word"),
    [
        (0o664, 0, errno.ENODATA, None),
        (0o664, 0, errno.EOPNOTSUPP, None),
        (0o664, STRANGER, errno.EOPNOTSUPP, "group 54321"),
        (0o664, 0, errno.EIO, "cannot be read"),
        (0o644, 0, errno.EIO, None),  # no bit of the group: no list can grant more
        (0o646, 0, errno.ENODATA, "world-writable"),
    ],
)
def test_without_a_list_and_where_it_cannot_be_read(monkeypatch, mode, gid, code, word):
    def read(_path, _name):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "getxattr", read)
    problem = trust.problem_of(seen_as(stat.S_IFREG | mode, gid=gid), "x")
    assert (problem is None) == (word is None), problem
    assert word is None or word in problem


@pytest.mark.parametrize("text", [b"", b"\x03\0\0\0" + bytes(8), b"\x02\0\0\0" + bytes(7)])
def test_a_list_that_is_not_understood_is_not_believed(monkeypatch, text):
    monkeypatch.setattr(os, "getxattr", lambda _path, _name: text)
    assert "cannot be read" in trust.problem_of(seen_as(stat.S_IFREG | 0o664), "x")


def test_a_sticky_directory_is_safe_and_shared(tmp_path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (shared / "mine").mkdir()
    assert paths.problem(str(shared / "mine")) is None
    with paths.parent(str(shared / "file"), strict=True) as place:
        assert (place.name, place.shared, place.path) == ("file", True, str(shared / "file"))
    with paths.parent(str(tmp_path / "file"), strict=True) as place:
        assert not place.shared


def test_links_of_ones_own_are_followed_where_nobody_else_may_write(tmp_path):
    real = tmp_path / "real"
    (real / "below").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real/../real/./below")
    with paths.parent(f"{tmp_path}/link/../below/file", strict=True) as place:
        assert place.path == str(real / "below/file")
    with paths.parent(str(tmp_path / "link")) as place:
        assert place.path == str(real / "below"), "the last one too"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"), paths.parent(str(tmp_path / "loop/x")):
        pass
    tmp_path.chmod(0o777)
    with (
        pytest.raises(paths.UnsafeError, match="others may put one"),
        paths.parent(str(tmp_path / "link/file")),
    ):
        pass


@root_only
@pytest.mark.parametrize("strict", [False, True])
def test_links_of_others_are_not_followed(tmp_path, strict):
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    os.chown(link, STRANGER, STRANGER, follow_symlinks=False)
    with (
        pytest.raises(paths.UnsafeError, match=str(STRANGER)),
        paths.parent(str(link / "file"), strict=strict),
    ):
        pass
    assert str(STRANGER) in (paths.problem(str(link)) or "")


@root_only
def test_a_directory_of_others_will_do_for_what_is_not_strict(tmp_path):
    theirs = tmp_path / "theirs"
    (theirs / "mine").mkdir(parents=True)
    (theirs / "mine" / "link").symlink_to(tmp_path)
    os.chown(theirs, STRANGER, STRANGER)
    with paths.parent(str(theirs / "mine/file")) as place:
        assert place.shared, "they could put another directory there"
    with pytest.raises(paths.UnsafeError), paths.parent(str(theirs / "mine/link/file")):
        pass
    with pytest.raises(paths.UnsafeError), paths.parent(str(theirs / "mine/file"), strict=True):
        pass


def make_socket(path):
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)
    make("odd")
    os.symlink("odd", "link")
    for path in ("odd", "link"):
        for read in (paths.read_regular, paths.read_believed):
            with pytest.raises(paths.NotRegularError) as refused:
                read(path, 10)
            assert refused.value.filename == path
            assert "not a regular file" in refused.value.strerror


def test_files_are_read_to_their_end_and_no_further(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10)
    assert paths.read_believed(str(path), 10) == b"x" * 10
    with pytest.raises(OSError, match="larger than 9 bytes"):
        paths.read_regular(str(path), 9)
    for read in (paths.read_regular, paths.read_believed):
        assert read("/dev/null", 10) == b""
        with pytest.raises(FileNotFoundError):
            read(str(tmp_path / "absent"), 10)
        with pytest.raises(FileNotFoundError):
            read(str(tmp_path / "absent/file"), 10)


@pytest.mark.parametrize("umask", [0, 0o077, 0o777])
def test_directories_are_made_as_said_whatever_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        assert paths.make_directories(str(tmp_path / "a/b/leaf"), 0o700)
        assert not paths.make_directories(str(tmp_path / "a/b/leaf"), 0o700)
    finally:
        os.umask(before)
    modes = [(tmp_path / name).stat().st_mode & 0o7777 for name in ("a", "a/b", "a/b/leaf")]
    assert modes == [0o755, 0o755, 0o700]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        paths.make_directories(str(tmp_path / "file"))
    with pytest.raises(NotADirectoryError):
        paths.make_directories(str(tmp_path / "file/below"))


@pytest.mark.parametrize("number", range(1, 5))
def test_ctrl_c_while_a_directory_is_given_back_is_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """What is closed already is not closed once more, which would be another error."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    close, closed = os.close, []

    def interrupted(descriptor: int) -> None:
        close(descriptor)
        closed.append(descriptor)
        if len(closed) == number:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "close", interrupted)
    with pytest.raises(KeyboardInterrupt), paths.parent(str(tmp_path / "a" / "b" / "c")):
        pass
