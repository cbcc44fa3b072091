"""The plugin's executable and its network configuration, as text and as files of a host.

The executable answers VERSION by itself, before it imports anything: podman asks each plugin of
each network at each command. Everything else it leaves to :mod:`hvtx.cni.main`, which it finds on
the module path of the installation that wrote it. It runs isolated (``-I``: no variables,
no directory of the caller on the module path) and without ``site`` (``-S``), of which only an
editable installation has need.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence

from hvtx.errors import Conflict, HostRefused, HvtxError, NotPermitted, UsageError
from hvtx.host import output, paths
from hvtx.model.cni_version import NEWEST, VERSIONS
from hvtx.model.setting import cni_key
from hvtx.model.shell import word
from hvtx.model.typed import Any

TYPE = "hvtx"
MARKER = "# The CNI plugin of hvtx, written by `hvtx cni install`, which also replaces it."
DIRECTORY = "/opt/cni/bin"
CONFIGURATION = "/etc/cni/net.d/10-hvtx.conflist"
_MOST = 1 << 20  # bytes
_DRAFT = ".hvtx-new"
_SHEBANG_MOST = 127  # bytes that every kernel reads of a first line (BINPRM_BUF_SIZE before 5.1)

_PROGRAM = '''\
import posix
import sys

PATHS = {paths!r}
VERSIONS = {versions!r}
NEWEST = {newest!r}


def version():
    """Answer in the version that was asked in, and leave."""
    said = b""
    try:
        while len(said) < 1 << 20 and not posix.isatty(0):
            part = posix.read(0, 1 << 16)
            if not part:
                break
            said += part
    except OSError:
        pass
    word = said.partition(b'"cniVersion"')[2].lstrip(b" \\t\\r\\n:").split(b'"', 2)[1:2]
    asked = [one for one in VERSIONS if word == [one.encode()]] or [NEWEST]
    listed = ",".join('"%s"' % one for one in VERSIONS)
    text = '{{"cniVersion":"%s","supportedVersions":[%s]}}\\n' % (asked[0], listed)
    try:
        posix.write(1, text.encode())
    except OSError:
        posix._exit(1)
    posix._exit(0)


def module():
    """What answers the other commands; an editable installation is found by `site` alone."""
    import gc

    gc.set_threshold(1 << 18)  # a command makes hardly any garbage: it is not searched for
    sys.path += PATHS
    try:
        import hvtx.cni.main as found
    except ImportError:
        import site

        for path in PATHS:
            site.addsitedir(path)
        import hvtx.cni.main as found
    return found


if posix.environ.get(b"CNI_COMMAND") == b"VERSION":
    version()
try:
    main = module().main
except Exception as problem:
    import json

    words = "hvtx is not where this program looks for it: %s" % problem
    hint = "`hvtx cni install` writes this program anew"
    print(json.dumps({{"cniVersion": NEWEST, "code": 199, "msg": words, "details": hint}}))
    sys.exit(1)
main()
'''


def program_text(interpreter: str, module_path: Sequence[str]) -> str:
    """The executable (pure). Raises UsageError for paths that none could hold."""
    for path in (interpreter, *module_path):
        if not path.isprintable():
            raise UsageError(
                f"no program can be written that finds {path!r}",
                hint="install hvtx where paths have no control characters",
            )
    first = f"#!{interpreter} -IS"
    if " " in interpreter or len(first.encode()) > _SHEBANG_MOST:
        # to sh a command, to Python a text: what distlib does for long paths, too
        quoted = interpreter.replace("'", "'\"'\"'")
        if "'" in interpreter:
            raise UsageError(
                f"no program can be written that finds {quoted}",
                hint="install hvtx where paths have no quotes",
            )
        first = f"#!/bin/sh\n'''exec' '{interpreter}' -IS \"$0\" \"$@\"\n' '''"
    body = _PROGRAM.format(paths=list(module_path), versions=VERSIONS, newest=NEWEST)
    return f"{first}\n{MARKER}\n{body}"


def module_path() -> list[str]:
    """Where this hvtx and what it needs are imported from, without Python's own directories."""
    found = []
    for path in sys.path:
        if not os.path.isdir(path or "/nowhere"):
            continue
        whole = os.path.abspath(path)
        packages = os.path.basename(whole) in ("site-packages", "dist-packages")
        if packages or os.path.isdir(os.path.join(whole, "hvtx", "migrations")):
            found.append(whole)
    return list(dict.fromkeys(found))


def configuration_text(
    network: str, subnets: Sequence[str], settings: Mapping[str, str | float]
) -> str:
    """The network configuration list (pure); ``settings`` by hvtx's names.

    Its first version is one that containerd 1.6 takes; newer runtimes choose from ``cniVersions``.
    ``disableGC``: before libcni's GC sends a plugin the runtime's list, it sends a DEL for whatever
    its cache has and the list has not (GCNetworkList), and that may be another runtime's.
    """
    plugin: dict[str, Any] = {"type": TYPE, "network": network}
    if subnets:
        plugin["subnets"] = list(subnets)
    plugin["capabilities"] = dict.fromkeys(("portMappings", "bandwidth", "mac", "ips"), True)
    plugin.update({cni_key(name): value for name, value in settings.items()})
    whole = {
        "cniVersion": "1.0.0",
        "cniVersions": ["0.4.0", "1.0.0", "1.1.0"],
        "name": network,
        "disableGC": True,
        "plugins": [plugin],
    }
    return json.dumps(whole, indent=2) + "\n"


def is_our_program(text: str) -> bool:
    """Whether the text is an executable that :func:`program_text` made (pure)."""
    return f"\n{MARKER}\n" in text[:2048]


def is_our_configuration(text: str) -> bool:
    """Whether all that a network configuration runs is hvtx (pure)."""
    types = _types_of(text)
    return bool(types) and all(one == TYPE for one in types)


def runs_plugins(text: str) -> bool:
    """Whether a file is a network configuration, and runs anything at all (pure)."""
    return bool(_types_of(text))


def _types_of(text: str) -> list[Any]:
    """The types of a configuration's plugins; empty for what is none (pure)."""
    try:
        plugins = json.loads(text).get("plugins")
    except (ValueError, RecursionError, AttributeError):
        return []
    if not isinstance(plugins, list):
        return []
    return [one.get("type") if isinstance(one, dict) else None for one in plugins]


def text_at(path: str) -> str | None:
    """The text of a file; None where there is none. Raises Conflict (a link), HostRefused."""
    if os.path.islink(path):
        raise Conflict(
            f"{path} is a link to {os.readlink(path)}, and not of hvtx", hint=f"rm {word(path)}"
        )
    try:
        return paths.read_regular(path, _MOST).decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as problem:
        raise _refused(path, problem) from problem


def mode_of(path: str) -> int:
    """The permissions of a file. Raises OSError."""
    return os.stat(path, follow_symlinks=False).st_mode & 0o7777


def write(path: str, text: str, mode: int) -> None:
    """Put a file there whole, for good even if power is cut. Raises HostRefused, NotPermitted."""
    try:
        output.write_out(path, text.encode(), mode=mode, sync=True, make=True, draft=_DRAFT)
    except OSError as problem:
        raise _refused(path, problem) from problem


def remove(path: str) -> None:
    """Take a file away, for good even if power is cut. Raises HostRefused, NotPermitted."""
    try:
        with paths.parent(path) as place:
            os.unlink(place.name, dir_fd=place.descriptor)
            output.sync_directory(place.descriptor)
    except OSError as problem:
        raise _refused(path, problem) from problem


def _refused(path: str, problem: OSError) -> HvtxError:
    kind = NotPermitted if isinstance(problem, PermissionError) else HostRefused
    return kind(f"{path}: {problem.strerror}", hint="look at the directory and its permissions")
