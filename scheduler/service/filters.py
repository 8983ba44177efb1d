"""The filter grammar of lists and watches: comparisons joined by AND.

    filter     := [comparison { "AND" comparison }]
    comparison := field ("=" | "!=" | ":") value
    field      := name | "labels." key
    value      := word | quoted string

`=` and `!=` compare whole values, states and other enums without regard to case. `:` asks a repeated field or a label
map whether it has the value; for single fields it means `=`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from suanli.model import (
    FieldProblem,
    InvalidRequest,
    PriorityClass,
    WorkloadKind,
    WorkloadRecord,
    WorkloadState,
)

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<quoted>"(?:[^"\\]|\\.)*")
      | (?P<op>!=|=|:)
      | (?P<word>[A-Za-z0-9_./*-]+)
    )""",
    re.VERBOSE,
)
MOST_CHARACTERS = 2_000
ENUM_FIELDS: dict[str, type[StrEnum]] = {
    "state": WorkloadState,
    "kind": WorkloadKind,
    "priority_class": PriorityClass,
}
WORKLOAD_FIELDS = (*ENUM_FIELDS, "workload_class", "placed_sites")
LABELS = "labels."


@dataclass(frozen=True)
class Comparison:
    """`field op value`; enum values in lower case."""

    field: str
    op: str
    value: str


@dataclass(frozen=True)
class Filter:
    """All comparisons must hold; none: everything matches."""

    comparisons: tuple[Comparison, ...] = ()

    def matches(self, record: WorkloadRecord) -> bool:
        """Whether the record passes; label comparisons need its body."""
        return all(_holds(c, record) for c in self.comparisons)

    def on(self, *fields: str) -> tuple[Comparison, ...]:
        """The comparisons on these fields."""
        return tuple(c for c in self.comparisons if c.field in fields)

    @property
    def needs_body(self) -> bool:
        """Whether a record without its workload cannot be judged."""
        return any(c.field.startswith(LABELS) for c in self.comparisons)


def parse_filter(text: str, fields: Sequence[str] = WORKLOAD_FIELDS, labels: bool = True) -> Filter:
    """The filter that `text` says.

    InvalidRequest with position and expectation when it says nothing sensible; every unknown field or value is named.
    """
    if len(text) > MOST_CHARACTERS:
        raise _wrong(f"{len(text)} characters", f"at most {MOST_CHARACTERS}")
    tokens = _tokens(text)
    comparisons: list[Comparison] = []
    problems: list[FieldProblem] = []
    at = 0
    while at < len(tokens):
        if at:
            if tokens[at] != ("word", "AND"):
                raise _wrong(f"{tokens[at][1]!r} after a comparison", "AND")
            at += 1
        part = tokens[at : at + 3]
        shape = [kind for kind, _ in part]
        if shape not in (["word", "op", "word"], ["word", "op", "quoted"]):
            raise _wrong("not a comparison: " + " ".join(t for _, t in part), "field = value")
        field, op, value = (text for _, text in part)
        try:
            comparisons.append(_comparison(field, op, value, fields, labels))
        except InvalidRequest as error:
            problems += error.problems
        at += 3
    if problems:
        raise InvalidRequest(problems)
    return Filter(tuple(comparisons))


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at, text = 0, text.rstrip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _wrong(f"{text[at:].strip()[:20]!r} at {at}", 'words, "quoted values", =, != and :')
        kind = found.lastgroup or ""
        tokens.append((kind, found.group(kind)))
        at = found.end()
    return tokens


def _comparison(field: str, op: str, value: str, fields: Sequence[str], labels: bool) -> Comparison:
    known = field in fields or (labels and field.startswith(LABELS) and field != LABELS)
    if not known:
        raise _wrong(f"no field {field!r}", ", ".join([*fields, *(["labels.KEY"] if labels else [])]))
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:-1])
    if field in ENUM_FIELDS:
        # PENDING, pending and WORKLOAD_STATE_PENDING name one state
        value = value.lower().removeprefix(f"workload_{field}_").removeprefix(f"{field}_")
        _check_choice(field, value)
    return Comparison(field, "=" if op == ":" and field != "placed_sites" else op, value)


def _check_choice(field: str, value: str) -> None:
    choices = [str(choice) for choice in ENUM_FIELDS[field]]
    if value not in choices:
        close = difflib.get_close_matches(value, choices, n=1)
        raise _wrong(f"no {field} {value!r}", f"one of {', '.join(choices)}", close[0] if close else "")


def _holds(c: Comparison, record: WorkloadRecord) -> bool:
    if c.field == "placed_sites":
        has = c.value.removeprefix("sites/") in record.site_ids
        return not has if c.op == "!=" else has
    return (_value(c.field, record) == c.value) == (c.op == "=")


def _value(field: str, record: WorkloadRecord) -> str:
    if field.startswith(LABELS):
        workload = record.workload
        return "" if workload is None else workload.labels.get(field.removeprefix(LABELS), "")
    return str(getattr(record, field))


def _wrong(problem: str, expected: str, nearest: str = "") -> InvalidRequest:
    return InvalidRequest(
        [FieldProblem(field="filter", problem=problem, expected=expected, nearest=nearest, code="bad_filter")]
    )
