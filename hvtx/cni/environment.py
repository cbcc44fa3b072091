"""What a runtime says in the environment: ``CNI_COMMAND`` and what belongs to it (pure)."""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.cni.errors import ENVIRONMENT, CniError
from hvtx.model.typed import NamedTuple

COMMANDS = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
_NEEDS = {
    "ADD": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "CHECK": ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    "DEL": ("CNI_CONTAINERID", "CNI_IFNAME"),  # the namespace may be gone
}
_IN_IDS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")
_ID_HINT = "letters, digits and _ . -, at most 255, beginning with a letter or digit"
_ID_MOST = 255  # letters; containerd's are at most 76, Kubernetes' and podman's 64
_PATH_MOST = 4096
_ARGS_MOST = 1 << 16
_NOT_IN_IFNAMES = "/:%\x7f"  # as dev_valid_name has it; % makes a pattern of it
_IFNAME_MOST = 15  # bytes, as IFNAMSIZ has it
_NO_IFNAMES = frozenset((".", "..", "all", "default", "lo"))  # of files, sysctls and each namespace
# keys that decide something: two values of one are a contradiction, of the others the last counts
_ONCE = ("MAC", "IP", "TC_REDIRECT_TAP_NAME", "TC_REDIRECT_TAP_UID", "TC_REDIRECT_TAP_GID")


class Call(NamedTuple):
    """One call of the plugin; a text is empty where nothing was said."""

    command: str
    container: str
    netns: str
    ifname: str
    args: str


def parse_environment(environment: Mapping[str, str]) -> Call:
    """Read and check what the command needs. Raises CniError (4, which names the variables)."""
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        known = f"it is one of {', '.join(COMMANDS)}"
        if not command:
            raise CniError(
                ENVIRONMENT,
                "CNI_COMMAND is not set",
                f"container runtimes run this program; {known}",
            )
        raise CniError(ENVIRONMENT, f"CNI_COMMAND cannot be {_shown(command)}", known)
    needs = _NEEDS.get(command, ())
    missing = [name for name in needs if not environment.get(name)]
    if missing:
        raise CniError(
            ENVIRONMENT, f"{command} needs {', '.join(missing)}", "the runtime sets these variables"
        )
    call = Call(
        command,
        *(
            environment.get(f"CNI_{name}", "")
            for name in ("CONTAINERID", "NETNS", "IFNAME", "ARGS")
        ),
    )
    if needs:
        _check(call)
    return call


def _check(call: Call) -> None:
    wrong = []
    if not _is_id(call.container):
        wrong.append(("CNI_CONTAINERID", call.container, _ID_HINT))
    if not _is_ifname(call.ifname):
        hint = "at most 15 bytes without blanks, / : and %, and not lo, all or default"
        wrong.append(("CNI_IFNAME", call.ifname, hint))
    if len(call.netns) > _PATH_MOST or not (call.netns.isprintable() or not call.netns):
        wrong.append(("CNI_NETNS", call.netns, "a path without control characters"))
    if wrong:
        raise CniError(
            ENVIRONMENT,
            "; ".join(f"{name} cannot be {_shown(value)}" for name, value, _ in wrong),
            "; ".join(f"{name}: {hint}" for name, _, hint in wrong),
        )


def parse_args(text: str) -> dict[str, str]:
    """``CNI_ARGS`` by key, whatever their order; what nobody needs is among it. Raises CniError."""
    if len(text) > _ARGS_MOST or not (text.isprintable() or not text):
        raise CniError(
            ENVIRONMENT, f"CNI_ARGS cannot be {_shown(text)}", "it is KEY=VALUE;KEY=VALUE"
        )
    found: dict[str, str] = {}
    for part in filter(None, text.split(";")):
        key, equals, value = part.partition("=")
        if not equals:
            raise CniError(
                ENVIRONMENT,
                f"CNI_ARGS has {_shown(part)}, which has no =",
                "it is KEY=VALUE;KEY=VALUE",
            )
        if key in _ONCE and value and found.get(key) not in (None, "", value):
            raise CniError(
                ENVIRONMENT,
                f"CNI_ARGS has {key} twice: {_shown(found[key])} and {_shown(value)}",
                "leave one of them out",
            )
        if value or key not in found:
            found[key] = value
    return found


def _is_id(text: str) -> bool:
    """Whether a container can have this id."""
    plain = 1 <= len(text) <= _ID_MOST and _IN_IDS.issuperset(text)
    return plain and text[0] not in "_.-"


def _is_ifname(text: str) -> bool:
    """Whether an interface that is made can have this name."""
    try:
        short = len(text.encode()) <= _IFNAME_MOST
    except UnicodeEncodeError:
        return False
    strange = any(c in _NOT_IN_IFNAMES or c < " " or c.isspace() for c in text)
    return short and bool(text) and not strange and text not in _NO_IFNAMES


def _shown(text: str) -> str:
    short = text if len(text) <= 60 else f"{text[:60]}…"
    return ascii(short)
