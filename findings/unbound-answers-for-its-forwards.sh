#!/bin/bash
# Below test, home.arpa and private reverse zones unbound asks no server of a forward-zone or stub-zone: NXDOMAIN.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb unbound=1.17.1-2+deb12u4 libprotobuf-c1=1.4.1-1+b1 dnsmasq-base=2.90-4~deb12u2 iproute2=6.1.0-3
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries /usr/sbin/unbound
    libraries /usr/sbin/dnsmasq
    pip dnspython==2.7.0
    enter
fi
"$ROOT/bin/ip" link set lo up
cat >ask.py <<'P'
import sys
import dns.message, dns.query, dns.rcode

server, kind, name = sys.argv[1:]
answer = dns.query.udp(dns.message.make_query(name, kind), server, timeout=3)
print(dns.rcode.to_text(answer.rcode()), *(record.to_text() for found in answer.answer for record in found))
P
guests() { "$PYTHON" ask.py 127.0.0.2 "$@"; } # asks the guests' server
unbound() { "$PYTHON" ask.py 127.0.0.1 "$@"; }
cat >names <<'N'
10.9.0.5 web.lan web.vm.test web.home.arpa
fd00::5 web.lan
N
"$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --keep-in-foreground --user=root --no-hosts --addn-hosts="$FOLDER/names" \
    --no-resolv --pid-file= --listen-address=127.0.0.2 --bind-interfaces --log-facility="$FOLDER/log" &
REVERSE6=$(python3 -c 'import ipaddress; print(ipaddress.ip_address("fd00::5").reverse_pointer)')
start() { # start LINE...: unbound, with these of its section server
    printf '%s\n' server: 'interface: 127.0.0.1' 'chroot: ""' 'username: ""' 'pidfile: ""' "directory: \"$FOLDER\"" \
        'use-syslog: no' 'logfile: "log.unbound"' 'module-config: "iterator"' 'do-not-query-localhost: no' "$@" >conf
    printf 'forward-zone:\n name: "%s"\n forward-addr: 127.0.0.2\n' lan. vm.test. home.arpa. d.f.ip6.arpa. >>conf
    printf 'stub-zone:\n name: "9.10.in-addr.arpa."\n stub-addr: 127.0.0.2\n' >>conf
    "$ROOT/usr/sbin/unbound" -d -c conf &
    wait_for unbound A web.lan
}
all() { # all SERVER: its answers
    local one
    for one in "A web.lan" "A web.vm.test" "A web.home.arpa" "PTR 5.0.9.10.in-addr.arpa" "PTR $REVERSE6"; do
        # shellcheck disable=SC2086
        "$1" $one
    done | paste -sd';'
}
wait_for guests A web.lan

version "$("$ROOT/usr/sbin/unbound" -V | head -1)" "Version 1.17.1"
question "Guests' names are known to a server of their own. The host's unbound is told to ask it: forward-zones for lan, for
          vm.test (a name that RFC 2606 keeps for tests), for home.arpa, a stub-zone for 10.9/16 the other way round, and a
          forward-zone for fd00::/8. unbound-checkconf finds no error. Whom does it ask?"
expected "That server, for all of them: this is what the zones are written for."

start
seen "the guests' server" "$(all guests)" \
    "NOERROR 10.9.0.5;NOERROR 10.9.0.5;NOERROR 10.9.0.5;NOERROR web.lan.;NOERROR web.lan."
seen "unbound-checkconf" "$("$ROOT/usr/sbin/unbound-checkconf" conf)" "unbound-checkconf: no errors in conf"
seen "unbound" "$(all unbound)" "NOERROR 10.9.0.5;NXDOMAIN;NXDOMAIN;NXDOMAIN;NXDOMAIN"
kill %2
wait %2 || true
start 'local-zone: "test." nodefault' 'local-zone: "home.arpa." nodefault' 'local-zone: "10.in-addr.arpa." nodefault' \
    'local-zone: "d.f.ip6.arpa." nodefault'
seen "with nodefault for each" "$(all unbound)" \
    "NOERROR 10.9.0.5;NOERROR 10.9.0.5;NOERROR 10.9.0.5;NOERROR web.lan.;NOERROR web.lan."
finish
