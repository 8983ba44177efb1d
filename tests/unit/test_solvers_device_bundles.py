"""Shares packed into devices, and the rows that say what shares really take."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from solvers import bulk_shares
from solvers.bulk_model import build, bulk_sets
from solvers.bulk_shares import device_rows
from solvers.device_bundles import device_bundles
from solvers.linear import LpStatus
from tests.plan_problems import Town

SHARES = st.lists(
    st.tuples(st.integers(1, 999), st.integers(0, 40)), max_size=8, unique_by=lambda share: share[0]
)


@given(SHARES)
def test_every_bundle_fits_on_a_device_and_no_share_is_in_two(shares):
    milli, count = [m for m, _ in shares], [n for _, n in shares]
    left = list(count)
    for parts, times in device_bundles(milli, count):
        assert times >= 1 and sum(milli[i] * n for i, n in parts) <= 1000
        for i, n in parts:
            left[i] -= n * times
    assert all(n >= 0 for n in left)
    assert sum(m * n for m, n in zip(milli, left, strict=True)) <= 1000, "only the last device stays single"


def test_shares_that_fill_devices_exactly_are_packed_so():
    bundles = device_bundles([550, 280, 160], [10, 10, 10])
    assert bundles == [(((0, 1), (1, 1), (2, 1)), 10)]


def test_last_shares_that_fill_little_of_a_device_stay_single():
    assert device_bundles([100], [25]) == [(((0, 10),), 2)]


def a_group_of(shares: dict[str, tuple[float, float]], nodes: int):
    town = Town().site("a").group("a/g", "a", gpus=2, node_count=nodes, cpu=1_000, memory_gib=4_000)
    for name, (part, demand) in shares.items():
        town.work(name, demand=demand, gpu={"l20": part}, cpu=0.1, memory_gib=0.1)
    return build(bulk_sets(town.problem()))


def test_shares_of_which_a_device_holds_one_get_a_row_that_counts_devices():
    """Four shares of 0.35 and four of 0.4 are three devices in sum, and two of 0.35 or 0.4 fill one: four in fact."""
    model = a_group_of({"x": (0.35, 4.0), "y": (0.4, 4.0)}, nodes=2)
    (row,) = device_rows(model, np.array([4.0, 4.0]), np.array([1.5]), "devices")
    assert row.values[:-1] @ [4.0, 4.0] == pytest.approx(4 / 2)
    assert row.values[-1] == -1.0 and row.upper == 0.0


def test_shares_that_their_devices_hold_get_no_row():
    model = a_group_of({"x": (0.5, 4.0), "y": (0.25, 8.0)}, nodes=2)
    assert device_rows(model, np.array([4.0, 8.0]), np.array([2.0]), "devices") == []


@given(
    st.lists(
        st.tuples(st.integers(5, 95), st.integers(1, 30)), min_size=2, max_size=5, unique_by=lambda s: s[0]
    )
)
def test_no_device_holds_more_than_one_by_a_row(shares):
    """Every set of shares that fits on a device, among those that the program does not ask for, too."""
    model = a_group_of({f"w{m}": (m / 100, float(n)) for m, n in shares}, nodes=40)
    asked = np.array([float(n) for _, n in shares])
    asked[-1] = 0.0
    for row in device_rows(model, asked, np.array([asked @ [m / 200 for m, _ in shares] * 0.9]), "devices"):
        weight = 2 * row.values[:-1]
        most = np.zeros(101)
        for c in range(1, 101):
            fits = [most[c - m] + w for (m, _), w in zip(shares, weight, strict=True) if m <= c]
            most[c] = max([most[c - 1], *fits])
        assert most[100] <= 1 + 1e-6


def test_without_an_optimum_shares_have_no_price(monkeypatch):
    """Prices of 0 hold for any device; there is nothing better to say."""
    asked = bulk_shares._Shares(0, [400, 700], np.array([2.0, 1.0]), [{0: 2}, {1: 1}])
    assert bulk_shares._prices([asked])[0].max() > 0
    monkeypatch.setattr(bulk_shares, "solve", lambda *_: SimpleNamespace(status=LpStatus.LIMIT))
    assert bulk_shares._prices([asked])[0].tolist() == [0.0, 0.0]
