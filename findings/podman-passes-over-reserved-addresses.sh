#!/bin/bash
# Addresses that are reserved in a network, told over podman's Docker API or by podman-compose, are given to containers.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/podman.sh"
outside && enter_with_podman docker==7.2.0 podman-compose==1.6.0
cat >make.py <<'P'
"""Makes the network lan, in which two VMs have addresses, and two containers."""
from importlib.metadata import version

import docker
from docker.types import IPAMConfig, IPAMPool

client = docker.DockerClient(base_url="unix:///run/podman.sock")
pool = IPAMPool(subnet="10.9.0.0/24", gateway="10.9.0.1", iprange="10.9.0.128/25",
                aux_addresses={"vm1": "10.9.0.129", "vm2": "10.9.0.130"})
made = client.api.create_network("lan", ipam=IPAMConfig(pool_configs=[pool]), options={
    "com.docker.network.driver.mtu": "1400"})
print("version:", *(f"{name} {version(name)}" for name in ("docker", "podman-compose")))
print(f"warning: '{made['Warning']}'")
known = client.networks.get("lan").attrs
print("inspect:", *known["IPAM"]["Config"][0].values())
print("options:", known["Options"])
for name in ("first", "second"):
    client.containers.create("localhost/box:1", name=name, network="lan")
P
cat >compose.yaml <<'Y'
services:
  web:
    image: localhost/box:1
    networks: [shop]
networks:
  shop:
    name: shop
    ipam:
      config:
        - subnet: 10.8.0.0/24
          aux_addresses: {vm1: 10.8.0.2, vm2: 10.8.0.3}
Y
serve_podman
mkdir helpers bin
cat >helpers/netavark <<E
#!/bin/sh
cat >"$FOLDER/told"
echo '{"error": "no network is made here"}'
exit 1
E
chmod +x helpers/netavark
sed -i "s|^helper_binaries_dir.*|helper_binaries_dir = [\"$FOLDER/helpers\"]|" containers.conf
ln -s "$ROOT/usr/bin/podman" bin/podman
address() { # address CONTAINER: which one podman tells netavark to give it
    podman start "$1" >said 2>&1 || true
    grep -o '"static_ips":\["[^"]*' told | cut -d'"' -f4
}
"$PYTHON" make.py >said
line() { sed -n "s/^$1: //p" made; }
mv said made
PATH=$FOLDER/bin:$PATH "$FOLDER/venv/bin/podman-compose" up --no-start >composed 2>&1 || { cat composed; exit 2; }

version "$(podman --version), $(line version)" "podman version 4.3.1, docker 7.2.0 podman-compose 1.6.0"
question "A network of podman's is made by docker-py, with an MTU and two addresses of its range reserved for VMs
          (aux_addresses); and one by podman-compose with aux_addresses. Which addresses have the first containers?"
expected "The first that are free behind the reserved ones, 10.9.0.131 and 10.8.0.4; or an error at creation."
seen "the warning in the answer" "$(line warning)" "''"
seen "docker-py: range and gateway on record" "$(line inspect)" "10.9.0.0/24 10.9.0.1"
seen "docker-py: options on record" "$(line options)" "{'mtu': '1400'}"
seen "docker-py: the two containers" "$(address first) $(address second)" "10.9.0.129 10.9.0.130"
seen "podman-compose: what it said" "$(grep -iE 'aux|reserv|warn' composed || true)" ""
podman create --network shop --name third localhost/box:1 >/dev/null
podman create --network shop --name fourth localhost/box:1 >/dev/null
seen "podman-compose: two containers" "$(address third) $(address fourth)" "10.8.0.2 10.8.0.3"
finish
