#!/bin/bash
# podman-py's Network.connect(ipv4_address=, aliases=) and containers.create(mac_address=) tell podman nothing of these.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/podman.sh"
outside && enter_with_podman podman==5.8.0 docker==7.2.0
cat >connect.py <<'P'
from importlib.metadata import version

import docker
import podman

of_docker = docker.DockerClient(base_url="unix:///run/podman.sock")
of_podman = podman.PodmanClient(base_url="unix:///run/podman.sock")
print("version:", *(f"{name} {version(name)}" for name in ("podman", "docker")))

def record(name, *words):
    with open("libpod/bolt_state.db", "rb") as file:
        kept = file.read()
    networks = of_docker.containers.get(name).attrs["NetworkSettings"]["Networks"]
    told = [alias for network in networks.values() for alias in network["Aliases"] if alias == "web"]
    return " ".join(told + [word for word in words if word.encode() in kept]) or "nothing"

for client, name, address in ((of_docker, "docker", "10.10.0.77"), (of_podman, "podman", "10.10.0.78")):
    client.containers.create("localhost/box:1", name=name, network="lan")
    client.networks.get("dmz").connect(name, ipv4_address=address, aliases=["web"])
    print(f"{name} connect:", record(name, address))
of_podman.containers.create("localhost/box:1", name="mac", network="lan", mac_address="02:00:00:00:00:05")
print("mac_address:", record("mac", "02:00:00:00:00:05"))
of_podman.containers.create("localhost/box:1", name="networks", networks={
    "lan": {"static_ips": ["10.9.0.6"], "static_mac": "02:00:00:00:00:06", "aliases": ["web"]}})
print("networks:", record("networks", "10.9.0.6", "02:00:00:00:00:06"))
P
serve_podman
podman network create --subnet 10.9.0.0/24 lan >/dev/null
podman network create --subnet 10.10.0.0/24 dmz >/dev/null
version "$(podman --version)" "podman version 4.3.1"
question "A program connects a container to one more network with an address and a name of its own, by
          Network.connect(container, ipv4_address='10.10.0.77', aliases=['web']), and makes another by
          containers.create(…, network='lan', mac_address='02:00:00:00:00:05'). What has podman on record of these?"
expected "The address, the name and the MAC address; or an error."
"$PYTHON" connect.py >said
line() { sed -n "s/^$1: *//p" said; }
version "$(line version)" "podman 5.8.0 docker 7.2.0"
seen "docker-py, connect" "$(line 'docker connect')" "web 10.10.0.77"
seen "podman-py, connect" "$(line 'podman connect')" "nothing"
seen "networks of the container then" "$(podman ps --all --filter name=podman --format '{{.Networks}}')" "dmz,lan"
seen "podman-py, create with mac_address" "$(line mac_address)" "nothing"
seen "podman-py, create with networks={'lan': {'static_ips': …}}" "$(line networks)" "web 10.9.0.6 02:00:00:00:00:06"
finish
