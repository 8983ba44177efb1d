"""The single-source core of a placement problem: every job on exactly one bin, bins with one capacity and a fixed cost.

    minimise  Σ cost[i,j]·x[i,j] + Σ fixed[i]·y[i] + offset          yuan over the horizon
    with      Σ_i x[i,j] = 1                                          every job j
              Σ_j load[i,j]·x[i,j] ≤ capacity[i]·y[i]                 every bin i, in one resource
              x, y ∈ {0, 1},  x[i,j] = 0 where allowed[i,j] is false

Generalised assignment is the case without fixed costs, single-source capacitated facility location the one where the
load does not depend on the bin. A `PlacementProblem` has this form exactly when `refusals` is empty: one slot, one
replica per class, one node per site, one resource that anything asks for, and a linear plant without caps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np

from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.candidates import candidates, dominant_share
from solvers.problem import RESOURCES, W_PER_KW, PlacementProblem
from solvers.solution import Bound, Cost, NodePlacements, PlanSolution, SolveStatus

G_PER_KG = 1000.0


class NotSingleSource(ValueError):
    """The problem has rules that this model does not know; the message lists them all."""


@dataclass(frozen=True, eq=False)
class AssignmentProblem:
    """Arrays of the model above; m bins, n jobs. Forbidden pairs have `allowed` false and any cost and load."""

    cost: Annotated[FloatArray, "m", "n"]
    load: Annotated[IntArray, "m", "n"]
    capacity: Annotated[IntArray, "m"]
    fixed: Annotated[FloatArray, "m"]
    """≥ 0, paid when the bin has a job."""
    allowed: Annotated[BoolArray, "m", "n"]
    offset: float = 0.0

    @property
    def bin_count(self) -> int:
        """m."""
        return int(self.cost.shape[0])

    @property
    def job_count(self) -> int:
        """n."""
        return int(self.cost.shape[1])

    @property
    def has_whole_costs(self) -> bool:
        """All costs are whole numbers, so that a bound may be rounded up."""
        numbers = (self.cost[self.allowed], self.fixed, np.array([self.offset]))
        return all(bool(np.array_equal(v, np.rint(v))) for v in numbers)

    def used(self, bin_of: IntArray) -> IntArray:
        """[m] load on every bin."""
        jobs = np.arange(self.job_count)
        used = np.zeros(self.bin_count, dtype=np.int64)
        np.add.at(used, bin_of, self.load[bin_of, jobs])
        return used

    def is_feasible(self, bin_of: IntArray) -> bool:
        """Every job on an allowed bin, no bin over its capacity."""
        on_allowed = self.allowed[bin_of, np.arange(self.job_count)].all()
        return bool(on_allowed and (self.used(bin_of) <= self.capacity).all())

    def objective(self, bin_of: IntArray) -> float:
        """Cost of an assignment, fixed costs of the bins it uses and offset included."""
        jobs = np.arange(self.job_count)
        return float(self.cost[bin_of, jobs].sum() + self.fixed[np.unique(bin_of)].sum() + self.offset)

    def within(self, bins: IntArray) -> AssignmentProblem:
        """The same jobs with these bins only, all of them open already (their fixed costs in the offset)."""
        return AssignmentProblem(
            cost=self.cost[bins],
            load=self.load[bins],
            capacity=self.capacity[bins],
            fixed=np.zeros(len(bins)),
            allowed=self.allowed[bins],
            offset=self.offset + float(self.fixed[bins].sum()),
        )


# -- from a placement problem ------------------------------------------------------------------------------------


def refusals(problem: PlacementProblem) -> list[str]:
    """Rules of the problem that the single-source model cannot express; empty: it says exactly the same."""
    p, s, c = problem, problem.sites, problem.classes
    if p.slot_count != 1:
        return [f"{p.slot_count} slots instead of one"]
    power_w = np.zeros((p.class_count, p.site_count))
    np.maximum.at(power_w, (p.pairs.class_index, p.pair_site), p.pairs.dynamic_w)
    most_w = power_w.sum(axis=0)
    np.add.at(most_w, p.groups.site, p.groups.idle_w)
    low_rank = c.priority_rank >= 2
    tests = {
        "a class without exactly one replica of demand": bool((c.demand_count != 1).any()),
        "batch work": bool((c.work_replica_h > 0).any()),
        "gangs": bool((c.gang_size > 1).any()),
        "replicas spread over sites": bool((c.spread_site_min > 1).any()),
        "replicas already running": bool((p.pairs.running_count > 0).any()),
        "a group with other than one node": bool((p.groups.node_count != 1).any()),
        "more or less than one group per site": not np.array_equal(p.groups.site, np.arange(p.site_count)),
        "a packing yield below 1": bool((p.groups.packing_yield < 1).any()),
        "more than one resource in use": int(p.pairs.need.any(axis=0).sum()) > 1,
        "stage graphs": bool(p.graphs),
        "links that carry traffic": bool(len(p.network.link_id) and (p.flows.mbps > 0).any()),
        "a quadratic plant": bool((s.loss_square != 0).any()),
        "hourly or annual PUE caps": not bool(
            np.isnan(s.ipue_cap_hourly).all() and np.isnan(s.pue_cap_annual).all()
        ) or p.terms.portfolio_pue_cap_annual is not None,
        "demand charges": bool((s.demand_yuan_per_kw != 0).any()),
        "reserved floors": bool((s.reserved_floor_frac > 0).any() and low_rank.any()),
        "a power limit that can bind": bool((most_w > s.power_limit_kw[:, 0] * W_PER_KW + 1e-9).any()),
        "shared devices": bool(p.pairs.need[:, RESOURCES.index("gpu_milli")].any()),
        "a negative cost of opening": bool((_opening_yuan(p) < 0).any()),
    }  # fmt: skip
    return [name for name, broken in tests.items() if broken]


def assignment_of(problem: PlacementProblem) -> AssignmentProblem:
    """The problem as arrays; NotSingleSource lists what cannot be said in them."""
    wrong = refusals(problem)
    if wrong:
        raise NotSingleSource(f"{problem.problem_id} is no single-source problem: {', '.join(wrong)}")
    p = problem
    shape = (p.group_count, p.class_count)
    at = (p.pairs.group_index, p.pairs.class_index)
    resource = int(p.pairs.need.any(axis=0).argmax()) if p.pair_count else 0
    cost, load, allowed = np.zeros(shape), np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    cost[at] = _pair_yuan(p)
    load[at] = p.pairs.need[:, resource]
    allowed[at] = candidates(p).passes
    opening_yuan = _opening_yuan(p)
    closed_yuan = p.sites.off_kw[:, 0] * _yuan_per_kw(p)
    return AssignmentProblem(
        cost=cost,
        load=load,
        capacity=p.groups.capacity[:, resource],
        fixed=np.where(p.sites.may_close, opening_yuan, _node_yuan(p)),
        allowed=allowed,
        offset=float(closed_yuan.sum() + (opening_yuan - _node_yuan(p))[~p.sites.may_close].sum()),
    )


def _yuan_per_kw(p: PlacementProblem) -> FloatArray:
    """[S] price of one kW of facility power over the slot, carbon price included."""
    carbon = p.sites.carbon_g_per_kwh[:, 0] / G_PER_KG * p.terms.carbon_yuan_per_kg
    return np.asarray((p.sites.price_yuan_per_kwh[:, 0] + carbon) * p.slots.hours[0])


def _pair_yuan(p: PlacementProblem) -> FloatArray:
    """[K] cost of one replica on the pair: its energy with losses, and money beyond energy."""
    per_it_kw = (_yuan_per_kw(p) * (1 + p.sites.loss_slope[:, 0]))[p.pair_site]
    other = p.pairs.other_yuan_per_replica_h * p.slots.hours[0]
    return np.asarray(p.pairs.dynamic_w / W_PER_KW * per_it_kw + other)


def _node_yuan(p: PlacementProblem) -> FloatArray:
    """[S] cost of the site's node being on: idle energy with losses, and switching it on."""
    idle_kw = p.groups.idle_w / W_PER_KW
    wake = p.groups.wake_yuan * np.maximum(1.0 - p.groups.initial_on_count, 0.0)
    return np.asarray(idle_kw * (1 + p.sites.loss_slope[:, 0]) * _yuan_per_kw(p) + wake)


def _opening_yuan(p: PlacementProblem) -> FloatArray:
    """[S] cost of a used site over a closed one: overhead, start, and its node."""
    overhead_kw = p.sites.fixed_kw[:, 0] - p.sites.off_kw[:, 0]
    start = np.where(p.sites.initially_on, 0.0, p.sites.start_yuan)
    return np.asarray(overhead_kw * _yuan_per_kw(p) + start + _node_yuan(p))


# -- back to a plan ----------------------------------------------------------------------------------------------


def plan_of(
    problem: PlacementProblem, bin_of: IntArray, bound_yuan: float | None, status: SolveStatus, model: str
) -> PlanSolution:
    """The assignment as a plan of the placement problem, with powers, costs, bound and gap."""
    p, s = problem, problem.sites
    pair = _pairs_in_use(p, bin_of)
    running = np.zeros((p.pair_count, 1))
    running[pair] = 1.0
    on = np.zeros((p.group_count, 1))
    on[np.unique(bin_of)] = 1.0
    site_on = (on > 0) | ~s.may_close[:, None]
    dynamic_kw = np.zeros((p.site_count, 1))
    np.add.at(dynamic_kw, p.pair_site[pair], p.pairs.dynamic_w[pair, None] / W_PER_KW)
    it_kw = p.groups.idle_w[:, None] / W_PER_KW * on + dynamic_kw
    useful_kw = dynamic_kw.copy()
    shared_idle_kw = dominant_share(p) * p.groups.idle_w[p.pairs.group_index] / W_PER_KW
    np.add.at(useful_kw, p.pair_site[pair], shared_idle_kw[pair, None])
    facility_kw = np.where(site_on, s.fixed_kw, s.off_kw) + (1 + s.loss_slope) * it_kw
    kwh = facility_kw * p.slots.hours
    other = p.pairs.other_yuan_per_replica_h[pair] * p.slots.hours[0]
    cost = Cost(
        energy_yuan=float((kwh * s.price_yuan_per_kwh).sum()),
        carbon_yuan=float((kwh * s.carbon_g_per_kwh).sum()) / G_PER_KG * p.terms.carbon_yuan_per_kg,
        start_yuan=float(s.start_yuan[site_on[:, 0] & ~s.initially_on].sum()),
        wake_yuan=float((p.groups.wake_yuan * np.maximum(on[:, 0] - p.groups.initial_on_count, 0.0)).sum()),
        other_yuan=float(other.sum()),
    )
    total = cost.total_yuan
    gap = None if bound_yuan is None else (total - bound_yuan) / max(abs(total), 1e-9)
    nothing = np.zeros((p.site_count, 1))
    return PlanSolution(
        problem_sha256=p.content_hash(),
        status=status,
        running_count=running,
        nodes_on=on,
        site_on=site_on,
        unserved_count=np.zeros((p.class_count, 1)),
        unfinished_replica_h=np.zeros(p.class_count),
        late_replica_h=np.zeros(p.class_count),
        it_kw=it_kw,
        useful_it_kw=useful_kw,
        facility_kw=facility_kw,
        cap_excess_kw=nothing,
        ledger_used_kwh=np.full(p.site_count, np.nan),
        ledger_debt_kwh=np.zeros(p.site_count),
        price_yuan_per_unit_h=np.zeros((p.group_count, len(RESOURCES), 1)),
        energy_yuan_per_kwh_it=nothing,
        moved_count=np.zeros(p.pair_count),
        cost=cost,
        bounds=(Bound(model, "fleet", total, bound_yuan, gap),),
    )


def placements_of(bin_of: IntArray) -> NodePlacements:
    """The assignment as replicas on nodes, for the exact checks of the verifier."""
    jobs = np.arange(len(bin_of))
    zeros = np.zeros(len(bin_of), dtype=np.int64)
    return NodePlacements(jobs, bin_of, zeros, jobs, ((),) * len(bin_of))


def _pairs_in_use(p: PlacementProblem, bin_of: IntArray) -> IntArray:
    table = np.full((p.class_count, p.group_count), -1)
    table[p.pairs.class_index, p.pairs.group_index] = np.arange(p.pair_count)
    return np.asarray(table[np.arange(p.class_count), bin_of])
