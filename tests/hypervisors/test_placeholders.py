"""`{word}` in --append and in a command: which are replaced, which refused, which left alone."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from hvtx.engine.vm_options import parse_request
from hvtx.errors import UsageError
from hvtx.hypervisors.base import PLACEHOLDERS, Nic, placeholders, replace, variables
from hvtx.model.vm import Vm

VM = Vm("", "web", "command", 256, 1, None, None, None, (), ("true",), "/", False, ())
PORT = Nic("hvtap", "02:00:00:00:00:01", "10.77.0.2", None, 24, "10.77.0.1", None, "255.255.255.0")


@pytest.mark.parametrize("interfaces", [1, 2, 3])
def test_the_list_is_what_is_replaced(interfaces: int) -> None:
    """Neither more nor less, for any number of interfaces."""
    assert set(placeholders(interfaces)) == set(variables(VM, [PORT] * interfaces))


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("root=/dev/vda ip={ip}", "root=/dev/vda ip={ip}"),
        ("${HOME} ${word} ${10} ${IP}", "${HOME} ${word} ${10} ${IP}"),  # the shell's
        ("a[0-9]{3} {a,b} {} { x }", "a[0-9]{3} {a,b} {} { x }"),
        ('{"net": {"address": "{ip}"}}', '{"net": {"address": "{ip}"}}'),
        ('{"net":{ip}}', '{"net":{ip}}'),
        ("x={{word}}", "x={word}"),  # written so, meant so
        ("{{ip}}", "{{ip}}"),  # as ever: braces around the value
    ],
)
def test_what_is_kept_of_a_kernels_command_line(text: str, kept: str) -> None:
    """Doubled braces stand for single ones; what can be no placeholder is nobody's business."""
    assert parse_request("web", kernel="/k", append=text).append == kept


@pytest.mark.parametrize(
    "text",
    [
        "awk '{print}' <<< {nothing} {} {{vm}} ${HOME} {a,b}",
        "python3 -c 'print(f\"{report}/{name}.{pid} {max} {i} {data}\")'",
        '{"boot": {"net":{ip}}}',
        "{{item}}",
        "{{ ip }} { ip } {IPS} {Report} {ip.dst} {print $1} find -exec {} {{.Name}}",
    ],
)
def test_braces_of_a_program_are_its_own(text: str) -> None:
    """A command may be any script; what is nothing like a placeholder passes as it is."""
    assert parse_request("web", command=["sh", "-c", text]).command == ("sh", "-c", text)


# In capitals, with hyphens, and by the name of its variable.
SPELT = [("IP", "{ip}"), ("MAC", "{mac}"), ("Tap", "{tap}"), ("tap-2", "{tap}"),
         ("HVTX_TAP", "{tap}"), ("IPv4", "{ip}"), ("GATEWAY6", "{gateway6}")]  # fmt: skip
SPELT_IN_APPEND = [(" ip ", "{ip}"), ("ip ", "{ip}"), (" IPV4", "{ip}"), ("ip-address", None),
                   ("Foo", None), ("a.b", None)]  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "word", "likely"),
    [
        *[({"kernel": "/k", "append": f"x={{{word}}}"}, word, like)
          for word, like in SPELT + SPELT_IN_APPEND],
        *[({"command": ["echo", f"x={{{word}}}"]}, word, like) for word, like in SPELT],
    ],
)  # fmt: skip
def test_a_placeholder_in_another_spelling_is_refused(
    wish: dict[str, Any], word: str, likely: str | None
) -> None:
    """It would reach the guest as it stands."""
    with pytest.raises(UsageError, match=f"{{{word}}}, which is not a placeholder") as refusal:
        parse_request("web", **wish)
    assert likely is None or (refusal.value.hint or "").startswith(f"did you mean {likely}? ")
    doubled = {
        key: value if key == "kernel" else [value[0], f"{{{{{word}}}}}"]
        if key == "command" else f"{{{{{word}}}}}"
        for key, value in wish.items()
    }  # fmt: skip
    made = parse_request("web", **doubled)
    assert f"{{{word}}}" in (made.append, *made.command)


def test_what_is_nearly_a_placeholder_can_be_written_literally() -> None:
    """By doubling its braces."""
    assert parse_request("web", command=["echo", "{{ipv4}}"]).command == ("echo", "{ipv4}")


ANYWHERE = [("ipv4", "{ip}"), ("ipv6", "{ip6}"), ("ip4", "{ip}"), ("gatway", "{gateway}"),
            ("netmaks", "{netmask}"), ("tap_2", "{tap}"), ("gateway4", "{gateway}")]  # fmt: skip
IN_APPEND = [("name", "{vm}"), ("device", "{tap}"), ("foo", None)]


@pytest.mark.parametrize(
    ("wish", "word", "likely"),
    [
        *[({"kernel": "/k", "append": f"x={{{word}}}"}, word, like)
          for word, like in ANYWHERE + IN_APPEND],
        *[({"command": ["echo", f"x={{{word}}}"]}, word, like) for word, like in ANYWHERE],
    ],
)  # fmt: skip
def test_an_unknown_word_is_refused_with_the_likely_one(
    wish: dict[str, Any], word: str, likely: str | None
) -> None:
    """The hint lists all, and says how to write a literal."""
    with pytest.raises(UsageError, match=f"{{{word}}}, which is not a placeholder") as refusal:
        parse_request("web", **wish)
    hint = refusal.value.hint or ""
    assert all(f"{{{known}}}" in hint for known in PLACEHOLDERS)
    assert f"{{{{{word}}}}} is a literal" in hint
    assert hint.startswith(f"did you mean {likely}? ") if likely else "did you" not in hint


def test_a_second_interface_has_words_of_its_own() -> None:
    """As many as there are networks."""
    wish = parse_request("web", networks=["a", "b"], command=["echo", "{tap_2}", "{ip6_2}"])
    assert wish.command == ("echo", "{tap_2}", "{ip6_2}")
    with pytest.raises(UsageError, match="tap_3"):
        parse_request("web", networks=["a", "b"], command=["echo", "{tap_3}"])


def test_what_older_records_have_is_rendered_as_ever() -> None:
    """An unknown word in a record stays as it is."""
    assert replace("{foo} {ip}", variables(VM, [PORT])) == "{foo} 10.77.0.2"


@pytest.mark.parametrize("word", placeholders(2))
def test_what_stands_behind_a_dollar_is_the_shells(word: str) -> None:
    """Of the words that are replaced, too: a script's own variable may be called so."""
    words = variables(VM, [PORT, PORT])
    script = f"{word}=abc; echo ${{{word}}} ${word} $${{{word}}}"
    assert replace(script, words) == script
    assert replace(f"$ {{{word}}}${{{word}}}", words) == f"$ {words[word]}${{{word}}}"


@pytest.mark.parametrize("words", [("vm", "create"), ("vm", "set")])
def test_help_lists_what_is_replaced(words: tuple[str, ...]) -> None:
    """Help is what the man pages and the reference are made of."""
    done = subprocess.run(
        [sys.executable, "-m", "hvtx", *words, "--help"], capture_output=True, text=True, check=True
    )
    if words == ("vm", "set"):
        assert "hvtx vm create --help" in done.stdout
        return
    for word, meaning in PLACEHOLDERS.items():
        assert f"{{{word}}}" in done.stdout
        assert meaning in " ".join(done.stdout.split())
        assert f"HVTX_{word.upper()}" in done.stdout
