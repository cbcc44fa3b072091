#!/bin/bash
# tcpdump gives the file that it writes to its user: /dev/null too, for good and for everybody.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb tcpdump=4.99.3-1 libpcap0.8=1.10.3-1
    enter
fi
export LD_LIBRARY_PATH=$ROOT/usr/lib/x86_64-linux-gnu
tcpdump() { "$ROOT/usr/bin/tcpdump" "$@"; }

# A /dev of this script's own, so that it is not the machine's node that is given away.
mount -t tmpfs -o mode=0755 dev /run
mknod -m 0666 /run/null c 1 3
mount --bind /run /dev
ip link set lo up

version "$(tcpdump --version 2>&1 | head -n 1)" "tcpdump version 4.99.3"
question "Root runs tcpdump with -w /dev/null, to see how many packets there are and keep none of them.
          Whose is /dev/null afterwards, when tcpdump goes on as another user (Debian's default; -Z)?"
expected "Root's, as before."

before=$(stat -c '%U %a' /dev/null)
timeout --signal=INT 3 "$ROOT/usr/bin/tcpdump" -Z nobody -i lo -w /dev/null >&2 2>/run/said || true
seen "before" "$before" "root 666"
seen "after it has ended" "$(stat -c '%U %a' /dev/null)" "nobody 666"
finish
