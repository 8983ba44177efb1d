"""Amounts with a unit where plain numbers belong: refused, with the number that was meant."""

from __future__ import annotations

import pytest

from suanli.model import InvalidRequest
from suanli.model.amounts import amount_meant
from suanli.yaml_io import load_workloads


@pytest.mark.parametrize(
    ("field", "text", "meant"),
    [
        ("memory_mib", "16Gi", 16 * 1024),
        ("memory_mib", "16 GiB", 16 * 1024),
        ("memory_mib", "16GB", 16 * 1024),
        ("memory_mib", "512 MB", 512),
        ("storage_gib", "2Ti", 2048),
        ("cpu_milli", "4 cores", 4000),
        ("cpu_milli", "250m", 250),
        ("gpu_milli", "0.5 gpu", 500),
        ("duration_s", "2h", 7200),
        ("duration_s", "1.5 hours", 5400),
        ("startup_s", "90 s", 90),
        ("budget_ms", "0.5s", 500),
        ("mbps", "1 Gbps", 1000),
        ("duration_s", "soon", None),
        ("duration_s", "2 parsecs", None),
        ("replicas", "3 pieces", None),
        ("memory_mib", "-4Gi", None),
    ],
)
def test_the_number_that_was_meant(field: str, text: str, meant: float | None):
    assert amount_meant(field, text, whole=True) == meant


def test_a_broken_amount_is_rounded_up_to_what_suffices():
    assert amount_meant("duration_s", "0.0001 h", whole=True) == 1
    assert amount_meant("budget_ms", "250us", whole=False) == 0.25


def test_a_document_full_of_units_is_refused_with_every_number():
    text = """
name: w
kind: batch
deadline_at: tomorrow
stages: [{stage_id: s, cpu_milli: "4 cores", memory_mib: 16Gi, duration_s: 2h, gang: maybe}]
paths: []
"""
    with pytest.raises(InvalidRequest) as refused:
        load_workloads(text, "w.yaml", "t")
    said = {p.field.rpartition(": ")[2]: (p.expected, p.nearest) for p in refused.value.problems}
    assert said == {
        "stages[0].cpu_milli": ("a whole number of thousandths", "4000"),
        "stages[0].memory_mib": ("a whole number of MiB", "16384"),
        "stages[0].duration_s": ("a whole number of seconds", "7200"),
        "stages[0].gang": ("true or false", ""),
        "deadline_at": ("an instant with its time zone, e.g. 2026-07-15T10:00:00+08:00", ""),
    }
