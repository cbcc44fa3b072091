#!/bin/bash
# Two text files whose HELP texts differ: the second's series are gone, and nothing in the page says so.
. "$(dirname "$0")/lib/question.sh"
outside && enter_with /usr/bin/prometheus-node-exporter prometheus-node-exporter=1.5.0-1+b6 iproute2=6.1.0-3
"$ROOT/bin/ip" link set lo up
mkdir texts
exporter=$ROOT/usr/bin/prometheus-node-exporter
get() {
    python3 -c 'import sys, urllib.request as u
with u.urlopen("http://127.0.0.1:9100/metrics", timeout=5) as page:
    open("page", "wb").write(page.read()); print(page.status)'
}
write() { # write FILE HELP
    printf '# HELP net_taps %s\n# TYPE net_taps gauge\nnet_taps{host="%s"} 3\n' "$2" "$1" \
        >"texts/$1.prom"
}
series() { grep '^net_taps' page | tr '\n' ' '; }
value() { sed -n "s/^$1 //p" page; }

version "$("$exporter" --version 2>&1 | sed -n 's/^node_exporter, \(version [^ ]*\).*/\1/p')" \
    "version 1.5.0"
question "Two programs write text files for node_exporter with the same gauge, told apart by a label.
          One is newer and words the HELP line anew. What does /metrics hold, and what tells of it?"
expected "Both series (comments are comments), or one file refused and node_textfile_scrape_error 1."

"$exporter" --web.listen-address=127.0.0.1:9100 --collector.disable-defaults \
    --collector.textfile --collector.textfile.directory=texts 2>log &
wait_for get
write a "TAP devices"
write b "TAP devices"
seen "same HELP, HTTP status" "$(get)" 200
seen "same HELP, series" "$(series)" 'net_taps{host="a"} 3 net_taps{host="b"} 3 '
write b "TAP devices of the host"
seen "other HELP, HTTP status" "$(get)" 200
seen "other HELP, series" "$(series)" 'net_taps{host="a"} 3 '
seen "node_textfile_scrape_error" "$(value node_textfile_scrape_error)" 0
seen "the exporter's log" "$(grep -c 'has help' log || true) line" "1 line"
cp texts/a.prom texts/b.prom
seen "the same series in both files, HTTP status" "$(get)" 200
seen "the same series in both files" "$(series)" 'net_taps{host="a"} 3 '
seen "node_textfile_scrape_error" "$(value node_textfile_scrape_error)" 0
finish
