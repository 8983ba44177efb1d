"""What a planner that knows the whole day could do at best: one horizon plan over day and drain, and its proven bound.

    clairvoyant(scenario, seed, learner, until_s)
        1 know    every arrival of the day is submitted at its opening, with `not_before_at` = when it really comes,
                  its real work (a job that will fail or be cancelled: what it runs until then), true weather, and the
                  plants as the played day had learned them by its end
        2 compile the product's own `compile_problem`, in its slots until `until_s`, rounded up to the hour
        3 relax   whatever could make the bound exceed a real day's energy cost (see `relaxed`); moves being free, a
                  service becomes one class per block (`block_by_block`)
        4 solve   a quick plan that shows which demand has no room, and the plan of all other work with generous limits
        5 bound   the plan's certificate: weak duality, checked with numpy alone (`solvers.dual_bound`)

What the bound speaks of. Every plan of this model that serves all work the clairvoyant plan serves (demand without
room is taken out first and told as unserved) and pays no more for lateness, unfinished work and debt of the ledger
costs at least `bound_yuan` for the energy of day and drain. In the model services and work that does not defer run
when they come or not at all; deferrable work runs between its arrival and its deadline, both rounded outwards (to
slots, the deadline by up to six hours), may be split and may pause; nodes are continuous and can be packed full, but
no two replicas share one that cannot (`solvers.alone`); moves, starts and transfers are free; demand, weather and
plants are constant within a slot, shares of services and open sites within a block of about six hours.

What it leaves out, so that it is no bound on the real day: outages and degraded cooling; start-up, restarted work,
whole nodes and gangs, which only make a day dearer; the errors of the learned plants and of one weather for all
sites, which err either way. Per delivered GPU-hour it is a yardstick and no theorem: a policy that leaves costly work
undone can lie below it, and work that does not fit when it comes is delivered late by a real day and never by the
plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from cluster_sim.baselines import strategy_of
from cluster_sim.in_process import InProcessGateway
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.arrivals import Arrivals, arrivals
from cluster_sim.world.build import weather_of
from scheduler.domain.outlook import CalendarOutlook
from scheduler.domain.state import ClusterState
from scheduler.domain.topology import Topology
from scheduler.planner.compile import compile_problem, set_aside_kwh, slots_from
from scheduler.planner.feasibility import Views
from scheduler.planner.folds import folds_of
from scheduler.workers import InlineSolverPool
from solvers.plan_model import PlanLimits, plan_sets, solve_plan
from solvers.plan_rules import PlanOptions
from solvers.problem import Classes, Flows, Pairs, Paths, PlacementProblem, Slots
from solvers.proof import verify_proof
from solvers.solution import PlanSolution
from suanli.model import Event, EventKind, TelemetryReport, WeatherForecast, Workload
from suanli.model.units import MILLI, SECONDS_PER_HOUR, SECONDS_PER_MINUTE, epoch_s, utc

Table = TypeVar("Table", Classes, Pairs, Flows, Paths)
MODEL = (
    "energy of day and drain; true facility power of the learned plants, true weather of one station, slots of the "
    "tariff, shares and open sites constant per block, nodes continuous but for work that takes one alone, gangs "
    "fluid, no outages, moves and starts free"
)
LIMITS = PlanLimits(lp_iterations=4_000_000, pricing_rounds=16, cut_rounds=4, site_trials=8, wall_s=3600.0)
FIRST_LIMITS = PlanLimits(
    lp_iterations=4_000_000, pricing_rounds=2, bound_rounds=1, cut_rounds=0, site_trials=0, wall_s=3600.0
)
"""Enough to see what cannot be served: its bound is not used."""
OPTIONS = PlanOptions(whole_nodes=True)
"""Four blocks a day. With every slot a block the same multipliers prove nothing (−17 794 yuan on songjiang-s): the cuts
that tie shares to open sites speak of blocks. What blocks cost is below 0.31 % on the synthetic city (docs)."""
WHOLE = -1
"""Of a class that is not divided into blocks."""
CLOSING_HOURS = 0.01
"""A last slot too short to matter, so that work which must be done by the end of the drain has a slot after it."""
SUBMIT_BATCH = 500
LEAST_DEMAND = 1e-9


class NoBoundError(ValueError):
    """The plan has no proof, or one that the verifier refuses."""


@dataclass(frozen=True)
class Tier:
    """Energy cost of a plan, its lower bound, and the reference-GPU hours it delivers, of a part of the fleet."""

    energy_yuan: float
    bound_yuan: float
    gpu_h: float

    @property
    def bound_yuan_per_gpu_h(self) -> float | None:
        """Bound over the hours that the plan delivers; None where it delivers none."""
        return self.bound_yuan / self.gpu_h if self.gpu_h > 0 else None


@dataclass(frozen=True)
class Clairvoyant:
    """The plan that knows everything, as figures; `edge` holds for plans that spend no less outside the edges."""

    fleet: Tier
    edge: Tier
    unserved_replica_h: float
    unfinished_replica_h: float
    late_replica_h: float
    debt_kwh: float
    demanded_gpu_h: float
    """What the day asks for, delivered or not."""
    class_count: int
    group_count: int
    slot_count: int


def clairvoyant(
    scenario: Scenario,
    seed: int,
    learner: Mapping[str, Any],
    until_s: int,
    *,
    limits: PlanLimits = LIMITS,
    options: PlanOptions = OPTIONS,
) -> Clairvoyant:
    """Plan from the opening of the day to `until_s`; `learner` is the body of a `site.model_learned` event.

    NoBoundError where the plan or its proof is refused.
    """
    gateway = InProcessGateway(strategy_of("suanli"), InlineSolverPool())
    policy = scenario.policy().model_copy(update={"carbon_price_yuan_per_kg": 0.0})
    gateway.open_run("clairvoyant", seed, scenario.start_s, scenario.fleet(), policy)
    gateway.report(TelemetryReport(at_s=scenario.start_s, forecast=true_weather(scenario, seed)), "weather")
    work = known_ahead(arrivals(scenario, seed), scenario.start_s, until_s)
    for i in range(0, len(work), SUBMIT_BATCH):
        gateway.submit(work[i : i + SUBMIT_BATCH], f"submit/{i}")
    state = gateway.state
    if learner:
        state.apply([_learned(state.revision + 1, scenario.start_s, learner)])
    assert state.topology is not None
    views = Views(state.topology, state.shapes)
    slots = slots_until(state.topology, scenario.start_s, until_s)
    compiled = compile_problem(state, views, scenario.start_s, slots=slots, all_wait=True)
    problem, parent = block_by_block(relaxed(compiled.problem, state, scenario.start_s), options)
    first = solve_plan(problem, limits=FIRST_LIMITS, options=options)
    served, left_replica_h = served_part(problem, first)
    plan = solve_plan(served, limits=limits, options=options, warm_start=first)
    fold = folds_of(views).all(len(state.shapes.specs)).tolist()
    reference_gpus = np.array(
        [state.spec(fold.index(f)).stage.reference_gpu_milli / MILLI for f in compiled.class_fold.tolist()]
    )[parent]
    known = figures_of(served, plan, reference_gpus)
    return replace(
        known,
        unserved_replica_h=known.unserved_replica_h + left_replica_h,
        demanded_gpu_h=_demanded_gpu_h(problem, reference_gpus),
    )


# ------------------------------------------------------------------------------------------- 1 know


def known_ahead(submitted: Arrivals, start_s: int, until_s: int) -> list[Workload]:
    """Everything of the day as submitted at its opening: it may not begin before it really comes, and lasts as it will.

    Work that fails, is cancelled or is longer than what is left lasts until then, counted from its arrival: the most it
    can deliver by `until_s`.
    """
    cancelled_s = {name: at_s for at_s, name in submitted.cancellations}
    out = []
    for at_s, workload in submitted.items:
        begin_s = max(at_s, start_s, _begin_s(workload))
        stages = []
        for stage in workload.stages:
            fate = submitted.fates.get(workload.name)
            lasts = [
                stage.duration_s if fate is None else fate.work_s.get(stage.stage_id, stage.duration_s),
                None if fate is None else fate.fails_after_s,
                cancelled_s[workload.name] - begin_s if workload.name in cancelled_s else None,
            ]
            known = [s for s in lasts if s is not None]
            lasts_s = max(1, min(*known, until_s - begin_s)) if known else None
            stages.append(stage.model_copy(update={"duration_s": lasts_s}))
        ahead = {"not_before_at": utc(begin_s)} if begin_s > start_s else {}
        out.append(workload.model_copy(update={"stages": tuple(stages), **ahead}))
    return out


def _begin_s(workload: Workload) -> int:
    return 0 if workload.not_before_at is None else epoch_s(workload.not_before_at)


def true_weather(scenario: Scenario, seed: int) -> WeatherForecast:
    """The station's true weather at every whole hour until the end of the drain, as a forecast without error."""
    truth = weather_of(scenario, seed)
    wet_c = truth.wet_bulb_c()
    minute = np.arange(0, len(wet_c), SECONDS_PER_HOUR // SECONDS_PER_MINUTE)
    return WeatherForecast(
        from_s=truth.start_s,
        dry_bulb_c=tuple(float(t) for t in truth.dry_bulb_c[minute]),
        wet_bulb_c=tuple(float(t) for t in wet_c[minute]),
    )


def _learned(revision: int, at_s: int, learner: Mapping[str, Any]) -> Event:
    return Event(
        revision=revision,
        at_s=at_s,
        kind=EventKind.SITE_MODEL_LEARNED,
        subject="sites",
        body=dict(learner),
    )


# ------------------------------------------------------------------------------------------- 2 compile, 3 relax


def slots_until(topology: Topology, start_s: int, until_s: int) -> Slots:
    """The product's slots (two of an hour, then as the tariff changes, four hours at most), and the closing one."""
    hours = -(-(until_s - start_s) // SECONDS_PER_HOUR)
    slots = slots_from(start_s, hours, CalendarOutlook(topology), topology)
    end_s = start_s + hours * SECONDS_PER_HOUR
    return Slots(start_s=np.array([*slots.start_s, end_s]), hours=np.array([*slots.hours, CLOSING_HOURS]))


def relaxed(problem: PlacementProblem, state: ClusterState, at_s: int) -> PlacementProblem:
    """The same problem without what costs a plan money that no meter shows, or keeps energy back.

    Free: moves, starts of sites, transfers, carbon. Full: the ledger's release without the planner's margin, nodes
    packed without loss. Deferrable work is due by the end of the drain at the latest.
    """
    hours = float(problem.slots.hours.sum())
    assert state.topology is not None
    capped = ~np.isnan(problem.sites.pue_cap_annual)
    margin_kwh = [
        set_aside_kwh(state, site, hours, at_s) if is_capped else 0.0
        for site, is_capped in zip(state.topology.sites, capped, strict=True)
    ]
    last = problem.slot_count - 1
    return replace(
        problem,
        problem_id="clairvoyant",
        sites=replace(
            problem.sites,
            start_yuan=np.zeros(problem.site_count),
            ledger_beta_kwh=problem.sites.ledger_beta_kwh + np.array(margin_kwh),
        ),
        groups=replace(problem.groups, packing_yield=np.ones_like(problem.groups.packing_yield)),
        classes=replace(
            problem.classes,
            migration_yuan=np.zeros(problem.class_count),
            deadline_slot=np.minimum(problem.classes.deadline_slot, last),
        ),
        network=replace(
            problem.network, transfer_yuan_per_gb=np.zeros_like(problem.network.transfer_yuan_per_gb)
        ),
    )


def block_by_block(
    problem: PlacementProblem, options: PlanOptions
) -> tuple[PlacementProblem, NDArray[np.int64]]:
    """(the problem with a class for each block in which a service has demand, (C,) class of each before).

    Moves are free, so what a service does in one block says nothing about the next: the same program, but without
    routes over blocks, of which it would need thousands.
    """
    sets = plan_sets(problem, options, LIMITS)
    block = sets.block_of_slot
    has_demand = np.stack(
        [(problem.classes.demand_count[:, block == b] > 0).any(axis=1) for b in range(sets.block_count)],
        axis=1,
    )
    is_stage = np.zeros(problem.class_count, bool)
    is_stage[[c for graph in problem.graphs for c in graph.stage_class]] = True
    has_demand[is_stage | (problem.classes.work_replica_h > 0) | ~has_demand.any(axis=1)] = False
    parts = [np.flatnonzero(of_class).tolist() or [WHOLE] for of_class in has_demand]
    parent = np.repeat(np.arange(problem.class_count), [len(of_class) for of_class in parts])
    part = np.concatenate([np.array(of_class) for of_class in parts])
    lies_in = (part == WHOLE)[:, None] | (part[:, None] == block)
    classes = _taken(problem.classes, parent)
    ids = [i if b == WHOLE else f"{i}@{b}" for i, b in zip(classes.class_id, part.tolist(), strict=True)]
    classes = replace(classes, class_id=tuple(ids), demand_count=np.where(lies_in, classes.demand_count, 0.0))

    def copies(class_index: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row of the old table, new class) of the rows that belong to classes, in order of new classes."""
        new, row = np.nonzero(parent[:, None] == class_index)
        return row, new

    pair, of_pair = copies(problem.pairs.class_index)
    flow, of_flow = copies(problem.flows.class_index)
    path, of_path = copies(problem.paths.class_index)
    first = np.searchsorted(parent, np.arange(problem.class_count))
    return replace(
        problem,
        classes=classes,
        pairs=replace(_taken(problem.pairs, pair), class_index=of_pair),
        flows=replace(_taken(problem.flows, flow), class_index=of_flow),
        paths=replace(_taken(problem.paths, path), class_index=of_path),
        graphs=tuple(
            replace(g, stage_class=tuple(int(first[c]) for c in g.stage_class)) for g in problem.graphs
        ),
    ), parent


def _taken(table: Table, rows: NDArray[np.int64]) -> Table:
    """Some rows of a table, all of whose columns begin with the same axis."""
    columns: dict[str, Any] = {}
    for column in fields(table):
        old = getattr(table, column.name)
        columns[column.name] = (
            old[rows] if isinstance(old, np.ndarray) else tuple(old[i] for i in rows.tolist())
        )
    return replace(table, **columns)


# ------------------------------------------------------------------------------------------- 4 solve


def served_part(problem: PlacementProblem, plan: PlanSolution) -> tuple[PlacementProblem, float]:
    """The problem without the service demand that a plan leaves unserved, and that demand in replica-hours.

    Stages of graphs stay: what of them has no room keeps its level.
    """
    if not plan.has_plan:
        raise NoBoundError(plan.message or "no plan shows what can be served")
    demand = problem.classes.demand_count
    left = np.clip(plan.unserved_count, 0.0, demand)
    kept = np.where(demand - left > LEAST_DEMAND, demand - left, 0.0)
    classes = replace(problem.classes, demand_count=kept)
    return replace(problem, classes=classes), float(((demand - kept) @ problem.slots.hours).sum())


# ------------------------------------------------------------------------------------------- 5 bound


def figures_of(
    problem: PlacementProblem, plan: PlanSolution, reference_gpus: NDArray[np.float64]
) -> Clairvoyant:
    """Energy, bounds and GPU-hours of a proven plan; `reference_gpus`: (C,) reference GPUs of a replica.

    bound_yuan = L − (cost(plan) − energy(plan)): the certificate's L bounds the cost of every plan whose levels are no
    worse, and one whose other costs are no higher either has at least that energy cost. Edge: energy at the edges −
    (energy − bound), for plans that spend no less outside them.
    """
    if not plan.has_plan or plan.certificate is None:
        raise NoBoundError(plan.message or "the plan carries no certificate")
    if violations := verify_proof(problem, plan):
        raise NoBoundError(f"the verifier refuses the plan: {[str(v) for v in violations[:5]]}")
    hours, price = problem.slots.hours, problem.sites.price_yuan_per_kwh
    energy = (plan.facility_kw * price) @ hours
    beside_yuan = plan.certificate.objective_yuan - float(energy.sum())
    gap_yuan = plan.certificate.objective_yuan - plan.certificate.bound_yuan
    at_edge = problem.sites.is_edge
    pair_gpu_h = (plan.running_count @ hours) * reference_gpus[problem.pairs.class_index]
    pair_edge = at_edge[problem.groups.site[problem.pairs.group_index]]
    edge_yuan = float(energy[at_edge].sum())
    return Clairvoyant(
        fleet=Tier(float(energy.sum()), plan.certificate.bound_yuan - beside_yuan, float(pair_gpu_h.sum())),
        edge=Tier(edge_yuan, edge_yuan - gap_yuan, float(pair_gpu_h[pair_edge].sum())),
        unserved_replica_h=float((plan.unserved_count @ hours).sum()),
        unfinished_replica_h=float(plan.unfinished_replica_h.sum()),
        late_replica_h=float(plan.late_replica_h.sum()),
        debt_kwh=float(np.maximum(plan.ledger_debt_kwh, 0.0).sum()),
        demanded_gpu_h=_demanded_gpu_h(problem, reference_gpus),
        class_count=problem.class_count,
        group_count=problem.group_count,
        slot_count=problem.slot_count,
    )


def _demanded_gpu_h(problem: PlacementProblem, reference_gpus: NDArray[np.float64]) -> float:
    hours = problem.slots.hours
    asked_h = problem.classes.demand_count @ hours + problem.classes.work_replica_h
    for graph in problem.graphs:
        graph_h = float(np.asarray(graph.count) @ hours)
        np.add.at(asked_h, list(graph.stage_class), graph_h * np.array(graph.stage_replicas))
    return float(asked_h @ reference_gpus)


def learned_by(events: Sequence[Event]) -> dict[str, Any]:
    """What the log's last `site.model_learned` event says; empty where nothing was learned."""
    newest = next((e for e in reversed(events) if e.kind is EventKind.SITE_MODEL_LEARNED), None)
    return {} if newest is None else newest.body


__all__ = ["MODEL", "Clairvoyant", "NoBoundError", "Tier", "clairvoyant", "learned_by"]
