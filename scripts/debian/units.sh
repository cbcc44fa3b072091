# Unit files of /usr/bin/hvtx that `hvtx systemd install` wrote to /etc, where they hide the ones of
# the package or outlive the program; and its drop-ins. Those of another program are not touched.
# $1: `plain` takes only what says nothing but what the package's own units say.
remove_units() {
    for service in recover gc metrics; do
        for path in hvtx-$service.service hvtx-$service.service.d/hvtx.conf; do
            path=/etc/systemd/system/$path
            [ -f "$path" ] && grep -q '^# Written by .hvtx systemd install.;' "$path" || continue
            if [ "$1" = plain ]; then
                case $path in */hvtx-metrics.* | *.conf) continue ;; esac
                if ! grep -q '^ExecStart=/usr/bin/hvtx ' "$path" ||
                    ! grep -q '^ConditionPathExists=/var/lib/hvtx/hvtx.db$' "$path" ||
                    grep '^Environment=' "$path" | grep -qv '^Environment=HVTX_AUTOSTART='; then
                    echo "hvtx: $path hides the package's unit: \`hvtx systemd install\` mends that"
                    continue
                fi
            elif grep '^ExecStart=.' "$path" | grep -qv '^ExecStart=/usr/bin/hvtx '; then
                continue
            fi
            echo "hvtx: removing $path, written by \`hvtx systemd install\`"
            rm -f "$path"
            case $path in *.conf) rmdir --ignore-fail-on-non-empty "${path%/*}" ;; esac
            timer=/etc/systemd/system/hvtx-$service.timer
            case $path in
            *.service)
                find /etc/systemd/system -name "hvtx-$service.service" -type l -delete
                if [ -f "$timer" ] && grep -q '^# Written by .hvtx systemd install.;' "$timer"; then
                    rm -f "$timer"
                    find /etc/systemd/system -name "hvtx-$service.timer" -type l -delete
                fi
                ;;
            esac
        done
    done
}
