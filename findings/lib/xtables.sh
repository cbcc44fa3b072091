# shellcheck shell=bash
# Sourced after question.sh by what is asked of iptables, arptables and ebtables.

export XTABLES_LIBDIR=${ROOT:-}/usr/lib/x86_64-linux-gnu/xtables

enter_with_xtables() { # enter_with_xtables [PACKAGE=VERSION...]: with them, the library they were built with, and these
    enter_with /usr/sbin/xtables-nft-multi iptables=1.8.9-2 libxtables12=1.8.9-2 libnftnl11=1.2.4-2 "$@"
}

multi() { # multi PROGRAM WORD...: one of them, over nftables
    "$ROOT/usr/sbin/xtables-nft-multi" "$@"
}
