"""What a runtime asks for one container: capabilities, ``args.cni`` and ``CNI_ARGS`` (pure).

Keys are taken without regard to case: containerd writes those of Go's fields (``HostPort``), podman
those of the conventions (``hostPort``). A capability goes before ``args``, those before
``CNI_ARGS`` (CONVENTIONS.md); what is empty counts as not said.
"""

from __future__ import annotations

from collections.abc import Mapping

from hvtx.cni import reading
from hvtx.cni.errors import CONFIGURATION, ENVIRONMENT, UNSUPPORTED_FIELD
from hvtx.errors import UsageError
from hvtx.model.address import without_zone
from hvtx.model.attachment import PodLabels, TapRequest
from hvtx.model.policy import NO_LIMITS, Limits
from hvtx.model.typed import Any
from hvtx.model.vm import Publish

_EVERYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - as runtimes write that no address is meant
_PROTOCOLS = ("tcp", "udp")
_UNSERVED = {  # capabilities of the conventions that decide what an interface is, and hvtx has not
    "ipranges": ("ipRanges", 'hvtx leases from all of "subnets": write the range there'),
    "deviceid": ("deviceID", "hvtx makes veth pairs and TAP devices, and takes no device"),
    "infinibandguid": ("infinibandGUID", "hvtx makes Ethernet devices"),
}
_LABEL_MOST = 253  # letters, as Kubernetes has it; longer ones are cut
_RATE_MOST = (1 << 63) - 1
_PORTS_MOST = 2 * 65535  # tcp and udp: runtimes write a range out, port by port
_ID_MOST = (1 << 32) - 2  # the kernel's last is "nobody in particular"


def refuse_unserved(config: Mapping[str, Any]) -> None:
    """Raise CniError (2) for a capability that cannot be left out of account."""
    for key, (name, hint) in _UNSERVED.items():
        if config.get(key):
            raise reading.wrong(f"runtimeConfig.{name}", config[key], hint, UNSUPPORTED_FIELD)


def asked_mac(
    config: Mapping[str, Any], cni_args: Mapping[str, Any], args: Mapping[str, str]
) -> str:
    """The MAC that is asked for, in small letters with colons; "" for none. Raises CniError."""
    for value, where, code in (
        (config.get("mac"), "runtimeConfig.mac", CONFIGURATION),
        (cni_args.get("mac"), "args.cni.mac", CONFIGURATION),
        (args.get("MAC"), "MAC in CNI_ARGS", ENVIRONMENT),
    ):
        if found := reading.text(value, where):
            return _mac(found, where, code)
    return ""


def _mac(text: str, where: str, code: int) -> str:
    plain = text.replace("-", ":").lower()
    parts = plain.split(":")
    digits = "0123456789abcdef"
    if len(parts) != 6 or any(len(one) != 2 or one.strip(digits) for one in parts):
        hint = "it is six pairs of hexadecimal digits: 02:00:00:00:00:01"
        raise reading.wrong(where, text, hint, code)
    return plain


def asked_addresses(
    config: Mapping[str, Any], cni_args: Mapping[str, Any], args: Mapping[str, str]
) -> tuple[str, ...]:
    """The addresses that are asked for, each once, without prefix lengths. Raises CniError."""
    written = args.get("IP", "")
    for value, where, code in (
        (config.get("ips"), "runtimeConfig.ips", CONFIGURATION),
        (cni_args.get("ips"), "args.cni.ips", CONFIGURATION),
        (written.split(",") if written else None, "IP in CNI_ARGS", ENVIRONMENT),
    ):
        if found := reading.texts(value, where, 256):
            return tuple(dict.fromkeys(_address(one.strip(), where, code) for one in found))
    return ()


def _address(text: str, where: str, code: int = CONFIGURATION) -> str:
    import ipaddress

    try:
        return str(ipaddress.ip_interface(without_zone(text)).ip)
    except ValueError:
        hint = "it is an address, with or without a prefix length: 10.77.0.7/24"
        raise reading.wrong(where, text, hint, code) from None


def published(config: Mapping[str, Any]) -> tuple[Publish, ...]:
    """The host ports that are asked for, each once; port 0 is none. Raises CniError."""
    found: dict[Publish, None] = {}
    by_service: dict[tuple[str, int], list[Publish]] = {}
    asked = reading.items(config.get("portmappings"), "portMappings", _PORTS_MOST)
    for number, entry in enumerate(asked):
        where = f"portMappings[{number}]"
        one = reading.without_case(entry, where)
        host = reading.whole(one.get("hostport"), f"{where}.hostPort", 0, 65535)
        guest = reading.whole(one.get("containerport"), f"{where}.containerPort", 0, 65535)
        protocol = reading.text(one.get("protocol"), f"{where}.protocol").lower() or "tcp"
        address = reading.text(one.get("hostip"), f"{where}.hostIP")
        if not host:
            continue
        if not guest:
            raise reading.wrong(f"{where}.containerPort", guest, "it is a port from 1 to 65535")
        if protocol not in _PROTOCOLS:
            raise reading.wrong(
                f"{where}.protocol", protocol, "hvtx publishes tcp and udp", UNSUPPORTED_FIELD
            )
        place = None if address in _EVERYWHERE else _address(address, f"{where}.hostIP")
        if place in _EVERYWHERE:  # written otherwise: 0:0::0
            place = None
        port = Publish(protocol, place, host, guest)
        if port in found:
            continue
        same = by_service.setdefault((protocol, host), [])
        if any(port.collides(other) for other in same):
            hint = "an entry before it publishes that port: give each its own"
            raise reading.wrong(f"{where}.hostPort", host, hint)
        same.append(port)
        found[port] = None
    return tuple(found)


def limits(config: Mapping[str, Any]) -> Limits:
    """``bandwidth``, whose rates are in bits a second; hvtx chooses its own bursts. CniError.

    What is more than hvtx can hold anybody to is no limit: Kubernetes takes rates up to 10^15.
    """
    given = reading.without_case(config.get("bandwidth"), "bandwidth")
    rates = {
        key: reading.whole(given.get(key.lower()), f"bandwidth.{key}", 0, _RATE_MOST)
        for key in ("ingressRate", "egressRate")
    }
    if not any(rates.values()):
        return NO_LIMITS
    from hvtx.model.limiting import MOST, parse_limit

    words = zip(("in", "out"), rates.values(), strict=True)
    asked = ",".join(f"{word}={rate}bit" for word, rate in words if 0 < rate <= MOST)
    if not asked:
        return NO_LIMITS
    try:
        return parse_limit(asked)
    except UsageError:
        raise reading.wrong("bandwidth", rates, "a rate is at least 1000 bits a second") from None


def pod_labels(args: Mapping[str, str]) -> PodLabels:
    """Whom an attachment is for, as far as the runtime says it (pure).

    Kubernetes' runtimes say ``K8S_POD_*``, podman too (of a container without a pod its own name),
    Nomad ``NOMAD_*``; of others the container's id is all there is.
    """

    def said(key: str) -> str:
        return args.get(key, "")[:_LABEL_MOST]

    if said("K8S_POD_NAME") or said("K8S_POD_UID"):
        return PodLabels(said("K8S_POD_NAME"), said("K8S_POD_NAMESPACE"), said("K8S_POD_UID"))
    job = said("NOMAD_JOB_NAME") or said("NOMAD_JOB_ID")
    name = ".".join(filter(None, (job, said("NOMAD_GROUP_NAME"))))
    return PodLabels(name[:_LABEL_MOST], said("NOMAD_NAMESPACE"), said("NOMAD_ALLOC_ID"))


def tap_request(args: Mapping[str, str]) -> TapRequest:
    """The TAP device of a VM, as tc-redirect-tap is asked for it. Raises CniError."""
    name = args.get("TC_REDIRECT_TAP_NAME", "")
    if name in (".", "..") or len(name.encode()) > 15 or any(one in "/:% " for one in name):
        hint = "at most 15 bytes without blanks, / : and %"
        raise reading.wrong("TC_REDIRECT_TAP_NAME in CNI_ARGS", name, hint, ENVIRONMENT)
    owner, group = (_user(args.get(f"TC_REDIRECT_TAP_{one}", ""), one) for one in ("UID", "GID"))
    return TapRequest(name, owner, group)


def _user(text: str, which: str) -> int | None:
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _ID_MOST):
        where = f"TC_REDIRECT_TAP_{which} in CNI_ARGS"
        raise reading.wrong(where, text, f"it is a number from 0 to {_ID_MOST}", ENVIRONMENT)
    return int(text)
