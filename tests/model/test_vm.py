"""Published ports: which of them want the same packets."""

from __future__ import annotations

from itertools import product

from hvtx.model.vm import Publish

ONE = Publish("tcp", None, 8080, 80)


def test_ports_collide_by_protocol_number_and_address_and_not_by_guest() -> None:
    assert ONE.collides(ONE._replace(guest_port=81))
    assert not ONE.collides(ONE._replace(protocol="udp"))
    assert not ONE.collides(ONE._replace(host_port=8081))


def test_a_port_of_all_addresses_collides_with_one_of_any() -> None:
    addresses = (None, "192.0.2.1", "192.0.2.2", "2001:db8::1")
    for one, other in product(addresses, repeat=2):
        first, second = ONE._replace(host_ip=one), ONE._replace(host_ip=other)
        assert first.collides(second) is (one is None or other is None or one == other)
        assert first.collides(second) is second.collides(first)
