#!/bin/bash
# systemd-networkd makes no device a port of a bridge that it did not make itself, and sets the device up alone.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/systemd.sh"
outside && enter_with_systemd /lib/systemd/systemd-networkd
prepare_networkd
ip link set lo up
ip link add br0 type bridge
ip link set br0 up
for card in card0 card1; do ip link add "$card" type veth peer name "far-$card"; ip link set "far-$card" up; done
netdev() { printf '%s\n' '[NetDev]' "Name=$1" Kind=bridge >"/run/systemd/network/$1.netdev"; }
port() { printf '%s\n' '[Match]' "Name=$1" '[Network]' "Bridge=$2" >"/run/systemd/network/$1.network"; }
printf '%s\n' '[Match]' 'Name=br* far-*' '[Link]' Unmanaged=yes >/run/systemd/network/others.network
netdev br1
port card0 br0
port card1 br1
master() { ip -o link show "$1" | sed -n 's/.* master \([^ ]*\).*/\1/p'; }
SYSTEMD_LOG_TARGET=console "$ROOT/lib/systemd/systemd-networkd" >said 2>&1 &
wait_for sh -c "'$ROOT/bin/ip' link show card1 | grep -q 'master br1'"
wait_for sh -c "'$ROOT/bin/ip' link show card0 | grep -q LOWER_UP"

version_of_systemd
question "A host has two bridges: br0, which somebody else made (libvirt, a manager of VMs), and br1, for which networkd has a
          .netdev file. Each is to have a card as a port: Bridge=br0 and Bridge=br1. Of which bridges are the cards ports?"
expected "Each of its own: a bridge is a bridge, as with 'ip link set card0 master br0'."

seen "card1" "$(master card1)" br1
seen "card0" "$(master card0)" ""
seen "what is said" "$(sed -n 's/.*card0.network: //p' said)" "br0 NetDev could not be found, ignoring assignment."
wait_for sh -c "'$ROOT/bin/ip' -6 addr show card0 | grep -q fe80"
seen "card0 has an address of its own link" "$(ip -6 -o addr show card0 | grep -o fe80 | head -1)" fe80
seen "card1 has none, as a port" "$(ip -6 -o addr show card1 | grep -o fe80 | head -1)" ""
finish
