"""Reasons and figures in words, for every place that shows them: command line, end of a day, report.

grouped         a figure with thin groups: `1 204`
wrapped         lines of a width that tear no figure apart
reason_words    one no: `needs 128 cores, at most 64 free`
blocked_places  all reasons, places with the same ones together
printable       a text that cannot steer a terminal
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from rich.cells import cell_len

from suanli.model.reason import Reason, ReasonCode

Number = Callable[[float], str]
GROUP = " "
"""A plain space between groups of three digits, as a terminal can search and copy it; `wrapped` never breaks there."""


def grouped(value: float, spec: str = ".0f") -> str:
    """`1 204`, `1 204.50` for `.2f`: the one form of thousands, whatever prints them."""
    return f"{value:,{spec}}".replace(",", GROUP)


_BREAK = re.compile(
    r" (?!(?<=\d for )energy\b)(?!(?<=\d )(?:\d{3}\b|%|kWh\b|kW\b|ms\b|min\b|h\b|s\b|for energy\b))"
)
"""Where a line may end: at spaces that do not stand inside a figure or between a figure and its unit or use."""


def wrapped(text: str, width: int) -> str:
    """The text in lines of at most `width` terminal cells, figures and their units kept together."""
    lines: list[str] = []
    for word in _BREAK.split(text):
        if lines and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(word)
    return "\n".join(lines)


def plain_number(value: float) -> str:
    """Digits that say something: whole numbers whole, others with one decimal, small ones with three digits."""
    if float(value).is_integer():
        return grouped(value)
    return grouped(value, ".1f") if abs(value) >= 1 else f"{value:.3g}"


_PLAIN = {
    ReasonCode.SITE_CORDONED: "closed to new work",
    ReasonCode.SITE_DOWN: "the site is down",
    ReasonCode.SITE_NOT_NAMED: "not among the sites named",
    ReasonCode.LABEL_MISSING: "lacks the labels",
    ReasonCode.RTT_UNKNOWN: "round trip unknown",
    ReasonCode.PATH_BUDGET_EXCEEDED: "beyond a path's budget",
    ReasonCode.GPU_MODEL_ABSENT: "no GPU of the models allowed",
    ReasonCode.GPU_FRAGMENTED: "GPUs free only in pieces",
    ReasonCode.NODE_TOO_SMALL: "every node is too small",
    ReasonCode.NOT_BEFORE: "may not start yet",
    ReasonCode.WAITS_FOR_PRICE: "put off",
    ReasonCode.RESERVED_FOR_GANG: "kept for a gang that waits for whole nodes",
    ReasonCode.SPREAD_UNMET: "too few nodes or sites to spread over",
    ReasonCode.COLOCATION_UNMET: "its stages cannot lie together",
}
_NEEDS = (
    ReasonCode.CPU_SHORT,
    ReasonCode.MEMORY_SHORT,
    ReasonCode.GPU_SHORT,
    ReasonCode.STORAGE_SHORT,
    ReasonCode.GPU_FRAGMENTED,
)
"""`limit` is the most that is free on a node, `actual` what a replica asks for."""
_BOTH = dict.fromkeys(_NEEDS, "needs {actual} {unit}, at most {limit} free") | {
    ReasonCode.NODE_TOO_SMALL: "needs {actual} {unit}, the largest node has {limit}",
    ReasonCode.GPU_MEMORY_TOO_SMALL: "needs {limit} {unit} of GPU memory, the largest GPU has {actual}",
    ReasonCode.RTT_EXCEEDED: "round trip p99 {actual} {unit}, limit {limit}",
    ReasonCode.PATH_BUDGET_EXCEEDED: "path takes {actual} {unit}, budget {limit}",
    ReasonCode.POWER_LIMIT: "would draw {actual} {unit}, limit {limit}",
    ReasonCode.GANG_NOT_WHOLE: "room for {actual} of the gang's {limit} {unit}",
}
"""What is said where both figures are known."""


def reason_words(reason: Reason, number: Number = plain_number) -> str:
    """One reason without its place: what is asked, what is there, and the detail; never how many nodes."""
    text = _with_numbers(reason, number) if reason.actual is not None and reason.limit is not None else ""
    if text:
        return f"{text} ({reason.detail})" if reason.detail else text
    text = _PLAIN.get(reason.code) or str(reason.code).replace("_", " ")
    only = reason.limit if reason.limit is not None else reason.actual
    if only is not None and reason.code is not ReasonCode.NOT_BEFORE:
        text += f", {'limit ' if reason.limit is not None else ''}{number(only)} {reason.unit}".rstrip()
    return f"{text}: {reason.detail}" if reason.detail else text


def _with_numbers(reason: Reason, number: Number) -> str:
    assert reason.limit is not None and reason.actual is not None
    unit = reason.unit
    if reason.code in _NEEDS and reason.actual == 1:
        unit = unit.removesuffix("s")
    template = _BOTH.get(reason.code)
    if template is None:
        template = (
            f"{str(reason.code).replace('_', ' ')}: {{actual}}{' {unit}' if unit else ''}, limit {{limit}}"
        )
    return template.format(actual=number(reason.actual), limit=number(reason.limit), unit=unit)


def printable(text: str) -> str:
    """The text with `\\x1b` in place of a control character: names are other people's, and terminals obey them."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def nodes_words(count: int, number: Number = plain_number) -> str:
    """` (3 nodes)`; empty for none."""
    return f" ({number(count)} {'node' if count == 1 else 'nodes'})" if count else ""


@dataclass(frozen=True)
class BlockedPlace:
    """Sites that the same reasons rule out; no site: the workload as a whole."""

    site_ids: tuple[str, ...]
    words: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join(self.words)


def blocked_places(reasons: Iterable[Reason], number: Number = plain_number) -> list[BlockedPlace]:
    """Every reason, in the order given; sites whose reasons differ in nothing but counts of nodes stand together."""
    at_site: dict[str, list[Reason]] = {}
    for reason in reasons:
        at_site.setdefault(reason.site_id, []).append(reason)
    alike: dict[tuple[str, ...], list[str]] = {}
    for site_id, there in at_site.items():
        stages = {r.stage_id for r in there}
        head = {s: f"{s}: " if len(stages) > 1 and s else "" for s in stages}
        key = tuple(head[r.stage_id] + reason_words(r, number) for r in there)
        alike.setdefault((*key, "" if site_id else "whole"), []).append(site_id)
    out = []
    for key, site_ids in alike.items():
        counts = [sum(at_site[s][i].node_count for s in site_ids) for i in range(len(at_site[site_ids[0]]))]
        words = tuple(text + nodes_words(n, number) for text, n in zip(key[:-1], counts, strict=True))
        out.append(BlockedPlace(tuple(s for s in site_ids if s), words))
    return out
