#!/bin/bash
# dnsmasq knows a host's IPv4 address and answers REFUSED when asked for its IPv6 address.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/dnsmasq.sh"
outside && enter_with_dnsmasq dnspython==2.7.0
ip link set lo up
printf '10.9.0.5 web\n' >names
cat >ask.py <<'P'
import sys
import dns.message, dns.query, dns.rcode

answers = []
for kind in ("A", "AAAA"):
    answer = dns.query.udp(dns.message.make_query(sys.argv[1], kind), "127.0.0.1", timeout=3, port=5300)
    answers.append(f"{kind} {dns.rcode.to_text(answer.rcode())} {len(answer.answer)}")
print(", ".join(answers))
P
serve() {
    "$ROOT/usr/sbin/dnsmasq" --conf-file=/dev/null --keep-in-foreground --user=root --no-hosts \
        --addn-hosts="$FOLDER/names" --expand-hosts --domain=vm.test --no-resolv --pid-file= --port=5300 \
        --listen-address=127.0.0.1 --bind-interfaces --log-facility="$FOLDER/log" "$@" &
    SERVER=$!
    wait_for "$PYTHON" ask.py web
}
stop() { kill $SERVER; wait $SERVER || true; }
ask() { "$PYTHON" ask.py "$1"; }

version_of_dnsmasq
question "dnsmasq serves a closed network (no upstream server) and knows web.vm.test with an IPv4
          address only. What does it answer to the AAAA question that every resolver asks beside A?"
expected "NOERROR without records: the name exists, there is no such record of it."

serve
seen "web.vm.test" "$(ask web.vm.test)" "A NOERROR 1, AAAA REFUSED 0"
stop
serve --local=/vm.test/
seen "web.vm.test with --local=/vm.test/" "$(ask web.vm.test)" "A NOERROR 1, AAAA NOERROR 0"
seen "web with --local=/vm.test/" "$(ask web)" "A NOERROR 1, AAAA REFUSED 0"
stop
serve --local=/vm.test/ --domain-needed
seen "web with --domain-needed, too" "$(ask web)" "A NOERROR 1, AAAA NOERROR 0"
stop
finish
