#!/bin/bash
# A unit whose WantedBy= changed in an upgrade is wanted by both targets afterwards.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb init-system-helpers=1.65.2+deb12u1
    enter
fi
HELPER=$ROOT/usr/bin/deb-systemd-helper
export DPKG_ROOT=$FOLDER/system DPKG_MAINTSCRIPT_PACKAGE=taps
mkdir -p "$DPKG_ROOT"/{lib/systemd/system,etc/systemd/system,var/lib/systemd}
unit() { # unit TARGET: as dpkg unpacks it
    printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=%s\n' "$1" \
        >"$DPKG_ROOT/lib/systemd/system/taps.service"
}
configure() { # what debhelper writes into postinst
    "$HELPER" unmask taps.service
    if "$HELPER" --quiet was-enabled taps.service; then
        "$HELPER" enable taps.service
    else
        "$HELPER" update-state taps.service
    fi
}
wanted_by() {
    (cd "$DPKG_ROOT/etc/systemd/system" && find . -type l | sort | sed 's:^./::' | tr '\n' ' ')
}
version "init-system-helpers 1.65.2+deb12u1" "init-system-helpers 1.65.2+deb12u1"
question "Version 1 of a package enables its unit in multi-user.target; version 2 moves it into
          network-online.target. Which targets want it after the upgrade, and after a purge?"
expected "network-online.target only: the helper keeps a state file to follow such changes; none after it."

unit multi-user.target
configure
seen "installed" "$(wanted_by)" "multi-user.target.wants/taps.service "
unit network-online.target
configure
seen "upgraded" "$(wanted_by)" \
    "multi-user.target.wants/taps.service network-online.target.wants/taps.service "
rm "$DPKG_ROOT/lib/systemd/system/taps.service"
"$HELPER" mask taps.service
"$HELPER" purge taps.service
"$HELPER" unmask taps.service
seen "purged" "$(wanted_by)" ""
finish
