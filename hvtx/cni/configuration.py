"""The configuration of a plugin, as a runtime writes it to standard input (pure).

Keys that hvtx does not know are refused by ADD, CHECK and STATUS (2, as the specification wants:
a misspelt ``isolate`` must not be an open network); DEL and GC read what they need and no more.
Keys with ``/`` or ``.`` in them are other people's, and so are ``args`` but for ``args.cni``.
"""

from __future__ import annotations

from hvtx.cni import reading
from hvtx.cni.errors import (
    CONFIGURATION,
    DECODING_FAILED,
    INCOMPATIBLE_VERSION,
    UNSUPPORTED_FIELD,
    CniError,
)
from hvtx.model import json_text
from hvtx.model.address import family_of
from hvtx.model.cni_version import VERSIONS, at_least
from hvtx.model.setting import EVERY, PATHS, cni_key
from hvtx.model.typed import Any, NamedTuple

MOST = 1 << 24  # bytes; a range of all ports is 8 MB, and GC names each attachment twice
_DEEPEST = 64
_ENDLESS = float("inf")
_MTU_LEAST, _MTU_MOST = {4: 576, 6: 1280}, 65521  # as `network create` takes it
_SINCE = {"CHECK": "0.4.0", "GC": "1.1.0", "STATUS": "1.1.0"}
SETTINGS = {cni_key(name): name for name in EVERY}  # keys, and the setting that each is
_PATHS = tuple(map(cni_key, PATHS))
_NUMBERS = {"lockTimeout": (0, 86400), "historyLines": (100, 10**9)}  # bounds, of the settings
_ENDS = ("DEL", "GC")  # what ends an attachment needs to find the store, and nothing of the network
_OWN = {"network", "subnet", "subnets", "mtu", "nat", "isolate", "vm", *SETTINGS}
_OF_CNI = {
    *("cniVersion", "cniVersions", "name", "type", "capabilities", "disableCheck", "disableGC"),
    *("ipam", "dns", "args", "runtimeConfig", "prevResult", "loadOnlyInlinedPlugins"),
}
_INSTEAD = {  # what the reference plugins call it
    "ipMasq": 'write "nat": true or false',
    "isGateway": "leave it out: the bridge always has the gateway's address",
    "isDefaultGateway": "leave it out: the bridge always has the gateway's address",
    "bridge": 'write "network": the name of a network of hvtx\'s, which has its bridge',
    "promiscMode": "leave it out",
    "hairpinMode": "leave it out: a guest reaches its own published ports",
}


class Base(NamedTuple):
    """What each command needs of a configuration."""

    version: str  # one of VERSIONS
    name: str  # the runtime's name of the network
    network: str  # hvtx's
    settings: dict[str, str]  # arguments of Host


class NetworkWish(NamedTuple):
    """What a configuration says of the network and of the interfaces in it."""

    subnets: tuple[str, ...]
    mtu: int | None
    nat: bool | None  # None: nothing is said, as of the next
    isolate: bool | None
    vm: bool


def decode(data: bytes) -> dict[str, Any]:
    """The object on standard input. Raises CniError (6)."""
    if len(data) > MOST:
        raise CniError(
            DECODING_FAILED, f"the configuration has more than {MOST} bytes", "shorten it"
        )
    try:
        found = json_text.loads(data.decode(), _no_constant)
    except RecursionError:
        found = None
        problem = f"it is nested deeper than {_DEEPEST}"
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are among them
        found, problem = None, str(error)
    else:
        problem = "it is not an object"
        if isinstance(found, dict) and _deeper(found, _DEEPEST):
            found, problem = None, f"it is nested deeper than {_DEEPEST}"
        if isinstance(found, dict) and _is_endless(found):
            found, problem = None, "a number in it is larger than any that can be told"
    if not isinstance(found, dict):
        raise CniError(
            DECODING_FAILED,
            f"the configuration on standard input cannot be read: {problem}",
            "the runtime writes one JSON object there",
        )
    return found


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _deeper(value: Any, most: int) -> bool:
    level = [value]
    for _ in range(most):
        level = [
            one
            for entry in level
            for one in (
                entry.values()
                if isinstance(entry, dict)
                else entry
                if isinstance(entry, list)
                else ()
            )
        ]
        if not level:
            return False
    return True


def _is_endless(value: Any) -> bool:
    """Whether a number of it became infinite by being read: a result could not pass it on."""
    if isinstance(value, float):
        return value in (_ENDLESS, -_ENDLESS)
    entries = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and any(map(_is_endless, entries))


def version_of(document: dict[str, Any]) -> str | None:
    """The version that errors are told in; None where it is not one that hvtx answers."""
    found = document.get("cniVersion")
    return found if isinstance(found, str) and found in VERSIONS else None


def parse_base(document: dict[str, Any], command: str) -> Base:
    """What each command needs. Raises CniError (1, 7)."""
    version = version_of(document)
    if version is None:
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion cannot be {reading.shown(document.get('cniVersion'))}",
            f"hvtx answers {', '.join(VERSIONS)}",
        )
    since = _SINCE.get(command)
    if since is not None and not at_least(version, since):
        raise CniError(
            INCOMPATIBLE_VERSION,
            f"cniVersion {version} does not have {command}",
            f"{command} is of {since} and newer: name it in cniVersions",
        )
    name = reading.text(document.get("name"), "name")
    if not _is_name(name):
        hint = "it is letters, digits and _ . -, at most 255, and begins with a letter or digit"
        raise reading.wrong("name", name, hint)
    ends = command in _ENDS
    settings = {
        setting: _setting(document.get(key), key)
        for key, setting in SETTINGS.items()
        if document.get(key) is not None and not (ends and _is_beside(key, document[key]))
    }
    network = "" if ends else reading.text(document.get("network"), "network")
    return Base(version, name, network or name, settings)


def _is_beside(key: str, value: Any) -> bool:
    """Whether DEL and GC do without a setting.

    They need the store, wait as long as is said, and prune no more of the history than is said.
    """
    if key not in _NUMBERS:
        return key not in _PATHS
    text = "" if isinstance(value, bool) else str(value)
    digits = text.replace(".", "", 1) if key == "lockTimeout" else text
    least, most = _NUMBERS[key]
    return not (digits.isascii() and digits.isdigit() and least <= float(text) <= most)


def _setting(value: Any, key: str) -> str:
    if key in _NUMBERS and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    found = reading.text(value, key)
    if not found:
        raise reading.wrong(key, value, "give a value, or leave the key out")
    if key in _PATHS and not found.startswith("/"):
        hint = "it is an absolute path: who runs a plugin chooses the directory that it runs in"
        raise reading.wrong(key, value, hint)
    return found


def in_its_words(message: str) -> str:
    """What the library says of an option, said of the key that became the option (pure)."""
    option, blank, rest = message.partition(" ")
    for key, setting in SETTINGS.items():
        if option == f"--{setting.replace('_', '-')}":
            return f"{key}{blank}{rest}"
    return message


def _is_name(name: str) -> bool:
    """Whether runtimes take it as the name of a network: that of a container id."""
    good = name.replace("_", "a").replace(".", "a").replace("-", "a")
    return 0 < len(name) <= 255 and good.isascii() and good.isalnum() and name[0].isalnum()


def refuse_unknown(document: dict[str, Any]) -> None:
    """Raises CniError (2, with key and value) for a key that hvtx cannot act on."""
    for key, value in document.items():
        known = key in _OWN or key in _OF_CNI or "/" in key or "." in key
        if not known and value is not None:
            hint = _INSTEAD.get(key, f"hvtx's own keys are {', '.join(sorted(_OWN))}")
            raise reading.wrong(f"key {key!r}: it is unknown, and", value, hint, UNSUPPORTED_FIELD)
    ipam = document.get("ipam")
    if ipam is not None and not (isinstance(ipam, dict) and not any(map(bool, ipam.values()))):
        raise reading.wrong(
            "ipam", ipam, 'hvtx leases addresses itself: leave ipam out, write "subnets"',
            UNSUPPORTED_FIELD,
        )  # fmt: skip


def parse_network(document: dict[str, Any]) -> NetworkWish:
    """What is said of the network. Raises CniError (2, 7)."""
    refuse_unknown(document)
    _check_network_name(document)
    subnets = reading.texts(document.get("subnets"), "subnets", 16)
    single = reading.text(document.get("subnet"), "subnet")
    subnets = tuple(dict.fromkeys((single, *subnets) if single else subnets))
    families = [family_of(one) for one in subnets]
    if len(set(families)) != len(families):
        raise reading.wrong("subnets", list(subnets), "one of IPv4, one of IPv6, or both")
    for one in subnets:
        if "{{" in one:
            raise reading.wrong(
                "subnets", one, "only containerd renders it: name this file as its conf_template"
            )
    mtu = reading.whole(document.get("mtu"), "mtu", 0, _MTU_MOST)
    least = _MTU_LEAST[6 if 6 in families else 4]
    if 0 < mtu < least:
        raise reading.wrong("mtu", mtu, f"it is from {least} to {_MTU_MOST}")
    return NetworkWish(
        subnets,
        mtu or None,
        _said(document, "nat"),
        _said(document, "isolate"),
        reading.flag(document.get("vm"), "vm", default=False),
    )


def _said(document: dict[str, Any], key: str) -> bool | None:
    """A flag, None where nothing is said. Raises CniError (7)."""
    value = document.get(key)
    return None if value is None else reading.flag(value, key, default=False)


def _check_network_name(document: dict[str, Any]) -> None:
    """Raises CniError (7) where the configuration's name can be no network's of hvtx."""
    key = "network" if document.get("network") else "name"
    name = reading.text(document.get(key), key)
    plain = name.replace("-", "a")
    good = plain.isascii() and plain.isalnum() and plain == plain.lower() and len(name) <= 63
    if not good or name.startswith("-") or name.endswith("-"):
        hint = (
            "a network of hvtx has 1 to 63 of a-z, 0-9 and - in its name, beginning and ending"
            ' with a letter or digit: write "network": "lan" beside the name'
        )
        raise reading.wrong(key, name, hint)


def valid_attachments(document: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """``(container, ifname)`` of each that GC's list names, from both keys; () without a list.

    libcni writes the list under both keys, and neither of them where all is to be collected.
    Raises CniError (7) for an entry that names nothing: what it should keep cannot be told.
    """
    found: dict[tuple[str, str], None] = {}
    for key in ("cni.dev/valid-attachments", "cni.dev/attachments"):
        for number, entry in enumerate(reading.items(document.get(key), key, 1 << 16)):
            where = f"{key}[{number}]"
            named = reading.without_case(entry, where)
            pair = (
                reading.text(named.get("containerid"), f"{where}.containerID"),
                reading.text(named.get("ifname"), f"{where}.ifname"),
            )
            if not all(pair):
                raise CniError(
                    CONFIGURATION,
                    f"{where} cannot be {reading.shown(entry)}",
                    "it has containerID and ifname; nothing was collected",
                )
            found[pair] = None
    return tuple(found)
