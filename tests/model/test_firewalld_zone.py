"""The zone `hvtx` of firewalld: whose an interface in it is, and what its file is without one."""

from __future__ import annotations

from hvtx.model.firewalld_zone import (
    Zone,
    described_as,
    is_bare,
    is_others,
    marks_in,
    passing,
    staying,
    stays,
    text_without,
    with_interface,
    without,
    zone_in,
    zone_settings,
    zone_text,
)

ONE, TWO = (f"hvtx:1:abcdefghij:{n}.aaaaaaaaaaaaaaaa" for n in (1, 2))
# as firewalld 1.3.3 writes it
FILE = """<?xml version="1.0" encoding="utf-8"?>
<zone target="ACCEPT">
  <short>hvtx</short>
  <description>{description}</description>
  <service name="dhcp"/>
  <service name="dhcpv6"/>
  <service name="dns"/>
  <protocol value="icmp"/>
  <protocol value="ipv6-icmp"/>
  <rule priority="32767">
    <reject/>
  </rule>
  <interface name="hv0"/>
  <interface name="hv1"/>
  <forward/>
</zone>
"""
BOTH = with_interface(with_interface(None, "hv0", ONE), "hv1", TWO)


def test_interfaces_come_and_go_with_their_marks() -> None:
    assert BOTH.interfaces == ("hv0", "hv1")
    assert marks_in(BOTH.description) == {"hv0": ONE, "hv1": TWO}
    assert without(BOTH, TWO) == with_interface(None, "hv0", ONE)
    assert without(BOTH, "hvtx:1:abcdefghij:3.c") == BOTH


def test_an_interface_that_lost_its_mark_goes_by_name() -> None:
    bare = Zone(BOTH.interfaces, without(BOTH, TWO).description)
    assert without(bare, TWO) == bare
    assert without(bare, TWO, "hv1") == without(BOTH, TWO)
    assert without(BOTH, TWO, "hv0") == without(BOTH, TWO)  # that one carries another's mark
    left = text_without(FILE.format(description=bare.description), TWO, "hv1")
    assert left is not None
    assert zone_in(left) == without(BOTH, TWO)


def test_the_words_of_an_administrator_stay() -> None:
    theirs = Zone(("eth7",), "Ours, a=b, hvtx: too")
    assert marks_in(theirs.description) == {}
    both = with_interface(theirs, "hv0", ONE)
    assert both.description.startswith(theirs.description)
    assert without(both, ONE) == theirs


def test_whose_a_zone_is_stands_in_its_description() -> None:
    assert is_others(Zone(("eth7",), "Ours"))
    for own in (Zone((), ""), BOTH, without(without(BOTH, ONE), TWO)):
        assert not is_others(own)
    assert not is_others(with_interface(Zone((), "Ours"), "hv0", ONE))


def test_its_settings_refuse_what_else_comes_in() -> None:
    made = zone_settings(BOTH)
    assert (made["target"], made["rules_str"]) == ("ACCEPT", ['rule priority="32767" reject'])
    assert made["interfaces"] == ["hv0", "hv1"]


def test_a_file_without_one_of_two() -> None:
    text = FILE.format(description=BOTH.description)
    assert zone_in(text) == BOTH
    left = text_without(text, TWO)
    assert left is not None
    assert zone_in(left) == without(BOTH, TWO)
    assert left.count("\n") == text.count("\n") - 1
    assert text_without(left, ONE) is None


def test_a_file_with_something_of_others_stays() -> None:
    text = FILE.format(description=without(BOTH, TWO).description)
    left = text_without(text.replace("<forward/>", '<port port="7000" protocol="tcp"/>'), ONE)
    assert left is not None  # hv1 is somebody's
    more = text.replace('  <interface name="hv1"/>\n', "")
    assert text_without(more, ONE) is None
    left = text_without(
        more.replace("<forward/>", '<forward/><port port="7" protocol="tcp"/>'), ONE
    )
    assert left is not None
    assert 'port="7"' in left
    assert zone_in(left) == Zone((), "Bridges of VM networks, kept by hvtx.")


def test_a_zone_that_is_installed_stays_without_networks() -> None:
    """Its file as it is written is what is left of it when the last bridge goes."""
    bare = zone_text(staying(None))
    assert stays(zone_in(bare))
    assert not is_others(zone_in(bare))
    assert is_bare(bare, zone_in(bare))
    both = with_interface(staying(BOTH), "hv2", TWO)
    assert stays(both)
    assert marks_in(both.description) == {**marks_in(BOTH.description), "hv2": TWO}
    one = with_interface(zone_in(bare), "hv0", ONE)
    text = FILE.format(description=one.description).replace('  <interface name="hv1"/>\n', "")
    assert text_without(text, ONE) == bare
    assert not is_bare(text, one)
    assert passing(staying(BOTH)) == BOTH
    assert described_as(text, passing(one)) == text.replace(
        one.description, passing(one).description
    )


def test_the_file_of_a_package_is_what_hvtx_makes_of_a_zone() -> None:
    """And says whose it is; a zone that goes with its last network is left as none."""
    text = zone_text(by="Of somebody.")
    assert "<!-- Of somebody. -->\n<zone " in text
    assert not stays(zone_in(text))
    one = with_interface(zone_in(text), "hv0", ONE)
    assert one == with_interface(None, "hv0", ONE)
    assert text_without(described_as(text, one), ONE) is None
