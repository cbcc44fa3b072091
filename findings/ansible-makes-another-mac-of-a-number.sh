#!/bin/bash
# A MAC address that YAML took for a number passes Ansible's hwaddr, as the address that has the number's decimal digits.
. "$(dirname "$0")/lib/question.sh"
if outside; then
    prepare
    deb ansible=7.7.0+dfsg-3+deb12u1
    pip ansible-core==2.14.18 netaddr==0.8.0 pyyaml==6.0.2
    enter
fi
export LC_ALL=C.UTF-8 ANSIBLE_COLLECTIONS_PATH=$ROOT/usr/lib/python3/dist-packages \
    ANSIBLE_LOCAL_TEMP=/run/ansible ANSIBLE_HOME=/run/ansible
cat >vm.yaml <<'Y'
bare: 52:54:00:12:34:56
quoted: "52:54:00:12:34:56"
Y
said() { # said EXPRESSION: what a task makes of it
    "$FOLDER/venv/bin/ansible" localhost -e @vm.yaml -m ansible.builtin.debug -a "msg={{ $1 }}" 2>/dev/null |
        sed -n 's/^ *"msg": //p;s/.*FAILED.*/failed/p'
}

version "$("$FOLDER/venv/bin/ansible" --version | head -1), ansible.utils $(sed -n 's/^ *"version": "\(.*\)",/\1/p' \
    "$ROOT/usr/lib/python3/dist-packages/ansible_collections/ansible/utils/MANIFEST.json")" \
    "ansible [core 2.14.18], ansible.utils 2.10.3"
question "A playbook has a VM's MAC address without quotes, 52:54:00:12:34:56, and hands it to the filter that checks and
          writes such addresses, ansible.utils.hwaddr('linux'). What is handed on?"
expected "The same address; or an error, since YAML 1.1 takes it for a number (base 60)."

seen "quoted" "$(said "quoted | ansible.utils.hwaddr('linux')")" '"52:54:00:12:34:56"'
seen "bare" "$(said "bare")" 41135085296
seen "bare | hwaddr('linux')" "$(said "bare | ansible.utils.hwaddr('linux')")" '"04:11:35:08:52:96"'
seen "bare | hwaddr('bool')" "$(said "bare | ansible.utils.hwaddr('bool')")" true
finish
