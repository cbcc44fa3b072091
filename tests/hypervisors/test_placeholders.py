"""`{word}` in --append and in a command: which are replaced, which refused, which left alone."""

from __future__ import annotations

import pytest

from hvtx.engine.define import parse_wish
from hvtx.errors import UsageError
from hvtx.hypervisors.base import PLACEHOLDERS, Port, literal, placeholders, replace, variables
from hvtx.model.vm import Vm

VM = Vm("", "web", "command", 256, 1, None, None, None, (), ("true",), "/", False, ())  # noqa: FBT003
PORT = Port("hvtap", "02:00:00:00:00:01", "10.77.0.2", None, 24, "10.77.0.1", None, "255.255.255.0")


@pytest.mark.parametrize("interfaces", [1, 2, 3])
def test_the_list_is_what_is_replaced(interfaces: int) -> None:
    """Neither more nor less, for any number of interfaces."""
    assert set(placeholders(interfaces)) == set(variables(VM, [PORT] * interfaces))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("root=/dev/vda ip={ip}", "root=/dev/vda ip={ip}"),
        ("echo ${HOME} ${word} ${10}", "echo ${HOME} ${word} ${10}"),  # the shell's
        ("grep -E '[0-9]{3}' {a,b} {} { x }", "grep -E '[0-9]{3}' {a,b} {} { x }"),
        ('{"net": {"address": "{ip}"}}', '{"net": {"address": "{ip}"}}'),
        ('{"net":{ip}}', '{"net":{ip}}'),
        ("awk '{{print}}'", "awk '{print}'"),  # written so, meant so
        ("{{ip}}", "{{ip}}"),  # as ever: braces around the value
    ],
)
def test_what_is_kept(text: str, kept: str) -> None:
    """Doubled braces stand for single ones; what can be no placeholder is nobody's business."""
    assert literal(text, placeholders(1)) == (kept, None)


@pytest.mark.parametrize(
    ("word", "likely"),
    [
        ("ipv4", "{ip}"), ("ipv6", "{ip6}"), ("ip4", "{ip}"), ("gatway", "{gateway}"),
        ("name", "{vm}"), ("tap_2", "{tap}"), ("device", "{tap}"), ("foo", None),
    ],
)  # fmt: skip
def test_an_unknown_word_is_refused_with_the_likely_one(word: str, likely: str | None) -> None:
    """In --append and in a command alike; the hint lists all, and says how to write a literal."""
    for wish in (
        {"kernel": "/k", "append": f"x={{{word}}}"},
        {"command": ["echo", f"{{{word}}}"]},
    ):
        with pytest.raises(UsageError, match=f"{{{word}}}, which stands for nothing") as refusal:
            parse_wish("web", **wish)
        hint = refusal.value.hint or ""
        assert all(f"{{{known}}}" in hint for known in PLACEHOLDERS)
        assert f"{{{{{word}}}}} is a literal" in hint
        assert hint.startswith(f"did you mean {likely}? ") if likely else "did you" not in hint


def test_a_second_interface_has_words_of_its_own() -> None:
    """As many as there are networks."""
    wish = parse_wish("web", networks=["a", "b"], command=["echo", "{tap_2}", "{ip6_2}"])
    assert wish.command == ("echo", "{tap_2}", "{ip6_2}")
    with pytest.raises(UsageError, match="tap_3"):
        parse_wish("web", networks=["a", "b"], command=["echo", "{tap_3}"])


def test_what_older_records_have_is_rendered_as_ever() -> None:
    """An unknown word in a record stays as it is."""
    assert replace("{foo} {ip}", variables(VM, [PORT])) == "{foo} 10.77.0.2"
