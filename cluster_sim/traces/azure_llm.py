"""Reader of LLM request lists in the layout of the Azure 2023 traces, and what serving takes from them.

- `read_azure_llm`: TIMESTAMP, ContextTokens, GeneratedTokens → arrival time, prompt and output length of every request
- `busy_replicas`: replicas that a list of requests keeps busy, window by window
- `with_lengths`: a scenario whose LLM serving has the lengths of the list
- `azure_llm_day`: a scenario whose LLM serving follows the list, window by window

Files are CSV with a header, plain or gzip; columns may stand in any order and others are ignored. A file with mistakes
raises one `TraceError` that names every one of them with its line and column. The traces themselves are not shipped.
"""

from __future__ import annotations

import csv
import gzip
import io
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cluster_sim.scenarios.schema import AutoscaledPattern, LlmModel, RecordedReplicasPattern, Scenario
from cluster_sim.scenarios.tables import SiteOutage
from cluster_sim.traces.day import TraceDay
from cluster_sim.traces.openb import TraceError, TraceProblem
from suanli.model.units import SECONDS_PER_HOUR

COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
WINDOW_S = 300
"""Replicas follow the requests every five minutes (assumed: an autoscaler with a stabilisation window does)."""
TARGET_BUSY_FRAC = 0.6
"""Share of the time that a replica works in the mean of a window (assumed): above, queues of bursts grow long."""
LONGEST_H = 24.0
MICROSECOND_CHARACTERS = 26
"""`2023-11-16 18:15:46.680590`: finer digits, which the traces have, are cut."""
GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True, slots=True)
class LlmRequests:
    """Requests in order of arrival; `at_s` counts from the first one. Three arrays of equal length."""

    at_s: NDArray[np.float64]
    prompt_tokens: NDArray[np.int64]
    output_tokens: NDArray[np.int64]
    first_s: float = 0.0
    """Clock time of the first one, seconds since 1970."""

    def __len__(self) -> int:
        return len(self.at_s)

    @property
    def rate_per_s(self) -> float:
        """Mean arrival rate between the first and the last request; 0 for fewer than two."""
        span_s = float(self.at_s[-1] - self.at_s[0]) if len(self) > 1 else 0.0
        return (len(self) - 1) / span_s if span_s > 0 else 0.0

    def quantiles(self, frac: float) -> tuple[float, float]:
        """(prompt, output) length in tokens at that quantile."""
        return float(np.quantile(self.prompt_tokens, frac)), float(np.quantile(self.output_tokens, frac))


def read_azure_llm(path: Path | str) -> LlmRequests:
    """All requests of the file, sorted by time; `TraceError` names every mistake."""
    problems: list[TraceProblem] = []
    rows = sorted(_rows(Path(path), problems))
    if not problems and not rows:
        problems.append(TraceProblem(0, "", "no request"))
    if problems:
        raise TraceError(path, problems)
    first_s = rows[0][0]
    return LlmRequests(
        at_s=np.array([at_s - first_s for at_s, _, _ in rows]),
        prompt_tokens=np.array([prompt for _, prompt, _ in rows], dtype=np.int64),
        output_tokens=np.array([output for _, _, output in rows], dtype=np.int64),
        first_s=first_s,
    )


def busy_replicas(
    requests: LlmRequests, prefill_tokens_per_s: float, decode_tokens_per_s: float, window_s: float
) -> NDArray[np.float64]:
    """Mean number of busy replicas per window: Σ (prompt/prefill rate + output/decode rate) / window."""
    busy_s = requests.prompt_tokens / prefill_tokens_per_s + requests.output_tokens / decode_tokens_per_s
    window = (requests.at_s // window_s).astype(np.int64)
    return np.asarray(np.bincount(window, weights=busy_s) / window_s)


def replicas_for(
    requests: LlmRequests, model: LlmModel, window_s: float, target_frac: float
) -> NDArray[np.int64]:
    """Replicas per window that keep the model's replicas at most `target_frac` busy in the mean."""
    busy = busy_replicas(requests, model.prefill_tokens_per_s, model.decode_tokens_per_s, window_s)
    return np.asarray(np.ceil(busy / target_frac).astype(np.int64))


def with_lengths(scenario: Scenario, requests: LlmRequests) -> Scenario:
    """The scenario with the mean lengths of the list in every class of autoscaled serving."""
    lengths = {
        "prompt_tokens": float(requests.prompt_tokens.mean()),
        "output_tokens": max(1.0, float(requests.output_tokens.mean())),
    }
    rows = {
        class_id: spec.model_copy(update={"pattern": spec.pattern.model_copy(update=lengths)})
        if isinstance(spec.pattern, AutoscaledPattern)
        else spec
        for class_id, spec in scenario.classes.rows.items()
    }
    return scenario.model_copy(update={"classes": scenario.classes.model_copy(update={"rows": rows})})


def azure_llm_day(scenario: Scenario, requests: LlmRequests, hours: float | None) -> TraceDay:
    """The scenario with the requests of the list instead of those of its autoscaled LLM serving.

    The day opens at the clock time of the first request and lasts as long as the list, at most `hours` (24). Every
    window has the replicas that are busy at most `TARGET_BUSY_FRAC` of the time in the mean; all models of the class
    serve the same list, as they share the shape of the day in the scenario. ValueError when no class serves LLMs.
    """
    patterns = {
        i: s.pattern for i, s in scenario.classes.rows.items() if isinstance(s.pattern, AutoscaledPattern)
    }
    if not patterns:
        raise ValueError(f"{scenario.scenario_id} has no class of autoscaled LLM serving (songjiang-s has)")
    span_h = math.ceil((requests.at_s[-1] + 1) / WINDOW_S) * WINDOW_S / SECONDS_PER_HOUR
    day_h = min(span_h, LONGEST_H if hours is None else hours)
    rows = dict(scenario.classes.rows)
    for class_id, pattern in patterns.items():
        replicas = {
            model_id: tuple(map(int, replicas_for(requests, model, WINDOW_S, TARGET_BUSY_FRAC)))
            for model_id, model in pattern.models.items()
        }
        recorded = RecordedReplicasPattern(
            kind="recorded_replicas",
            zone=pattern.zone,
            window_s=WINDOW_S,
            layers=pattern.layers,
            models=pattern.models,
            replicas=replicas,
        )
        rows[class_id] = rows[class_id].model_copy(update={"pattern": recorded})
    opening = datetime.fromtimestamp(requests.first_s // WINDOW_S * WINDOW_S, tz=UTC)
    start = scenario.day.start.replace(hour=opening.hour, minute=opening.minute, second=0)
    peaks = ", ".join(f"{m} {max(c)}" for m, c in replicas.items())
    notes = (
        f"{len(requests)} requests, {requests.rate_per_s:.2f} a second over {span_h:.2f} h, "
        f"{requests.prompt_tokens.mean():.0f} prompt and {requests.output_tokens.mean():.0f} output tokens in the mean",
        f"most replicas in {WINDOW_S // 60} minutes at {TARGET_BUSY_FRAC:.0%} busy: {peaks}",
        f"the day opens at {start:%H:%M} and lasts {day_h:g} h",
    )
    played = scenario.model_copy(
        update={
            "day": scenario.day.model_copy(update={"start": start, "hours": day_h}),
            "classes": scenario.classes.model_copy(update={"rows": rows}),
        }
    )
    return TraceDay(_without_failures_outside(played), notes)


def _without_failures_outside(scenario: Scenario) -> Scenario:
    """The failures that begin and end within the day; a shorter day would cut the others in half."""

    def inside(failure: SiteOutage) -> bool:
        return (
            scenario.start_s < scenario.clock_s(failure.from_)
            and scenario.clock_s(failure.until) < scenario.end_s
        )

    failures = scenario.failures
    kept = {
        "site_outages": tuple(filter(inside, failures.site_outages)),
        "cooling_degradations": tuple(filter(inside, failures.cooling_degradations)),
    }
    return scenario.model_copy(update={"failures": failures.model_copy(update=kept)})


def _rows(path: Path, problems: list[TraceProblem]) -> Iterator[tuple[float, int, int]]:
    """(time, prompt, output) of every good line; bad ones go to `problems`."""
    reader = csv.DictReader(io.StringIO(_text(path)))
    try:
        yield from _good_rows(reader, problems)
    except csv.Error as error:
        problems.append(TraceProblem(reader.line_num, "line", f"not CSV: {error}"))


def _good_rows(reader: csv.DictReader[str], problems: list[TraceProblem]) -> Iterator[tuple[float, int, int]]:
    missing = [c for c in COLUMNS if c not in (reader.fieldnames or [])]
    if missing:
        problems += [TraceProblem(1, column, "no such column") for column in missing]
        return
    for row in reader:
        found = len(problems)
        at_s = _instant_s(row, reader.line_num, problems)
        prompt, output = (_tokens(row, column, reader.line_num, problems) for column in COLUMNS[1:])
        if len(problems) == found:
            yield at_s, prompt, output


def _text(path: Path) -> str:
    data = path.read_bytes()
    return (gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data).decode("utf-8-sig")


def _instant_s(row: Mapping[str, str | None], line: int, problems: list[TraceProblem]) -> float:
    text = (row["TIMESTAMP"] or "").strip()
    try:
        return datetime.fromisoformat(text[:MICROSECOND_CHARACTERS] + "+00:00").timestamp()
    except ValueError:
        problems.append(TraceProblem(line, "TIMESTAMP", f"{text!r} is no time like 2023-11-16 18:15:46.68"))
        return 0.0


def _tokens(row: Mapping[str, str | None], column: str, line: int, problems: list[TraceProblem]) -> int:
    text = (row[column] or "").strip()
    if not text.isdecimal():
        problems.append(TraceProblem(line, column, f"{text!r} is no count of tokens"))
        return 0
    return int(text)
