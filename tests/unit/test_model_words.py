"""Reasons in words, and places with the same reasons together."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from suanli.model import Reason, ReasonCode
from suanli.model.words import blocked_places, grouped, plain_number, printable, reason_words, wrapped

ROOT = Path(__file__).resolve().parents[2]


def a_reason(code: ReasonCode, site: str = "", nodes: int = 0, **more: object) -> Reason:
    return Reason.model_validate({"code": code, "site_id": site, "node_count": nodes, **more})


@pytest.mark.parametrize("code", list(ReasonCode))
def test_every_reason_has_words_with_and_without_numbers(code: ReasonCode):
    assert reason_words(a_reason(code, detail="so")).endswith("so")
    both = reason_words(a_reason(code, limit=3, actual=17, unit="GPUs"))
    assert code is ReasonCode.NOT_BEFORE or ("3" in both and "17" in both)


def test_a_shortage_says_what_is_needed_and_what_is_free():
    short = a_reason(ReasonCode.CPU_SHORT, limit=64, actual=128, unit="cores")
    assert reason_words(short) == "needs 128 cores, at most 64 free"
    one = a_reason(ReasonCode.GPU_SHORT, limit=0, actual=1, unit="GPUs")
    assert reason_words(one) == "needs 1 GPU, at most 0 free"
    round_trip = a_reason(ReasonCode.RTT_EXCEEDED, limit=10, actual=13.62, unit="ms", detail="from z1 by pon")
    assert reason_words(round_trip) == "round trip p99 13.6 ms, limit 10 (from z1 by pon)"


def test_sites_with_the_same_reasons_stand_together_and_their_nodes_add_up():
    absent = [
        a_reason(ReasonCode.GPU_MODEL_ABSENT, site, nodes, detail="h800")
        for site, nodes in (("e01", 5), ("e02", 4))
    ]
    short = [a_reason(ReasonCode.CPU_SHORT, "core", 1, limit=1, actual=2, unit="cores"),
             a_reason(ReasonCode.RESERVED_FOR_GANG, "core", 2)]  # fmt: skip
    whole = a_reason(ReasonCode.WAITS_FOR_PRICE, detail="a cheaper hour")
    places = blocked_places([whole, absent[0], *short, absent[1]])
    assert [(p.site_ids, str(p)) for p in places] == [
        ((), "put off: a cheaper hour"),
        (("e01", "e02"), "no GPU of the models allowed: h800 (9 nodes)"),
        (
            ("core",),
            "needs 2 cores, at most 1 free (1 node); kept for a gang that waits for whole nodes (2 nodes)",
        ),
    ]


def test_nothing_is_lost_when_only_the_stage_differs():
    reasons = [
        a_reason(ReasonCode.SITE_DOWN, "e01", stage_id="sync"),
        a_reason(ReasonCode.SITE_DOWN, "e01", stage_id="render"),
        a_reason(ReasonCode.SITE_DOWN, "e02", stage_id="render"),
    ]
    assert [(p.site_ids, str(p)) for p in blocked_places(reasons)] == [
        (("e01",), "sync: the site is down; render: the site is down"),
        (("e02",), "the site is down"),
    ]


def test_a_printable_text_cannot_steer_a_terminal():
    assert printable("Film \x1b[2J park\n影都\x7f") == "Film \\x1b[2J park\\x0a影都\\x7f"
    assert printable("影都 ✓ ¥") == "影都 ✓ ¥"


def test_thousands_have_one_form():
    assert (grouped(1_204), grouped(1_234_567.891, ".2f"), grouped(999)) == ("1 204", "1 234 567.89", "999")
    assert (plain_number(1_962), plain_number(12_345.67)) == ("1 962", "12 345.7")
    assert wrapped("draws 1 204.50 kW here", 10).splitlines() == ["draws", "1 204.50 kW", "here"]


def grouping_by_hand(tree: ast.AST) -> Iterator[int]:
    """Lines whose f-string asks for commas between thousands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FormattedValue) and isinstance(node.format_spec, ast.JoinedStr):
            spec = "".join(str(p.value) for p in node.format_spec.values if isinstance(p, ast.Constant))
            if "," in spec:
                yield node.lineno


def test_nothing_groups_thousands_but_the_one_helper():
    wings = ("suanli", "scheduler", "solvers", "cluster_sim", "benchmarks", "tools")
    found = {
        path.relative_to(ROOT).as_posix()
        for wing in wings
        for path in (ROOT / wing).rglob("*.py")
        if any(grouping_by_hand(ast.parse(path.read_text())))
    }
    assert found == {"suanli/model/words.py"}
