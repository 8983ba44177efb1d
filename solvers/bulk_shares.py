"""What shares of devices really take: rows for the program behind a plan, from how the shares it asks for pack.

The relaxation adds shares up; devices hold them in patterns. 700 shares of 0.35 and 1 350 of 0.12 make 407 devices in
sum and some 20 more in fact. The program has other optima at nearly the same cost whose shares fill devices, it only
does not know. So where the devices of a group do not hold what the program sends there, the group gets a row

    Σ w(share)·x + Σ devices·x ≤ devices·y

with w the dual prices of the cutting stock problem of exactly these shares (Gilmore and Gomory 1961): the prices sum to
at most one for whatever fits on a device, so no packing breaks the row, and what the program asks for does. Shares
that it does not ask for are lifted, largest first.

The rows serve quotas only. The bound hardly moves by them (0.01–0.05 %), so proofs do without.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd

import numpy as np

from solvers.archive import FloatArray, IntArray
from solvers.bulk_model import BulkModel
from solvers.device_bundles import by_group, device_bundles
from solvers.linear import INFINITY, LinearModel, LpLimits, LpStatus, TemporaryRow, solve
from solvers.problem import GPU_MILLI, MILLI_PER_GPU

SHORT_NODES = 0.05
"""A group gets a row where its shares take this many nodes more than there are."""
PRICING_ROUNDS = 8
NEGLIGIBLE = 1e-6


@dataclass(frozen=True, eq=False)
class _Shares:
    """Sizes of the shares that a group asks for, and how many of each."""

    group: int
    milli: list[int]
    count: FloatArray
    patterns: list[dict[int, int]]
    """Positions in `milli` with how many of each on a device."""


def device_rows(model: BulkModel, x: FloatArray, nodes: FloatArray, name: str) -> list[TemporaryRow]:
    """Rows x[V] and nodes[G] break, called `name` and the group."""
    s, p = model.sets, model.sets.problem
    gpu = p.pairs.need[s.pair, GPU_MILLI]
    devices = p.groups.capacity[:, GPU_MILLI] / MILLI_PER_GPU
    is_share = (gpu > 0) & (gpu < MILLI_PER_GPU)
    whole = (
        np.bincount(s.pair_group, weights=np.where(is_share, 0, gpu) * x, minlength=p.group_count)
        / MILLI_PER_GPU
    )
    used = np.flatnonzero(is_share & (x > NEGLIGIBLE))
    short: list[_Shares] = []
    for g, v in by_group(used, s.pair_group[used]):
        room = devices[g] * (nodes[g] + SHORT_NODES) - whole[g]
        milli, which = np.unique(gpu[v], return_inverse=True)
        count = np.asarray(np.bincount(which, weights=x[v]), dtype=float)
        bundles = device_bundles(milli.tolist(), np.floor(count + NEGLIGIBLE).astype(int).tolist())
        if sum(times for _, times in bundles) > room:
            patterns = [dict(parts) for parts, _ in bundles]
            patterns += [{i: MILLI_PER_GPU // m} for i, m in enumerate(milli.tolist())]
            short.append(_Shares(g, milli.tolist(), count, patterns))
    rows = []
    for shares, weight in zip(short, _prices(short), strict=True):
        g = shares.group
        taken = float(weight @ shares.count) + whole[g]
        if taken <= devices[g] * (nodes[g] + SHORT_NODES):
            continue
        v = np.flatnonzero((s.pair_group == g) & (gpu > 0))
        known = _lifted(dict(zip(shares.milli, weight.tolist(), strict=True)), gpu[v[is_share[v]]])
        each = np.array([known.get(m, m / MILLI_PER_GPU) for m in gpu[v].tolist()]) / devices[g]
        columns = np.append(model.columns_of("x")[v], model.columns_of("nodes")[g])
        rows.append(TemporaryRow(f"{name}/{g}", columns, np.append(each, -1.0), 0.0))
    return rows


def _prices(groups: list[_Shares]) -> list[FloatArray]:
    """For every group the w ≥ 0 with the most w·count such that no device holds shares worth more than one.

    All groups are one program; devices that are worth more join it, until there are none. Without an optimum w is 0,
    which says nothing and is true.
    """
    if not groups:
        return []
    weights, best = [np.zeros(len(g.milli)) for g in groups], [1.0] * len(groups)
    lp = LinearModel()
    columns = [lp.add_columns(f"w{n}", len(g.milli), upper=1.0, cost=-g.count) for n, g in enumerate(groups)]
    for round_ in range(PRICING_ROUNDS):
        for n, g in enumerate(groups):
            new = g.patterns if round_ == 0 else g.patterns[-1:]
            rows = lp.add_rows(f"device{n}/{round_}", len(new), lower=-INFINITY, upper=1.0)
            for i, pattern in enumerate(new):
                at = columns[n].index[list(pattern)]
                lp.add_entries(
                    np.full(len(at), rows.index[i]), at, np.array(list(pattern.values()), dtype=float)
                )
        answer = solve(lp.program(), LpLimits())
        if answer.status is not LpStatus.OPTIMAL:
            break
        weights = [answer.x[c.slice] for c in columns]
        found = False
        best = []
        for g, w in zip(groups, weights, strict=True):
            worth, pattern = _dearest_device(g.milli, w)
            found |= worth[-1] > 1 + 1e-3
            g.patterns.append(pattern)
            best.append(worth[-1])
        if not found:
            break
    return [w / max(b, 1.0) for w, b in zip(weights, best, strict=True)]


def _dearest_device(milli: list[int], weight: FloatArray) -> tuple[list[float], dict[int, int]]:
    """(most worth of shares within c steps of a device, for all c; the shares of the dearest full one)."""
    step = gcd(MILLI_PER_GPU, *milli)
    size, worth = [m // step for m in milli], weight.tolist()
    most = MILLI_PER_GPU // step
    best, last = [0.0] * (most + 1), [-1] * (most + 1)
    for c in range(1, most + 1):
        b, at = best[c - 1], -1
        for i, z in enumerate(size):
            if z <= c and best[c - z] + worth[i] > b + 1e-12:
                b, at = best[c - z] + worth[i], i
        best[c], last[c] = b, at
    pattern: dict[int, int] = {}
    c = most
    while c > 0:
        if last[c] < 0:
            c -= 1
        else:
            pattern[last[c]] = pattern.get(last[c], 0) + 1
            c -= size[last[c]]
    return best, pattern


def _lifted(weight: dict[int, float], sizes: IntArray) -> dict[int, float]:
    """The weights, and for every other size the most that leaves them valid, largest first."""
    known = dict(weight)
    for m in sorted(set(sizes.tolist()) - set(known), reverse=True):
        step = gcd(MILLI_PER_GPU, m, *known)
        best, _ = _dearest_device([step, *known], np.array([0.0, *known.values()]))
        most = len(best) - 1
        z = m // step
        known[m] = max(0.0, min((1.0 - best[most - k * z]) / k for k in range(1, most // z + 1)))
    return known
