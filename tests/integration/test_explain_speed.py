"""`why` answers within its bound: the benchmark's hardest questions, at a size that a test can afford."""

from __future__ import annotations

from benchmarks.explain import BOUND_S, measure


def test_the_hardest_questions_are_answered_in_time():
    found = measure(2_000, 20, queued=400)
    assert set(found) == {"gang", "near", "twin", "guest", "node"}
    assert all(f["conflict"] >= (1 if name == "guest" else 2) for name, f in found.items())
    assert max(f["seconds"] for f in found.values()) < BOUND_S
