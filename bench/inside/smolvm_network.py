"""`python smolvm_network.py start|stop FIRST LAST`: the networks of VMs, by smolvm's own functions.

Run by a Python that has smolvm; the calls and their order are those of its own start and delete.
"""

import logging
import sys

from smolvm.host.network import NetworkManager


def main() -> None:
    """Do it for each number of FIRST up to LAST, without the latter."""
    logging.disable(logging.CRITICAL)
    verb, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    manager = NetworkManager()
    for number in range(first, last):
        vm, tap = f"vm{number}", f"tap{number}"
        address, port = f"172.16.{1 + number // 250}.{2 + number % 250}", 10000 + number
        if verb == "start":
            manager.prepare_tap_device(tap, user="root", host_ip="172.16.0.1", netmask="32")
            manager.add_route(address, tap)
            manager.setup_nat(tap)
            manager.setup_ssh_port_forward(vm, address, port)
        else:
            manager.cleanup_ssh_port_forward(vm, address, port)
            manager.cleanup_all_local_port_forwards(vm)
            manager.remove_egress_rules(tap)
            manager.cleanup_nat_rules(tap)
            manager.cleanup_tap(tap)
            manager.remove_network_policy(tap)


if __name__ == "__main__":
    main()
