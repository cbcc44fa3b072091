#!/bin/bash
# podman network prune deletes the network configuration that containerd and the kubelet use.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/podman.sh"
if outside; then
    prepare
    deb podman=4.3.1+ds1-8+deb12u1+b3 libgpgme11=1.18.0-3+deb12u1 libassuan0=2.5.5-5 \
        libsubid4=1:4.13+dfsg1-1+deb12u2 containernetworking-plugins=1.1.1+ds1-3+b5 conmon=2.1.6+ds1-1
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu:$FOLDER/root/lib/x86_64-linux-gnu
    libraries /usr/bin/podman
    enter
fi
set_podman_up cni "cni_plugin_dirs = [\"$ROOT/usr/lib/cni\"]"
# as containerd's own script writes it, in the directory that all runtimes share (/etc/cni/net.d)
cat >net.d/10-pods.conflist <<'E'
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.88.0.0/16"}]]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
E

version "$(podman --version)" "podman version 4.3.1"
question "The directory of network configurations has a list that podman did not make (its own carry a
          label of podman's in args), for another runtime's pods. What does podman network prune do to it?"
expected "It stays: podman sees its own containers only, and cannot know who is in that network."

conflists() { find net.d -name '*.conflist' -printf '%f '; }

seen "before" "$(conflists)" "10-pods.conflist "
podman network prune --force
seen "after podman network prune --force" "$(conflists)" ""
finish
