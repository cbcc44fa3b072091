"""Who chose where a file of a VM is, and whether it may be opened for a guest."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hvtx.drivers.vm_process.spawn import ENTER
from hvtx.errors import NotPermitted
from hvtx.host import fd_passing, images, named_files, path_mounts, paths, seed_image, vmuser
from hvtx.model.passed_fds import PassedDescriptors
from hvtx.model.user import User

STRANGER, OTHER = 54321, 54322
GUEST = User(1879048300, 1879048300)
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="gives files away")


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's that everybody may enter."""
    made = Path(tempfile.mkdtemp(prefix="hvtx-named-", dir="/var/tmp"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def link(at: Path, to: Path, owner: int = STRANGER) -> Path:
    at.symlink_to(to)
    os.lchown(at, owner, owner)
    return at


def file(at: Path, owner: int = 0, mode: int = 0o600) -> Path:
    at.write_bytes(b"secret" + bytes(600))
    at.chmod(mode)
    os.chown(at, owner, owner)
    return at


def directory(at: Path, owner: int = 0, mode: int = 0o755) -> Path:
    at.mkdir()
    at.chmod(mode)
    os.chown(at, owner, owner)
    return at


def opened(path: Path, what: str = "disk") -> str:
    """What is handed over, by its own name."""
    descriptors = fd_passing.open_all([PassedDescriptors(what, str(path))], GUEST)
    try:
        return os.readlink(f"/proc/self/fd/{descriptors[0]}")
    finally:
        fd_passing.close_all(descriptors)


# -- what is refused -------------------------------------------------------------------------------


def of_a_stranger(place: Path, to: Path) -> Path:
    return link(place / "link", to)


def above(place: Path, to: Path) -> Path:
    return link(place / "above", to.parent) / to.name


def by_another_link(place: Path, to: Path) -> Path:
    return link(place / "first", link(place / "second", to, 0))


def of_roots_with_a_stranger(place: Path, to: Path) -> Path:
    """Who owns a directory may give another name to a link in it."""
    return link(directory(place / "theirs", STRANGER) / "link", to, 0)


def of_roots_where_all_may_write(place: Path, to: Path) -> Path:
    return link(directory(place / "open", mode=0o777) / "link", to, 0)


def roots_by_a_strangers(place: Path, to: Path) -> Path:
    link(place / "mine", link(directory(place / "theirs", STRANGER) / "link", to), 0)
    return place / "mine"


REFUSED = (
    of_a_stranger,
    above,
    by_another_link,
    of_roots_with_a_stranger,
    of_roots_where_all_may_write,
    roots_by_a_strangers,
)
shapes = pytest.mark.parametrize("shape", REFUSED)


@shapes
@pytest.mark.parametrize("what", ["disk", "read-only disk", "kernel", "initrd", "program"])
def test_nobody_hands_a_guest_what_he_may_not_open(
    place: Path, shape: Callable[[Path, Path], Path], what: str
) -> None:
    at = shape(place, file(directory(place / "shut", mode=0o755) / "target"))
    with pytest.raises(NotPermitted, match=r"cannot be used: .* is a link that") as refused:
        opened(at, what)
    assert refused.value.hint


@shapes
def test_nor_puts_it_into_a_seed(place: Path, shape: Callable[[Path, Path], Path]) -> None:
    with pytest.raises(paths.UnsafeError, match="is a link that"):
        seed_image.read_user_data(str(shape(place, file(directory(place / "shut") / "target"))))


def test_to_be_read_by_all_is_not_to_be_written(place: Path) -> None:
    at = link(place / "link", file(place / "target", mode=0o644))
    assert opened(at, "read-only disk") == opened(at, "kernel") == str(place / "target")
    with pytest.raises(NotPermitted, match=f"user {STRANGER}"):
        opened(at)


@pytest.mark.parametrize("mode", [0o700, 0o711])
def test_below_a_shut_directory_what_all_may_read_is_nobodys(place: Path, mode: int) -> None:
    at = link(place / "link", file(directory(place / "shut", mode=mode) / "target", mode=0o644))
    if mode == 0o711:
        assert opened(at, "kernel")
    else:
        with pytest.raises(NotPermitted):
            opened(at, "kernel")


def test_two_who_chose_it_must_both_be_allowed(place: Path) -> None:
    theirs = link(
        directory(place / "other", OTHER) / "link", file(place / "target", STRANGER), STRANGER
    )
    with pytest.raises(NotPermitted, match=f"user {OTHER}"):
        opened(theirs)


def test_a_name_of_a_pipe_is_no_file(place: Path) -> None:
    read, write = os.pipe()
    try:
        with pytest.raises(paths.NotRegularError, match="pipe"):
            seed_image.read_user_data(f"/proc/self/fd/{read}")
    finally:
        os.close(read)
        os.close(write)
    os.mkfifo(place / "fifo")
    with pytest.raises(paths.NotRegularError):
        seed_image.read_user_data(str(place / "fifo"))


# -- what goes on ----------------------------------------------------------------------------------


def a_file_of_theirs(place: Path) -> Path:
    return file(directory(place / "theirs", STRANGER, 0o700) / "disk", STRANGER)


def a_file_of_roots_with_them(place: Path) -> Path:
    return file(directory(place / "theirs", STRANGER, 0o775) / "disk")


def a_link_of_roots(place: Path) -> Path:
    return link(place / "link", file(directory(place / "shut", mode=0o700) / "dated"), 0)


def a_link_of_roots_in_a_sticky_directory(place: Path) -> Path:
    return link(directory(place / "tmp", mode=0o1777) / "link", file(place / "dated"), 0)


def a_link_of_roots_for_a_group(place: Path) -> Path:
    images = directory(place / "images", mode=0o775)
    os.chown(images, 0, STRANGER)
    return link(images / "link", file(place / "dated"), 0)


def a_link_of_roots_to_a_directory(place: Path) -> Path:
    file(directory(place / "pool") / "disk")
    return link(place / "link", place / "pool", 0) / "disk"


def a_link_of_roots_to_a_strangers_file(place: Path) -> Path:
    return link(place / "link", a_file_of_theirs(place), 0)


def a_strangers_link_to_a_file_of_theirs(place: Path) -> Path:
    theirs = directory(place / "theirs", STRANGER, 0o775)
    return link(theirs / "link", file(theirs / "disk", STRANGER))


def a_link_of_roots_to_a_strangers_link(place: Path) -> Path:
    return link(place / "link", a_strangers_link_to_a_file_of_theirs(place), 0)


def a_relative_link(place: Path) -> Path:
    file(directory(place / "pool") / "disk")
    return link(place / "pool/current", Path("../pool/./disk"), 0)


@pytest.mark.parametrize(
    "shape",
    [
        a_file_of_theirs,
        a_file_of_roots_with_them,
        a_link_of_roots,
        a_link_of_roots_in_a_sticky_directory,
        a_link_of_roots_for_a_group,
        a_link_of_roots_to_a_directory,
        a_link_of_roots_to_a_strangers_file,
        a_strangers_link_to_a_file_of_theirs,
        a_link_of_roots_to_a_strangers_link,
        a_relative_link,
    ],
)
def test_what_goes_on(place: Path, shape: Callable[[Path], Path]) -> None:
    at = shape(place)
    assert opened(at) == os.path.realpath(at)
    assert seed_image.read_user_data(str(at)).startswith(b"secret")


def test_devices_by_their_links(place: Path) -> None:
    """As /dev/disk/by-id and LVM have them: root's links to block devices."""
    device = place / "sda"
    os.mknod(device, 0o660 | stat.S_IFBLK, os.makedev(7, 0))
    at = link(directory(place / "by-id") / "ata-x", Path("../sda"), 0)
    assert stat.S_ISBLK(named_files.look(str(at), disk=True).seen.st_mode)
    os.lchown(at, STRANGER, STRANGER)
    with pytest.raises(paths.UnsafeError):
        named_files.look(str(at), disk=True)


# -- swaps -----------------------------------------------------------------------------------------


def test_a_swap_between_look_and_open_comes_to_nothing(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was judged is what is opened, whenever another thing is put in its place."""
    target = file(place / "target")
    theirs = directory(place / "theirs", STRANGER)
    real, calls = os.open, [0]
    outcomes = set()
    for moment in range(1, 40):
        for left in theirs.iterdir():
            left.unlink()
        own = file(theirs / "disk", STRANGER)
        calls[0] = 0

        def swapped(path: object, flags: int, *more: object, **how: object) -> int:
            calls[0] += 1
            if calls[0] == moment:  # noqa: B023 - it is called in this round only
                own.unlink()  # noqa: B023
                link(own, target)  # noqa: B023
            return real(path, flags, *more, **how)  # type: ignore[arg-type]

        monkeypatch.setattr(os, "open", swapped)
        try:
            descriptors = fd_passing.open_all([PassedDescriptors("disk", str(own))], GUEST)
        except Exception as problem:
            outcomes.add(type(problem).__name__)
        else:
            outcomes.add("opened")
            assert os.fstat(descriptors[0]).st_ino != target.stat().st_ino
            fd_passing.close_all(descriptors)
        finally:
            monkeypatch.setattr(os, "open", real)
        if calls[0] < moment:
            break
    assert {"opened", "NotPermitted"} <= outcomes
    assert calls[0] < moment


# -- the way that is shown to a command ------------------------------------------------------------


def test_a_strangers_link_shows_no_shut_directory(place: Path) -> None:
    shut = directory(place / "shut", mode=0o700)
    file(shut / "target", mode=0o644)
    theirs = directory(place / "theirs", STRANGER)
    at = link(theirs / "link", shut / "target")
    with pytest.raises(paths.UnsafeError, match=f"user {STRANGER}"):
        path_mounts.steps(GUEST, [str(at)])
    assert path_mounts.steps(GUEST, [], [str(at)]) == ()
    os.lchown(at, 0, 0)
    with pytest.raises(paths.UnsafeError, match=f"user {STRANGER}"):
        path_mounts.steps(GUEST, [str(at)])
    mine = link(place / "link", shut / "target", 0)
    assert path_mounts.steps(GUEST, [str(mine)]) == (str(shut / "target"),)
    assert path_mounts.steps(GUEST, [str(link(theirs / "all", Path("/usr/bin/env")))]) == ()


def script(at: Path, line: str, owner: int = 0, mode: int = 0o755) -> Path:
    at.write_text(f"#!{line}\n")
    at.chmod(mode)
    os.chown(at, owner, owner)
    return at


def script_of_a_stranger(place: Path, line: str) -> Path:
    return script(place / "vmm", line, STRANGER)


def script_of_roots_with_a_stranger(place: Path, line: str) -> Path:
    return script(directory(place / "theirs", STRANGER) / "vmm", line)


def script_that_all_may_write(place: Path, line: str) -> Path:
    return script(place / "vmm", line, mode=0o777)


def script_by_a_strangers_link(place: Path, line: str) -> Path:
    return link(place / "link", script(place / "vmm", line, OTHER))


def script_of_roots_that_a_strangers_names(place: Path, line: str) -> Path:
    return script(place / "vmm", str(script(place / "next", line)), STRANGER)


def shown(at: Path) -> tuple[str, ...] | None:
    chosen = path_mounts.executed(str(at))
    return path_mounts.steps(GUEST, chosen, chosen=chosen)


@pytest.mark.parametrize(
    "make",
    [
        script_of_a_stranger,
        script_of_roots_with_a_stranger,
        script_that_all_may_write,
        script_by_a_strangers_link,
        script_of_roots_that_a_strangers_names,
    ],
)
@pytest.mark.parametrize("way", ["target", "papers/../../usr/env"])
def test_a_strangers_first_line_shows_no_shut_directory(
    place: Path, make: Callable[[Path, str], Path], way: str
) -> None:
    shut = directory(place / "shut", mode=0o700)
    file(shut / "target", mode=0o755)
    directory(shut / "papers")
    (directory(place / "usr") / "env").symlink_to("/usr/bin/env")
    how = "could (write, and its first line leads|make, and leads)"
    with pytest.raises(paths.UnsafeError, match=how):
        shown(make(place, str(shut / way)))


def test_first_lines_that_go_on(place: Path) -> None:
    shut = directory(place / "shut", mode=0o700)
    file(shut / "python", mode=0o755)
    assert shown(script(place / "mine", str(shut / "python"))) == (str(shut / "python"),)
    home = directory(place / "home", STRANGER, 0o700)
    file(home / "python", STRANGER, 0o755)
    at = script(home / "vmm", str(home / "python"), STRANGER)
    assert shown(at) is None  # its own directory is somebody else's to change
    assert shown(script(place / "theirs", "/usr/bin/env sh", STRANGER)) == ()


# -- links of /proc --------------------------------------------------------------------------------


def test_what_has_no_name_is_read_by_its_descriptor(place: Path) -> None:
    """As a here-document of zsh or ksh, and of bash where it is large."""
    with tempfile.TemporaryFile(dir=place) as nameless:
        nameless.write(b"#cloud-config\n")
        nameless.flush()
        assert seed_image.read_user_data(f"/proc/self/fd/{nameless.fileno()}") == b"#cloud-config\n"
        os.fchown(nameless.fileno(), STRANGER, STRANGER)
        assert named_files.look(f"/proc/self/fd/{nameless.fileno()}").seen.st_uid == STRANGER
        with pytest.raises(NotADirectoryError):
            named_files.look(f"/proc/self/fd/{nameless.fileno()}/more")


def test_a_link_of_proc_leads_to_the_thing_and_not_to_what_it_reads_as(place: Path) -> None:
    """The root of a container reads as ours does."""
    file(directory(place / "boot") / "kernel")
    words = 'mount -t tmpfs none "$1" && echo theirs >"$1/kernel" && echo up && exec sleep 60'
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", words, "sh", str(place / "boot")], stdout=subprocess.PIPE
    ) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"up\n"
            at = f"/proc/{child.pid}/root{place}/boot/kernel"
            assert seed_image.read_user_data(at) == b"theirs\n"
            assert named_files.look(at).seen.st_ino != (place / "boot/kernel").stat().st_ino
            mine = f"/proc/self/root{place}/boot/kernel"
            assert seed_image.read_user_data(mine).startswith(b"secret")
        finally:
            child.kill()


# -- groups of a maker -----------------------------------------------------------------------------


def test_a_maker_may_open_what_its_groups_may(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = directory(place / "images", mode=0o770)
    disk = file(images / "disk", mode=0o660)
    for each in (images, disk):
        os.chown(each, 0, OTHER)
    at = link(place / "link", disk)
    with pytest.raises(NotPermitted):
        opened(at)
    known = pwd.struct_passwd(("alice", "x", STRANGER, STRANGER, "", "/", "/bin/sh"))
    monkeypatch.setattr(pwd, "getpwuid", lambda _: known)
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [STRANGER, OTHER])
    assert opened(at) == str(disk)
    assert path_mounts.steps(GUEST, [str(at)]) == (str(images / "disk"),)
    monkeypatch.setattr(os, "getgrouplist", lambda *_: [STRANGER])
    with pytest.raises(NotPermitted):
        opened(at)


# -- processes of ours -----------------------------------------------------------------------------


def test_what_root_must_not_open_by_its_name(place: Path) -> None:
    assert vmuser.may_open(None, str(file(place / "kernel")), 4)
    assert vmuser.may_open(None, str(link(place / "link", place / "kernel", 0)), 4)
    assert not vmuser.may_open(None, str(a_file_of_theirs(place)), 4)
    assert not vmuser.may_open(None, str(link(place / "other", place / "kernel")), 4)
    assert not vmuser.may_open(None, str(place / "none"), 4)
    shared = directory(place / "tmp", mode=0o1777)
    assert vmuser.may_open(None, str(file(shared / "mine")), 4)
    assert not vmuser.may_open(None, str(file(shared / "theirs", STRANGER)), 4)


def test_an_image_behind_a_link_is_not_looked_into(place: Path) -> None:
    at = link(place / "link.qcow2", file(place / "target"))
    assert images.relative(str(at)) == ()


# -- the directory that a VM works in --------------------------------------------------------------


def entered(directory: Path) -> tuple[int, str]:
    """What the first shell of a start does with a directory: its exit code, and where it is."""
    words = ["/bin/sh", "-c", ENTER, "sh", "022", str(directory), "/bin/pwd", "-P"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize("name", ["plain", "a b", "$(id)", "it's", "new\nline", "end\n", "-P"])
def test_a_directory_is_entered_by_its_own_path_only(place: Path, name: str) -> None:
    """What is put in its place after it was judged is left again."""
    at = directory(place / name)
    shown = named_files.directory(str(at))
    assert entered(Path(shown)) == (0, f"{at}\n")
    at.rmdir()
    link(at, directory(place / "elsewhere"))
    assert entered(Path(shown)) == (126, "")
    assert named_files.directory(str(at)) == str(place / "elsewhere")  # all may enter that
    (place / "elsewhere").chmod(0o700)
    with pytest.raises(paths.UnsafeError, match=f"user {STRANGER}"):
        named_files.directory(str(at))
