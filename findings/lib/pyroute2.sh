# shellcheck shell=bash
# Sourced after question.sh by what is asked of pyroute2.

pip_pyroute2() { # pip_pyroute2 [PACKAGE==VERSION...]: it and these, see pip
    pip pyroute2==0.9.7 "$@"
}

enter_with_pyroute2() { # enter_with_pyroute2 [PACKAGE==VERSION...]: with it, these of Python, and ip
    prepare
    deb iproute2=6.1.0-3
    libraries /bin/ip
    pip_pyroute2 "$@"
    enter
}

version_of_pyroute2() {
    version "pyroute2 $("$PYTHON" -c 'from importlib.metadata import version as v; print(v("pyroute2"))')" \
        "pyroute2 0.9.7"
}
