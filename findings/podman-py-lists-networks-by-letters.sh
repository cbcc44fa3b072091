#!/bin/bash
# podman-py's networks.list(names=["vm"]) gives each network with a v or an m in its name.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/podman.sh"
outside && enter_with_podman podman==5.8.0 docker==7.2.0
cat >list.py <<'P'
from importlib.metadata import version

import docker
import podman

of_docker = docker.DockerClient(base_url="unix:///run/podman.sock")
of_podman = podman.PodmanClient(base_url="unix:///run/podman.sock")
print("version:", *(f"{name} {version(name)}" for name in ("podman", "docker")))
for name in ("vm", "mgmt", "storage", "lan"):
    of_podman.networks.create(name)
of_podman.containers.create("localhost/box:1", name="box", network="vm")

def names(found):
    return " ".join(sorted(one.name for one in found))

for client, word in ((of_docker, "docker"), (of_podman, "podman")):
    print(f"{word} names:", names(client.networks.list(names=["vm"])))
    print(f"{word} filters:", names(client.networks.list(filters={"name": "vm"})))
    print(f"{word} containers:", names(client.containers.list(all=True, filters={"network": ["vm"]})))
P
serve_podman
version "$(podman --version)" "podman version 4.3.1"
question "Of the networks vm, mgmt, storage, lan (and podman, which is there) a program removes the one that was for VMs. It asks
          networks.list(names=['vm']) or networks.list(filters={'name': 'vm'}), and containers.list(filters={'network': ['vm']})
          for who is in it: what is found, with Docker's library and with podman's?"
expected "The network vm, and its container; by both, as the arguments are described alike."
"$PYTHON" list.py >said
line() { sed -n "s/^$1: *//p" said; }
version "$(line version)" "podman 5.8.0 docker 7.2.0"
seen "docker-py, names=['vm']" "$(line 'docker names')" "vm"
seen "docker-py, filters" "$(line 'docker filters')" "vm"
seen "docker-py, containers of the network" "$(line 'docker containers')" "box"
seen "podman-py, names=['vm']" "$(line 'podman names')" "mgmt podman vm"
seen "podman-py, filters" "$(line 'podman filters')" "lan mgmt podman storage vm"
seen "podman-py, containers of the network" "$(line 'podman containers')" ""
finish
