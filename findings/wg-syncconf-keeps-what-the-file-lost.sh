#!/bin/bash
# wg syncconf leaves a peer its preshared key, keepalive and endpoint when the file has none any more.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb wireguard-tools=1.0.20210914-1+b1 wireguard-go=0.0.20220316-1+b4
    enter
fi
wg() { "$ROOT/usr/bin/wg" "$@"; }
# WireGuard in user space, for kernels without it; what is asked of here is wg's own doing.
LOG_LEVEL=silent "$ROOT/usr/bin/wireguard-go" -f wg0 >/dev/null 2>&1 &
wait_for wg show wg0
key=$(wg genkey)
peer=$(wg genkey | wg pubkey)
conf() { # conf LINE...: the file, with these of the peer's
    printf '%s\n' '[Interface]' "PrivateKey = $key" '[Peer]' "PublicKey = $peer" "$@" >wg0.conf
}
has() { # what the peer has: of the preshared key only whether there is one
    wg show wg0 preshared-keys | sed 's/.*\t//; /(none)/!s/.*/a preshared key/; s/(none)/no preshared key/'
    wg show wg0 persistent-keepalive | sed 's/.*\t/keepalive /'
    wg show wg0 endpoints | sed 's/.*\t/endpoint /'
    wg show wg0 allowed-ips | sed 's/.*\t/to /'
}
told() { has | paste -sd, | sed 's/,/, /g'; }

version "$(wg --version | sed 's/ - .*//')" "wireguard-tools v1.0.20210914"
question "Two hosts route to each other's guests over WireGuard. A peer's preshared key is given up on both sides, its keepalive,
          its endpoint and one of its two prefixes are no longer needed: all four lines are taken out of the file, and
          'wg syncconf wg0 wg0.conf' ends with 0. What has the peer?"
expected "What stands in the file: no preshared key, no keepalive, one prefix."

conf "PresharedKey = $(wg genpsk)" "PersistentKeepalive = 25" "Endpoint = 192.0.2.9:51820" "AllowedIPs = 10.5.0.0/24, 10.6.0.0/24"
wg setconf wg0 wg0.conf
seen "before" "$(told)" "a preshared key, keepalive 25, endpoint 192.0.2.9:51820, to 10.5.0.0/24 10.6.0.0/24"
conf "AllowedIPs = 10.5.0.0/24"
seen "syncconf" "$(wg syncconf wg0 wg0.conf && echo "exit 0")" "exit 0"
seen "after it" "$(told)" "a preshared key, keepalive 25, endpoint 192.0.2.9:51820, to 10.5.0.0/24"
# what does take them
conf "PresharedKey = $(head -c 32 /dev/zero | base64)" "PersistentKeepalive = off" "AllowedIPs = 10.5.0.0/24"
wg syncconf wg0 wg0.conf
seen "a key of zeros, keepalive off" "$(told)" \
    "no preshared key, keepalive off, endpoint 192.0.2.9:51820, to 10.5.0.0/24"
conf "AllowedIPs = 10.5.0.0/24"
wg setconf wg0 wg0.conf
seen "setconf" "$(told)" "no preshared key, keepalive off, endpoint (none), to 10.5.0.0/24"
finish
