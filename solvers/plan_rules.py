"""The slow model, rule by rule: classes × groups × slots as one sparse linear program.

`build` reads as the list of rules. Each `define_*` adds one rule for all its members at once; its docstring gives the
inequality, its symbols, units and scope. Symbols (sets as in `solvers.problem`):

    z[k,b]      share of a service's demand that pair k carries during block b; x[k,t] = D[c,t]·z[k,b(t)]
    z[k,e]      the same for a stage of a graph, during era e (eras change only where nodes come or go)
    x[k,t]      replicas of batch work running
    w[p,e]      share of a graph's count that runs as pattern p
    y[g,t]      nodes on (continuous)               on[s,b]  site open (only where it may close; else 1)
    P[s,t]      IT power, kW                        Q[s,t]   square term of facility power, kW
    e[s,t]      excess over the hourly cap, kW      v[s]     ledger debt, kWh
    m[k]        share of a service that leaves the group where it runs now

Services keep their shares during a block (a few blocks a day), batch work is free per slot. The columns z[k,b] are
units only: `plan_master` replaces them by routes over blocks, which also carry what is not served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from solvers import facility
from solvers.alone import alone_on_node
from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.candidates import counted_share, dominant_share, filled_share
from solvers.linear import INFINITY, Block, LinearModel
from solvers.pipelines import Patterns, StageOptions, transfer_yuan_per_h
from solvers.problem import (
    NODE,
    NODE_COLUMNS,
    RANK_BATCH,
    RANK_INTERACTIVE,
    RESOURCES,
    W_PER_KW,
    PlacementProblem,
)

G_PER_KG = 1000.0
# Levels of the lexicographic order, first to last; everything else is cost.
LEVEL_HARD_SAFETY, LEVEL_HARD_CAPS = 0, 1
LEVEL_OF_RANK = (LEVEL_HARD_SAFETY, 2, 3, 4)
LEVEL_COUNT = 5
OpenCuts = tuple[IntArray, IntArray, IntArray]
NO_INDEX: IntArray = np.zeros(0, dtype=np.int64)
# Work left at the end costs what the cheapest feasible slot of the last day would, and this much more, so that
# finishing today beats the same price tomorrow.
UNFINISHED_MARKUP = 1.02


@dataclass(frozen=True)
class PlanOptions:
    """How fine the model is; defaults are those of the reference city."""

    blocks_per_day: int = 4
    chord_count: int = 4
    whole_nodes: bool = False
    """Replicas that share a node with none of their like (`solvers.alone`) take one each."""


@dataclass(frozen=True, eq=False)
class GraphModel:
    """One graph with its options and the patterns that may become columns."""

    options: tuple[StageOptions, ...]
    patterns: Patterns
    columns: IntArray
    """Rows of `patterns.option` that the model describes."""
    first: IntArray
    """Positions in `columns` of those to begin with."""

    @property
    def is_complete(self) -> bool:
        """No valid pattern is missing from the model."""
        return self.patterns.is_complete and len(self.columns) == len(self.patterns.option)


@dataclass(frozen=True, eq=False)
class PlanSets:
    """Everything derived from the problem before the first rule."""

    problem: PlacementProblem
    options: PlanOptions
    passes: BoolArray
    demand: FloatArray
    """D[C,T]: replicas wanted, stages of graphs included."""
    block_of_slot: IntArray
    era_of_slot: IntArray
    graphs: tuple[GraphModel, ...]
    service_pairs: IntArray
    stage_pairs: IntArray
    batch_pairs: IntArray
    share: FloatArray
    """[K,R+1] need / (capacity · packing yield): nodes that one replica takes; last, 1 where it shares a node with none
    of its like (`solvers.alone`)."""
    filled: FloatArray
    """[K] share of a node that counts as filled, for the rule on padding: see `candidates.filled_share`."""
    useful_kw: FloatArray
    """[K] dominant · idle + dynamic, kW."""
    counted_kw: FloatArray
    """[K] as useful_kw, but by the share that ledgers credit (`candidates.counted_share`)."""
    energy_yuan_per_kwh: FloatArray
    """[S,T] price, carbon included."""
    may_close: BoolArray
    """[S] sites with an `on` variable: they may close, and some pair may use them."""
    open_cuts: OpenCuts = (NO_INDEX, NO_INDEX, NO_INDEX)
    """(class, site, slot) whose share ≤ on is a row (`define_open_cuts`); added where a relaxation breaks it."""

    @property
    def block_count(self) -> int:
        """B."""
        return int(self.block_of_slot[-1]) + 1

    @property
    def era_count(self) -> int:
        """Number of eras."""
        return int(self.era_of_slot[-1]) + 1

    @property
    def used_pairs(self) -> IntArray:
        """Pairs that have columns."""
        return np.concatenate([self.service_pairs, self.stage_pairs, self.batch_pairs])

    @property
    def marginal_yuan_per_kwh_it(self) -> FloatArray:
        """[S,T] price of facility energy per kWh of IT energy, square term left out."""
        return np.asarray(self.energy_yuan_per_kwh * (1 + self.problem.sites.loss_slope))


@dataclass
class PlanModel:
    """The program under construction, with its blocks by name and, per column, level and penalty."""

    sets: PlanSets
    lp: LinearModel = field(default_factory=LinearModel)
    without_cuts: LinearModel = field(default_factory=LinearModel)
    """The program before its last rule, the cuts: other cuts go on from there."""
    columns: dict[str, Block] = field(default_factory=dict)
    rows: dict[str, Block] = field(default_factory=dict)
    keys: dict[str, tuple[IntArray, ...]] = field(default_factory=dict)
    """Indices behind the entries of a block, e.g. keys["serve"] = (class, block)."""
    levels: list[tuple[int, IntArray, FloatArray]] = field(default_factory=list)
    """(level, columns, amount per unit): what each level sums up."""
    load_column: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    load_pair: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    load_slot: IntArray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    load_factor: FloatArray = field(default_factory=lambda: np.zeros(0))
    """x[k,t] = Σ load_factor · column over the entries of (k,t)."""
    load_steady: BoolArray = field(default_factory=lambda: np.zeros(0, dtype=bool))
    """Entries of stages of graphs whose demand is the same in every slot of their era."""
    power_column: IntArray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    on_column: IntArray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.int64))
    """[S,T] column of `on`, −1 where the site cannot close."""

    @property
    def row_count_without_cuts(self) -> int:
        """Rows that every model of the same sets has, whatever its cuts; those of the cuts come after them."""
        return sum(len(block.index) for block in self.without_cuts.rows)

    def columns_of(self, name: str) -> IntArray:
        """Positions of a block of columns; empty when the model has none."""
        return self.columns[name].index if name in self.columns else np.zeros(0, dtype=np.int64)

    def rows_of(self, name: str) -> IntArray:
        """Positions of a block of rows; empty when the model has none."""
        return self.rows[name].index if name in self.rows else np.zeros(0, dtype=np.int64)


def build(sets: PlanSets) -> PlanModel:
    """All rules, in the order of the documentation."""
    model = PlanModel(sets)
    define_services(model)
    define_batch(model)
    define_loads(model)
    define_nodes(model)
    define_sites(model)
    define_it_power(model)
    define_square_term(model)
    define_power_limit(model)
    define_open_sites(model)
    define_padding(model)
    define_reserved_floor(model)
    define_hourly_caps(model)
    define_ledgers(model)
    define_demand_charge(model)
    define_patterns(model)
    define_spread(model)
    define_links(model)
    define_moves(model)
    model.without_cuts = model.lp.fork()
    define_open_cuts(model)
    return model


def with_cuts(model: PlanModel, open_cuts: OpenCuts) -> PlanModel:
    """The same model with other cuts: as if built anew, for a tenth of the time."""
    other = replace(
        model,
        sets=replace(model.sets, open_cuts=open_cuts),
        lp=model.without_cuts.fork(),
        rows={name: block for name, block in model.rows.items() if name != "open_share"},
        keys=dict(model.keys),
    )
    define_open_cuts(other)
    return other


# -- work --------------------------------------------------------------------------------------------------------


def define_services(model: PlanModel) -> None:
    """Σ over routes of class c = 1 for every service class c: all of its demand takes a route (served or not).

    Columns: units z[k,b] ≥ 0 of services for every block with demand, and z[k,e] of stages of graphs per era; they cost
    the pair's other money per replica-hour. `plan_master` makes routes of the units and enters them into these rows.
    """
    s, p = model.sets, model.sets.problem
    other = p.pairs.other_yuan_per_replica_h
    for name, pairs, slots in (
        ("place", s.service_pairs, s.block_of_slot),
        ("stage_place", s.stage_pairs, s.era_of_slot),
    ):
        demand_h = sum_over(slots, s.demand * p.slots.hours)
        k, b = np.nonzero(demand_h[p.pairs.class_index[pairs]] > 0)
        pair = pairs[k]
        cost = other[pair] * demand_h[p.pairs.class_index[pair], b]
        _columns(model, name, (pair, b), cost=cost, name=("pair", "block" if name == "place" else "era"))
    wanted = np.flatnonzero((s.demand.max(axis=1, initial=0.0) > 0) & ~is_stage(p))
    _rows(model, "serve", (wanted,), lower=1.0, upper=1.0, name=("class",))


def define_batch(model: PlanModel) -> None:
    """Σ_{k,t} h_t·x[k,t] + unfinished[c] = work[c];  Σ_{t < deadline} h_t·x + late[c] ≥ work[c];  Σ_k
    x[k,t] ≤ parallel.

    `late` costs lateness once per replica-hour. `unfinished` costs what the cheapest feasible slot of the
    last day does.
    """
    s, p = model.sets, model.sets.problem
    batch = np.flatnonzero(p.classes.work_replica_h > 0)
    if not len(batch):
        return
    hours, c = p.slots.hours, p.classes
    pair_class = p.pairs.class_index[s.batch_pairs]
    usable = np.arange(p.slot_count) >= c.release_slot[pair_class][:, None]
    usable &= p.groups.node_count[p.pairs.group_index[s.batch_pairs]] > 0
    k, t = np.nonzero(usable)
    pair = s.batch_pairs[k]
    of_class = p.pairs.class_index[pair]
    x = _columns(
        model, "run", (pair, t), cost=p.pairs.other_yuan_per_replica_h[pair] * hours[t], name=("pair", "slot")
    )
    left = _columns(
        model, "unfinished", (batch,), cost=unfinished_yuan_per_replica_h(s)[batch], name=("class",)
    )
    rows = _rows(
        model, "work", (batch,), lower=c.work_replica_h[batch], upper=c.work_replica_h[batch], name=("class",)
    )
    row_of = np.full(p.class_count, -1)
    row_of[batch] = rows
    model.lp.add_entries(row_of[of_class], x, hours[t])
    model.lp.add_entries(rows, left, 1.0)
    _define_deadlines(model, batch, of_class, t, x)
    _define_parallel(model, of_class, t, x)


def _define_deadlines(
    model: PlanModel, batch: IntArray, of_class: IntArray, t: IntArray, x: IntArray
) -> None:
    p = model.sets.problem
    dated = batch[p.classes.deadline_slot[batch] < p.slot_count]
    late = _columns(
        model, "late", (dated,), cost=p.classes.lateness_yuan_per_replica_h[dated], name=("class",)
    )
    rows = _rows(model, "deadline", (dated,), lower=p.classes.work_replica_h[dated], name=("class",))
    row_of = np.full(p.class_count, -1)
    row_of[dated] = rows
    in_time = (row_of[of_class] >= 0) & (t < p.classes.deadline_slot[of_class])
    model.lp.add_entries(row_of[of_class[in_time]], x[in_time], p.slots.hours[t[in_time]])
    model.lp.add_entries(rows, late, 1.0)


def _define_parallel(model: PlanModel, of_class: IntArray, t: IntArray, x: IntArray) -> None:
    p = model.sets.problem
    # a limit above work/h is implied by the work itself
    binds = p.classes.max_parallel_count[of_class] * p.slots.hours[t] < p.classes.work_replica_h[of_class]
    key = of_class[binds] * p.slot_count + t[binds]
    distinct, row = np.unique(key, return_inverse=True)
    c, slot = distinct // p.slot_count, distinct % p.slot_count
    rows = _rows(model, "parallel", (c, slot), upper=p.classes.max_parallel_count[c], name=("class", "slot"))
    model.lp.add_entries(rows[row], x[binds], 1.0)


def define_loads(model: PlanModel) -> None:
    """x[k,t] as a sum over columns, the table all later rules read: D[c,t]·z[k,b(t)] for services, x for batch."""
    s = model.sets
    parts = [
        _service_loads(model, "place", s.block_of_slot),
        _service_loads(model, "stage_place", s.era_of_slot),
    ]
    if "run" in model.keys:
        pair, slot = model.keys["run"]
        parts.append((model.columns_of("run"), pair, slot, np.ones(len(pair))))
    model.load_column, model.load_pair, model.load_slot = (
        np.concatenate([part[i] for part in parts]) for i in range(3)
    )
    model.load_factor = np.concatenate([part[3] for part in parts])
    stage_entries = np.arange(len(model.load_column)) - len(parts[0][0])
    of_stage = (stage_entries >= 0) & (stage_entries < len(parts[1][0]))
    steady = _steady(s)[s.problem.pairs.class_index[model.load_pair], s.era_of_slot[model.load_slot]]
    model.load_steady = of_stage & steady


def _steady(s: PlanSets) -> BoolArray:
    """[C,E] whether a class's demand is the same in all slots of an era."""
    same = np.ones((len(s.demand), s.era_count), dtype=bool)
    for era in range(s.era_count):
        here = s.demand[:, s.era_of_slot == era]
        same[:, era] = (here == here[:, :1]).all(axis=1)
    return same


def _service_loads(
    model: PlanModel, name: str, span_of_slot: IntArray
) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    s, p = model.sets, model.sets.problem
    pair, span = model.keys[name]
    factor = s.demand[p.pairs.class_index[pair]] * (span_of_slot[None, :] == span[:, None])
    entry, slot = np.nonzero(factor)
    return model.columns_of(name)[entry], pair[entry], slot, factor[entry, slot]


# -- nodes and sites ---------------------------------------------------------------------------------------------


def define_nodes(model: PlanModel) -> None:
    """Σ_k need[k,r] / (capacity[g,r]·yield[g,r]) · x[k,t] ≤ y[g,t] ≤ N[g,t], in nodes, for every resource
    that can bind; and Σ x[k,t] ≤ y[g,t] over replicas of which no two share a node (`solvers.alone`).

    A resource of a group is left out when another one is at least as scarce for every pair of the group.
    """
    s, p = model.sets, model.sets.problem
    used = np.unique(p.pairs.group_index[s.used_pairs])
    g, t = (a.ravel() for a in np.meshgrid(used, np.arange(p.slot_count), indexing="ij"))
    y = _columns(
        model, "nodes_on", (g, t), upper=p.groups.node_count[g, t].astype(float), name=("group", "slot")
    )
    y_of = np.full((p.group_count, p.slot_count), -1)
    y_of[g, t] = y
    binding = [(group, r) for group in used for r in _scarce_resources(s, int(group))]
    bg, br = (
        np.array([b[0] for b in binding], dtype=np.int64),
        np.array([b[1] for b in binding], dtype=np.int64),
    )
    row_g, row_r = np.repeat(bg, p.slot_count), np.repeat(br, p.slot_count)
    row_t = np.tile(np.arange(p.slot_count), len(bg))
    rows = _rows(model, "capacity", (row_g, row_r, row_t), upper=0.0, name=("group", "resource", "slot"))
    row_of = np.full((p.group_count, len(NODE_COLUMNS), p.slot_count), -1)
    row_of[row_g, row_r, row_t] = rows
    for r in range(len(NODE_COLUMNS)):
        row = row_of[p.pairs.group_index[model.load_pair], r, model.load_slot]
        _add_loads(model, row, s.share[:, r])
    model.lp.add_entries(rows, y_of[row_g, row_t], -1.0)
    _define_wake(model, y_of)


def _scarce_resources(s: PlanSets, group: int) -> list[int]:
    """Resources of a group not dominated by another: r is dropped when share[·,r] ≤ share[·,r'] for all its pairs."""
    in_group = s.used_pairs
    share = s.share[in_group[s.problem.pairs.group_index[in_group] == group]]
    kept: list[int] = []
    for r in range(share.shape[1]):
        others = [o for o in range(share.shape[1]) if o != r]
        dominated = any(
            (share[:, r] <= share[:, o]).all() and (o < r or not (share[:, o] <= share[:, r]).all())
            for o in others
        )
        if not dominated and share[:, r].max(initial=0.0) > 0:
            kept.append(r)
    return kept


def _define_wake(model: PlanModel, y_of: IntArray) -> None:
    """woken[g,t] ≥ y[g,t] − y[g,t−1], costs wake_yuan, where a group has such a cost."""
    p = model.sets.problem
    g, t = np.nonzero((y_of >= 0) & (p.groups.wake_yuan > 0)[:, None])
    if not len(g):
        return
    woken = _columns(model, "woken", (g, t), cost=p.groups.wake_yuan[g], name=("group", "slot"))
    before = np.where(t == 0, p.groups.initial_on_count[g], 0.0)
    rows = _rows(model, "wake", (g, t), lower=-before, name=("group", "slot"))
    model.lp.add_entries(rows, woken, 1.0)
    model.lp.add_entries(rows, y_of[g, t], -1.0)
    later = t > 0
    model.lp.add_entries(rows[later], y_of[g[later], t[later] - 1], 1.0)


def define_sites(model: PlanModel) -> None:
    """on[s,b] ∈ [0,1] where the site may close; started[s,b] ≥ on[s,b] − on[s,b−1] costs start_yuan.

    An open site costs price·(F − F_off)·Δt; what closed sites draw (F_off) and sites that stay open are constants.
    """
    s, p = model.sets, model.sets.problem
    hours = p.slots.hours
    closed_kw = p.sites.off_kw
    open_yuan = s.energy_yuan_per_kwh * (p.sites.fixed_kw - closed_kw) * hours
    model.lp.offset += float((s.energy_yuan_per_kwh * closed_kw * hours).sum())
    model.lp.offset += float(open_yuan[~p.sites.may_close].sum())
    model.on_column = np.full((p.site_count, p.slot_count), -1)
    closable = np.flatnonzero(s.may_close)
    site, block = (a.ravel() for a in np.meshgrid(closable, np.arange(s.block_count), indexing="ij"))
    on = _columns(
        model,
        "on",
        (site, block),
        upper=1.0,
        cost=sum_over(s.block_of_slot, open_yuan)[site, block],
        name=("site", "block"),
    )
    started = _columns(model, "started", (site, block), cost=p.sites.start_yuan[site], name=("site", "block"))
    before = np.where(block == 0, p.sites.initially_on[site].astype(float), 0.0)
    rows = _rows(model, "start", (site, block), lower=-before, name=("site", "block"))
    model.lp.add_entries(rows, started, 1.0)
    model.lp.add_entries(rows, on, -1.0)
    later = block > 0
    model.lp.add_entries(rows[later], on[later] - 1, 1.0)
    on_of = np.full((p.site_count, s.block_count), -1)
    on_of[site, block] = on
    model.on_column = on_of[:, s.block_of_slot]


def define_it_power(model: PlanModel) -> None:
    """P[s,t] = Σ_{g ∈ s} idle[g]·y[g,t]/1000 + Σ_{k ∈ s} dynamic[k]·x[k,t]/1000, kW.

    P costs price·(1 + a)·Δt: the linear part of facility energy.
    """
    s, p = model.sets, model.sets.problem
    site, slot = (a.ravel() for a in np.indices((p.site_count, p.slot_count)))
    cost = (s.marginal_yuan_per_kwh_it * p.slots.hours).ravel()
    power = _columns(model, "it_kw", (site, slot), cost=cost, name=("site", "slot"))
    model.power_column = power.reshape(p.site_count, p.slot_count)
    rows = _rows(model, "it_power", (site, slot), lower=0.0, upper=0.0, name=("site", "slot"))
    row_of = rows.reshape(p.site_count, p.slot_count)
    model.lp.add_entries(rows, power, 1.0)
    _add_loads(model, row_of[p.pair_site[model.load_pair], model.load_slot], -p.pairs.dynamic_w / W_PER_KW)
    g, t = model.keys["nodes_on"]
    model.lp.add_entries(
        row_of[p.groups.site[g], t], model.columns_of("nodes_on"), -p.groups.idle_w[g] / W_PER_KW
    )


def define_square_term(model: PlanModel) -> None:
    """Q[s,t] ≥ slope_i·P[s,t] + intercept_i·on[s,t] for K chords of (q/R)·P² over [0, power limit], kW.

    From above, so that budgets hold for the true square; overestimates by at most q·limit²/(4·K²·R). Q costs price·Δt.
    """
    s, p = model.sets, model.sets.problem
    slopes, intercepts = _chords(s)
    site, slot = np.nonzero(p.sites.loss_square > 0)
    cost = (s.energy_yuan_per_kwh * p.slots.hours)[site, slot]
    limit_kw = effective_power_limit_kw(p)[site, slot]
    # the chords bound it from below; at a negative price nothing else would from above
    largest = p.sites.loss_square[site, slot] / p.sites.rated_kw[site] * limit_kw**2
    upper = np.where(cost < 0, largest, INFINITY)
    square = _columns(model, "square_kw", (site, slot), cost=cost, upper=upper, name=("site", "slot"))
    for i in range(s.options.chord_count):
        on = model.on_column[site, slot]
        fixed_part = np.where(on < 0, intercepts[site, slot, i], 0.0)
        rows = _rows(model, f"chord_{i}", (site, slot), lower=fixed_part, name=("site", "slot"))
        model.lp.add_entries(rows, square, 1.0)
        model.lp.add_entries(rows, model.power_column[site, slot], -slopes[site, slot, i])
        model.lp.add_entries(rows[on >= 0], on[on >= 0], -intercepts[site, slot, i][on >= 0])


def define_power_limit(model: PlanModel) -> None:
    """P[s,t] ≤ limit[s,t]·on[s,t], kW; with a hard hourly cap also P ≤ P_hi·on."""
    p = model.sets.problem
    limit = effective_power_limit_kw(p)
    site, slot = (a.ravel() for a in np.indices(limit.shape))
    on = model.on_column[site, slot]
    rows = _rows(
        model, "power_limit", (site, slot), upper=np.where(on < 0, limit.ravel(), 0.0), name=("site", "slot")
    )
    model.lp.add_entries(rows, model.power_column.ravel(), 1.0)
    model.lp.add_entries(rows[on >= 0], on[on >= 0], -limit.ravel()[on >= 0])


def define_open_sites(model: PlanModel) -> None:
    """y[g,t] ≤ N[g,t]·on[s,t]: nothing on a closed site. `define_open_cuts` adds what a relaxation lacks."""
    p = model.sets.problem
    g, t = model.keys["nodes_on"]
    on = model.on_column[p.groups.site[g], t]
    closable = on >= 0
    rows = _rows(model, "open_nodes", (g[closable], t[closable]), upper=0.0, name=("group", "slot"))
    model.lp.add_entries(rows, model.columns_of("nodes_on")[closable], 1.0)
    model.lp.add_entries(rows, on[closable], -p.groups.node_count[g[closable], t[closable]].astype(float))


def define_open_cuts(model: PlanModel) -> None:
    """Σ_{k ∈ (c,s)} z[k,·] ≤ most[c]·on[s,b(t)] for chosen classes, sites and slots, in which c has demand.

    z is that of the slot's block, of its era for a stage of a graph; most = 1/m for a service that must lie on m sites,
    else 1. Implied for whole sites, but for sites open in part it makes the bound strong: without it a site could be
    open by a tenth and serve all of a small class, or be home to a whole twin. Comes last, so that rows only grow.
    """
    s, p = model.sets, model.sets.problem
    c, site, slot = s.open_cuts
    rows = _rows(model, "open_share", (c, site, slot), upper=0.0, name=("class", "site", "slot"))
    model.lp.add_entries(rows, model.on_column[site, slot], -largest_share_on_a_site(p)[c])
    for t in np.unique(slot):
        here = slot == t
        row_of = np.full((p.class_count, p.site_count), -1)
        row_of[c[here], site[here]] = rows[here]
        for name, span in (("place", s.block_of_slot[t]), ("stage_place", s.era_of_slot[t])):
            pair, span_of_unit = model.keys[name]
            row = np.where(span_of_unit == span, row_of[p.pairs.class_index[pair], p.pair_site[pair]], -1)
            model.lp.add_entries(row[row >= 0], model.columns_of(name)[row >= 0], 1.0)


def largest_share_on_a_site(p: PlacementProblem) -> FloatArray:
    """[C] most of a class that one site may hold: 1/m for a service that must lie on m sites."""
    return np.where(is_stage(p), 1.0, 1.0 / np.maximum(p.classes.spread_site_min, 1))


def define_padding(model: PlanModel) -> None:
    """y[g,t] ≤ factor·Σ_k filled[k]·x[k,t] + nodes: no powered but empty nodes (1.1 and 1 unless the policy says).

    Only where padding could pay or be forced: the site has an hourly cap, the legal ledger rewards IT power, or the
    group's yield is below 1/factor. Elsewhere idle power has a positive price and y is what capacity needs.
    """
    s, p = model.sets, model.sets.problem
    tempted: BoolArray = ~np.isnan(p.sites.ipue_cap_hourly)
    if p.terms.ledger_load == "legal":
        tempted |= ~np.isnan(p.sites.pue_cap_annual)
        tempted |= p.sites.is_edge & (p.terms.portfolio_pue_cap_annual is not None)
    loose = np.asarray(p.groups.packing_yield.min(axis=1) < 1.0 / p.terms.padding_factor)
    g, t = model.keys["nodes_on"]
    needed = tempted[p.groups.site[g]] | loose[g]
    rows = _rows(
        model, "padding", (g[needed], t[needed]), upper=p.terms.padding_node_count, name=("group", "slot")
    )
    row_of = np.full((p.group_count, p.slot_count), -1)
    row_of[g[needed], t[needed]] = rows
    model.lp.add_entries(rows, model.columns_of("nodes_on")[needed], 1.0)
    row = row_of[p.pairs.group_index[model.load_pair], model.load_slot]
    _add_loads(model, row, -p.terms.padding_factor * s.filled)


def define_reserved_floor(model: PlanModel) -> None:
    """Σ over work ranked below public service of need/(capacity·yield)·x ≤ (1 − floor)·N[g,t], per scarce resource."""
    s, p = model.sets, model.sets.problem
    reserved = p.sites.reserved_floor_frac[p.groups.site]
    low = p.classes.priority_rank[p.pairs.class_index] >= RANK_INTERACTIVE
    g, r, t = model.keys["capacity"]
    needed = (reserved[g] > 0) & (r != NODE)
    g, r, t = g[needed], r[needed], t[needed]
    rows = _rows(
        model, "floor", (g, r, t), upper=(1 - reserved[g]) * p.groups.node_count[g, t],
        name=("group", "resource", "slot"),
    )  # fmt: skip
    row_of = np.full((p.group_count, len(RESOURCES), p.slot_count), -1)
    row_of[g, r, t] = rows
    for resource in range(len(RESOURCES)):
        row = row_of[p.pairs.group_index[model.load_pair], resource, model.load_slot]
        _add_loads(model, row, s.share[:, resource] * low)


# -- caps --------------------------------------------------------------------------------------------------------


def define_hourly_caps(model: PlanModel) -> None:
    """P[s,t] + e[s,t]/b ≥ P_lo[s,t]·on[s,t] with b = Π − 1 − a: exact (`facility.hourly_cap_interval`).

    Where no load meets the cap: e ≥ (F − b·P)·on, square left out; e in kW of facility power. A hard cap's excess is
    level 1, a priced one costs debt per kWh. P ≤ P_hi is in `define_power_limit`.
    """
    p = model.sets.problem
    site, slot = np.nonzero(
        np.broadcast_to(~np.isnan(p.sites.ipue_cap_hourly)[:, None], (p.site_count, p.slot_count))
    )
    if not len(site):
        return
    low, _, feasible = hourly_intervals(p)
    low, feasible = low[site, slot], feasible[site, slot]
    slack = p.sites.ipue_cap_hourly[site] - 1 - p.sites.loss_slope[site, slot]
    fixed = p.sites.fixed_kw[site, slot]
    hours = p.slots.hours[slot]
    hard = p.sites.hourly_is_hard[site]
    cost = np.where(hard, 0.0, p.sites.debt_yuan_per_kwh[site] * hours)
    excess = _columns(model, "cap_excess_kw", (site, slot), cost=cost, name=("site", "slot"))
    model.levels.append((LEVEL_HARD_CAPS, excess[hard], hours[hard]))
    needed_kw = np.where(feasible, slack * np.where(feasible, low, 0.0), fixed)
    on = model.on_column[site, slot]
    constant_kw = np.where(p.sites.may_close[site], 0.0, needed_kw)
    rows = _rows(model, "hourly_cap", (site, slot), lower=constant_kw, name=("site", "slot"))
    model.lp.add_entries(rows, excess, 1.0)
    model.lp.add_entries(rows, model.power_column[site, slot], slack)
    model.lp.add_entries(rows[on >= 0], on[on >= 0], -needed_kw[on >= 0])


def define_ledgers(model: PlanModel) -> None:
    """Σ_t [F_off + (F − F_off)·on + (1 + a)·P + Q − Π·P_useful]·Δt ≤ β_H + v, kWh, per capped site and over the edges.

    P_useful = Σ_k (counted share·idle + dynamic)·x (or P in the legal form). v costs debt per kWh; hard: level 1.
    """
    p = model.sets.problem
    capped = np.flatnonzero(~np.isnan(p.sites.pue_cap_annual))
    if len(capped):
        caps = np.where(np.isnan(p.sites.pue_cap_annual), 0.0, p.sites.pue_cap_annual)
        hard = p.sites.annual_is_hard[capped]
        debt = _columns(
            model,
            "debt_kwh",
            (capped,),
            cost=np.where(hard, 0.0, p.sites.debt_yuan_per_kwh[capped]),
            name=("site",),
        )
        model.levels.append((LEVEL_HARD_CAPS, debt[hard], np.ones(int(hard.sum()))))
        row_of_site = np.full(p.site_count, -1)
        constant = _ledger_constants_kwh(p)
        rows = _rows(
            model,
            "ledger",
            (capped,),
            upper=p.sites.ledger_beta_kwh[capped] - constant[capped],
            name=("site",),
        )
        row_of_site[capped] = rows
        _add_ledger_entries(model, row_of_site, caps)
        model.lp.add_entries(rows, debt, -1.0)
    terms = p.terms
    edges = np.flatnonzero(p.sites.is_edge)
    if terms.portfolio_pue_cap_annual is not None and len(edges):
        cost = 0.0 if terms.portfolio_is_hard else terms.portfolio_debt_yuan_per_kwh
        everywhere = np.zeros(1, dtype=np.int64)
        debt = _columns(model, "portfolio_debt_kwh", (everywhere,), cost=cost, name=("portfolio",))
        if terms.portfolio_is_hard:
            model.levels.append((LEVEL_HARD_CAPS, debt, np.ones(1)))
        upper = terms.portfolio_beta_kwh - _ledger_constants_kwh(p)[edges].sum()
        rows = _rows(model, "portfolio_ledger", (everywhere,), upper=upper, name=("portfolio",))
        row_of_site = np.where(p.sites.is_edge, rows[0], -1)
        _add_ledger_entries(model, row_of_site, np.full(p.site_count, terms.portfolio_pue_cap_annual))
        model.lp.add_entries(rows, debt, -1.0)


def _ledger_constants_kwh(p: PlacementProblem) -> FloatArray:
    """[S] facility energy that no variable moves: F_off of sites that may close, F of the others."""
    constant_kw = np.where(p.sites.may_close[:, None], p.sites.off_kw, p.sites.fixed_kw)
    return np.asarray((constant_kw * p.slots.hours).sum(axis=1))


def _add_ledger_entries(model: PlanModel, row_of_site: IntArray, caps: FloatArray) -> None:
    s, p = model.sets, model.sets.problem
    hours = p.slots.hours
    useful = p.terms.ledger_load == "useful"
    site = np.repeat(np.arange(p.site_count), p.slot_count)
    row = row_of_site[site]
    held = row >= 0
    per_kw = (1 + p.sites.loss_slope - (0.0 if useful else caps[:, None])) * hours
    model.lp.add_entries(row[held], model.power_column.ravel()[held], per_kw.ravel()[held])
    square_site, square_slot = model.keys["square_kw"]
    held = row_of_site[square_site] >= 0
    model.lp.add_entries(
        row_of_site[square_site[held]], model.columns_of("square_kw")[held], hours[square_slot[held]]
    )
    on = model.on_column.ravel()
    held = (row >= 0) & (on >= 0)
    open_kwh = ((p.sites.fixed_kw - p.sites.off_kw) * hours).ravel()
    model.lp.add_entries(row[held], on[held], open_kwh[held])
    if useful:
        load_site = p.pair_site[model.load_pair]
        load_row = row_of_site[load_site]
        held = load_row >= 0
        kwh = s.counted_kw[model.load_pair] * model.load_factor * hours[model.load_slot] * caps[load_site]
        model.lp.add_entries(load_row[held], model.load_column[held], -kwh[held])


def define_demand_charge(model: PlanModel) -> None:
    """peak[s] ≥ P_fac[s,t] − peak so far, kW, costs the demand charge; only where there is one."""
    p = model.sets.problem
    charged = p.sites.demand_yuan_per_kw > 0
    if not charged.any():
        return
    which = np.flatnonzero(charged)
    peak = _columns(model, "peak_kw", (which,), cost=p.sites.demand_yuan_per_kw[which], name=("site",))
    peak_of = np.full(p.site_count, -1)
    peak_of[which] = peak
    site, slot = np.nonzero(np.broadcast_to(charged[:, None], model.power_column.shape))
    on = model.on_column[site, slot]
    constant = np.where(p.sites.may_close[:, None], p.sites.off_kw, p.sites.fixed_kw)[site, slot]
    rows = _rows(
        model, "peak", (site, slot), lower=constant - p.sites.demand_peak_kw[site], name=("site", "slot")
    )
    model.lp.add_entries(rows, peak_of[site], 1.0)
    model.lp.add_entries(rows, model.power_column[site, slot], -(1 + p.sites.loss_slope[site, slot]))
    open_kw = (p.sites.fixed_kw - p.sites.off_kw)[site, slot]
    model.lp.add_entries(rows[on >= 0], on[on >= 0], -open_kw[on >= 0])
    square_of = np.full(model.power_column.shape, -1)
    square_of[model.keys["square_kw"]] = model.columns_of("square_kw")
    square = square_of[site, slot]
    model.lp.add_entries(rows[square >= 0], square[square >= 0], -1.0)


# -- graphs, spread, links, moves --------------------------------------------------------------------------------


def define_patterns(model: PlanModel) -> None:
    """Σ_p w[p,e] + u[j,e] = 1 per graph j;  Σ_{k of stage i with option o} z[k,e] = Σ_{p: p_i = o} w[p,e].

    u costs the penalties of all stages of the graph, at the level of its most urgent stage.
    """
    s, p = model.sets, model.sets.problem
    for j, (graph, held) in enumerate(zip(p.graphs, s.graphs, strict=True)):
        count_h = sum_over(s.era_of_slot, np.array(graph.count) * p.slots.hours)
        eras = np.flatnonzero(count_h > 0)
        patterns = held.patterns.option[held.columns]
        transfer = transfer_yuan_per_h(p, graph, held.options, patterns)
        n, b = (a.ravel() for a in np.meshgrid(np.arange(len(patterns)), eras, indexing="ij"))
        w = _columns(model, f"pattern_{j}", (n, b), cost=transfer[n] * count_h[b], name=("pattern", "era"))
        u = _columns(model, f"graph_unserved_{j}", (eras,), name=("era",))
        stage_penalty = sum(
            p.classes.unserved_yuan_per_replica_h[c] * replicas
            for c, replicas in zip(graph.stage_class, graph.stage_replicas, strict=True)
        )
        rank = min((int(p.classes.priority_rank[c]) for c in graph.stage_class), default=RANK_BATCH)
        model.levels.append((LEVEL_OF_RANK[rank], u, stage_penalty * count_h[eras]))
        rows = _rows(model, f"graph_{j}", (eras,), lower=1.0, upper=1.0, name=("era",))
        row_of = np.full(s.era_count, -1)
        row_of[eras] = rows
        model.lp.add_entries(row_of[b], w, 1.0)
        model.lp.add_entries(rows, u, 1.0)
        for stage, options in enumerate(held.options):
            if not options.is_fixed:
                _link_stage(model, j, stage, options, (n, b, w), patterns, eras)


def _link_stage(
    model: PlanModel,
    graph: int,
    stage: int,
    options: StageOptions,
    columns: tuple[IntArray, IntArray, IntArray],
    patterns: IntArray,
    eras: IntArray,
) -> None:
    s = model.sets
    n, b, w = columns
    o, ob = (a.ravel() for a in np.meshgrid(np.arange(len(options.site)), eras, indexing="ij"))
    rows = _rows(model, f"stage_{graph}_{stage}", (o, ob), lower=0.0, upper=0.0, name=("option", "era"))
    row_of = np.full((len(options.site), s.era_count), -1)
    row_of[o, ob] = rows
    model.lp.add_entries(row_of[patterns[n, stage], b], w, -1.0)
    pair, era = model.keys["stage_place"]
    option = options.pair_option[pair]
    ours = option >= 0
    model.lp.add_entries(row_of[option[ours], era[ours]], model.columns_of("stage_place")[ours], 1.0)


def define_spread(model: PlanModel) -> None:
    """Σ_{k ∈ s} z[k,b] ≤ 1/m for a class that must lie on at least m sites: no site holds more than an m-th of it."""
    p = model.sets.problem
    spread = p.classes.spread_site_min
    pair, block = model.keys["place"]
    needed = spread[p.pairs.class_index[pair]] > 1
    if not needed.any():
        return
    c, site = p.pairs.class_index[pair[needed]], p.pair_site[pair[needed]]
    distinct, row = np.unique(np.stack([c, site, block[needed]]), axis=1, return_inverse=True)
    rows = _rows(
        model, "spread", tuple(distinct), upper=1.0 / spread[distinct[0]], name=("class", "site", "block")
    )
    model.lp.add_entries(rows[np.ravel(row)], model.columns_of("place")[needed], 1.0)


def define_links(model: PlanModel) -> None:
    """Σ_k Mbps[k,l]·x[k,t] + traffic between stages ≤ planning load · capacity[l], Mbps; only links that can fill up.

    Both directions of a link are counted together, which is on the safe side.
    """
    s, p = model.sets, model.sets.problem
    mbps = class_link_mbps(p)
    if not len(mbps[0]):
        return
    usable = p.network.link_capacity_mbps * p.network.planning_load_frac
    peak = np.maximum(
        s.demand.max(axis=1, initial=0.0),
        np.where(p.classes.work_replica_h > 0, p.classes.max_parallel_count, 0),
    )
    c, site, link, rate = mbps
    # at most one site carries a replica, so the worst a class does to a link is its largest rate times its peak
    distinct, inverse = np.unique(np.stack([c, link]), axis=1, return_inverse=True)
    worst = np.zeros(distinct.shape[1])
    np.maximum.at(worst, np.ravel(inverse), rate)
    possible = np.zeros(len(usable))
    np.add.at(possible, distinct[1], worst * peak[distinct[0]])
    for j in range(len(p.graphs)):
        possible += _most_stage_mbps(s, j) * max(p.graphs[j].count, default=0.0)
    tight = np.flatnonzero(possible > usable)
    if not len(tight):
        return
    row_link, row_slot = (a.ravel() for a in np.meshgrid(tight, np.arange(p.slot_count), indexing="ij"))
    rows = _rows(model, "link", (row_link, row_slot), upper=usable[row_link], name=("link", "slot"))
    row_of = np.full((len(usable), p.slot_count), -1)
    row_of[row_link, row_slot] = rows
    for index in tight:
        per_pair = np.zeros((p.class_count, p.site_count))
        on_link = link == index
        np.add.at(per_pair, (c[on_link], site[on_link]), rate[on_link])
        rates = per_pair[p.pairs.class_index, p.pair_site]
        _add_loads(model, row_of[index, model.load_slot], rates)
    _add_stage_traffic(model, row_of)


def _add_stage_traffic(model: PlanModel, row_of: IntArray) -> None:
    """Traffic between stages, summed over all graphs and patterns per link and era where counts are steady."""
    s, p = model.sets, model.sets.problem
    if not p.graphs:
        return
    links = np.flatnonzero(row_of[:, 0] >= 0)
    link, era = (a.ravel() for a in np.meshgrid(links, np.arange(s.era_count), indexing="ij"))
    sums = _columns(model, "stage_mbps", (link, era), name=("link", "era"))
    rows = _rows(model, "stage_mbps", (link, era), lower=0.0, upper=0.0, name=("link", "era"))
    made_of = np.full((len(row_of), s.era_count), -1)
    made_of[link, era] = rows
    model.lp.add_entries(rows, sums, -1.0)
    t = np.arange(p.slot_count)
    sum_of = np.full((len(row_of), s.era_count), -1)
    sum_of[link, era] = sums
    model.lp.add_entries(row_of[links], sum_of[links][:, s.era_of_slot[t]], 1.0)
    for j, graph in enumerate(p.graphs):
        pattern, link, rate = _stage_link_mbps(s, j)
        n, b = model.keys[f"pattern_{j}"]
        w_of = np.full((len(s.graphs[j].columns), s.era_count), -1)
        w_of[n, b] = model.columns_of(f"pattern_{j}")
        count = np.array(graph.count)
        for e in range(s.era_count):
            of_era = count[s.era_of_slot == e]
            together = bool((of_era == of_era[0]).all())
            slots = [e] if together else np.flatnonzero(s.era_of_slot == e).tolist()
            for slot in slots:
                row = made_of[link, e] if together else row_of[link, slot]
                number = float(of_era[0]) if together else float(count[slot])
                held = (row >= 0) & (w_of[pattern, e] >= 0)
                model.lp.add_entries(row[held], w_of[pattern[held], e], rate[held] * number)


def class_link_mbps(p: PlacementProblem) -> tuple[IntArray, IntArray, IntArray, FloatArray]:
    """(class, site, link, Mbps of one replica): what the zone flows of a class load on each link, per site."""
    network, flows = p.network, p.flows
    order = np.argsort(network.route_origin, kind="stable")
    origin = network.route_origin[order]
    first = np.searchsorted(origin, flows.leg_index, side="left")
    last = np.searchsorted(origin, flows.leg_index, side="right")
    length = last - first
    flow = np.repeat(np.arange(len(flows.mbps)), length)
    entry = order[np.repeat(first - np.cumsum(length) + length, length) + np.arange(int(length.sum()))]
    rate = flows.mbps[flow]
    carries = rate > 0
    flow, entry = flow[carries], entry[carries]
    return flows.class_index[flow], network.route_site[entry], network.route_link[entry], rate[carries]


def _stage_link_mbps(s: PlanSets, graph_index: int) -> tuple[IntArray, IntArray, FloatArray]:
    """(pattern column, link, Mbps of one graph): traffic between the stages of a graph."""
    p, held = s.problem, s.graphs[graph_index]
    patterns = held.patterns.option[held.columns]
    begin, links = _links_between_sites(p)
    nothing = np.zeros(0, dtype=np.int64)
    found: list[tuple[IntArray, IntArray, FloatArray]] = [(nothing, nothing, np.zeros(0))]
    for flow in p.graphs[graph_index].flows:
        if flow.mbps <= 0:
            continue
        source = held.options[flow.from_stage].site[patterns[:, flow.from_stage]]
        target = held.options[flow.to_stage].site[patterns[:, flow.to_stage]]
        route = source * p.site_count + target
        length = begin[route + 1] - begin[route]
        offset = np.arange(int(length.sum())) - np.repeat(np.cumsum(length) - length, length)
        on_route = links[np.repeat(begin[route], length) + offset]
        found.append((np.repeat(np.arange(len(route)), length), on_route, np.full(len(on_route), flow.mbps)))
    columns, link, mbps = (np.concatenate([part[i] for part in found]) for i in range(3))
    return columns.astype(np.int64), link.astype(np.int64), mbps


def _most_stage_mbps(s: PlanSets, graph_index: int) -> FloatArray:
    """[links] most that one graph can load a link with, whatever pattern it takes."""
    p, held = s.problem, s.graphs[graph_index]
    begin, links = _links_between_sites(p)
    route = np.repeat(np.arange(p.site_count**2), np.diff(begin))
    most = np.zeros(len(p.network.link_id))
    for flow in p.graphs[graph_index].flows:
        may_send, may_receive = np.zeros(p.site_count, dtype=bool), np.zeros(p.site_count, dtype=bool)
        may_send[held.options[flow.from_stage].site] = True
        may_receive[held.options[flow.to_stage].site] = True
        reached = np.zeros(len(most), dtype=bool)
        reached[links[may_send[route // p.site_count] & may_receive[route % p.site_count]]] = True
        most += flow.mbps * reached
    return most


def _links_between_sites(p: PlacementProblem) -> tuple[IntArray, IntArray]:
    """([S²+1] begin, links): the links of the route from site a to site b are links[begin[a·S+b] : begin[a·S+b+1]]."""
    network = p.network
    source = network.route_origin - len(network.leg_id)
    between = np.flatnonzero((source >= 0) & (source != network.route_site))
    route = source[between] * p.site_count + network.route_site[between]
    order = np.argsort(route, kind="stable")
    begin = np.searchsorted(route[order], np.arange(p.site_count**2 + 1))
    return begin, network.route_link[between[order]]


def define_moves(model: PlanModel) -> None:
    """m[k] ≥ share of demand that runs on pair k now − z[k,0], costs migration; later moves cost inside routes.

    A move is a change of node group. Replicas that end because demand shrinks do not count as moved. Batch work that
    runs now and leaves its group counts the same way, in replicas. At most `move_budget_count` replicas of services
    leave in the first slot, softly: beyond it a move costs ten times more (a lost site forces moves no budget forbids).
    """
    s, p = model.sets, model.sets.problem
    running = np.where(s.passes, p.pairs.running_count, 0.0)
    total = np.zeros(p.class_count)
    np.add.at(total, p.pairs.class_index, running)
    _define_service_moves(model, running, total)
    _define_batch_moves(model, running, total)


def _define_service_moves(model: PlanModel, running: FloatArray, total: FloatArray) -> None:
    s, p = model.sets, model.sets.problem
    column_of = np.full(p.pair_count, -1)
    for name in ("place", "stage_place"):
        pair, span = model.keys[name]
        column_of[pair[span == 0]] = model.columns_of(name)[span == 0]
    now = s.demand[:, 0]
    k = np.flatnonzero((running > 0) & (column_of >= 0) & (now[p.pairs.class_index] > 0))
    if not len(k):
        return
    c = p.pairs.class_index[k]
    kept_share = running[k] / np.maximum(total[c], now[c])
    moved = _columns(model, "moved", (k,), cost=p.classes.migration_yuan[c] * now[c], name=("pair",))
    rows = _rows(model, "stay", (k,), lower=kept_share, name=("pair",))
    model.lp.add_entries(rows, column_of[k], 1.0)
    model.lp.add_entries(rows, moved, 1.0)
    if p.terms.move_budget_count is not None:
        only = np.zeros(1, dtype=np.int64)
        top = float(p.classes.migration_yuan.max(initial=1.0))
        over = _columns(model, "moves_over_budget", (only,), cost=10 * top, name=("slot",))
        budget = _rows(model, "move_budget", (only,), upper=p.terms.move_budget_count, name=("slot",))
        model.lp.add_entries(budget, moved, now[c])
        model.lp.add_entries(budget, over, -1.0)


def _define_batch_moves(model: PlanModel, running: FloatArray, total: FloatArray) -> None:
    p = model.sets.problem
    if "run" not in model.keys:
        return
    pair, slot = model.keys["run"]
    column_of = np.full(p.pair_count, -1)
    column_of[pair[slot == 0]] = model.columns_of("run")[slot == 0]
    k = np.flatnonzero((running > 0) & (column_of >= 0))
    if not len(k):
        return
    c = p.pairs.class_index[k]
    possible = np.minimum(p.classes.max_parallel_count[c], p.classes.work_replica_h[c] / p.slots.hours[0])
    kept = running[k] * np.minimum(1.0, possible / total[c])
    moved = _columns(model, "moved_batch", (k,), cost=p.classes.migration_yuan[c], name=("pair",))
    rows = _rows(model, "stay_batch", (k,), lower=kept, name=("pair",))
    model.lp.add_entries(rows, column_of[k], 1.0)
    model.lp.add_entries(rows, moved, 1.0)


def block_move_yuan(s: PlanSets) -> FloatArray:
    """[C,B−1] cost of moving a class's whole demand between blocks b and b + 1: migration · least mean
    demand of both.
    """
    p = s.problem
    mean = sum_over(s.block_of_slot, s.demand * p.slots.hours) / sum_over(s.block_of_slot, p.slots.hours)
    return np.asarray(p.classes.migration_yuan[:, None] * np.minimum(mean[:, :-1], mean[:, 1:]))


# -- constants the rules share -----------------------------------------------------------------------------------


def hourly_intervals(p: PlacementProblem) -> tuple[FloatArray, FloatArray, BoolArray]:
    """[S,T] IT loads at which each site meets its hourly cap: (low_kw, high_kw, feasible)."""
    return facility.hourly_cap_interval(
        p.sites.fixed_kw, p.sites.loss_slope, p.sites.loss_square, p.sites.rated_kw[:, None],
        p.sites.ipue_cap_hourly[:, None],
    )  # fmt: skip


def effective_power_limit_kw(p: PlacementProblem) -> FloatArray:
    """[S,T] IT power limit; under a hard hourly cap also the upper end of its interval."""
    _, high, feasible = hourly_intervals(p)
    capped = feasible & p.sites.hourly_is_hard[:, None]
    return np.asarray(np.where(capped, np.minimum(p.sites.power_limit_kw, high), p.sites.power_limit_kw))


def unfinished_yuan_per_replica_h(s: PlanSets) -> FloatArray:
    """[C] value of a replica-hour left over: cheapest candidate pair and slot of the last 24 h, 2 % on top."""
    p = s.problem
    end_s = p.slots.start_s[-1] + p.slots.hours[-1] * 3600
    last_day = p.slots.start_s >= end_s - 24 * 3600
    open_group = p.groups.node_count > 0
    price = np.where(open_group & last_day, s.marginal_yuan_per_kwh_it[p.groups.site], INFINITY).min(
        axis=1, initial=INFINITY
    )
    per_pair = price[p.pairs.group_index] * s.useful_kw + p.pairs.other_yuan_per_replica_h
    cheapest = np.full(p.class_count, INFINITY)
    np.minimum.at(cheapest, p.pairs.class_index[s.passes], per_pair[s.passes])
    # a class that can run nowhere keeps a price of zero: nothing the plan does changes it
    return np.where(np.isfinite(cheapest), cheapest * UNFINISHED_MARKUP, 0.0)


def _chords(s: PlanSets) -> tuple[FloatArray, FloatArray]:
    p = s.problem
    return facility.square_chords(
        p.sites.loss_square, p.sites.rated_kw[:, None], effective_power_limit_kw(p), s.options.chord_count
    )


def chord_error_yuan(s: PlanSets) -> float:
    """Most that the chords can overestimate the energy cost of any plan."""
    p = s.problem
    error_kw = facility.square_chord_error_kw(
        p.sites.loss_square, p.sites.rated_kw[:, None], effective_power_limit_kw(p), s.options.chord_count
    )
    return float((error_kw * s.energy_yuan_per_kwh * p.slots.hours).sum())


def energy_yuan_per_kwh(p: PlacementProblem) -> FloatArray:
    """[S,T] price of facility energy with carbon: price + g/kWh · yuan/kg / 1000."""
    return np.asarray(
        p.sites.price_yuan_per_kwh + p.sites.carbon_g_per_kwh / G_PER_KG * p.terms.carbon_yuan_per_kg
    )


def make_sets(
    problem: PlacementProblem,
    options: PlanOptions,
    passes: BoolArray,
    demand: FloatArray,
    block_of_slot: IntArray,
    era_of_slot: IntArray,
    graphs: tuple[GraphModel, ...],
) -> PlanSets:
    """Derive what the rules share from the problem, its candidates, blocks and graph options."""
    p = problem
    is_service = np.asarray(demand.max(axis=1, initial=0.0) > 0)
    cls = p.pairs.class_index
    usable = passes.copy()
    for graph, held in zip(p.graphs, graphs, strict=True):
        for stage_class, stage in zip(graph.stage_class, held.options, strict=True):
            usable &= (cls != stage_class) | (stage.pair_option >= 0)
    capacity = p.groups.capacity[p.pairs.group_index] * p.groups.packing_yield[p.pairs.group_index]
    share = np.divide(p.pairs.need, capacity, out=np.zeros(capacity.shape), where=capacity > 0)
    share = np.column_stack([share, alone_on_node(p) & options.whole_nodes])
    idle_w = p.groups.idle_w[p.pairs.group_index]
    useful_kw = (dominant_share(p) * idle_w + p.pairs.dynamic_w) / W_PER_KW
    counted_kw = (counted_share(p) * idle_w + p.pairs.dynamic_w) / W_PER_KW
    of_stage = is_stage(p)[cls]
    service_pairs = np.flatnonzero(usable & is_service[cls] & ~of_stage)
    stage_pairs = np.flatnonzero(usable & is_service[cls] & of_stage)
    batch_pairs = np.flatnonzero(usable & (p.classes.work_replica_h[cls] > 0))
    has_pairs = np.zeros(p.site_count, dtype=bool)
    has_pairs[p.pair_site[np.concatenate([service_pairs, stage_pairs, batch_pairs])]] = True
    return PlanSets(
        problem=p, options=options, passes=usable, demand=demand, block_of_slot=block_of_slot,
        era_of_slot=era_of_slot, graphs=graphs, service_pairs=service_pairs, stage_pairs=stage_pairs,
        batch_pairs=batch_pairs, share=share, filled=filled_share(p), useful_kw=useful_kw, counted_kw=counted_kw,
        energy_yuan_per_kwh=energy_yuan_per_kwh(p), may_close=p.sites.may_close & has_pairs,
    )  # fmt: skip


def sum_over(span_of_slot: IntArray, values: FloatArray) -> FloatArray:
    """[…, spans] sums of […, T] over contiguous spans (blocks or eras)."""
    firsts = np.searchsorted(span_of_slot, np.arange(int(span_of_slot[-1]) + 1))
    return np.asarray(np.add.reduceat(values, firsts, axis=-1))


def is_stage(problem: PlacementProblem) -> BoolArray:
    """[C] whether the class is a stage of a graph."""
    stage = np.zeros(problem.class_count, dtype=bool)
    stage[problem.stage_classes()] = True
    return stage


def _add_loads(model: PlanModel, row: IntArray, per_replica: FloatArray) -> None:
    """Σ_k per_replica[k]·x[k,t] into the rows given per load entry; −1: no row.

    Units whose demand stays the same over their span load the rows of all its slots alike. What they bring is summed
    once, in a column of its own that enters those rows: a fifth of the entries, and the same program.
    """
    held = row >= 0
    values = per_replica[model.load_pair] * model.load_factor
    at_once = model.load_steady & held & (values != 0.0)
    alone = held & ~at_once
    model.lp.add_entries(row[alone], model.load_column[alone], values[alone])
    # one sum per row of the first slot: there the units that load it are known, and so are the rows of later slots
    entry = np.flatnonzero(at_once)
    column, first = np.unique(model.load_column[entry], return_index=True)
    lead = np.full(model.lp.column_count, -1)
    lead[column] = row[entry[first]]
    lead_of_entry = lead[model.load_column[entry]]
    _add_sums(model, entry[first], lead_of_entry[first], values, np.stack([lead_of_entry, row[entry]]))


def _add_sums(
    model: PlanModel, firsts: IntArray, lead_row: IntArray, values: FloatArray, rows: IntArray
) -> None:
    """Columns Σ value·unit per lead row, entered with 1 into `rows`[1] of each distinct (lead, row) in `rows`."""
    leads, which = np.unique(lead_row, return_inverse=True)
    if not len(leads):
        return
    name = f"sum_{len(model.lp.rows)}"
    sums = _columns(model, name, (leads,), lower=-INFINITY, name=("row",))
    made = _rows(model, name, (leads,), lower=0.0, upper=0.0, name=("row",))
    model.lp.add_entries(made[which], model.load_column[firsts], values[firsts])
    model.lp.add_entries(made, sums, -1.0)
    width = int(rows[1].max()) + 1
    lead, row = np.divmod(np.unique(rows[0] * width + rows[1]), width)
    model.lp.add_entries(row, sums[np.searchsorted(leads, lead)], 1.0)


def _columns(
    model: PlanModel, block: str, keys: tuple[IntArray, ...], *, name: Sequence[str],
    lower: float = 0.0, upper: FloatArray | float = INFINITY, cost: FloatArray | float = 0.0,
) -> IntArray:  # fmt: skip
    made = model.lp.add_columns(
        block,
        len(keys[0]),
        lower=lower,
        upper=upper,
        cost=cost,
        label=_Labels(model.sets.problem, name, keys),
    )
    model.columns[block], model.keys[block] = made, keys
    return made.index


def _rows(
    model: PlanModel, block: str, keys: tuple[IntArray, ...], *, name: Sequence[str],
    lower: FloatArray | float = -INFINITY, upper: FloatArray | float = INFINITY,
) -> IntArray:  # fmt: skip
    made = model.lp.add_rows(
        block, len(keys[0]), lower=lower, upper=upper, label=_Labels(model.sets.problem, name, keys)
    )
    model.rows[block], model.keys[block] = made, keys
    return made.index


@dataclass(frozen=True, eq=False)
class _Labels:
    """Names of entries, made only when a model is written as text:
    `capacity[group=e01/l20,resource=gpu_milli,slot=3]`.
    """

    problem: PlacementProblem
    names: Sequence[str]
    keys: tuple[IntArray, ...]

    def __call__(self, index: int) -> str:
        p = self.problem
        ids: Mapping[str, Sequence[str]] = {
            "class": p.classes.class_id, "group": p.groups.group_id, "site": p.sites.site_id,
            "resource": NODE_COLUMNS, "link": p.network.link_id,
        }  # fmt: skip
        parts = []
        for name, key in zip(self.names, self.keys, strict=True):
            value = int(key[index])
            if name == "row":
                parts.append(f"row={value}")
            elif name == "pair":
                c, g = int(p.pairs.class_index[value]), int(p.pairs.group_index[value])
                parts.append(f"class={p.classes.class_id[c]},group={p.groups.group_id[g]}")
            else:
                parts.append(f"{name}={ids[name][value] if name in ids else value}")
        return ",".join(parts)
