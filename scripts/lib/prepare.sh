# shellcheck shell=bash
# What scripts/demo and scripts/test need before they can begin: Debian packages and a virtual
# environment in the checkout. Sourced by bash; needs $top, the checkout. What is installed is
# said first, and nothing is done when everything is there.

# The output of apt is read here, so it must not be translated; and root's PATH after a plain
# `su` lacks the directories where nft, ip and iptables stand.
export LC_ALL=C.UTF-8 PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

say() { printf '%s\n' "$*"; }
die() { # message, hint
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 1
}

need_root() { # what for
    [ "$(id -u)" -eq 0 ] || die "$1 needs root" "sudo $0"
}

apt_is_updated=${HVTX_APT_IS_UPDATED:-} # so that one run, of several scripts, updates once
apt_update_once() {
    [ -z "$apt_is_updated" ] || return 0
    export HVTX_APT_IS_UPDATED=yes apt_is_updated=yes
    say "apt-get update …"
    # A third party's broken source must not stop what Debian's own sources can give.
    apt-get -q -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 update >/dev/null ||
        say "apt-get update reported errors; going on with the package lists at hand"
}

is_installed() { # package
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

# Install what is missing of the packages named; say which, or say nothing if all are there.
install_packages() {
    local package missing=()
    command -v dpkg-query >/dev/null && command -v apt-get >/dev/null ||
        die "this is not a Debian or Ubuntu system: it has no apt-get" \
            "use Debian 12 or later, or Ubuntu 24.04 or later (a virtual machine will do)"
    for package; do
        is_installed "$package" || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Installing Debian packages: ${missing[*]}"
    apt_update_once
    DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1 \
        apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 \
        install --no-install-recommends "${missing[@]}" </dev/null >"$top/.cache/apt.log" 2>&1 || {
        tail -n 20 "$top/.cache/apt.log" >&2
        die "apt-get could not install ${missing[*]}" "the whole output is in .cache/apt.log"
    }
}

# The same for packages that not every distribution has (Ubuntu has no browser but as a snap): what
# is not there is said, and left out.
install_packages_if_known() {
    local package known=()
    for package; do
        if is_installed "$package"; then continue; fi
        apt_update_once
        # `apt-cache show` knows names that other packages provide, too: chromium is, on Ubuntu, one
        # of a package that asks for the snap. No pipe to `grep -q`: it leaves at the first match, and
        # apt-cache 3.0, which writes line by line, is then ended by SIGPIPE, a failure by pipefail.
        if grep -q '^  Candidate: [^(]' <<<"$(apt-cache policy "$package" 2>/dev/null)"; then
            known+=("$package")
        else
            say "This distribution has no package $package: what needs it is left out"
        fi
    done
    [ ${#known[@]} -eq 0 ] || install_packages "${known[@]}"
}

# Is $1 a Python 3.11 or later with all that a virtual environment needs?
is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }
is_whole() {
    "$1" -c 'import ctypes, ensurepip, sqlite3, ssl, venv' >/dev/null 2>&1
}

# Sets $python: the first whole one on PATH, else the distribution's, completed by its packages.
find_python() {
    local candidate name
    for candidate in python3 python3.{15,14,13,12,11} /usr/bin/python3; do
        if is_recent "$candidate" && is_whole "$candidate"; then
            python=$(command -v "$candidate")
            return
        fi
    done
    for candidate in /usr/bin/python3 /usr/bin/python3.{15,14,13,12,11}; do
        if is_recent "$candidate"; then
            name=$(basename "$(readlink -f "$candidate")")
            install_packages "$name-venv"
            python=$candidate
            return
        fi
    done
    install_python
}

# No Python 3.11 here (Ubuntu 22.04 comes with 3.10): take one from apt where it has one.
install_python() {
    local name
    if command -v apt-get >/dev/null; then
        apt_update_once
        for name in python3.13 python3.12 python3.11; do
            if apt-cache show "$name-venv" >/dev/null 2>&1; then
                install_packages "$name" "$name-venv"
                python=/usr/bin/$name
                return
            fi
        done
    fi
    die "no Python 3.11 or later was found, and apt has none" \
        "use Debian 12 or later or Ubuntu 24.04 or later, or put a python3.11 on PATH"
}

# The interpreter behind .venv may have gone with an upgrade of the system, or the checkout may
# have been moved, which its programs do not survive.
venv_works() {
    "$top/.venv/bin/python" -c 'import pip' >/dev/null 2>&1 &&
        grep -qF "$top/.venv/bin/python" "$top/.venv/bin/pip" 2>/dev/null
}

# Put pip requirements into .venv, once per state of pyproject.toml and of the requirements.
# $1 names the stamp; the rest are pip's words.
install_python_packages() {
    local stamp=$top/.venv/hvtx-$1 state
    shift
    state=$(
        printf '%s\n' "$top" "$@"
        sha256sum <"$top/pyproject.toml"
    )
    venv_works || rm -rf "$top/.venv"
    [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || return 0
    install_packages ca-certificates
    if [ ! -x "$top/.venv/bin/python" ]; then
        find_python
        say "Making the virtual environment .venv with $("$python" --version) ($python)"
        "$python" -m venv "$top/.venv" || die "$python could not make .venv" "see the lines above"
    fi
    local words="$*"
    say "Installing Python packages into .venv: ${words/-e ./hvtx} and what that depends on"
    (cd "$top" && .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --progress-bar off --use-pep517 "$@") ||
        die "pip could not install into .venv" "see the lines above; remove .venv to begin anew"
    say "  .venv now has: $(venv_names)"
    printf '%s\n' "$state" >"$stamp"
}

venv_names() {
    "$top/.venv/bin/python" -m pip list --disable-pip-version-check --format freeze \
        --exclude-editable 2>/dev/null | tr '\n' ' '
}

# The directories above $1, the outermost first, that not everybody may pass through.
closed_directories() { # path
    local above
    above=$(dirname "$1")
    [ "$above" = "$1" ] || closed_directories "$above"
    [ -z "$(find "$above" -maxdepth 0 ! -perm -o=x)" ] || printf '%s\n' "$above"
}

# May another user read a file, once those directories are open?
others_may_read() { # file, closed directory…
    local file=$1 try=(setpriv --reuid=65533 --regid=65533 --clear-groups test -r "$1")
    shift
    if [ $# -gt 0 ]; then try=("$top/scripts/lib/passable" "$@" -- "${try[@]}"); fi
    "${try[@]}"
}

mkdir -p "$top/.cache"
