# shellcheck shell=bash
# Sourced after question.sh by what is asked of cloud-init.

enter_with_cloud_init() { # enter_with_cloud_init [PACKAGE==VERSION...]: with it, and these of Python
    prepare
    deb cloud-init=22.4.2-1+deb12u4
    pip pyyaml==6.0.2 jinja2==3.1.4 configobj==5.0.8 requests==2.32.3 jsonpatch==1.33 \
        jsonschema==4.23.0 oauthlib==3.2.2 "$@"
    enter
}

python() { PYTHONPATH=$ROOT/usr/lib/python3/dist-packages "$PYTHON" "$@"; } # which finds cloud-init

version_of_cloud_init() { # version_of_cloud_init [TEXT RECORDED]: its own, and this behind it
    version "cloud-init $(python -c 'from cloudinit import version; print(version.version_string())')${1:-}" \
        "cloud-init 22.4.2${2:-}"
}

net_convert() { # net_convert OPTION...: writes a guest's files below ./out, as ./config.yaml says
    python -m cloudinit.cmd.main devel net-convert -p config.yaml -k yaml -d out "$@"
}
