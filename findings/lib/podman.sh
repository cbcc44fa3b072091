# shellcheck shell=bash
# Sourced after question.sh by what is asked of programs that speak to podman.

enter_with_podman() { # enter_with_podman PACKAGE==VERSION...: with it, netavark, and these of Python
    prepare
    deb podman=4.3.1+ds1-8+deb12u1+b3 libgpgme11=1.18.0-3+deb12u1 libassuan0=2.5.5-5 \
        libsubid4=1:4.13+dfsg1-1+deb12u2 netavark=1.4.0-3 conmon=2.1.6+ds1-1
    export LD_LIBRARY_PATH=$FOLDER/root/usr/lib/x86_64-linux-gnu:$FOLDER/root/lib/x86_64-linux-gnu
    libraries /usr/bin/podman
    pip "$@"
    enter
}

podman() { "$ROOT/usr/bin/podman" --log-level error "$@"; }

set_podman_up() { # set_podman_up BACKEND [LINE]: its configuration and its files below $FOLDER, networks in net.d
    mkdir -p net.d
    cat >containers.conf <<E
[network]
network_backend = "$1"
network_config_dir = "$FOLDER/net.d"
${2:-}
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
helper_binaries_dir = ["$ROOT/usr/lib/podman"]
conmon_path = ["$ROOT/usr/bin/conmon"]
runtime = "none"
static_dir = "$FOLDER/libpod"
[engine.runtimes]
none = ["/bin/true"]
E
    cat >storage.conf <<E
[storage]
driver = "vfs"
runroot = "/run/containers"
graphroot = "$FOLDER/graph"
E
    export CONTAINERS_CONF=$FOLDER/containers.conf CONTAINERS_STORAGE_CONF=$FOLDER/storage.conf
}

serve_podman() { # its service at /run/podman.sock, with a small image, box; containers are made and never run
    set_podman_up netavark
    mkdir -p box .config/containers
    echo '{"default": [{"type": "insecureAcceptAnything"}]}' >.config/containers/policy.json
    echo "nothing to run" >box/README
    tar -C box -cf box.tar .
    podman import --quiet --change 'CMD ["/nothing"]' box.tar localhost/box:1 >/dev/null
    podman system service --time 0 unix:///run/podman.sock &
    wait_for test -S /run/podman.sock
}
