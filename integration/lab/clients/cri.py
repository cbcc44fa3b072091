"""Pods of containerd by CRI, as a kubelet asks for them: runtime.v1, the few calls that are needed.

The numbers of the fields are those of kubernetes/cri-api, pkg/apis/runtime/v1/api.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from integration.lab.clients.protobuf import Value, decode, encode, texts

_SERVICE = "/runtime.v1.RuntimeService"
_NODE = 2  # NamespaceMode NODE: the host's; for what a test has no use for
SECONDS = 60
PROTOCOLS = {"tcp": 0, "udp": 1}


class Port(NamedTuple):
    """A PortMapping of a pod."""

    host: int
    container: int
    protocol: str = "tcp"
    address: str = ""


def sandbox(
    name: str, ports: tuple[Port, ...] = (), annotations: Mapping[str, str] | None = None
) -> dict[int, Value]:
    """A PodSandboxConfig (pure)."""
    mapped: list[Value] = [
        {1: PROTOCOLS[p.protocol], 2: p.container, 3: p.host, 4: p.address} for p in ports
    ]
    options: dict[int, Value] = {1: 0, 2: 0, 3: _NODE}  # NamespaceOption: network and pid its own
    return {
        1: {1: name, 2: f"uid-{name}", 3: "default", 4: 1},
        2: name,
        3: "/tmp",
        5: mapped,
        7: texts(annotations or {}),
        8: {1: "", 2: {1: options}},
    }


class Runtime:
    """The CRI service behind containerd's socket. What it refuses is grpc.RpcError."""

    def __init__(self, socket: Path) -> None:
        import grpc  # of the long job's environment

        self._channel = grpc.insecure_channel(
            f"unix:{socket}", options=[("grpc.default_authority", "localhost")]
        )

    def _call(self, method: str, message: Mapping[int, Value]) -> dict[int, list[Any]]:
        ask = self._channel.unary_unary(
            f"{_SERVICE}/{method}", request_serializer=encode, response_deserializer=decode
        )
        said: dict[int, list[Any]] = ask(message, timeout=SECONDS)
        return said

    def run(self, config: Mapping[int, Value]) -> str:
        """Make a pod; its id."""
        name: bytes = self._call("RunPodSandbox", {1: config})[1][0]
        return name.decode()

    def stop(self, pod: str) -> None:
        """End a pod's network and its processes."""
        self._call("StopPodSandbox", {1: pod})

    def remove(self, pod: str) -> None:
        """Forget a pod."""
        self._call("RemovePodSandbox", {1: pod})

    def address(self, pod: str) -> str:
        """The first address that containerd believes the pod has."""
        status = decode(self._call("PodSandboxStatus", {1: pod})[1][0])
        network = decode(status[5][0] if isinstance(status[5][0], bytes) else b"")
        first = network[1][0]
        assert isinstance(first, bytes)
        return first.decode()

    def pods(self) -> list[str]:
        """The ids of all pods that are on record."""
        found = self._call("ListPodSandbox", {}).get(1, [])
        return [decode(one)[1][0].decode() for one in found]  # type: ignore[union-attr]

    def give_subnet(self, subnet: str) -> None:
        """Which addresses the pods of this node have, as a kubelet learns it from its cluster."""
        self._call("UpdateRuntimeConfig", {1: {1: {1: subnet}}})

    def ready(self) -> bool:
        """Whether the conditions RuntimeReady and NetworkReady are both true."""
        status = decode(self._call("Status", {})[1][0])
        return all(decode(one).get(2) == [1] for one in status[1] if isinstance(one, bytes))

    def close(self) -> None:
        """End the connection."""
        self._channel.close()
