#!/bin/bash
# pycdlib's add_fp of a path that is there makes one file of both: a guest's seed has the old lines, and then the new ones.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb genisoimage=9:1.1.11-3.4
    libraries /usr/bin/isoinfo
    pip pycdlib==1.22.0
    enter
fi
cat >seed.py <<'P'
"""Writes seed.iso with what a template says, then what is said of this VM."""
import io

import pycdlib

def add(disk, content, path, name):
    disk.add_fp(io.BytesIO(content), len(content), path, rr_name=name, joliet_path=f"/{name}")

disk = pycdlib.PyCdlib()
disk.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident="cidata")
add(disk, b"#cloud-config\n", "/USERDATA.;1", "user-data")
add(disk, b"instance-id: template\nlocal-hostname: box\n", "/METADATA.;1", "meta-data")
try:
    add(disk, b"instance-id: web-1\n", "/METADATA.;1", "meta-data")
except Exception as problem:
    print("add_fp:", problem)
disk.write("seed.iso")
P
isoinfo() { "$ROOT/usr/bin/isoinfo" -i seed.iso "$@"; }
version "pycdlib $("$FOLDER/venv/bin/pip" show pycdlib 2>/dev/null | sed -n 's/^Version: //p'), $("$ROOT/usr/bin/isoinfo" -version |
    sed -n '1s/^\(isoinfo [^ ]*\).*/\1/p')" "pycdlib 1.22.0, isoinfo 1.1.11"
question "A program makes seeds for cloud-init: it adds the files of a template, and then those that a VM has of its own,
          meta-data with another instance-id and no local-hostname. What does the guest read?"
expected "The VM's own file; or add_fp says that the path is there."
"$PYTHON" seed.py
seen "meta-data, by Rock Ridge" "$(isoinfo -R -x /meta-data | paste -sd '|')" \
    "instance-id: template|local-hostname: box|instance-id: web-1"
seen "meta-data, by Joliet" "$(isoinfo -J -x /meta-data | paste -sd '|')" \
    "instance-id: template|local-hostname: box|instance-id: web-1"
finish
