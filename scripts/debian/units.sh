# Files of /usr/bin/hvtx that `hvtx systemd install` wrote to /etc, where they hide the ones of
# the package or outlive the program; and its drop-ins. Those of another program are not touched.
# $1: `plain` takes only what says nothing but what the package's own units say.
remove_units() {
    for service in recover gc metrics repair repair@; do
        for path in hvtx-$service.service hvtx-$service.service.d/hvtx.conf; do
            path=/etc/systemd/system/$path
            is_written "$path" || continue
            if [ "$1" = plain ]; then
                case $path in */hvtx-metrics.* | *.conf) continue ;; esac
                if ! grep -q '^ExecStart=/usr/bin/hvtx ' "$path" ||
                    ! grep -q '^RequiresMountsFor=/var/lib/hvtx$' "$path" ||
                    grep '^Environment=' "$path" | grep -qv '^Environment=HVTX_AUTOSTART='; then
                    echo "hvtx: $path hides the package's unit: \`hvtx systemd install\` fixes that"
                    continue
                fi
            elif grep '^ExecStart=.' "$path" | grep -qv '^ExecStart=/usr/bin/hvtx '; then
                continue
            fi
            echo "hvtx: removing $path, written by \`hvtx systemd install\`"
            rm -f "$path"
            case $path in
            *.conf) rmdir --ignore-fail-on-non-empty "${path%/*}" ;;
            *)
                if [ $service = repair@ ]; then # the package's own links stand beside the units
                    rm -f /etc/systemd/system/*.wants/hvtx-repair@*.service
                else
                    lead_links "hvtx-$service.service"
                fi
                if is_written "/etc/systemd/system/hvtx-$service.timer"; then
                    rm -f "/etc/systemd/system/hvtx-$service.timer"
                    lead_links "hvtx-$service.timer"
                fi
                ;;
            esac
        done
    done
    [ ! -e /etc/systemd/system/hvtx-recover.service ] || return 0 # of another program than ours
    for path in systemd/network/05-hvtx.network NetworkManager/conf.d/hvtx.conf dnsmasq.d/hvtx.conf; do
        ! is_written "/etc/$path" || rm -f "/etc/$path"
    done
}
is_written() {
    [ -f "$1" ] && grep -q '^# Written by .hvtx systemd install.;' "$1"
}
lead_links() { # by which a unit is enabled: to the package's unit, or away
    for link in /etc/systemd/system/*.wants/"$1"; do
        [ -L "$link" ] || continue
        if [ -e "/usr/lib/systemd/system/$1" ]; then
            ln -sfn "/usr/lib/systemd/system/$1" "$link"
        else
            rm -f "$link"
        fi
    done
}
