"""Reasons, candidates, relaxations, explanations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from suanli.model import Candidate, Explanation, FieldProblem, Reason, Relaxation, StartEstimate
from suanli.v1 import errors_pb2
from suanli.v1 import reasons_pb2 as pb
from suanli.wire.codec import (
    Codec,
    Field,
    choice,
    enum_tables,
    instant,
    listed,
    mapped,
    need_micros,
    part,
    parts,
    ref,
    same,
)

REASON = Codec(
    Reason,
    pb.Reason,
    [
        choice("code", "code", pb.ReasonCode),
        ref("site_id", "site", "sites"),
        same("stage_id"),
        same("limit"),
        same("actual"),
        same("unit"),
        same("detail"),
        same("node_count"),
    ],
    path="reason",
    output=True,
)

CANDIDATE = Codec(
    Candidate,
    pb.Candidate,
    [
        ref("site_id", "site", "sites"),
        same("stage_id"),
        same("chosen"),
        same("feasible"),
        need_micros("rtt_p99_ms", "rtt_p99_micros"),
        same("power_w", "power_watts"),
        same("ipue_marginal"),
        same("cost_yuan_per_hour"),
        mapped("cost_terms_yuan_per_hour"),
        parts("reasons", "reasons", REASON),
        same("lost_because"),
        same("has_room"),
    ],
    path="candidate",
    output=True,
)

RELAXATION = Codec(
    Relaxation,
    pb.Relaxation,
    [same("change"), same("field"), same("from_value"), same("to_value"), same("unit"), same("price_yuan")],
    path="relaxation",
    output=True,
)

START_ESTIMATE = Codec(
    StartEstimate,
    pb.StartEstimate,
    [
        instant("earliest_at_s", "earliest_time"),
        instant("likely_at_s", "likely_time"),
        instant("latest_at_s", "latest_time"),
        same("assumption"),
    ],
    path="expected_start",
    output=True,
)

EXPLANATION = Codec(
    Explanation,
    pb.Explanation,
    [
        same("workload"),
        same("state"),
        instant("at_s", "explain_time"),
        same("summary"),
        parts("reasons", "reasons", REASON),
        listed("conflict"),
        parts("candidates", "candidates", CANDIDATE),
        parts("relaxations", "relaxations", RELAXATION),
        same("why_not"),
        part("expected_start", "expected_start", START_ESTIMATE),
        same("queue_position"),
        same("other_work_ahead_count"),
    ],
    path="explanation",
    output=True,
)

_WORD, _NUMBER = enum_tables(pb.ReasonCode)


def reason_counts(model: str, proto: str) -> Field:
    """dict of reason word → count in the model, list of ReasonCount on the wire, ordered by word."""

    def read(counts: Any) -> dict[str, int]:
        return {_WORD.get(c.code, str(c.code)): c.blocked_count for c in counts}

    def write(counts: Mapping[str, int]) -> list[pb.ReasonCount]:
        numbers: Mapping[str, Any] = _NUMBER
        return [pb.ReasonCount(code=numbers[word], blocked_count=counts[word]) for word in sorted(counts)]

    return Field(model, proto, read, write)


WARNING = Codec(
    FieldProblem,
    errors_pb2.FieldProblem,
    [same("field"), same("problem"), same("expected"), same("nearest"), same("code")],
    path="warnings",
    output=True,
)
