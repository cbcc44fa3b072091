"""Run-time directories of VMs, and their seeds: gone with the VM's resources.

The directory is ``vms/<id of the VM>`` in a directory that only hvtx writes to. The row's mark
stands outside of it, in ``marks/<id>``: the directory itself is its VM process's, who could forge
or remove whatever is in it. (VMs that an earlier hvtx started have a
file ``mark`` in a directory of hvtx's own.)

A seed (:mod:`hvtx.model.seed`) is a file in that directory; its mark is ``marks/<id>.seed.iso``.

What such a process leaves goes with the directory, whatever it is. No link is followed, and a tree
may be deep: directories in it are moved up and emptied one by one, so that two
descriptors are enough.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Mapping, Sequence

from hvtx.drivers.base import Host
from hvtx.errors import HostRefused
from hvtx.host import capabilities, paths
from hvtx.host.files import is_there, path_of
from hvtx.model.resource import GONE, Kind, Outcome, Resource, file_spec
from hvtx.model.seed import LABEL, SEED, SeedSpec, is_seed, mark_path, seed_spec
from hvtx.model.typed import Any, Self

_MARK = "mark"
_LONGEST = 4096  # bytes of a mark, and more than any has
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_SECONDS = 10.0  # enough for some 100,000 levels; the next try goes on


class FileDriver:
    """Makes and removes run-time directories (``FileSpec``) and seeds (``SeedSpec``)."""

    kinds = frozenset({Kind.FILE})

    def __init__(self, host: Host) -> None:
        """Everything lies below the host's run directory."""
        self._host = host

    def create(self, resources: Sequence[Resource]) -> Mapping[int, dict[str, Any]]:
        """Make directories, mode 0700, and seeds, mode 0600; returns ``{}`` each."""
        return {row.id: _create(row) for row in resources}

    def release(self, resources: Sequence[Resource]) -> Mapping[int, Outcome]:
        """Remove what carries its mark, with all that is in it."""
        return {row.id: _release(row) for row in resources}


def _create(row: Resource) -> dict[str, Any]:
    path = file_spec(row)["path"]
    what = "seed" if is_seed(row) else "run-time directory"
    content = _content(seed_spec(row)) if is_seed(row) else b""
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        _put_mark(row)
        if is_seed(row):
            _write_seed(seed_spec(row), content)
        else:
            os.mkdir(path, 0o700)
    except OSError as problem:
        raise HostRefused(
            f"the {what} {path} cannot be made: {problem.strerror}",
            hint="look at the run directory's permissions and space, or choose another --run-dir",
        ) from problem
    return {}


def _put_mark(row: Resource) -> None:
    path = file_spec(row)["path"]
    if is_there(path):  # it is not ours, and gets no mark
        return
    beside = mark_path(path)
    os.makedirs(os.path.dirname(beside), mode=0o700, exist_ok=True)
    _write(f"{beside}.new", row.mark)
    os.rename(f"{beside}.new", beside)


def _content(spec: SeedSpec) -> bytes:
    """The image of a seed, which is made before anything is written.

    Raises HostRefused, NotPermitted for a link that is not followed.
    """
    from hvtx.host.seed_image import given_user_data, image

    given = spec["user_data"]
    try:
        files = {
            "user-data": b"#cloud-config\n{}\n" if given is None else given_user_data(given),
            "meta-data": _json(spec["meta_data"]),  # of which YAML is a superset
            "network-config": _json(spec["network_config"]),
        }
        return image(LABEL, files)
    except OSError as problem:
        raise HostRefused(
            f"the user-data {given} cannot be read: {problem.strerror}",
            hint="look at its permissions and its size",
        ) from problem
    except ImportError as problem:
        raise HostRefused(
            f"the seed {spec['path']} cannot be made: {problem}",
            hint="install the library that makes it: pip install pycdlib (apt install"
            " python3-pycdlib)",
        ) from problem


def _json(value: object) -> bytes:
    import json

    return json.dumps(value, indent=2).encode() + b"\n"


def _write_seed(spec: SeedSpec, content: bytes) -> None:
    """Write what may hold secrets, for its owner alone. Raises OSError."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(spec["path"], flags, 0o600), "wb") as file:
        if "owner" in spec:
            os.fchown(file.fileno(), spec["owner"], spec["group"])
        file.write(content)


def _write(path: str, mark: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    with os.fdopen(os.open(path, flags, 0o600), "w", encoding="ascii") as file:
        file.write(mark)


def mark_of(path: str) -> str | None:
    """The mark that a directory or a seed carries, None without one. OSError if unreadable."""
    for place in (mark_path(path), os.path.join(path, _MARK)):
        try:
            return _read(place)
        except (FileNotFoundError, NotADirectoryError):
            continue
    return None


class Marks:
    """Reads the marks of many, in four system calls each. Answers and raises as :func:`mark_of`.

    A mark stands in a directory that only hvtx writes to: what is opened there is a file that hvtx
    made, and for a pipe nobody waits. Whatever is not that is read by :func:`mark_of`.
    """

    def __init__(self) -> None:
        """Nothing is opened yet."""
        self._directories: dict[str, int | None] = {}  # of marks: most often one

    def __enter__(self) -> Self:
        """Keep the directories open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close them."""
        for descriptor in self._directories.values():
            if descriptor is not None:
                os.close(descriptor)
        self._directories.clear()

    def of(self, path: str) -> str | None:
        """The mark that a directory or a seed carries, None without one. OSError if unreadable."""
        above, _, name = mark_path(path).rpartition("/")
        if above not in self._directories:
            self._directories[above] = _opened(above, _DIRECTORY, None)
        directory = self._directories[above]
        file = None if directory is None else _opened(name, _FILE, directory)
        if file is None:
            return mark_of(path)
        try:
            seen = os.fstat(file)
            data = os.read(file, _LONGEST + 1) if stat.S_ISREG(seen.st_mode) else b""
        except OSError:
            return mark_of(path)
        finally:
            os.close(file)
        whole = 0 < len(data) == seen.st_size <= _LONGEST
        return data.decode("ascii", "replace") if whole else mark_of(path)


def _opened(name: str, flags: int, directory: int | None) -> int | None:
    try:
        return os.open(name, flags, dir_fd=directory)
    except OSError:
        return None


def _read(place: str) -> str:
    """A mark of a file that is one: never a pipe's or a device's. Raises OSError."""
    return paths.read_regular(place, _LONGEST).decode("ascii", "replace")


def marks_beside(run_directory: str, known: set[str]) -> dict[str, str]:
    """The marks of directories and seeds that are none of the ``known``, by path. Raises OSError.

    By the marks outside of them alone: what stands in a directory is its VM process's. A directory
    is a VM's or a network's; of one of which only the mark is left the path is a VM's.
    """
    try:
        names = os.listdir(os.path.join(run_directory, "marks"))
    except FileNotFoundError:
        return {}
    found = {}
    tops = [os.path.join(run_directory, above, "") for above in ("vms", "networks")]
    for name in names:
        own = name.replace(".", "/", 1)  # of a seed, below its directory
        places = [top + own for top in tops]
        if name.endswith(".new") or not known.isdisjoint(places):
            continue
        there = [place for place in places if is_there(place.removesuffix(f"/{SEED}"))]
        path = (there or places)[0]
        with contextlib.suppress(FileNotFoundError):
            found[path] = _read(mark_path(path))
    return found


def _release(row: Resource) -> Outcome:
    spec = file_spec(row)
    path = spec["path"]
    draft = f"{path}.new"  # of a start, or of an earlier hvtx's release, that was killed
    beside = mark_path(path)
    try:
        for left in (draft, f"{beside}.new"):
            if is_there(left):
                _remove(left)
        if not is_there(path) and not is_there(beside):
            return GONE
        carried = None if os.path.islink(path) else mark_of(path)
    except OSError as problem:
        return Outcome(False, "observe-failed", f"{path} cannot be inspected: {problem.strerror}")
    if carried != row.mark:
        return Outcome(False, "mark-mismatch", f"{path} does not carry the mark {row.mark}")
    try:
        if is_there(path):
            # out of the way in one step, so that killed here it is never unmarked
            os.rename(path, draft)
            _remove(draft)
        with contextlib.suppress(FileNotFoundError):  # last: the proof, until all has gone
            os.unlink(beside)
    except OSError as problem:
        return Outcome(False, "host-refused", f"{path} cannot be removed: {problem.strerror}")
    return GONE


def _remove(path: str) -> None:
    """Remove what is at ``path``: a file, a link, or a directory with all that is in it.

    Raises OSError; another file system that is mounted in it is left alone (EBUSY).
    """
    if not _is_directory(path, None):
        os.unlink(path)
        return
    top = _entered(path, None)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(path)


def _empty(top: int) -> None:
    """Remove all that is in the directory ``top``; each pass goes one level deeper.

    It is given up where somebody puts things in as quickly as they are removed.
    """
    number, ends = 0, time.monotonic() + _SECONDS
    while time.monotonic() < ends:
        names = os.listdir(top)
        if not names:
            return
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # moved onto by a deeper one
                number = _cut(name, top, number)
    raise OSError(errno.ENOTEMPTY, "another program keeps creating files in it")


def _cut(name: str, top: int, number: int) -> int:
    """Remove ``name`` from ``top``, of a directory all but the directories in it."""
    if not _is_directory(name, top):
        os.unlink(name, dir_fd=top)
        return number
    number = _moved(name, top, top, number)  # what something is mounted on does not move
    here = _name(number)
    inner = _entered(here, top)
    try:
        for deeper in os.listdir(inner):
            if _is_directory(deeper, inner):
                number = _moved(deeper, inner, top, number)
            else:
                os.unlink(deeper, dir_fd=inner)
    finally:
        os.close(inner)
    os.rmdir(here, dir_fd=top)
    return number


def _refused_nothing() -> bool:
    return capabilities.has("CAP_DAC_OVERRIDE")


def _is_directory(name: str, place: int | None) -> bool:
    return stat.S_ISDIR(os.stat(name, dir_fd=place, follow_symlinks=False).st_mode)


def _moved(name: str, place: int, top: int, number: int) -> int:
    """Move a directory to ``top``, under the next number that is free there; that number."""
    if not _refused_nothing():
        os.close(_entered(name, place))  # to be moved it must be written: its ".." changes
    while True:
        number += 1
        try:
            os.rename(name, _name(number), src_dir_fd=place, dst_dir_fd=top)
        except OSError as problem:
            if problem.errno not in _TAKEN:
                raise
        else:
            return number


def _name(number: int) -> str:
    return f".removed-{number}"


def _entered(name: str, place: int | None) -> int:
    """A descriptor of the directory, which is made ours to empty. Raises OSError.

    It may be another user's, and without any permission.
    """
    flags = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if not _refused_nothing():
        me = os.geteuid()
        held = os.open(name, flags | os.O_PATH, dir_fd=place)
        try:
            seen, itself = os.fstat(held), path_of(held)
            if seen.st_uid != me:
                os.chown(itself, me, -1)
            if seen.st_mode & stat.S_IRWXU != stat.S_IRWXU:
                os.chmod(itself, stat.S_IRWXU)
            return os.open(itself, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        finally:
            os.close(held)
    return os.open(name, os.O_RDONLY | flags, dir_fd=place)
