"""The image of a seed: what a guest's kernel and cloud-init look for is in it, to the byte."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import pycdlib
import pytest

from hvtx.drivers.base import Host
from hvtx.drivers.file import FileDriver, mark_of
from hvtx.errors import HostRefused
from hvtx.host import seed_image
from hvtx.model.resource import GONE, Kind, Resource
from hvtx.model.seed import SEED

MARK = "hvtx:1:aaaaaaaaaa:8.bbbbbbbbbbbbbbbb"
FORMS = [
    b"#!/bin/sh\necho \xff\x00 \r\n",
    b"#cloud-config\nhostname: x\n",
    b"Content-Type: multipart/mixed; boundary=x\nMIME-Version: 1.0\n\n--x--\n",
    b"",
    b"x" * 100_000,
]


def files_of(image: bytes, by: str) -> dict[str, bytes]:
    """Each file of an image, by the names of Rock Ridge (``rr_path``) or Joliet."""
    disk = pycdlib.PyCdlib()
    disk.open_fp(io.BytesIO(image))
    found = {}
    for child in disk.list_children(**{by: "/"}):
        if child.is_file():
            path = disk.full_path_from_dirrecord(child, rockridge=by == "rr_path")
            found[path.strip("/")] = io.BytesIO()
            disk.get_file_from_iso_fp(found[path.strip("/")], **{by: path})
    disk.close()
    return {name: content.getvalue() for name, content in found.items()}


@pytest.mark.parametrize("by", ["rr_path", "joliet_path"])
@pytest.mark.parametrize("content", FORMS, ids=range(len(FORMS)))
def test_every_byte_is_there_by_either_name(by: str, content: bytes) -> None:
    files = {"user-data": content, "meta-data": b"{}\n", "network-config": b"{ }\n"}
    assert files_of(seed_image.image("cidata", files), by) == files


def test_it_is_found_by_its_label(tmp_path: Path) -> None:
    """At the place where ISO 9660 has it, and as blkid, which cloud-init asks, reads it."""
    image = seed_image.image("cidata", {"meta-data": b"{}\n"})
    assert image[16 * 2048 + 40 :][:32].rstrip() == b"cidata"
    blkid = shutil.which("blkid", path="/sbin:/usr/sbin:/bin:/usr/bin")
    if blkid is not None:
        (tmp_path / "seed").write_bytes(image)
        said = subprocess.run(
            [blkid, "-p", "-o", "export", tmp_path / "seed"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert {"LABEL=cidata", "TYPE=iso9660"} <= set(said.stdout.split("\n"))


# -- as a resource ---------------------------------------------------------------------------------


@pytest.fixture
def driver(tmp_path: Path) -> FileDriver:
    return FileDriver(Host("aaaaaaaaaa", str(tmp_path), str(tmp_path), 1.0))


def rows(tmp_path: Path, **more: object) -> tuple[Resource, Resource]:
    """A run-time directory, and the seed in it."""
    directory = str(tmp_path / "vms" / "id")
    path = f"{directory}/{SEED}"
    spec = {"path": path, "what": "seed", "user_data": None, "meta_data": {"instance-id": "id"}, "network_config": {"version": 2}, **more}  # fmt: skip
    room = Resource(
        7, Kind.FILE, directory, "intended", f"{MARK}r", {"path": directory}, {}, 1, 1, "id", None
    )
    return room, room._replace(id=8, key=path, mark=MARK, spec=spec)


def test_a_seed_is_made_and_goes(tmp_path: Path, driver: FileDriver) -> None:
    """Closed to others, with its mark beside the directory, whose file it is."""
    given = tmp_path / "init"
    given.write_bytes(b"#!/bin/sh\n")
    room, seed = rows(tmp_path, user_data=str(given), owner=os.geteuid(), group=os.getegid())
    driver.create([room, seed])
    path = Path(seed.key)
    assert path.stat().st_mode & 0o7777 == 0o600
    made = files_of(path.read_bytes(), "rr_path")
    assert made["user-data"] == b"#!/bin/sh\n"
    assert json.loads(made["meta-data"]) == {"instance-id": "id"}
    assert json.loads(made["network-config"]) == {"version": 2}
    assert (mark_of(room.key), mark_of(seed.key)) == (room.mark, seed.mark)
    assert driver.release([seed]) == {8: GONE}
    assert not path.exists()
    assert mark_of(seed.key) is None
    assert driver.release([seed, room]) == {8: GONE, 7: GONE}
    assert [*(tmp_path / "vms").iterdir(), *(tmp_path / "marks").iterdir()] == []


def test_without_user_data_it_says_nothing(tmp_path: Path, driver: FileDriver) -> None:
    room, seed = rows(tmp_path)
    driver.create([room, seed])
    assert files_of(Path(seed.key).read_bytes(), "rr_path")["user-data"] == b"#cloud-config\n{}\n"


def test_its_directory_may_go_first(tmp_path: Path, driver: FileDriver) -> None:
    """With the seed in it, whose row then only takes its mark away."""
    room, seed = rows(tmp_path)
    driver.create([room, seed])
    assert driver.release([room, seed]) == {7: GONE, 8: GONE}
    assert list((tmp_path / "marks").iterdir()) == []


def test_what_a_guests_process_puts_in_its_place_goes_by_the_mark(
    tmp_path: Path, driver: FileDriver
) -> None:
    """It may write the directory: the proof stands outside, and no link is followed."""
    outside = tmp_path / "precious"
    outside.write_text("x")
    room, seed = rows(tmp_path)
    driver.create([room, seed])
    Path(seed.key).unlink()
    Path(seed.key).symlink_to(outside)
    assert driver.release([seed])[8].reason == "mark-mismatch"  # a link is nobody's
    Path(seed.key).unlink()
    Path(seed.key).mkdir()
    (Path(seed.key) / "mark").write_text("hvtx:1:aaaaaaaaaa:9.c")
    assert driver.release([seed]) == {8: GONE}
    assert outside.read_text() == "x"


def test_a_seed_of_another_mark_stays(tmp_path: Path, driver: FileDriver) -> None:
    room, seed = rows(tmp_path)
    driver.create([room, seed])
    assert driver.release([seed._replace(mark=f"{MARK}x")])[8].reason == "mark-mismatch"
    assert Path(seed.key).exists()


def test_a_file_in_its_place_is_not_written_to(tmp_path: Path, driver: FileDriver) -> None:
    room, seed = rows(tmp_path)
    driver.create([room])
    Path(seed.key).write_text("another's")
    with pytest.raises(HostRefused, match="seed"):
        driver.create([seed])
    assert Path(seed.key).read_text() == "another's"
    assert mark_of(seed.key) is None


@pytest.mark.parametrize("what", ["gone", "a directory", "a pipe", "too long"])
def test_user_data_that_cannot_be_read(
    tmp_path: Path, driver: FileDriver, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Nothing is written then, and no pipe is waited for."""
    given = tmp_path / "init"
    if what == "a directory":
        given.mkdir()
    elif what == "a pipe":
        os.mkfifo(given)
    elif what == "too long":
        monkeypatch.setattr(seed_image, "MOST", 1000)
        given.write_bytes(bytes(1001))
    room, seed = rows(tmp_path, user_data=str(given))
    driver.create([room])
    with pytest.raises(HostRefused, match=r"user-data .*init"):
        driver.create([seed])
    assert not Path(seed.key).exists()
    assert mark_of(seed.key) is None


def test_without_the_library_it_is_said_what_to_install(
    tmp_path: Path, driver: FileDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pycdlib", None)
    room, seed = rows(tmp_path)
    driver.create([room])
    with pytest.raises(HostRefused, match="seed") as caught:
        driver.create([seed])
    assert "pip install pycdlib" in str(caught.value.hint)
