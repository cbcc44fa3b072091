"""Files and commands that keep other programs of the host from hvtx's devices. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

OWN_NAMES = "hv*"  # of TAPs, and of bridges whose name nobody chose
NETWORKD_DIRECTORY, NM_DIRECTORY = "/etc/systemd/network", "/etc/NetworkManager/conf.d"
NETWORKD_FILE, NM_FILE = "05-hvtx.network", "hvtx.conf"
DNSMASQ_DIRECTORY, DNSMASQ_FILE = "/etc/dnsmasq.d", "hvtx.conf"


def network_file(names: Iterable[str]) -> str:
    """A ``.network`` file by which networkd leaves devices alone."""
    return f"[Match]\nName={' '.join(names)}\n\n[Link]\nUnmanaged=yes\n"


def keyfile(names: Iterable[str]) -> str:
    """A file of NetworkManager's configuration that adds devices to those that it leaves alone."""
    listed = ";".join(f"interface-name:{name}" for name in names)
    return f"[keyfile]\nunmanaged-devices+={listed}\n"


def dnsmasq_file() -> str:
    """A file by which the host's own dnsmasq leaves bridges to their networks' services.

    One that binds addresses (``bind-interfaces``, ``bind-dynamic``) ends at its start where port 53
    of one is taken. Which of the two is not said here: dnsmasq 2.90 ends where both are set.
    """
    return f"except-interface={OWN_NAMES}\n"


def kept_files() -> tuple[str, ...]:
    """Paths at which a file for hvtx's own names may be: the administrator's, or the package's."""
    return (
        f"{NETWORKD_DIRECTORY}/{NETWORKD_FILE}",
        f"/usr/lib/systemd/network/{NETWORKD_FILE}",
        f"{NM_DIRECTORY}/{NM_FILE}",
        f"/usr/lib/NetworkManager/conf.d/{NM_FILE}",
    )


def networkd_fix(
    taken: Iterable[tuple[str, str]], bridges: Iterable[str], files: Collection[str]
) -> str:
    """Commands after which networkd leaves devices alone; ``taken``: device and the file for it.

    ``bridges`` are all of hvtx's, ``files`` those of :func:`kept_files` that are there. The first
    file by name that matches a device counts, in whichever directory it is.
    """
    found = list(taken)
    own, others = _sorted(device for device, _ in found)
    first = min(path.rpartition("/")[2] for _, path in found)
    prefix = next((p for p in ("05", "00") if f"{p}-hvtx" < first), "0-00")
    commands = []
    if own and (prefix != "05" or not any(path.endswith(f"/{NETWORKD_FILE}") for path in files)):
        path = f"{NETWORKD_DIRECTORY}/{prefix}-hvtx.network"
        commands += _write(network_file([OWN_NAMES]), path)
    if others:
        named = sorted({*others, *_sorted(bridges)[1]})
        path = f"{NETWORKD_DIRECTORY}/{prefix}-hvtx-bridges.network"
        commands += _write(network_file(named), path)
    return "; ".join([*commands, "networkctl reload", "hvtx repair"])


def network_manager_fix(
    taken: Iterable[str], bridges: Iterable[str], files: Collection[str]
) -> str:
    """Commands after which NetworkManager leaves devices alone; arguments as above."""
    own, others = _sorted(taken)
    commands = []
    if own and not any(path.endswith(f"/{NM_FILE}") for path in files):
        commands += _write(keyfile([OWN_NAMES]), f"{NM_DIRECTORY}/{NM_FILE}")
    if others:
        named = sorted({*others, *_sorted(bridges)[1]})
        commands += _write(keyfile(named), f"{NM_DIRECTORY}/hvtx-bridges.conf")
    return "; ".join([*commands, "systemctl reload NetworkManager"])


def _sorted(devices: Iterable[str]) -> tuple[list[str], list[str]]:
    """Devices that our pattern matches, and the others."""
    every = sorted(set(devices))
    own = [device for device in every if device.startswith("hv")]
    return own, [device for device in every if device not in own]


def _write(text: str, path: str) -> list[str]:
    """The commands that write a file; its directory need not be there."""
    shown = text.replace("\n", "\\n")
    return [f"mkdir -p {path.rpartition('/')[0]}", f"printf '{shown}' >{path}"]
