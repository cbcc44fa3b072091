# firewalld knows a new zone only from a reload on. That ends what was set at run time alone, and
# empties the tables of iptables: it is done here where nothing of that kind is there.
bring_zone_into_force() {
    firewall-cmd --state >/dev/null 2>&1 || return 0
    ! firewall-cmd --get-zones 2>/dev/null | tr ' ' '\n' | grep -qx hvtx || return 0
    if reload_loses_nothing && firewall-cmd --reload >/dev/null 2>&1; then
        echo "hvtx: firewalld was reloaded, and has the zone hvtx for bridges of networks"
    else
        echo "hvtx: firewalld stops guests until it is reloaded: \`firewall-cmd --reload\`, which ends"
        echo "hvtx: what was set at run time alone, and empties the tables of iptables"
    fi
}
reload_loses_nothing() {
    for what in --list-all-zones --list-all-policies --get-ipsets "--direct --get-all-rules" \
        "--direct --get-all-chains" "--direct --get-all-passthroughs"; do
        lasts "$what" || return 1
    done
    for set in $(firewall-cmd --get-ipsets); do
        lasts "--ipset=$set --get-entries" || return 1
    done
    tables=$(nft list tables 2>/dev/null) || return 1
    ! echo "$tables" | grep -qE '^table ip6? (filter|nat|mangle|raw|security)$' || return 1
    [ -z "$(cat /proc/net/ip_tables_names /proc/net/ip6_tables_names 2>/dev/null)" ]
}
lasts() { # whether what firewall-cmd says with the words of $1 is the same after a reload
    # shellcheck disable=SC2086 # they are several
    now=$(firewall-cmd $1 2>/dev/null) && then=$(firewall-cmd --permanent $1 2>/dev/null) &&
        [ "$(echo "$now" | plain_zones)" = "$(echo "$then" | plain_zones)" ]
}
plain_zones() { # but for the zone that is new, and for which zones are in use
    sed 's/^\([^ ]*\) (.*)$/\1/' | awk -v RS= '$1 != "hvtx"'
}
