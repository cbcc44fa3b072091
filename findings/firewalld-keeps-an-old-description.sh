#!/bin/bash
# firewall-cmd --runtime-to-permanent takes back a zone's description that was written since the last reload.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/dbus.sh"
if outside; then
    prepare
    deb firewalld=1.3.3-1~deb12u2 python3-firewall=1.3.3-1~deb12u2 python3-nftables=1.0.6-2+deb12u2 \
        python3-dbus=1.3.2-4+b1 python3-gi=3.42.2-3+b1 python3-cap-ng=0.8.3-1+b3
    need_dbus
    enter
fi
mount -t tmpfs tmpfs /var/log
mkdir etc
cp -r "$ROOT/etc/firewalld/." etc
export PYTHONPATH=$ROOT/usr/lib/python3/dist-packages PYTHONDONTWRITEBYTECODE=1
export LD_LIBRARY_PATH=$ROOT/usr/lib/x86_64-linux-gnu
ip link set lo up
start_bus
/usr/bin/python3 "$ROOT/usr/sbin/firewalld" --nofork --nopid --system-config "$FOLDER/etc" \
    --default-config "$ROOT/usr/lib/firewalld" >/dev/null 2>&1 &
firewall() { /usr/bin/python3 "$ROOT/usr/bin/firewall-cmd" "$@"; }
wait_for firewall --state

version "firewalld $(firewall --version)" "firewalld 1.3.3"
question "A zone is in force. Its description is written anew, permanently; it has no run-time form, and no command
          shows or sets one at run time. Then a service is added at run time, and firewall-cmd
          --runtime-to-permanent keeps it. What is the zone's description, and is the service there?"
expected "The new description, which nothing at run time could contradict, and the service."

firewall -q --permanent --new-zone=lab
firewall -q --permanent --zone=lab --set-description="first words"
firewall -q --reload
firewall -q --permanent --zone=lab --set-description="second words"
seen "permanent, before" "$(firewall --permanent --zone=lab --get-description)" "second words"
firewall -q --zone=lab --add-service=http
firewall -q --runtime-to-permanent
seen "permanent, after" "$(firewall --permanent --zone=lab --get-description)" "first words"
seen "its services" "$(firewall --permanent --zone=lab --list-services)" "http"
finish
