"""Requests as container runtimes sent them, with names, ids and addresses replaced.

A logging program stood in for the plugin: containerd 1.6.20 by `ctr run --cni` and by CRI, podman
4.3.1 with its CNI backend, libcni 1.3's own calls. Of firecracker-go-sdk, Nomad and newer containerd
they follow what their sources write.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

POD = "0f6c2a41d7b3985e0f6c2a41d7b3985e0f6c2a41d7b3985e0f6c2a41d7b3985e"
NETNS = "/var/run/netns/cni-6b1f6a0e-52f7-4d5c-8d3f-0c6f3a9b7e21"
VERSIONS = ["0.4.0", "1.0.0", "1.1.0"]


class Recorded(NamedTuple):
    """One call of the plugin."""

    environment: dict[str, str]
    stdin: dict[str, Any]

    @property
    def data(self) -> bytes:
        """What stands on standard input."""
        return json.dumps(self.stdin).encode()


def call(
    command: str, conf: dict[str, Any], container: str = "", netns: str = "", ifname: str = "",
    args: str = "",
) -> Recorded:  # fmt: skip
    """All variables are set, as runtimes do, if only to nothing."""
    return Recorded(
        {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": netns,
            "CNI_IFNAME": ifname,
            "CNI_ARGS": args,
            "CNI_PATH": "/opt/cni/bin",
        },
        conf,
    )


def conf(version: str, name: str = "lan", **more: Any) -> dict[str, Any]:
    """A plugin's configuration as libcni puts it together."""
    return {
        "cniVersion": version,
        "name": name,
        "type": "hvtx",
        "subnets": ["10.77.0.0/24"],
        **more,
    }


CAPABILITIES = {"portMappings": True, "bandwidth": True, "mac": True, "ips": True}
PREVIOUS = {
    "cniVersion": "1.0.0",
    "interfaces": [
        {"name": "hvbridge", "mac": "02:00:00:00:00:01"},
        {"name": "hvhost", "mac": "02:00:00:00:00:0b"},
        {"name": "eth0", "mac": "02:00:00:00:00:03", "sandbox": NETNS},
    ],
    "ips": [{"interface": 2, "address": "10.77.0.2/24", "gateway": "10.77.0.1"}],
    "routes": [{"dst": "0.0.0.0/0", "gw": "10.77.0.1"}],
    "dns": {},
}

CTR_ADD = call(
    "ADD", conf("1.0.0", capabilities=CAPABILITIES), "default-web", "/proc/4242/ns/net", "eth0"
)
CTR_DEL = call(
    "DEL", conf("1.0.0", capabilities=CAPABILITIES, prevResult=PREVIOUS), "default-web", "", "eth0"
)
CRI_ADD = call(
    "ADD",
    conf(
        "1.0.0",
        runtimeConfig={
            "portMappings": [
                {"HostPort": 8080, "ContainerPort": 80, "Protocol": "tcp", "HostIP": ""},
                {"HostPort": 5353, "ContainerPort": 53, "Protocol": "udp", "HostIP": "0.0.0.0"},
            ],
            "bandwidth": {
                "IngressRate": 10000000,
                "IngressBurst": 4294967295,
                "EgressRate": 20000000,
                "EgressBurst": 4294967295,
            },
            "dns": {"Servers": ["192.0.2.53"], "Searches": ["cluster.local"], "Options": ["ndots:5"]},
            "cgroupPath": "/kubepods/burstable/pod1",
            "io.kubernetes.cri.pod-annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
        },
    ),
    POD, NETNS, "eth0",
    "K8S_POD_NAME=web-0;K8S_POD_UID=7d9f2c1e;IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;"
    f"K8S_POD_INFRA_CONTAINER_ID={POD}",
)  # fmt: skip
CRI_DEL_FIRST = call("DEL", {**CRI_ADD.stdin, "prevResult": PREVIOUS}, POD, NETNS, "eth0",
                     CRI_ADD.environment["CNI_ARGS"])  # fmt: skip
CRI_DEL_AGAIN = call("DEL", CRI_ADD.stdin, POD, "", "eth0", CRI_ADD.environment["CNI_ARGS"])
CRI_DEL_AFTER_REBOOT = call("DEL", {**CRI_ADD.stdin, "prevResult": PREVIOUS}, POD, "", "eth0")
PODMAN_VERSION = call("VERSION", {"cniVersion": "0.4.0"}, "dummy", "dummy", "dummy")
PODMAN_ADD = call(
    "ADD",
    conf(
        "0.4.0",
        runtimeConfig={
            "aliases": {"lan": ["db", "0f6c2a41d7b3"]},
            "portMappings": [
                {"hostPort": 8080, "containerPort": 80, "protocol": "tcp"},
                {"hostPort": 8081, "containerPort": 81, "protocol": "tcp", "hostIP": "127.0.0.1"},
            ],
        },
    ),
    POD, "/run/netns/netns-2c1d4c7c", "eth0",
    "IgnoreUnknown=1;K8S_POD_NAME=web;MAC=02:11:22:33:44:55;IP=10.77.0.9",
)  # fmt: skip
PODMAN_RELOAD = call(
    "ADD",
    conf("0.4.0", runtimeConfig={"ips": ["10.77.0.9", "10.77.0.9", "fd77::9"], "mac": ""}),
    POD, "/run/netns/netns-2c1d4c7c", "eth1", "IgnoreUnknown=1;K8S_POD_NAME=web",
)  # fmt: skip
LIBCNI_GC = call(
    "GC",
    conf(
        "1.1.0",
        **{
            "cni.dev/valid-attachments": [{"containerID": POD, "ifname": "eth0"}],
            "cni.dev/attachments": [{"containerID": POD, "ifname": "eth0"}],
        },
    ),
)
LIBCNI_GC_ALL = call("GC", conf("1.1.0"))
LIBCNI_STATUS = call("STATUS", conf("1.1.0"))
LIBCNI_CHECK = call("CHECK", conf("1.0.0", prevResult=PREVIOUS), POD, NETNS, "eth0")
FIRECRACKER_ADD = call(
    "ADD", conf("0.3.1", vm=True), "vm-1", "/var/run/netns/vm-1", "veth0",
    "IgnoreUnknown=1;TC_REDIRECT_TAP_NAME=tap1;TC_REDIRECT_TAP_UID=123;TC_REDIRECT_TAP_GID=456",
)  # fmt: skip
NOMAD_ADD = call(
    "ADD", conf("1.0.0"), "9f5d7a52-1c49-8c1e-5b8e-2ab8f4d3c001", "/var/run/netns/9f5d7a52", "eth0",
    "IgnoreUnknown=true;NOMAD_REGION=global;NOMAD_NAMESPACE=default;NOMAD_JOB_ID=shop;"
    "NOMAD_GROUP_NAME=web;NOMAD_ALLOC_ID=9f5d7a52-1c49-8c1e-5b8e-2ab8f4d3c001",
)  # fmt: skip
