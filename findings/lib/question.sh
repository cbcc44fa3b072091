# shellcheck shell=bash disable=SC2034
# Sourced by each finding. Run as root, on an up-to-date package list (apt-get update).
#
# A script is read twice: first outside, where it downloads its pinned packages into a temporary
# folder, then in network, mount and PID namespaces of its own, where everything but that folder is
# read-only. Whatever it starts there ends with it.

set -euo pipefail
LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) # this folder, for what else is sourced from it

outside() { [ -z "${FINDING_FOLDER:-}" ]; }

prepare() { # makes the temporary folder, and removes it at the end
    [ "$(id -u)" = 0 ] || { echo "run this as root: it makes a network namespace" >&2; exit 2; }
    FOLDER=$(mktemp -d)
    trap 'rm -rf "$FOLDER"' EXIT
    mkdir "$FOLDER/root"
}

deb() { # deb PACKAGE=VERSION...: unpacks them below $ROOT, installs nothing
    mkdir -p "$FOLDER/apt/archives/partial"
    (cd "$FOLDER" && apt-get -qq -o Dir::Cache="$FOLDER/apt" -o APT::Sandbox::User=root \
        download "$@" >/dev/null)
    local file
    for file in "$FOLDER"/*.deb; do
        dpkg-deb -x "$file" "$FOLDER/root"
        rm "$file"
    done
}

pip() { # pip PACKAGE==VERSION...: into a virtual environment, see $PYTHON
    [ -d "$FOLDER/venv" ] || python3 -m venv "$FOLDER/venv"
    "$FOLDER/venv/bin/pip" install -qq --disable-pip-version-check --no-cache-dir "$@"
}

libraries() { # libraries PROGRAM: what the unpacked program needs of the host must be there
    local missing
    missing=$(ldd "$FOLDER/root$1" | sed -n 's/ => not found//p' | tr -d '\t' | tr '\n' ' ')
    [ -z "$missing" ] || { echo "$1 needs libraries that are not here: $missing" >&2; exit 2; }
}

enter() { # reads the script again, inside
    local code=0
    FINDING_FOLDER=$FOLDER nice timeout --kill-after=5 120 unshare --net --mount --pid --fork \
        --kill-child --mount-proc bash "$0" || code=$?
    exit "$code"
}

enter_with() { # enter_with PROGRAM PACKAGE=VERSION...: with these, and what the program in them needs
    prepare
    deb "${@:2}"
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu
    libraries "$1"
    enter
}

enter_with_nft() { # enter_with_nft VERSION [PACKAGE=VERSION...]: with nft and the libraries it was built with
    enter_with /usr/sbin/nft "nftables=$1" "libnftables1=$1" libnftnl11=1.2.4-2 "${@:2}"
}

question() { printf 'question: %s\n' "$1"; }
expected() { printf 'expected: %s\n' "$1"; }

CHANGED=0
seen() { # seen WHAT VALUE RECORDED: prints the value; another than the recorded one is a change
    printf 'seen:     %s: %s\n' "$1" "$2"
    [ "$2" = "$3" ] || { printf 'CHANGED:  recorded was: %s\n' "$3"; CHANGED=1; }
}

version() { # version TEXT RECORDED
    printf 'version:  %s\n' "$1"
    [ "$1" = "$2" ] || { printf 'CHANGED:  recorded was: %s\n' "$2"; CHANGED=1; }
}

finish() { exit "$CHANGED"; }

own_folders() { # own_folders NAME...: /NAME is this namespace's own from now on, and begins as the host's
    mount -t tmpfs tmpfs /mnt
    local name
    for name in "$@"; do
        mkdir -p "/mnt/$name/upper" "/mnt/$name/work"
        mount -t overlay -o "lowerdir=/$name,upperdir=/mnt/$name/upper,workdir=/mnt/$name/work" overlay "/$name"
    done
}

wait_for() { # wait_for COMMAND...: until it succeeds, at most 10 s
    local end=$((SECONDS + 10))
    while [ $SECONDS -lt $end ]; do
        "$@" >/dev/null 2>&1 && return 0
        sleep 0.1
    done
    echo "waited 10 s in vain for: $*" >&2
    exit 2
}

if ! outside; then
    FOLDER=$FINDING_FOLDER
    ROOT=$FOLDER/root
    PYTHON=$FOLDER/venv/bin/python
    mount --bind "$FOLDER" "$FOLDER"
    mount -o remount,bind,ro /
    mount -t tmpfs tmpfs /run
    mount -t sysfs -o ro sysfs /sys
    export HOME=$FOLDER TMPDIR=$FOLDER LC_ALL=C XTABLES_LOCKFILE=/run/xtables.lock
    cd "$FOLDER"
fi
