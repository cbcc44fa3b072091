#!/bin/bash
# A MAC written by a YAML 1.2 library is a number for cloud-init, which reads YAML 1.1.
. "$(dirname "$0")/lib/question.sh"
. "$LIB/cloud_init.sh"
outside && enter_with_cloud_init ruamel.yaml==0.19.1
cat >write.py <<'P'
import sys
from ruamel.yaml import YAML

port = {"match": {"macaddress": sys.argv[1]}, "addresses": ["10.0.0.2/24"]}
with open("config.yaml", "w") as file:
    YAML().dump({"version": 2, "ethernets": {"id0": port}}, file)
P
cat >read.py <<'P'
import yaml

print(repr(yaml.safe_load(open("config.yaml"))["ethernets"]["id0"]["match"]["macaddress"]))
P
cat >count.py <<'P'
import yaml

good = [f"52:54:00:12:34:{n:02x}" for n in range(256)]
print(sum(isinstance(yaml.safe_load(mac), int) for mac in good))
P
convert() {
    net_convert -D debian -O networkd 2>&1 | tail -1
}
version_of_cloud_init ", ruamel.yaml, PyYAML $(
    "$PYTHON" -c 'from importlib.metadata import version as v; print(v("ruamel.yaml"), v("pyyaml"))')" \
    ", ruamel.yaml, PyYAML 0.19.1 6.0.2"
question "network-config of a NoCloud seed is written by ruamel.yaml with macaddress
          52:54:00:12:34:56 (a str). What does cloud-init read?"
expected "The MAC: a library quotes what would be read back as something else."

"$PYTHON" write.py 52:54:00:12:34:5a
seen "52:54:00:12:34:5a read by PyYAML" "$("$PYTHON" read.py)" "'52:54:00:12:34:5a'"
"$PYTHON" write.py 52:54:00:12:34:56
seen "52:54:00:12:34:56 as it is written" "$(grep -o 'macaddress: .*' config.yaml)" \
    "macaddress: 52:54:00:12:34:56"
seen "52:54:00:12:34:56 read by PyYAML" "$("$PYTHON" read.py)" 41135085296
seen "cloud-init's last line" "$(convert)" "AttributeError: 'int' object has no attribute 'lower'"
seen "of the 256 MACs 52:54:00:12:34:XX, numbers" "$("$PYTHON" count.py)" 60
"$PYTHON" write.py 02:54:00:12:34:56
seen "02:54:00:12:34:56 read by PyYAML" "$("$PYTHON" read.py)" "'02:54:00:12:34:56'"
finish
