"""Lists of LLM requests in the Azure 2023 layout (made up here; the traces are not shipped)."""

from __future__ import annotations

import gzip
from typing import Any

import pytest

from cluster_sim.scenarios import load_scenario
from cluster_sim.traces.azure_llm import busy_replicas, read_azure_llm, replicas_for
from cluster_sim.traces.openb import TraceError

GOOD = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:15:46.6805900,374,44
2023-11-16 18:15:50.9951690,396,109
2023-11-16 18:15:48.0000000,879,55
"""


def test_requests_come_sorted_by_time_from_the_first_one(tmp_path):
    file = tmp_path / "conv.csv"
    file.write_text(GOOD, encoding="utf-8")
    requests = read_azure_llm(file)
    assert requests.at_s == pytest.approx([0.0, 1.31941, 4.314579], abs=1e-5)
    assert requests.prompt_tokens.tolist() == [374, 879, 396]
    assert requests.output_tokens.tolist() == [44, 55, 109]
    assert requests.rate_per_s == pytest.approx(2 / 4.314579)
    assert requests.quantiles(0.5) == (396.0, 55.0)


def test_gzip_and_columns_in_any_order_are_read(tmp_path):
    file = tmp_path / "conv.csv.gz"
    file.write_bytes(gzip.compress(b"GeneratedTokens,x,TIMESTAMP,ContextTokens\n7,1,2023-11-16 18:15:46,9\n"))
    requests = read_azure_llm(file)
    assert (requests.prompt_tokens[0], requests.output_tokens[0]) == (9, 7)


def test_every_mistake_is_named_with_line_and_column(tmp_path):
    file = tmp_path / "bad.csv"
    file.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,2\n2023-11-16 18:15:46,-3,many\n",
        encoding="utf-8",
    )
    with pytest.raises(TraceError) as caught:
        read_azure_llm(file)
    assert [(p.line, p.column) for p in caught.value.problems] == [
        (2, "TIMESTAMP"),
        (3, "ContextTokens"),
        (3, "GeneratedTokens"),
    ]
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(TraceError, match="TIMESTAMP"):
        read_azure_llm(file)
    file.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n", encoding="utf-8")
    with pytest.raises(TraceError, match="no request"):
        read_azure_llm(file)


def test_busy_replicas_are_the_seconds_of_work_per_second(tmp_path):
    file = tmp_path / "conv.csv"
    file.write_text(GOOD, encoding="utf-8")
    requests = read_azure_llm(file)
    busy = busy_replicas(requests, prefill_tokens_per_s=1000.0, decode_tokens_per_s=10.0, window_s=2.0)
    assert busy == pytest.approx([(0.374 + 4.4 + 0.879 + 5.5) / 2, 0, (0.396 + 10.9) / 2])
    pattern: Any = load_scenario("songjiang-s").classes.rows["W9"].pattern
    model = pattern.models["chat-4b"]
    assert (replicas_for(requests, model, 2.0, 0.5) >= busy_replicas(requests, 30_000, 4000, 2.0) * 2).all()
