"""Levels, stairs and fair rounding."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cluster_sim.world.shapes import fair_counts, level_at, stairs


def test_levels_are_straight_between_points_and_go_round_the_clock():
    points = {3: 0.15, 8: 1.0}
    assert level_at(points, 3) == 0.15
    assert abs(level_at(points, 5.5) - (0.15 + 1.0) / 2) < 1e-12
    midnight = 1.0 + (0.15 - 1.0) * (24 - 8) / (24 - 8 + 3)
    assert abs(level_at(points, 0) - midnight) < 1e-12
    assert level_at(points, 24) == level_at(points, 0)
    assert level_at({0: 0.7}, 13.2) == 0.7


@given(st.lists(st.integers(0, 40), min_size=24, max_size=24), st.integers(1, 6))
def test_stairs_cover_every_hour_and_never_exceed_the_peak(counts, layers):
    covered = [0] * 24
    for step in stairs(counts, layers):
        assert step.count > 0
        for hour in range(step.from_hour, step.until_hour):
            covered[hour] += step.count
    assert all(have >= want for have, want in zip(covered, counts, strict=True))
    assert max(covered) == max(counts)
    assert min(covered) == min(counts)


def test_enough_layers_follow_the_counts_exactly():
    counts = [2] * 8 + [5] * 4 + [3] * 12
    covered = [0] * 24
    for step in stairs(counts, 3):
        for hour in range(step.from_hour, step.until_hour):
            covered[hour] += step.count
    assert covered == counts


@given(
    st.dictionaries(st.text("abcdef", min_size=1, max_size=3), st.floats(0, 100), min_size=1),
    st.integers(0, 50),
)
def test_fair_counts_sum_up_and_are_within_one_of_their_share(shares, total):
    counts = fair_counts(shares, total)
    weight = sum(shares.values())
    if weight <= 0:
        assert sum(counts.values()) == 0
        return
    assert sum(counts.values()) == total
    for name, share in shares.items():
        assert abs(counts[name] - total * share / weight) < 1 + 1e-6
