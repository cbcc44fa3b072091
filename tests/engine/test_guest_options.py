"""Options that a guest sees: what is taken, and what is refused before anything is looked up."""

from __future__ import annotations

import base64
import errno
import os
from pathlib import Path

import pytest

from hvtx.cli import described
from hvtx.engine import saved_plan, saved_set
from hvtx.engine.guest_options import (
    GuestOptions,
    check_guest,
    check_user_data,
    parse_guest,
    public_keys,
    read_keys,
)
from hvtx.errors import HvtxError, NotFound, UsageError


def blob(kind: str, more: bytes = bytes(36)) -> str:
    return base64.b64encode(len(kind).to_bytes(4, "big") + kind.encode() + more).decode()


ED = f"ssh-ed25519 {blob('ssh-ed25519')}"
KINDS = [
    "ssh-rsa", "ecdsa-sha2-nistp256", "sk-ssh-ed25519@openssh.com",
    "ssh-ed25519-cert-v01@openssh.com",
]  # fmt: skip


@pytest.mark.parametrize("queues", [0, -1, 257, 1 << 40])
def test_queues_are_1_to_256(queues: int) -> None:
    with pytest.raises(UsageError, match="1 and 256"):
        parse_guest(queues=queues)
    assert parse_guest(queues=256).queues == 256


@pytest.mark.parametrize("user", ["", "a b", "a:b", "x\ny", "a/b", "-1", "-web"])
def test_what_can_be_no_user(user: str) -> None:
    with pytest.raises(UsageError, match="--user"):
        parse_guest(user=user)


@pytest.mark.parametrize(
    ("hypervisor", "cpus", "options", "word"),
    [
        ("firecracker", 4, GuestOptions(queues=2), "one queue"),
        ("cloud-hypervisor", 2, GuestOptions(queues=4), "--cpus 4|processor"),
        ("external", 1, GuestOptions(user_data="/x"), "no effect"),
        ("external", 1, GuestOptions(ssh_keys=(ED,)), "no effect"),
    ],
)
def test_what_a_hypervisor_cannot_do(
    hypervisor: str, cpus: int, options: GuestOptions, word: str
) -> None:
    with pytest.raises(UsageError, match=word):
        check_guest(hypervisor, cpus, options)
    check_guest("qemu", 1, GuestOptions(4, "/x", (ED,), "someone"))
    check_guest("external", 1, GuestOptions(queues=4, user="someone"))
    check_guest("cloud-hypervisor", 4, GuestOptions(queues=4))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key(kind: str) -> None:
    """Those to come, too: a key says its own kind."""
    line = f"{kind} {blob(kind)} me@here"
    assert public_keys(f"{line}\n".encode(), "k") == [line]


def test_a_file_of_keys_may_be_like_authorized_keys() -> None:
    """Options with spaces in them, comments, empty lines, those of Windows."""
    options = f'from="a, b",command="x y" {ED} some one'
    text = f"\ufeff# mine\r\n\r\n{ED}\r\n\t{options}\n"
    assert public_keys(text.encode(), "k") == [ED, options]


@pytest.mark.parametrize(
    "content",
    [
        b"-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n",
        b"-----BEGIN RSA PRIVATE KEY-----\n",
        b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n",
        b"PuTTY-User-Key-File-3: ssh-ed25519\n",
        f"{ED}\n-----BEGIN EC PRIVATE KEY-----\n".encode(),
    ],
)
def test_a_private_key_is_refused(content: bytes) -> None:
    """Whatever stands before it; and not a byte of it is repeated."""
    with pytest.raises(UsageError, match="private key") as caught:
        public_keys(content, "/home/me/id")
    assert "/home/me/id.pub" in str(caught.value.hint)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\n# nothing\n", b"\xff\xfe\x00", b"hello\n", b"ssh-rsa\n", b"ssh-rsa AAAA\n",
        f"ssh-rsa {blob('ssh-ed25519')}\n".encode(), b"ssh-rsa !!!!\n",
        b"---- BEGIN SSH2 PUBLIC KEY ----\n", f"{ED}\nhello\n".encode(),
        f"{ED} a\x1b[31m\n".encode(), f"ssh-rsa {base64.b64encode(bytes(8)).decode()}".encode(),
    ],
)  # fmt: skip
def test_what_is_no_public_key(content: bytes) -> None:
    with pytest.raises(UsageError, match="not a file of SSH public keys"):
        public_keys(content, "k")


def test_keys_of_several_files_are_told_once(tmp_path: Path) -> None:
    for name, text in (("a", ED), ("b", f"{ED}\n{ED} other")):
        (tmp_path / name).write_text(text)
    assert read_keys([f"{tmp_path}/a", f"{tmp_path}/b"]) == (ED, f"{ED} other")


@pytest.mark.parametrize("what", ["--ssh-key", "--user-data"])
def test_files_that_are_none(tmp_path: Path, what: str) -> None:
    """3 for what is not there, 2 for what is no file; a pipe is not waited for."""
    os.mkfifo(tmp_path / "pipe")
    for path, error in (("gone", NotFound), ("pipe", UsageError), (".", UsageError)):
        with pytest.raises(HvtxError, match=what) as caught:
            if what == "--ssh-key":
                read_keys([f"{tmp_path}/{path}"])
            else:
                check_user_data(f"{tmp_path}/{path}")
        assert type(caught.value) is error


@pytest.mark.parametrize("code", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO])
def test_what_the_system_refuses_is_no_matter_of_usage(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of any file that is named: the same file will do as soon as there are descriptors again."""

    def fail(*_: object, **__: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("hvtx.host.paths.os.open", fail)
    for read in (
        lambda: read_keys(["k"]),
        lambda: check_user_data("u"),
        lambda: described.read(["/s.toml"]),
        lambda: saved_plan.load_plan("/p.json"),
        lambda: saved_set.load("/p.json", "x"),
    ):
        with pytest.raises(OSError, match=os.strerror(code)):
            read()


def test_relative_paths_are_of_this_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse_guest(user_data="init").user_data == f"{tmp_path}/init"
