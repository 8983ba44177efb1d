"""The bulk model: one period, classes × groups, as one sparse linear relaxation whose bound holds for nodes.

Symbols (sets as in `solvers.problem`; one slot of h hours)

    x[k] ≥ 0        replicas of pair k = (class, group)         u[c]   replicas of class c not served
    y[g] ∈ [0, N]   nodes on                                    on[s]  site open, 0..1 where it may close, else 1
    P[s]            IT power, kW                                Q[s]   square term of facility power, kW
    e[s]            excess over the hourly cap, kW              v[s], v_E  ledger debt of a site, of the edges, kWh
    l[k] ∈ [0, run] running replicas that leave pair k, where a move costs

Every row is a valid inequality of the exact problem on nodes (whole replicas, whole nodes, devices, true square term),
so the optimum of the program is a lower bound for any placement onto nodes:

- capacity takes sums, nodes hold no more than sums; sharp rows (below) know more about whole nodes and devices
- the square term has tangents from below: (q/R)·P² ≥ (q/R)·(2·P₀·P − P₀²·on); the horizon plan has chords from above
- the hourly cap is an interval of P, exact

Sharp rows: Σ f(need)·x ≤ y with f dual feasible, that is, what fits on one node sums to at most one by f (Fekete and
Schepers 2001). Five families (`node_rows`), each a row only where a relaxation breaks it:

- devices, λ ∈ (0, ½]: shares above 1 − λ of a device count as a whole one, those below λ as nothing
- steps, k = 1 … 3, of CPU and memory: ⌊(k + 1)·share⌋/k. Three replicas of 0.35 need two nodes in the program too
- exclusive: among work that needs a GPU, a replica that takes all devices of a node takes all its CPU and memory
- a per b, for two of CPU, memory and devices: work that takes little a for its b leaves of a what others cannot use
- a but b: CPU binds on nodes with a replica that takes all devices, memory on others, or the other way round

What the plan leaves to rounding and packing (`bulk_relax.Margins`) is taken off right-hand sides only; bounds know
nothing of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from solvers import facility
from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.candidates import candidates, counted_share, dominant_share
from solvers.linear import INFINITY, Block, LinearModel, Values
from solvers.node_rows import BUT, DEVICE, EXCLUSIVE_OF, PER, PERCENT, STEP_OF
from solvers.problem import (
    CPU_MILLI,
    GPU_MILLI,
    MEMORY_MIB,
    MILLI_PER_GPU,
    RANK_INTERACTIVE,
    RESOURCES,
    W_PER_KW,
    PlacementProblem,
)

TANGENT_COUNT = 6
DEVICE_STEPS = (190, 300, 400, 500)
"""λ of the device rows in milli: the thresholds at which common shares (0.81, 0.7, 0.6, 0.5 …) round up."""
STEPS = (1, 2, 3)
PER_PERCENT = (110, 130, 160, 200)
"""κ of the rows of a per b: the dearest mixes found on benchmark fleets lie between."""
EXCLUSIVE = (CPU_MILLI, MEMORY_MIB)
SHARP_RESOURCE = (
    *(GPU_MILLI for _ in DEVICE_STEPS),
    *(r for r in (CPU_MILLI, MEMORY_MIB) for _ in STEPS),
    *EXCLUSIVE,
    *(a for a, _ in PER.values() for _ in PER_PERCENT),
    *(a for a, _ in BUT.values()),
)
"""What each sharp row rations, for prices."""
SHARP_FUNCTIONS = (
    *((DEVICE, step) for step in DEVICE_STEPS),
    *((STEP_OF[r], k) for r in (CPU_MILLI, MEMORY_MIB) for k in STEPS),
    *((EXCLUSIVE_OF[r], 0) for r in EXCLUSIVE),
    *((name, percent) for name in PER for percent in PER_PERCENT),
    *((name, 0) for name in BUT),
)
"""What each sharp row is called in certificates, with its parameter."""
BROKEN_SHARE = 1e-3
BROKEN_NODES = 0.05
"""A sharp row joins when the relaxation would need this many nodes more by it."""
LEVEL_YUAN = (1e5, 1e3, 150.0, 25.0)
"""Added to the penalty of an unserved replica-hour by rank: service comes before cost, and ranks among themselves."""
OVER_BUDGET_YUAN = 100.0
"""Per move beyond the policy's budget: above any energy a move can save in a slot, below the penalty of unserved work,
so that the replicas of a lost site start elsewhere."""
HARD_CAP_YUAN = 1e4
"""Per kWh over a cap that the policy makes hard; as in the horizon plan, below hard safety and above other work."""


MOST_NODES, MOST_REPLICAS = 5_000_000, 20_000_000
"""Every node and every replica is a row: beyond these counts a plan takes more than some gigabytes of memory."""
MOST_DEVICES = 62
"""Devices of a node: they are the bits of one number."""


class NotBulk(ValueError):
    """The problem is not one of this model: more than one slot, batch work, stage graphs, or more nodes, replicas and
    devices than can be told apart one by one. Use `solve_plan`.
    """


@dataclass(frozen=True, eq=False)
class BulkSets:
    """Derived once from a problem: candidates, shares, powers and prices, one slot."""

    problem: PlacementProblem
    pair: IntArray
    """[V] candidate pairs; all arrays [V] below are theirs."""
    pair_class: IntArray
    pair_group: IntArray
    pair_site: IntArray
    share: FloatArray
    """[V, R] need / (capacity · packing yield): nodes one replica takes."""
    sharp: FloatArray
    """[V, sharp rows] nodes one replica takes by each dual feasible function."""
    dominant: FloatArray
    """[V] largest need / capacity."""
    dynamic_kw: FloatArray
    useful_kw: FloatArray
    """[V] dominant · idle + dynamic."""
    mbps_row: IntArray
    """[M] link, and below pair position and Mbps, of the entries of the link rows."""
    mbps_column: IntArray
    mbps: FloatArray
    nodes: FloatArray
    """[G]"""
    demand: FloatArray
    """[C]"""
    hours: float
    energy_yuan_per_kwh: FloatArray
    """[S] price, carbon included."""
    power_limit_kw: FloatArray
    """[S] and no more than a hard hourly cap allows."""
    cap_low_kw: FloatArray
    """[S] least IT power at which the hourly cap is met; 0: no cap, inf: never."""
    unserved_yuan: FloatArray
    """[C] of one replica over the slot, rank weight included."""

    @property
    def site_low_pairs(self) -> BoolArray:
        """[V] pairs of work ranked below public service, which reserved floors keep out."""
        low: BoolArray = self.problem.classes.priority_rank[self.pair_class] >= RANK_INTERACTIVE
        return low


def bulk_sets(problem: PlacementProblem) -> BulkSets:
    """Candidates and coefficients; `NotBulk` if the problem has more than the model."""
    p = problem
    if p.slot_count != 1 or p.graphs or np.any(p.classes.work_replica_h > 0):
        raise NotBulk("bulk plans have one slot and services only: no batch work, no stage graphs")
    _countable(p)
    pair = np.flatnonzero(candidates(p).passes)
    group = p.pairs.group_index[pair]
    need = p.pairs.need[pair]
    per_node = p.groups.capacity[group] * p.groups.packing_yield[group]
    share = np.divide(need, per_node, out=np.zeros(need.shape), where=per_node > 0)
    dominant = dominant_share(p)[pair]
    dynamic_kw = p.pairs.dynamic_w[pair] / W_PER_KW
    hours = float(p.slots.hours[0])
    row, column, mbps = _link_entries(p, pair)
    low, high, _ = facility.hourly_cap_interval(
        p.sites.fixed_kw[:, 0], p.sites.loss_slope[:, 0], p.sites.loss_square[:, 0], p.sites.rated_kw,
        p.sites.ipue_cap_hourly,
    )  # fmt: skip
    limit = p.sites.power_limit_kw[:, 0]
    rank_yuan = np.array(LEVEL_YUAN)[p.classes.priority_rank]
    return BulkSets(
        problem=p,
        pair=pair,
        pair_class=p.pairs.class_index[pair],
        pair_group=group,
        pair_site=p.groups.site[group],
        share=share,
        sharp=_sharp_shares(p, need, group),
        dominant=dominant,
        dynamic_kw=dynamic_kw,
        useful_kw=counted_share(p)[pair] * p.groups.idle_w[group] / W_PER_KW + dynamic_kw,
        mbps_row=row,
        mbps_column=column,
        mbps=mbps,
        nodes=p.groups.node_count[:, 0].astype(float),
        demand=p.classes.demand_count[:, 0],
        hours=hours,
        energy_yuan_per_kwh=(
            p.sites.price_yuan_per_kwh + p.sites.carbon_g_per_kwh / 1000.0 * p.terms.carbon_yuan_per_kg
        )[:, 0],
        power_limit_kw=np.where(p.sites.hourly_is_hard & np.isfinite(high), np.minimum(limit, high), limit),
        cap_low_kw=low,
        unserved_yuan=(p.classes.unserved_yuan_per_replica_h + rank_yuan) * hours,
    )


def _countable(p: PlacementProblem) -> None:
    """`NotBulk` with the first count that is too large."""
    counts = (
        ("nodes", float(p.groups.node_count[:, 0].astype(float).sum()), MOST_NODES),
        ("replicas", float(p.classes.demand_count[:, 0].sum()), MOST_REPLICAS),
        ("devices on a node", float(p.groups.capacity[:, GPU_MILLI].max(initial=0)) / MILLI_PER_GPU, MOST_DEVICES),
    )  # fmt: skip
    for name, count, most in counts:
        if count > most:
            raise NotBulk(f"{count:g} {name}, more than the {most} that a bulk plan tells apart")


def _sharp_shares(p: PlacementProblem, need: IntArray, group: IntArray) -> FloatArray:
    """[V, sharp rows] in the order of `SHARP_RESOURCE`; on capacities without yields: functions need the true node."""
    capacity = p.groups.capacity[group]
    gpu, devices = need[:, GPU_MILLI], capacity[:, GPU_MILLI] / MILLI_PER_GPU
    fractional = (gpu > 0) & (gpu < MILLI_PER_GPU)
    out = []
    for step in DEVICE_STEPS:
        rounded = np.where(gpu > MILLI_PER_GPU - step, MILLI_PER_GPU, np.where(gpu < step, 0, gpu))
        counted = np.where(fractional, rounded, gpu) / MILLI_PER_GPU
        out.append(np.divide(counted, devices, out=np.zeros(len(gpu)), where=devices > 0))
    for r in (CPU_MILLI, MEMORY_MIB):
        for k in STEPS:
            scaled = (k + 1) * need[:, r]
            exact = scaled % np.maximum(capacity[:, r], 1) == 0
            share = np.divide(need[:, r], capacity[:, r], out=np.zeros(len(gpu)), where=capacity[:, r] > 0)
            out.append(np.where(exact, share, (scaled // np.maximum(capacity[:, r], 1)) / k))
    takes_all = (gpu > 0) & (gpu == capacity[:, GPU_MILLI])
    for r in EXCLUSIVE:
        share = np.divide(need[:, r], capacity[:, r], out=np.zeros(len(gpu)), where=capacity[:, r] > 0)
        out.append(np.where(takes_all, 1.0, np.where(gpu > 0, share, 0.0)))
    shares = np.divide(need, capacity, out=np.zeros(need.shape), where=capacity > 0)
    for a, b in PER.values():
        for percent in PER_PERCENT:
            most = percent / PERCENT
            out.append(
                np.maximum(np.minimum(shares[:, a], most * shares[:, b]), 1.0 - most * (1.0 - shares[:, b]))
            )
    for a, b in BUT.values():
        lesser = np.minimum(shares[:, a], shares[:, b])
        out.append(np.where(takes_all, shares[:, b], np.where(gpu > 0, shares[:, a], lesser)))
    return np.stack(out, axis=1)


def _link_entries(p: PlacementProblem, pair: IntArray) -> tuple[IntArray, IntArray, FloatArray]:
    """Mbps that one replica of a candidate loads on each link of its routes, as (link, candidate, Mbps), summed."""
    n = p.network
    flows = np.flatnonzero(p.flows.mbps > 0)
    empty = np.zeros(0, dtype=np.int64)
    if not len(flows) or not len(n.route_link):
        return empty, empty, np.zeros(0)
    key = n.route_origin * p.site_count + n.route_site
    order = np.argsort(key, kind="stable")
    key, link = key[order], n.route_link[order]
    by_class = flows[np.argsort(p.flows.class_index[flows], kind="stable")]
    flow_class = p.flows.class_index[by_class]
    c, s = p.pairs.class_index[pair], p.pair_site[pair]
    first, last = np.searchsorted(flow_class, c, "left"), np.searchsorted(flow_class, c, "right")
    column, flow = _expanded(first, last)
    flow = by_class[flow]
    route = p.flows.leg_index[flow] * p.site_count + s[column]
    entry, at = _expanded(np.searchsorted(key, route, "left"), np.searchsorted(key, route, "right"))
    return link[at], column[entry], p.flows.mbps[flow[entry]]


def _expanded(first: IntArray, last: IntArray) -> tuple[IntArray, IntArray]:
    """All (i, j) with first[i] ≤ j < last[i]."""
    count = last - first
    i = np.repeat(np.arange(len(first)), count)
    offset = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, first[i] + offset


@dataclass(frozen=True, eq=False)
class Cuts:
    """Rows that one relaxation broke."""

    sharp: IntArray
    """Keys group · rows + row of sharp rows."""
    open_pairs: IntArray
    """[..] candidates for which x ≤ D·on is a row."""

    @property
    def count(self) -> int:
        """Rows in all."""
        return len(self.sharp) + len(self.open_pairs)


@dataclass
class BulkModel:
    """The program with its blocks by name and the sets behind them."""

    sets: BulkSets
    cuts: tuple[Cuts, ...] = ()
    lp: LinearModel = field(default_factory=LinearModel)
    columns: dict[str, Block] = field(default_factory=dict)
    rows: dict[str, Block] = field(default_factory=dict)
    keys: dict[str, IntArray] = field(default_factory=dict)
    """What the entries of a block stand for: keys["floor"] = group · R + resource, and so on."""

    def columns_of(self, name: str) -> IntArray:
        """Positions of a block of columns; empty when the model has none."""
        return self.columns[name].index if name in self.columns else np.zeros(0, dtype=np.int64)

    def values(self, name: str, x: FloatArray) -> FloatArray:
        """Part of a solution (or of any vector over columns) that belongs to a block."""
        return x[self.columns[name].slice] if name in self.columns else np.zeros(0)

    def duals(self, name: str, y: FloatArray) -> FloatArray:
        """The same for rows."""
        return y[self.rows[name].slice] if name in self.rows else np.zeros(0)

    def _columns(
        self, name: str, key: IntArray, *, lower: Values = 0.0, upper: Values = INFINITY, cost: Values = 0.0
    ) -> IntArray:
        block = self.lp.add_columns(name, len(key), lower=lower, upper=upper, cost=cost)
        self.columns[name], self.keys[name] = block, key
        return block.index

    def _rows(
        self, name: str, key: IntArray, *, lower: Values = -INFINITY, upper: Values = INFINITY
    ) -> IntArray:
        block = self.lp.add_rows(name, len(key), lower=lower, upper=upper)
        self.rows[name], self.keys[name] = block, key
        return block.index


def build(sets: BulkSets, cuts: Sequence[Cuts] = ()) -> BulkModel:
    """All rules, in the order of the documentation; `cuts` come last, round by round, so that rows only grow."""
    m = BulkModel(sets, tuple(cuts))
    define_columns(m)
    define_moves(m)
    define_demand(m)
    define_capacity(m)
    define_power(m)
    define_square_term(m)
    define_open_sites(m)
    define_padding(m)
    define_reserved_floor(m)
    define_hourly_caps(m)
    define_ledgers(m)
    define_demand_charge(m)
    define_spread(m)
    define_links(m)
    for number, cut in enumerate(cuts):
        define_sharp_rows(m, f"sharp_{number}", cut.sharp)
        define_open_pairs(m, f"open_pairs_{number}", cut.open_pairs)
    return m


def define_columns(m: BulkModel) -> None:
    """x, u, y, on, P, Q with their bounds and their cost over the slot, yuan.

    y ≤ N; on costs price·(F − F_off)·h and, where the site is closed now, its start; P costs price·(1 + a)·h.
    """
    s, p = m.sets, m.sets.problem
    price_h = s.energy_yuan_per_kwh * s.hours
    fixed, off = p.sites.fixed_kw[:, 0], p.sites.off_kw[:, 0]
    other = p.pairs.other_yuan_per_replica_h[s.pair] * s.hours
    m._columns("x", np.arange(len(s.pair)), upper=s.demand[s.pair_class], cost=other)
    m._columns("unserved", np.arange(p.class_count), upper=s.demand, cost=s.unserved_yuan)
    m._columns("nodes", np.arange(p.group_count), upper=s.nodes)
    start = np.where(p.sites.initially_on | ~p.sites.may_close, 0.0, p.sites.start_yuan)
    lowest = np.where(p.sites.may_close, 0.0, 1.0)
    m._columns("on", np.arange(p.site_count), lower=lowest, upper=1.0, cost=price_h * (fixed - off) + start)
    m._columns(
        "it_kw", np.arange(p.site_count), upper=s.power_limit_kw,
        cost=price_h * (1 + p.sites.loss_slope[:, 0]),
    )  # fmt: skip
    square = p.sites.loss_square[:, 0]
    most = square / p.sites.rated_kw * s.power_limit_kw**2
    m._columns("square_kw", np.arange(p.site_count), upper=np.maximum(most, 0.0) * 1.0001, cost=price_h)
    m.lp.offset = float((price_h * off).sum())
    waking = np.flatnonzero(p.groups.wake_yuan > 0)
    if len(waking):
        woken = m._columns("woken", waking, upper=s.nodes[waking], cost=p.groups.wake_yuan[waking])
        rows = m._rows("wake", waking, lower=-p.groups.initial_on_count[waking])
        m.lp.add_entries(rows, woken, 1.0)
        m.lp.add_entries(rows, m.columns_of("nodes")[waking], -1.0)


def define_moves(m: BulkModel) -> None:
    """x[k] + l[k] ≥ run[k]; a move costs migration·(Σ_k l[k] − max(Σ run − D, 0)): who leaves and is wanted moves.

    Replicas on pairs that are candidates no more leave in any case. With a budget: Σ l ≤ budget + Σ max(stays − D, 0)
    + over, where `over` costs `OVER_BUDGET_YUAN`. That row is for plans alone (`bulk_relax.plan_program` gives it its
    right-hand side): the bound knows no budget.
    """
    s, p = m.sets, m.sets.problem
    classes, running = p.pairs.class_index, p.pairs.running_count
    yuan = p.classes.migration_yuan
    ran = np.bincount(classes, weights=running, minlength=p.class_count)
    stays = np.bincount(s.pair_class, weights=running[s.pair], minlength=p.class_count)
    m.lp.offset += float(yuan @ (ran - stays - np.maximum(ran - s.demand, 0.0)))
    has_budget = p.terms.move_budget_count is not None
    which = np.flatnonzero((running[s.pair] > 0) & ((yuan[s.pair_class] > 0) | has_budget))
    if not len(which):
        return
    here = running[s.pair[which]]
    leaving = m._columns("leaving", which, upper=here, cost=yuan[s.pair_class[which]])
    rows = m._rows("moves", which, lower=here)
    m.lp.add_entries(rows, leaving, 1.0)
    m.lp.add_entries(rows, m.columns_of("x")[which], 1.0)
    if has_budget:
        only = np.zeros(1, dtype=np.int64)
        over = m._columns("moves_over", only, upper=float(here.sum()), cost=OVER_BUDGET_YUAN)
        row = m._rows("move_budget", only)
        m.lp.add_entries(row, leaving, 1.0)
        m.lp.add_entries(row, over, -1.0)


def move_budget(s: BulkSets) -> float:
    """What Σ l may be: the budget, and replicas that leave because their class shrank."""
    p = s.problem
    assert p.terms.move_budget_count is not None
    stays = np.bincount(s.pair_class, weights=p.pairs.running_count[s.pair], minlength=p.class_count)
    return float(p.terms.move_budget_count + np.maximum(stays - s.demand, 0.0).sum())


def define_demand(m: BulkModel) -> None:
    """Σ_k x[k] + u[c] = D[c]."""
    s = m.sets
    rows = m._rows("demand", np.arange(len(s.demand)), lower=s.demand, upper=s.demand)
    m.lp.add_entries(rows[s.pair_class], m.columns_of("x"), 1.0)
    m.lp.add_entries(rows, m.columns_of("unserved"), 1.0)


def define_capacity(m: BulkModel) -> None:
    """Σ_k share[k,r]·x[k] ≤ y[g] for every resource that can bind in the group."""
    s = m.sets
    kept = _scarce(s.share, s.pair_group, m.sets.problem.group_count)
    g, r = np.nonzero(kept)
    rows = m._rows("capacity", g * len(RESOURCES) + r, upper=0.0)
    row_of = np.full(kept.shape, -1)
    row_of[g, r] = rows
    at = row_of[s.pair_group]
    v, q = np.nonzero((at >= 0) & (s.share > 0))
    m.lp.add_entries(at[v, q], m.columns_of("x")[v], s.share[v, q])
    m.lp.add_entries(rows, m.columns_of("nodes")[g], -1.0)


def _scarce(table: FloatArray, group: IntArray, groups: int) -> BoolArray:
    """[G, R] resources not dominated by another for every pair of the group."""
    count = table.shape[1]
    kept = np.zeros((groups, count), dtype=bool)
    np.logical_or.at(kept, group, table > 0)
    for r in range(count):
        for o in range(count):
            if o != r:
                above = np.bincount(group, weights=table[:, r] > table[:, o], minlength=groups) > 0
                below = np.bincount(group, weights=table[:, r] < table[:, o], minlength=groups) > 0
                dominated = ~above & (below | (o < r)) & kept[:, o]
                kept[:, r] &= ~dominated
    return kept


def broken_cuts(sets: BulkSets, x: FloatArray, nodes: FloatArray, on: FloatArray) -> Cuts:
    """Sharp rows and x ≤ D·on that a relaxation breaks."""
    used = np.flatnonzero(x > 0)
    needed = np.zeros((len(sets.nodes), sets.sharp.shape[1]))
    np.add.at(needed, sets.pair_group[used], sets.sharp[used] * x[used, None])
    sharp = np.flatnonzero((needed > nodes[:, None] + BROKEN_NODES).ravel())
    demand = sets.demand[sets.pair_class]
    return Cuts(sharp, np.flatnonzero(x > demand * (on[sets.pair_site] + BROKEN_SHARE)))


def define_sharp_rows(m: BulkModel, name: str, keys: IntArray) -> None:
    """Σ_k sharp[k,f]·x[k] ≤ y[g] for the chosen (group, function)."""
    s = m.sets
    count = s.sharp.shape[1]
    g, f = keys // count, keys % count
    rows = m._rows(name, keys, upper=0.0)
    row_of = np.full((m.sets.problem.group_count, count), -1)
    row_of[g, f] = rows
    at = row_of[s.pair_group]
    v, q = np.nonzero((at >= 0) & (s.sharp > 0))
    m.lp.add_entries(at[v, q], m.columns_of("x")[v], s.sharp[v, q])
    m.lp.add_entries(rows, m.columns_of("nodes")[g], -1.0)


def define_open_pairs(m: BulkModel, name: str, pairs: IntArray) -> None:
    """x[k] ≤ D[c]·on[s]: a site open by a tenth serves no more than a tenth of a class."""
    s = m.sets
    rows = m._rows(name, pairs, upper=0.0)
    m.lp.add_entries(rows, m.columns_of("x")[pairs], 1.0)
    m.lp.add_entries(rows, m.columns_of("on")[s.pair_site[pairs]], -s.demand[s.pair_class[pairs]])


def define_power(m: BulkModel) -> None:
    """P[s] = Σ_g idle·y/1000 + Σ_k dynamic·x/1000;  P[s] ≤ limit·on, kW."""
    s, p = m.sets, m.sets.problem
    sites = np.arange(p.site_count)
    power, on = m.columns_of("it_kw"), m.columns_of("on")
    rows = m._rows("it_power", sites, lower=0.0, upper=0.0)
    m.lp.add_entries(rows, power, 1.0)
    m.lp.add_entries(rows[p.groups.site], m.columns_of("nodes"), -p.groups.idle_w / W_PER_KW)
    m.lp.add_entries(rows[s.pair_site], m.columns_of("x"), -s.dynamic_kw)
    rows = m._rows("power_limit", sites, upper=0.0)
    m.lp.add_entries(rows, power, 1.0)
    m.lp.add_entries(rows, on, -s.power_limit_kw)


def define_square_term(m: BulkModel) -> None:
    """Q ≥ (q/R)·(2·P_i·P − P_i²·on), kW: tangents from below at points P_i spread over (0, limit], and where a site
    just meets its hourly cap, so that the cap is exact there.
    """
    s, p = m.sets, m.sets.problem
    square = p.sites.loss_square[:, 0] / p.sites.rated_kw
    which = np.flatnonzero(square > 0)
    points = [(which, s.power_limit_kw[which] * (i + 1) / TANGENT_COUNT) for i in range(TANGENT_COUNT)]
    capped = np.flatnonzero((square > 0) & np.isfinite(s.cap_low_kw) & (s.cap_low_kw > 0))
    points += [(capped, s.cap_low_kw[capped])]
    for i, (site, at) in enumerate(points):
        rows = m._rows(f"tangent_{i}", site, lower=0.0)
        m.lp.add_entries(rows, m.columns_of("square_kw")[site], 1.0)
        m.lp.add_entries(rows, m.columns_of("it_kw")[site], -2 * square[site] * at)
        m.lp.add_entries(rows, m.columns_of("on")[site], square[site] * at**2)


def define_open_sites(m: BulkModel) -> None:
    """y[g] ≤ N[g]·on[s] where the site may close."""
    s, p = m.sets, m.sets.problem
    g = np.flatnonzero(p.sites.may_close[p.groups.site])
    rows = m._rows("open_nodes", g, upper=0.0)
    m.lp.add_entries(rows, m.columns_of("nodes")[g], 1.0)
    m.lp.add_entries(rows, m.columns_of("on")[p.groups.site[g]], -s.nodes[g])


def padded_groups(p: PlacementProblem) -> BoolArray:
    """[G] groups where powered but empty nodes could pay: hourly cap, or the legal ledger."""
    tempted: BoolArray = ~np.isnan(p.sites.ipue_cap_hourly)
    if p.terms.ledger_load == "legal":
        tempted |= ~np.isnan(p.sites.pue_cap_annual)
        tempted |= p.sites.is_edge & (p.terms.portfolio_pue_cap_annual is not None)
    return np.asarray(tempted[p.groups.site])


def define_padding(m: BulkModel) -> None:
    """y[g] ≤ factor·Σ dominant·x + nodes, where padding could pay."""
    s, p = m.sets, m.sets.problem
    padded = padded_groups(p)
    g = np.flatnonzero(padded)
    rows = m._rows("padding", g, upper=p.terms.padding_node_count)
    row_of = np.full(p.group_count, -1)
    row_of[g] = rows
    m.lp.add_entries(rows, m.columns_of("nodes")[g], 1.0)
    v = np.flatnonzero(padded[s.pair_group])
    m.lp.add_entries(row_of[s.pair_group[v]], m.columns_of("x")[v], -p.terms.padding_factor * s.dominant[v])


def define_reserved_floor(m: BulkModel) -> None:
    """Σ over work ranked below public service of share·x ≤ (1 − floor)·N, nodes, per resource."""
    s, p = m.sets, m.sets.problem
    floor = p.sites.reserved_floor_frac[p.groups.site]
    if not floor.any():
        return
    low = s.site_low_pairs & (floor[s.pair_group] > 0)
    count = len(RESOURCES)
    present = np.zeros((p.group_count, count), dtype=bool)
    np.logical_or.at(present, s.pair_group[low], s.share[low] > 0)
    g, r = np.nonzero(present)
    rows = m._rows("floor", g * count + r, upper=(1 - floor[g]) * s.nodes[g])
    row_of = np.full(present.shape, -1)
    row_of[g, r] = rows
    v, q = np.nonzero((s.share > 0) & low[:, None])
    m.lp.add_entries(row_of[s.pair_group[v], q], m.columns_of("x")[v], s.share[v, q])


def define_hourly_caps(m: BulkModel) -> None:
    """e + (Π − 1 − a)·P − Q ≥ F·on, kW: facility power above the cap, the square from below.

    Hard: e costs `HARD_CAP_YUAN` per kWh, priced: the site's debt price.
    """
    s, p = m.sets, m.sets.problem
    which = np.flatnonzero(~np.isnan(p.sites.ipue_cap_hourly))
    if not len(which):
        return
    price = np.where(p.sites.hourly_is_hard, HARD_CAP_YUAN, p.sites.debt_yuan_per_kwh)[which]
    slack = (p.sites.ipue_cap_hourly - 1 - p.sites.loss_slope[:, 0])[which]
    fixed, limit = p.sites.fixed_kw[which, 0], s.power_limit_kw[which]
    most = fixed + np.abs(slack) * limit + (p.sites.loss_square[:, 0] / p.sites.rated_kw)[which] * limit**2
    excess = m._columns("cap_excess_kw", which, upper=2 * most, cost=price * s.hours)
    rows = m._rows("hourly_cap", which, lower=0.0)
    m.lp.add_entries(rows, excess, 1.0)
    m.lp.add_entries(rows, m.columns_of("it_kw")[which], slack)
    m.lp.add_entries(rows, m.columns_of("square_kw")[which], -1.0)
    m.lp.add_entries(rows, m.columns_of("on")[which], -fixed)


def define_ledgers(m: BulkModel) -> None:
    """[F_off + (F − F_off)·on + (1 + a)·P + Q − Π·P_useful]·h ≤ β + v, kWh, per capped site and once over the edges."""
    p = m.sets.problem
    debt_price = np.where(p.sites.annual_is_hard, HARD_CAP_YUAN, p.sites.debt_yuan_per_kwh)
    which = np.flatnonzero(~np.isnan(p.sites.pue_cap_annual))
    if len(which):
        _ledger_rows(
            m, "debt_kwh", "ledger", which[:, None], p.sites.pue_cap_annual[which], p.sites.ledger_beta_kwh[which],
            debt_price[which],
        )  # fmt: skip
    edges = np.flatnonzero(p.sites.is_edge)
    if p.terms.portfolio_pue_cap_annual is not None and len(edges):
        hard = p.terms.portfolio_is_hard
        price = HARD_CAP_YUAN if hard else p.terms.portfolio_debt_yuan_per_kwh
        _ledger_rows(
            m, "portfolio_debt_kwh", "portfolio", edges[None, :], np.array([p.terms.portfolio_pue_cap_annual]),
            np.array([p.terms.portfolio_beta_kwh]), np.array([price]),
        )  # fmt: skip


def _ledger_rows(
    m: BulkModel, debt_name: str, name: str, members: IntArray, cap: FloatArray, beta: FloatArray, price: FloatArray,
) -> None:  # fmt: skip
    """One ledger per row of `members` (sites)."""
    s, p = m.sets, m.sets.problem
    off = p.sites.off_kw[:, 0] * s.hours
    row_site, site = np.repeat(np.arange(len(members)), members.shape[1]), members.ravel()
    constant = np.bincount(row_site, weights=off[site], minlength=len(members))
    debt = m._columns(debt_name, members[:, 0], upper=_most_debt(m, members, beta), cost=price)
    rows = m._rows(name, members[:, 0], upper=beta - constant)
    row_of = np.full(p.site_count, -1)
    row_of[site] = rows[row_site]
    cap_of = np.zeros(p.site_count)
    cap_of[site] = cap[row_site]
    useful = p.terms.ledger_load == "useful"
    per_kw = 1 + p.sites.loss_slope[site, 0] - (0.0 if useful else cap_of[site])
    m.lp.add_entries(rows[row_site], m.columns_of("it_kw")[site], per_kw * s.hours)
    m.lp.add_entries(rows[row_site], m.columns_of("square_kw")[site], s.hours)
    open_kwh = (p.sites.fixed_kw[site, 0] - p.sites.off_kw[site, 0]) * s.hours
    m.lp.add_entries(rows[row_site], m.columns_of("on")[site], open_kwh)
    if useful:
        v = np.flatnonzero(row_of[s.pair_site] >= 0)
        kwh = s.useful_kw[v] * s.hours * cap_of[s.pair_site[v]]
        m.lp.add_entries(row_of[s.pair_site[v]], m.columns_of("x")[v], -kwh)
    m.lp.add_entries(rows, debt, -1.0)


def _most_debt(m: BulkModel, members: IntArray, beta: FloatArray) -> FloatArray:
    """No plan owes more than all facility energy of the members at their limits and what they owe already; twice the
    energy leaves room for margins.

    Every column needs a finite bound, for the Lagrangian bound's sake.
    """
    s, p = m.sets, m.sets.problem
    limit = s.power_limit_kw
    most = np.maximum(p.sites.fixed_kw, p.sites.off_kw)[:, 0] + (1 + p.sites.loss_slope[:, 0]) * limit
    most = (most + p.sites.loss_square[:, 0] / p.sites.rated_kw * limit**2) * s.hours
    return np.asarray(2 * most[members].sum(axis=1) + np.abs(beta) + 1.0)


def define_demand_charge(m: BulkModel) -> None:
    """peak ≥ P_fac − peak so far, kW, where there is a charge."""
    s, p = m.sets, m.sets.problem
    which = np.flatnonzero(p.sites.demand_yuan_per_kw > 0)
    if not len(which):
        return
    limit = s.power_limit_kw[which]
    most = np.maximum(p.sites.fixed_kw, p.sites.off_kw)[which, 0] + (1 + p.sites.loss_slope[which, 0]) * limit
    most = most + p.sites.loss_square[which, 0] / p.sites.rated_kw[which] * limit**2
    most = 1.001 * np.maximum(most, 0.0) + np.maximum(-p.sites.demand_peak_kw[which], 0.0) + 1.0
    peak = m._columns("peak_kw", which, upper=most, cost=p.sites.demand_yuan_per_kw[which])
    rows = m._rows("peak", which, lower=p.sites.off_kw[which, 0] - p.sites.demand_peak_kw[which])
    m.lp.add_entries(rows, peak, 1.0)
    m.lp.add_entries(rows, m.columns_of("it_kw")[which], -(1 + p.sites.loss_slope[which, 0]))
    m.lp.add_entries(rows, m.columns_of("square_kw")[which], -1.0)
    m.lp.add_entries(rows, m.columns_of("on")[which], -(p.sites.fixed_kw - p.sites.off_kw)[which, 0])


def spread_limit(p: PlacementProblem, demand: FloatArray) -> FloatArray:
    """[C] most replicas of a class on one site: ⌊D / m⌋ where it must lie on m sites, else inf."""
    least = p.classes.spread_site_min
    return np.where(least > 1, np.floor(demand / np.maximum(least, 1)), np.inf)


def define_spread(m: BulkModel) -> None:
    """Σ_{k ∈ s} x[k] ≤ ⌊D[c] / m⌋ for a class that must lie on at least m sites."""
    s, p = m.sets, m.sets.problem
    limit = spread_limit(p, s.demand)
    v = np.flatnonzero(np.isfinite(limit[s.pair_class]))
    if not len(v):
        return
    key, row = np.unique(s.pair_class[v] * p.site_count + s.pair_site[v], return_inverse=True)
    rows = m._rows("spread", key, upper=limit[key // p.site_count])
    m.lp.add_entries(rows[row], m.columns_of("x")[v], 1.0)


def link_room_mbps(p: PlacementProblem) -> FloatArray:
    """[L] what plans may load on each link."""
    return np.asarray(p.network.link_capacity_mbps * p.network.planning_load_frac)


def define_links(m: BulkModel) -> None:
    """Σ Mbps·x ≤ planning load · capacity, Mbps, on links that all candidates together could fill."""
    s, p = m.sets, m.sets.problem
    if not len(s.mbps_row):
        return
    room = link_room_mbps(p)
    most = np.zeros(len(room))
    np.add.at(most, s.mbps_row, s.mbps * s.demand[s.pair_class[s.mbps_column]])
    held = np.flatnonzero(most > room)
    rows = m._rows("links", held, upper=room[held])
    row_of = np.full(len(room), -1)
    row_of[held] = rows
    e = np.flatnonzero(row_of[s.mbps_row] >= 0)
    m.lp.add_entries(row_of[s.mbps_row[e]], m.columns_of("x")[s.mbps_column[e]], s.mbps[e])
