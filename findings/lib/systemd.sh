# shellcheck shell=bash
# Sourced after question.sh by what is asked of systemd's programs for the network.

enter_with_systemd() { # enter_with_systemd PROGRAM [PACKAGE==VERSION...]: with a program of it, ip, and these of Python
    prepare
    deb systemd=252.39-1~deb12u2 libsystemd-shared=252.39-1~deb12u2 iproute2=6.1.0-3
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu/systemd
    libraries "$1"
    [ $# = 1 ] || pip "${@:2}"
    enter
}

version_of_systemd() {
    version "$("$ROOT/bin/networkctl" --version | head -1)" "systemd 252 (252.39-1~deb12u2)"
}

ip() { "$ROOT/bin/ip" "$@"; }

prepare_networkd() { # makes the user and the folders that it wants, in an /etc and a /run of this namespace's own
    mount -t tmpfs tmpfs /mnt
    mkdir /mnt/upper /mnt/work
    mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work overlay /etc
    grep -q ^systemd-network: /etc/passwd || echo systemd-network:x:5998:5998::/:/bin/false >>/etc/passwd
    grep -q ^systemd-network: /etc/group || echo systemd-network:x:5998: >>/etc/group
    mkdir -p /run/systemd/network /run/systemd/netif
    chown systemd-network /run/systemd/netif
}
