#!/bin/bash
# prometheus_client writes a counter that it has read under another name, with _total behind it.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    pip prometheus-client==0.22.1
    enter
fi
cat >pass.py <<'P'
"""Reads metrics of standard input, and writes them as an exporter that passes them on."""
import sys

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

class Passed(Collector):
    def __init__(self, text):
        self.families = list(text_string_to_metric_families(text))

    def collect(self):
        return self.families

registry = CollectorRegistry()
registry.register(Passed(sys.stdin.read()))
sys.stdout.write(generate_latest(registry).decode())
P
passed() { printf '%s\n' "$@" | "$PYTHON" pass.py | grep -v '^# HELP' | paste -sd '|'; }

version "prometheus-client $("$FOLDER/venv/bin/pip" show prometheus-client 2>/dev/null | sed -n 's/^Version: //p')" \
    "prometheus-client 0.22.1"
question "An agent reads the metrics of a host's daemons and passes them on, by prometheus_client's own parser and writer. A
          daemon counts in 'frames' and 'frames_total' (what a card and what all of them had). What is passed on?"
expected "The same series: a name in Prometheus' text format is what it is."

seen "a gauge" "$(passed '# TYPE up gauge' 'up 1')" "# TYPE up gauge|up 1.0"
seen "a counter with _total" "$(passed '# TYPE frames_total counter' 'frames_total 9')" \
    "# TYPE frames_total counter|frames_total 9.0"
seen "a counter without" "$(passed '# TYPE frames counter' 'frames{card="a"} 5')" \
    '# TYPE frames_total counter|frames_total{card="a"} 5.0'
seen "both" "$(passed '# TYPE frames counter' 'frames 5' '# TYPE frames_total counter' 'frames_total 9')" \
    "# TYPE frames_total counter|frames_total 5.0|# TYPE frames_total counter|frames_total 9.0"
finish
