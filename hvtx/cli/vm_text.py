"""A VM as a terminal shows it: a line about what was done, and its parts."""

from __future__ import annotations

from typing import Any

from hvtx.cli import render
from hvtx.model.address import with_port


def show_done(runtime: Any, name: str, verb: str, *, json_: bool) -> None:
    """What a command that acts prints: the VM's object, or a line about it."""
    from hvtx.engine import show as views

    document = views.show_vm(runtime, name)
    if json_:
        render.emit_json(document)
        return
    for line in _sentences(document, verb):
        render.say(line)


def _sentences(document: dict[str, Any], verb: str) -> list[str]:
    """What was done, in a line; of a VM whose process nobody knows yet, what is to be done."""
    name, interfaces = document["name"], document["interfaces"]
    where = ", ".join(" ".join(addresses_of(i)) or "?" for i in interfaces)
    ports = [_published(p) for i in interfaces for p in i["publish"]]
    if ports:
        where += "; " + ", ".join(ports)
    if verb == "running" and document["hypervisor"] == "external" and document["pid"] is None:
        devices = ", ".join(i["device"] for i in interfaces if i["device"])
        return [
            f"the network of VM {name} is prepared: {devices} ({where})",
            f"`hvtx vm attach {name} --pid PID` tells whose process it is, once it runs",
        ]
    told = [f"VM {name} is {verb}" + (f" ({where})" if verb in ("running", "defined") else "")]
    accelerator = accelerator_of(document) if verb == "running" else None
    return told + ([f"accelerator {accelerator}"] if accelerator else [])


def accelerator_of(document: dict[str, Any]) -> str | None:
    """With what QEMU runs the guest, and why; None where it does not."""
    name, reason = document["accelerator"], document["accelerator_reason"]
    return f"{name}: {reason}" if name else None


def addresses_of(interface: dict[str, Any]) -> list[str]:
    """The addresses of an interface, as far as it has them."""
    return [address for address in (interface["ipv4"], interface["ipv6"]) if address]


def _host(port: dict[str, Any]) -> str:
    """A published port as the host has it, with the one address that it is bound to, if it is."""
    return with_port(port["host_ip"], port["host_port"])


def short_port(port: dict[str, Any]) -> str:
    """A published port in few characters, for a table."""
    return f"{_host(port)}→{port['guest_port']}/{port['protocol']}"


def _published(port: dict[str, Any]) -> str:
    return f"{_host(port)}/{port['protocol']} → {port['guest_port']}"


def boots_with(document: dict[str, Any]) -> list[tuple[str, object]]:
    """What a VM is started with, as far as it has any of it."""
    pairs = [(name, document[name]) for name in ("kernel", "initrd", "append") if document[name]]
    pairs += [("disk", disk) for disk in document["disks"]]
    if document["command"]:
        import shlex

        pairs.append(("command", shlex.join(document["command"])))
        pairs.append(("directory", document["directory"]))
    return pairs


def ways_of(interface: dict[str, Any]) -> list[str]:
    """``10.77.0.2/24 via 10.77.0.1``: what a guest without DHCP is set up with."""
    return [
        f"{interface[address]}/{interface[prefix]} via {interface[gateway]}"
        for address, prefix, gateway in (
            ("ipv4", "prefix", "gateway"),
            ("ipv6", "prefix6", "gateway6"),
        )
        if interface[address]
    ]


def port_anywhere(port: dict[str, Any]) -> str:
    """A published port with ``*`` for every address of the host."""
    return _published(port) if port["host_ip"] else f"*:{_published(port)}"
