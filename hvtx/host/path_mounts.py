"""Bind mounts that make a VM's program reachable below directories closed to the VM's user.

A program below ``/root`` or in another home of mode 0700 is out of the reach of the user that VMs
run as; an interpreter there has its libraries beside it, so that handing over the program alone is
not enough. So the VM process gets a mount namespace of its own. There a small file system stands
in the place of each shut directory and shows one thing of it: the next step of the way. Nothing
else that is in the directory can be seen, what is shown keeps its modes, and the host's mounts stay
as they are (what is unmounted in the host goes there too: slave propagation, mount_namespaces(7)).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Mapping
from contextlib import suppress

from hvtx.host import named_files, paths, program
from hvtx.model.user import User

_MOST = 8  # steps; a longer way is not made
_KERNELS = ("/proc/", "/sys/", "/dev/")
_MEMORY = "/dev/shm/"  # noqa: S108 - files like any other, below a directory of the kernel's
SIGNATURE = "hvtx-way"

# Arguments: how many steps, the steps (outermost first, those of one directory together), and what
# is executed then. A directory is entered before it is covered, since then no path leads there; and
# the working directory once more, should it be among them.
SCRIPT = """steps=$1; shift
( last=; number=0
for step; do
[ $((number += 1)) -le "$steps" ] || break
shut=${step%/*}; name=${step##*/}
[ "$shut" = "$last" ] || { cd -- "$shut" &&
mount -t tmpfs -o mode=0711,size=64k,nosuid,nodev,noexec hvtx "$shut"; } || exit 126
last=$shut
if [ -L "./$name" ]; then cp -P -- "./$name" "$shut/" || exit 126; continue; fi
if [ -d "./$name" ]; then mkdir -- "$shut/$name"; else : >"$shut/$name"; fi || exit 126
mount --no-canonicalize --rbind "./$name" "$shut/$name" || exit 126
done ) || exit 126
cd -- "$(pwd)" 2>/dev/null; shift "$steps"; exec "$@\""""


def steps(
    user: User,
    words: Iterable[str],
    places: Iterable[str] = (),
    chosen: Mapping[str, Mapping[int, str]] | None = None,
) -> tuple[str, ...] | None:
    """What must be shown to ``user`` so that the paths ``words`` lead to where they do for us.

    And ``places``, as far as they do. ``<shut directory>/<entry>`` each, outermost first; empty
    where nothing is shut. None where it cannot be done: a directory that others could change, the
    root itself, a way of too many steps. Raises UnsafeError where a word leads by somebody else's
    link into a directory that is shut to its maker, too; so it does where it is somebody else who
    ``chosen`` says named it (as :func:`executed` gives it).
    """
    found: set[str] = set()
    for path in words:
        try:
            found |= on_the_way(user, path, (chosen or {}).get(path))
        except paths.UnsafeError:
            raise
        except OSError:
            continue
    for path in places:
        with suppress(OSError):
            found |= on_the_way(user, path)
    directories = {os.path.dirname(step) for step in found}
    if len(found) > _MOST or "/" in directories:
        return None
    for directory in directories:
        try:
            if paths.problem(directory, groups=True) is not None:
                return None
        except OSError:
            return None
    return tuple(sorted(found, key=lambda step: (step.count("/"), step)))


def executed(path: str) -> dict[str, dict[int, str]]:
    """``path`` and the interpreters that the first lines of scripts name, as they follow.

    With each, who chose it beside root and who runs hvtx: who could write the script. Of what
    ``env`` finds on PATH they chose no more than the name.
    """
    found: dict[str, dict[int, str]] = {path: {}}
    todo = [path]
    while todo and len(found) <= _MOST:
        script = todo.pop(0)
        named = program.interpreters(script)
        try:
            makers = named_files.makers_of_script(script, found[script]) if named else {}
        except OSError:  # it is gone; or it is out of reach for who named it, which `steps` says
            continue
        for number, more in enumerate(named):
            if more not in found:
                found[more] = makers if number == 0 else {}
                todo.append(more)
    return found


def way(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """What is put before a command line so that it runs where ``wanted`` is shown."""
    if not wanted:
        return ()
    return (
        program.find(("unshare", "/usr/bin/unshare")) or "unshare",
        *("--mount", "--propagation", "slave", "--", "/bin/sh", "-c", SCRIPT, SIGNATURE),
        *(str(len(wanted)), *wanted),
    )


def _is_the_kernels(full: str) -> bool:
    on_the_way = full.startswith(_MEMORY) or _MEMORY.startswith(full)
    return full.startswith(_KERNELS) and not on_the_way


class _Kernels(OSError):
    """The way leads into a file system of the kernel's."""


class _Way(named_files.Walk):
    """A walk that keeps what its user cannot reach."""

    def __init__(self, path: str, user: User, makers: Mapping[int, str] | None) -> None:
        """Begin at the root."""
        self.user, self.shut = user, set[str]()
        super().__init__(path, makers)

    def passes(self, name: str) -> None:
        """Keep what is looked up in a directory that the user may not search."""
        full = self.below(name)
        if _is_the_kernels(f"{full}/"):
            raise _Kernels
        above = os.fstat(self.descriptor)
        if not self.user.may(stat.S_IMODE(above.st_mode), above.st_uid, above.st_gid, 1):
            self.need_allowed()  # it is shown by our power
            self.shut.add(full)


def on_the_way(user: User, path: str, makers: Mapping[int, str] | None = None) -> set[str]:
    """What ``user`` cannot reach on the way of an absolute path: what is above it is shut.

    ``<directory>/<entry>`` each, links followed. Raises OSError; UnsafeError where somebody else's
    link leads into a directory that is shut to its maker, too, or the path does, of which
    ``makers`` says who chose it.
    """
    way = _Way(path, user, makers)
    try:
        name = paths.last_name(way)
        os.stat(name, dir_fd=way.descriptor, follow_symlinks=False)
    except _Kernels:
        return set()
    finally:
        way.close()
    return way.shut
