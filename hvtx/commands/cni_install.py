"""`cni install`, `uninstall`, `print`: the plugin's executable and its network configuration.

Both files are looked at before either is written, each is written whole or not at all, and the
executable before the configuration, since runtimes act on the latter as soon as it is there. What
hvtx did not write, or what somebody changed since, stays without ``force``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from shlex import quote

from hvtx.engine import cni_files
from hvtx.errors import Conflict, NotPermitted, UsageError, advised
from hvtx.model.address import family_of
from hvtx.model.typed import NamedTuple

_MODE_OF_PROGRAM, _MODE_OF_CONFIGURATION = 0o755, 0o644


class File(NamedTuple):
    """A file as it is to be."""

    path: str
    text: str
    mode: int


class Entry(NamedTuple):
    """A file and what became of it: written, unchanged, removed or absent."""

    path: str
    state: str


class Outcome(NamedTuple):
    """What became of the files, and a note."""

    files: tuple[Entry, ...]
    note: str | None = None


def parse_places(directory: str | None, configuration: str | None) -> tuple[str, str]:
    """The paths of executable and configuration. Raises UsageError."""
    for option, value in (("--dir", directory), ("--conf", configuration)):
        if value == "":
            raise UsageError(f"{option} is empty", hint=f"give a path, or leave {option} out")
    conf = os.path.abspath(configuration or cni_files.CONFIGURATION)
    if not conf.endswith(".conflist"):
        raise UsageError(
            f"--conf {configuration} does not end in .conflist",
            hint="runtimes read lists of plugins from such files only: --conf"
            f" {cni_files.CONFIGURATION}",
        )
    return os.path.join(os.path.abspath(directory or cni_files.DIRECTORY), cni_files.TYPE), conf


def make(
    places: tuple[str, str],
    network: str,
    subnets: Sequence[str],
    settings: Mapping[str, str | float],
) -> tuple[File, File]:
    """Both files, as this call wants them. Raises UsageError."""
    from hvtx.planner import addressing

    addressing.parse_name(network, "network")
    with advised("take a private one with room for guests, for instance 10.77.0.0/24 or fd77::/64"):
        parsed = [addressing.parse_subnet(one) for one in subnets]
    if len({family_of(one) for one in parsed}) != len(parsed):
        raise UsageError(
            "a network has at most one IPv4 and one IPv6 subnet",
            hint="give --subnet once for each family",
        )
    program = cni_files.program_text(os.path.abspath(sys.executable), cni_files.module_path())
    conf = cni_files.configuration_text(network, sorted(parsed, key=family_of), settings)
    return (
        File(places[0], program, _MODE_OF_PROGRAM),
        File(places[1], conf, _MODE_OF_CONFIGURATION),
    )


def install(wanted: Sequence[File], *, force: bool) -> Outcome:
    """Write the files where they differ.

    Raises NotPermitted (not root, where only root may write; others could change what root would
    run), Conflict (somebody else's file, or a changed one, without ``force``), HostRefused.
    """
    for file in wanted:
        _need_power(file.path)
    problem = changeable()
    if problem is not None:
        raise NotPermitted(*problem[:1], hint=problem[1])
    states = [_state(file, force=force) for file in wanted]
    entries = []
    for file, state in zip(wanted, states, strict=True):
        if state == "written":
            cni_files.write(file.path, file.text, file.mode)
        entries.append(Entry(file.path, state))
    return Outcome(tuple(entries))


def _need_power(path: str) -> None:
    """Raise NotPermitted where this user may not write what is to stand at a path, who is not root.

    Said before anything else is looked at: of another user's hvtx it would be another complaint.
    """
    directory = os.path.dirname(path)
    while not os.path.exists(directory):
        directory = os.path.dirname(directory)
    if os.geteuid() != 0 and not os.access(directory, os.W_OK):
        raise NotPermitted(
            f"installing the CNI plugin needs root: this user may not write in {directory}",
            hint="run it with sudo; `hvtx cni print` shows the files without it",
        )


def changeable() -> tuple[str, str] | None:
    """Why the executable would let others become root, and the fix; None if it would not."""
    from hvtx.engine.ownership import problem_of_program

    words = (os.path.abspath(sys.executable), "-m", "hvtx")
    found = problem_of_program(words)
    if found is None:
        return None
    fix = (
        "install hvtx where only root may write (sudo env PIPX_HOME=/opt/pipx"
        " PIPX_BIN_DIR=/usr/local/bin pipx install …), or make all of it root's: chown -R"
        " root:root, chmod -R go-w, setfacl -R -b"
    )
    return f"container runtimes would run {words[0]}, and others could change it: {found}", fix


def _state(file: File, *, force: bool) -> str:
    """What is to become of a file: written or unchanged. Raises Conflict."""
    there = cni_files.text_at(file.path)
    if there == file.text and cni_files.mode_of(file.path) == file.mode:
        return "unchanged"
    program = file.mode == _MODE_OF_PROGRAM
    if (
        there is None
        or there == file.text
        or (program and cni_files.is_our_program(there))
        or force
    ):
        return "written"
    if program:
        words, hint = f"{file.path} was not written by hvtx", "--force replaces it"
    else:
        words = f"{file.path} is there, and differs from what this call would write"
        hint = "change it by hand (`hvtx cni print` shows what hvtx would write), or with --force"
    raise Conflict(words, hint=hint)


def _why_not_ours(text: str) -> str:
    """What a network configuration is that is not hvtx's alone (pure)."""
    if cni_files.runs_plugins(text):
        return "runs other plugins too"
    return "is no configuration of hvtx's plugin"


def uninstall(places: tuple[str, str], *, force: bool) -> Outcome:
    """Remove the files, the configuration first; attachments and networks stay on record.

    Raises Conflict (a file that hvtx did not write, or that runs other plugins too, without
    ``force``: nothing is removed), NotPermitted, HostRefused.
    """
    program, conf = places
    known: tuple[tuple[str, Callable[[str], bool]], ...] = (
        (conf, cni_files.is_our_configuration),
        (program, cni_files.is_our_program),
    )
    there = []
    for path, ours in known:
        text = cni_files.text_at(path)
        if text is not None and not ours(text) and not force:
            why = _why_not_ours(text) if path == conf else "was not written by hvtx"
            again = f"--dir {quote(os.path.dirname(program))} --conf {quote(conf)} --force"
            hint = f"remove it by hand, or: hvtx cni uninstall {again}"
            raise Conflict(f"{path} {why}", hint=hint)
        if text is not None:
            there.append(path)
    for path in there:
        cni_files.remove(path)
    entries = [Entry(path, "removed" if path in there else "absent") for path, _ in known]
    return Outcome(tuple(entries))
