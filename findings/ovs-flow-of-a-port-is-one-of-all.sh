#!/bin/bash
# ovs-ofctl takes a flow on a port without a protocol as one on every frame: exit 0, and the bridge drops all.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb openvswitch-switch=3.1.0-2+deb12u1 openvswitch-common=3.1.0-2+deb12u1 libxdp1=1.3.1-1 iproute2=6.1.0-3
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/lib/openvswitch-switch/ovs-vswitchd
    libraries /usr/sbin/ovsdb-server
    enter
fi
ip() { "$ROOT/bin/ip" "$@"; }
# ovsdb-server has temporary files in /tmp: one of this namespace's own
mkdir /run/folder
mount --move "$FOLDER" /run/folder
mount -t tmpfs tmpfs /tmp
mkdir -p "$FOLDER"
mount --move /run/folder "$FOLDER"
cd "$FOLDER"
export OVS_RUNDIR=/run/ovs OVS_DBDIR=$FOLDER OVS_LOGDIR=$FOLDER OVS_SYSCONFDIR=$FOLDER
mkdir /run/ovs
tool() { "$ROOT/usr/bin/$1" "${@:2}"; }
flow() { tool ovs-ofctl add-flow br0 "$1" 2>said && echo "exit 0" || echo "exit $?: $(head -1 said)"; }
flows() { # without priority 0, by which the bridge is a switch
    tool ovs-ofctl --no-stats dump-flows br0 | sed -n 's/^ *\(priority=[1-9][0-9]*[, ]\)/\1/p' | paste -sd';'
}
frame() { # frame PORT: what becomes of a guest's TCP segment to it
    tool ovs-appctl -t "/run/ovs/ovs-vswitchd.$switch.ctl" ofproto/trace br0 \
        "in_port=tap0,tcp,dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:02,nw_src=10.0.0.2,nw_dst=10.0.0.3,tcp_dst=$1" |
        sed -n 's/^Datapath actions: //p' | sed 's/^[0-9].*/goes out/'
}
tool ovsdb-tool create "$FOLDER/conf.db" "$ROOT/usr/share/openvswitch/vswitch.ovsschema"
"$ROOT/usr/sbin/ovsdb-server" --remote=punix:/run/ovs/db.sock "$FOLDER/conf.db" >log.db 2>&1 &
wait_for test -S /run/ovs/db.sock
tool ovs-vsctl --no-wait init
"$ROOT/usr/lib/openvswitch-switch/ovs-vswitchd" unix:/run/ovs/db.sock --disable-system >log 2>&1 &
switch=$!
wait_for test -S "/run/ovs/ovs-vswitchd.$switch.ctl"
tool ovs-vsctl add-br br0 -- set bridge br0 datapath_type=netdev
for tap in tap0 tap1; do
    ip tuntap add $tap mode tap
    ip link set $tap up
    tool ovs-vsctl add-port br0 $tap
done

version "$(tool ovs-ofctl --version | head -1)" "ovs-ofctl (Open vSwitch) 3.1.0"
question "Guests on a bridge of Open vSwitch are not to be reached at port 80. The flow says the port and not the protocol:
          tp_dst=80,actions=drop. What does it hold for? And one with ip, one with an address and no ip?"
expected "An error, since a port without a protocol means nothing (nft adds what is missing); or TCP and UDP to port 80."

seen "a segment to port 22, at first" "$(frame 22)" "goes out"
seen "priority=10,tp_dst=80,actions=drop" "$(flow priority=10,tp_dst=80,actions=drop)" "exit 0"
seen "the flow" "$(flows)" "priority=10 actions=drop"
seen "what is said, at the level INFO" "$(sed 's/.*INFO|//' said | paste -sd' ' | tr -s ' ')" \
    "normalization changed ofp_match, details: pre: tp_dst=80 post: "
seen "a segment to port 22" "$(frame 22)" "drop"
tool ovs-ofctl del-flows br0
tool ovs-ofctl add-flow br0 priority=0,actions=NORMAL
seen "priority=11,ip,tp_dst=80" "$(flow priority=11,ip,tp_dst=80,actions=drop)" "exit 0"
seen "priority=12,nw_src=10.0.0.9" "$(flow priority=12,nw_src=10.0.0.9,actions=drop)" "exit 0"
seen "the flows" "$(flows)" "priority=12 actions=drop;priority=11,ip actions=drop"
tool ovs-ofctl del-flows br0
tool ovs-ofctl add-flow br0 priority=0,actions=NORMAL
seen "priority=13,tcp,tp_dst=80" "$(flow priority=13,tcp,tp_dst=80,actions=drop)" "exit 0"
seen "segments to 22 and 80" "$(frame 22), $(frame 80)" "goes out, drop"
finish
