"""The plan on a screen: what would be changed first, then what stays, then the counts."""

from __future__ import annotations

import pytest

from hvtx.cli.plan_text import show_plan
from hvtx.model.plan import Action, Item, Plan
from hvtx.model.reason import Reason

MARK = "hvtx:1:aaaaaaaaaa:1.kkkkkkkkkkkkkkkk"


def item(
    action: Action, reason: Reason, kind: str, key: str, vm: str | None = None, **more: object
) -> Item:
    values = {
        "row": 1,
        "state": "committed",
        "evidence": (f"alias {key}",),
        "message": reason.value,
        **more,
    }
    return Item(action, reason, kind, key, vm, **values)  # type: ignore[arg-type]


def dead(vm: str) -> list[Item]:
    proof = f"pid 7 of {vm} is gone"
    return [
        item(
            Action.DELETE,
            Reason.VM_DEAD,
            "masquerade",
            f"{vm}-four",
            vm,
            evidence=("comment m", proof),
        ),
        item(
            Action.DELETE,
            Reason.VM_DEAD,
            "masquerade",
            f"{vm}-six",
            vm,
            evidence=("comment n", proof),
        ),
        item(Action.DELETE, Reason.VM_DEAD, "tap", f"{vm}-tap", vm, evidence=("alias t", proof)),
        item(Action.SKIP, Reason.RESERVED, "lease", f"{vm}-lease", vm),
    ]


def alive(vm: str) -> list[Item]:
    proof = f"pid 8 of {vm} runs"
    return [
        item(Action.SKIP, Reason.VM_ALIVE, kind, f"{vm}-{kind}", vm, evidence=(f"m {kind}", proof))
        for kind in ("filter", "tap")
    ]


def foreign_object(kind: str, key: str, message: str = "not ours") -> Item:
    return item(Action.SKIP, Reason.FOREIGN, kind, key, row=0, state=None, message=message)


def shown(capsys: pytest.CaptureFixture[str], items: list[Item], **how: bool) -> list[str]:
    capsys.readouterr()
    show_plan(Plan(tuple(items)), **how)
    return capsys.readouterr().out.splitlines()


def test_what_would_be_changed_stands_first_and_counts_last(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Dead VMs, then what somebody should look at, then who runs, then others."""
    unknown = item(Action.SKIP, Reason.LIVENESS_UNKNOWN, "tap", "x", "ape")
    lines = shown(capsys, [*alive("ant"), unknown, foreign_object("tap", "tap0"), *dead("zoo")])
    heads = [line for line in lines if line and not line.startswith(" ")]
    assert heads[:4] == ["VM zoo", "VM ape", "left alone", "foreign resources (never modified)"]
    assert heads[4] == "3 to delete, 0 to commit, 0 to forget; 5 left alone"
    assert "nothing was changed" in heads[5]
    assert "hvtx gc --apply" in heads[5]


def test_evidence_on_request(capsys: pytest.CaptureFixture[str]) -> None:
    """The proof of death always; what each item rests on, and each item of who runs, when asked."""
    items = [*dead("zoo"), *alive("ant"), foreign_object("tap", "tap0")]
    short, long = shown(capsys, items), shown(capsys, items, evidence=True)
    assert any("pid 7 of zoo is gone" in line for line in short)
    assert "      masquerade zoo-four, zoo-six" in short
    assert not [line for line in short if "comment m" in line or "alias t" in line]
    assert "    VM ant: 2 items, vm-alive  (vm-alive)  pid 8 of ant runs" in short
    assert [line for line in long if "zoo-four" in line and "comment m" in line]
    assert [line for line in long if "ant-filter" in line and "m filter" in line]
    assert [line for line in long if "tap tap0" in line and "alias tap0" in line]
    assert "--evidence" in short[-1]
    assert "--evidence" not in long[-1]


def test_a_thousand_vms_that_run_take_few_lines(capsys: pytest.CaptureFixture[str]) -> None:
    items = [i for n in range(1000) for i in alive(f"vm{n:04}")]
    lines = shown(capsys, [*items, *dead("zoo")])
    assert len(lines) < 45
    assert any("and 980 more VMs with 1960 items" in line for line in lines)
    assert len(shown(capsys, items, evidence=True)) > 2000


def test_strangers_are_summed_up(capsys: pytest.CaptureFixture[str]) -> None:
    taps = [foreign_object("tap", f"tap{n}") for n in range(9)]
    rules = [foreign_object("rule", f"nft ip x y: rule {n}") for n in range(4)]
    near = foreign_object("rule", "nft ip x y: ours", "not ours; it mentions network lan")
    other = item(
        Action.SKIP, Reason.OTHER_INSTALLATION, "tap", "hvother", row=0, state=None, mark=MARK
    )
    text = "\n".join(shown(capsys, [*taps, *rules, near, other]))
    assert "9 taps: tap0, tap1, tap2, tap3, tap4, tap5 and 3 more" in text
    assert (
        "5 NAT rules, 1 about a network of ours\n      nft ip x y: ours\n      and 4 more" in text
    )
    assert "other installations of hvtx (never modified)\n    1 tap: hvother" in text


def test_what_was_done_shows_outcomes_only(capsys: pytest.CaptureFixture[str]) -> None:
    done = [i._replace(outcome="done") if i.action is Action.DELETE else i for i in dead("zoo")]
    lines = shown(capsys, [*done, *alive("ant")], done=True)
    assert "      tap zoo-tap  [done]" in lines
    assert not [line for line in lines if "ant" in line or "lease" in line]
    assert lines[-1] == "3 done, 0 failed, 0 skipped; 3 left alone"


def test_nothing_that_a_terminal_would_obey(capsys: pytest.CaptureFixture[str]) -> None:
    """Names of others come without escapes, line breaks and turned text."""
    evil = "tap\x1b[2J\u202e\n\x07"
    for how in ({}, {"evidence": True}):
        out = "\n".join(
            shown(
                capsys,
                [foreign_object("tap", evil), foreign_object("rule", evil), *dead(evil)],
                **how,
            )
        )
        assert not set(out) & set("\x1b\u202e\x07")
        assert "tap?[2J???" in out
