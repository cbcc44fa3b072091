"""Environment and configuration put together: what ADD and CHECK ask the library for (pure)."""

from __future__ import annotations

from hvtx.cni import reading, runtime_config
from hvtx.cni.configuration import Base, parse_network
from hvtx.cni.environment import Call, parse_args
from hvtx.model.attachment import AttachmentKey, AttachmentRequest
from hvtx.model.typed import Any


def key_of(call: Call, base: Base) -> AttachmentKey:
    """By what an attachment is told."""
    return AttachmentKey(base.name, call.container, call.ifname)


def parse_request(call: Call, base: Base, document: dict[str, Any]) -> AttachmentRequest:
    """What is asked for. Raises CniError (2, 4, 7)."""
    wish = parse_network(document)
    args = parse_args(call.args)
    config = reading.without_case(document.get("runtimeConfig"), "runtimeConfig")
    runtime_config.refuse_unserved(config)
    given = reading.table(document.get("args"), "args").get("cni")
    cni_args = reading.without_case(given, "args.cni")
    return AttachmentRequest(
        key=key_of(call, base),
        bridge_network=base.network,
        netns=call.netns,
        subnets=wish.subnets,
        mtu=wish.mtu,
        nat=wish.nat,
        isolate=wish.isolate,
        mac=runtime_config.asked_mac(config, cni_args, args) or None,
        addresses=runtime_config.asked_addresses(config, cni_args, args),
        publish=runtime_config.published(config),
        limits=runtime_config.limits(config),
        pod=runtime_config.pod_labels(args),
        tap=runtime_config.tap_request(args) if wish.vm else None,
    )
