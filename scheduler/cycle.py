"""The cycle: state in, one atomic batch of events and documents out. It decides everything and keeps nothing.

One round from top to bottom is `Cycle._round`: learn → plan just made → heads placed → moves → check → commit. The same
code serves the live service and the simulator; only the strategy (how sites are scored, whether a horizon plan is
made) differs between the product and the baselines it is compared with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from scheduler.domain.records import (
    COLLECTION_FLEET,
    COLLECTION_PLANS,
    COLLECTION_POLICIES,
    COLLECTION_WORKLOADS,
    CommitBatch,
    Document,
    EventDraft,
)
from scheduler.domain.shapes import shape_document, shape_key
from scheduler.domain.state import STATE_CODE, ClusterState, Phase
from scheduler.planner.admission import impossible
from scheduler.planner.audit import audit_placements
from scheduler.planner.consolidate import consolidate
from scheduler.planner.defragment import make_room, undo_moves
from scheduler.planner.drafts import (
    Start,
    start_drafts,
    state_changes,
    state_draft,
    stop_of_row,
    stops_of_workload,
)
from scheduler.planner.evacuate import evacuate
from scheduler.planner.explain import Explainer, WaitingStatus, sample_reasons
from scheduler.planner.feasibility import Views
from scheduler.planner.gang_moves import move_gangs
from scheduler.planner.marginal import marginal_ipue
from scheduler.planner.moves import Moving, PlannedMove, kept_work_s, propose_moves
from scheduler.planner.queue import wakes_of_queue
from scheduler.planner.reports import report_events
from scheduler.planner.round import PatternCache, Placed, Round, RoundResult, run_round
from scheduler.planner.scoring import Scorer
from scheduler.planner.snapshot import Snapshot
from scheduler.planner.strategy import PlanOutcome, PlanTask, Strategy
from scheduler.ports import SolverPool
from solvers.solution import PlanSolution
from suanli.model import (
    Event,
    EventKind,
    Explanation,
    FieldProblem,
    Fleet,
    LedgerBalance,
    Move,
    NotFound,
    Policy,
    Reason,
    ReasonCode,
    StopKind,
    TelemetryReport,
    Workload,
    WorkloadState,
)
from suanli.model.units import MILLI, SECONDS_PER_HOUR, epoch_s

MAX_ADMITTED_SHAPES = 20_000
"""Admission answers kept; a client that never repeats a shape must not fill the memory."""
MAX_EXPLAINED = 16
"""Workloads of one dry run that are explained when they would wait."""


@dataclass(frozen=True)
class Added:
    """What the placements of one workload add: their own power and the idle power of the nodes they wake."""

    it_power_w: float = 0.0
    facility_power_w: float = 0.0
    yuan_per_hour: float = 0.0


@dataclass(frozen=True)
class DryRun:
    """What a submission would do now: placements, energy and price, or the reasons it would wait."""

    placed: tuple[dict[str, Any], ...] = ()
    added: dict[str, Added] = field(default_factory=dict)
    """Workload → what its placements would add."""
    base_revision: int = 0
    explanations: dict[str, Explanation] = field(default_factory=dict)
    """Why there, or why it would wait in whole or in part; of the first workloads asked about."""


class Cycle:
    """Pure decisions over a `ClusterState`; holds only caches that the state's fleet determines."""

    def __init__(self, strategy: Strategy, pool: SolverPool) -> None:
        self.strategy = strategy
        self._pool = pool
        self._views: Views | None = None
        self._patterns: PatternCache | None = None
        self._admitted: dict[str, list[FieldProblem]] = {}
        self._asked: tuple[ClusterState, int, Explainer] | None = None
        self._shape_of_admitted: dict[str, tuple[Workload, dict[str, Any], str]] = {}

    # ------------------------------------------------------------------ the cycle

    def advance(self, state: ClusterState, now_s: int) -> CommitBatch:
        """Everything due at `now_s`, synchronously, as one commit: virtual time."""
        if state.topology is None:
            return CommitBatch()
        task = self.begin_plan(state, now_s) if self.plan_due(state, now_s) else None
        if task is None:
            return self.round(state, now_s)
        return self.finish_plan(state, now_s, task, self._pool.solve_plan(task.problem, task.wall_limit_s))

    def plan_due(self, state: ClusterState, now_s: int) -> bool:
        """Whether a horizon plan should be made now; cheap."""
        return self.strategy.plan_due(state, now_s)

    def begin_plan(self, state: ClusterState, now_s: int) -> PlanTask | None:
        """Compile the problem; the caller solves it wherever it likes."""
        if state.topology is None:
            return None
        views, _ = self._caches(state)
        return self.strategy.begin_plan(state, views, now_s)

    def finish_plan(
        self, state: ClusterState, now_s: int, task: PlanTask, solution: PlanSolution
    ) -> CommitBatch:
        """Check the answer, commit plan and the round that follows it, with the moves worth their cost."""
        return self._round(state, now_s, self.strategy.finish_plan(state, task, solution))

    def round(self, state: ClusterState, now_s: int) -> CommitBatch:
        """One fast round under the plan in force."""
        return CommitBatch() if state.topology is None else self._round(state, now_s, None)

    def _round(self, state: ClusterState, now_s: int, outcome: PlanOutcome | None) -> CommitBatch:
        views, patterns = self._caches(state)
        events: list[EventDraft] = []
        documents: list[Document] = []
        # 1. learn what the sites' meters say about their plants
        learned = self.strategy.learn(state, now_s)
        if learned is not None:
            events.append(EventDraft(now_s, EventKind.SITE_MODEL_LEARNED, "sites", learned))
        # 2. the plan that has just been made, if any, guides this round already
        guide = state.guide.body
        if outcome is not None:
            guide = outcome.guide
            events += _plan_events(outcome, now_s)
        scorer = self.strategy.scorer(state, guide, now_s)
        # 3. heads of the queue, placed exactly on a snapshot
        done = run_round(state, views, patterns, scorer, now_s)
        result, snapshot = done.result, done.snapshot
        # 4. moves worth their cost, once per plan
        moves = _moves_after_plan(done, guide) if outcome is not None else []
        if outcome is not None:
            documents.append(_plan_document(state, outcome, moves))
        # 5. check, with nothing shared
        placed = [*result.placed, *(m.placed for m in moves)]
        violations = audit_placements(state, placed, sorted(result.room_given()))
        if violations:
            raise AssertionError("round produced an impossible placement: " + "; ".join(violations[:5]))
        # 6. commit: who leaves, who starts, who moves, states, the round itself
        events += _leaving_events(state, result, now_s)
        events += _start_events(state, views, scorer, snapshot, result.placed, now_s)
        events += _move_events(state, views, scorer, snapshot, moves, now_s)
        events += _states_after(state, result, now_s)
        if result.placed or moves or result.displaced or result.paused or outcome is not None:
            samples = sample_reasons(state, snapshot, [p.row for p in result.placed], now_s)
            events.append(_round_event(state, result, moves, samples, now_s))
        return CommitBatch(tuple(events), tuple(documents))

    def _caches(self, state: ClusterState) -> tuple[Views, PatternCache]:
        assert state.topology is not None
        if self._views is None or self._views.topology is not state.topology:
            self._views = Views(state.topology, state.shapes)
            self._patterns = PatternCache(self._views)
            self._admitted = {}
        assert self._patterns is not None
        return self._views, self._patterns

    # ------------------------------------------------------------------ submissions

    def admit(self, state: ClusterState, workloads: Sequence[Workload]) -> list[list[FieldProblem]]:
        """Per workload, every reason why it could never run on the installed fleet; [] where it can be accepted."""
        if state.topology is None:
            problem = FieldProblem(
                field="name",
                problem="no fleet is registered yet",
                expected="a fleet: `suanli fleet set FILE` registers one",
                code="no_fleet",
            )
            return [[problem] for _ in workloads]
        self._caches(state)
        together = {w.name: w for w in workloads}
        self._shape_of_admitted = {}
        return [self._admit_one(state, w, together) for w in workloads]

    def _admit_one(
        self, state: ClusterState, workload: Workload, together: dict[str, Workload]
    ) -> list[FieldProblem]:
        document = shape_document(workload)
        key = shape_key(document)
        self._shape_of_admitted[workload.name] = (workload, document, key)
        known = self._admitted.get(key)
        if known is None:
            if len(self._admitted) >= MAX_ADMITTED_SHAPES:
                self._admitted.clear()
            assert state.topology is not None
            known = self._admitted[key] = impossible(workload, state.topology)
        return known + _shared_problems(state, workload, together)

    def _shape_of(self, workload: Workload) -> tuple[dict[str, Any], str]:
        """Shape document and key; admission has usually just made them."""
        known = self._shape_of_admitted.get(workload.name)
        if known is not None and known[0] is workload:
            return known[1], known[2]
        document = shape_document(workload)
        return document, shape_key(document)

    def submit(self, state: ClusterState, now_s: int, workloads: Sequence[Workload]) -> CommitBatch:
        """Accept: intern new shapes, submit each workload, keep its document."""
        events: list[EventDraft] = []
        documents: list[Document] = []
        new: dict[str, int] = {}
        for workload in workloads:
            document, key = self._shape_of(workload)
            shape = state.shapes.find(key)
            if shape is None and key not in new:
                new[key] = len(state.shapes.templates) + len(new)
                events.append(
                    EventDraft(now_s, EventKind.SHAPE_INTERNED, f"shapes/{new[key]}", {"shape": document})
                )
            events.append(_submitted(workload, new[key] if shape is None else shape, now_s))
            documents.append(
                Document(
                    COLLECTION_WORKLOADS,
                    workload.name,
                    workload.model_dump_json(exclude_defaults=True).encode(),
                    parent=f"tenants/{workload.tenant_id}",
                )
            )
        return CommitBatch(tuple(events), tuple(documents))

    def cancel(self, state: ClusterState, now_s: int, name: str) -> CommitBatch:
        """Stop every placement of a workload, and of those that share its stages; a final one stays as it is."""
        current = state.workload_state(name)
        if current is None:
            raise NotFound.among("workload", name, state.names)
        if current.is_final:
            return CommitBatch()
        events = [EventDraft(now_s, EventKind.WORKLOAD_CANCELLED, name, {"cause": "asked by the tenant"})]
        events += stops_of_workload(state, state.index_of[name], now_s, StopKind.CANCELLED, "cancelled")
        events.append(state_draft(name, WorkloadState.CANCELLED, now_s, "asked by the tenant"))
        for sharer in state.sharers.get(name, []):
            events += stops_of_workload(
                state, sharer, now_s, StopKind.DISPLACED, f"{name} was cancelled, whose stage it shares"
            )
            rows = state.rows_of(sharer)
            phase = {
                row: Phase.WAITING for row in range(rows.start, rows.stop) if state.replicas["node"][row] >= 0
            }
            events += state_changes(state, [sharer], phase, now_s, "the stage it shares is gone")
        return CommitBatch(tuple(events))

    # ------------------------------------------------------------------ the world speaks

    def register_fleet(self, state: ClusterState, now_s: int, fleet: Fleet) -> CommitBatch:
        """The installed world, whole."""
        body = fleet.model_dump(mode="json")
        document = Document(COLLECTION_FLEET, "fleet", orjson.dumps(body))
        return CommitBatch(
            (EventDraft(now_s, EventKind.FLEET_REGISTERED, "fleet", {"fleet": body}),), (document,)
        )

    def revise_policy(self, state: ClusterState, now_s: int, policy: Policy) -> CommitBatch:
        """A new revision; the old ones stay readable."""
        revised = policy.model_copy(update={"revision": state.policy.revision + 1})
        body = revised.model_dump(mode="json")
        name = f"policies/{policy.policy_id}"
        document = Document(
            COLLECTION_POLICIES, f"{name}/revisions/{revised.revision:06d}", orjson.dumps(body), parent=name
        )
        return CommitBatch(
            (EventDraft(now_s, EventKind.POLICY_REVISED, name, {"policy": body}),), (document,)
        )

    def cordon(
        self,
        state: ClusterState,
        now_s: int,
        site_id: str,
        cordoned: bool,
        group_id: str = "",
        node_index: int = -1,
    ) -> CommitBatch:
        """Keep new work off a site or one node, or allow it again."""
        _nodes_named(state, site_id, group_id, node_index)
        body = {"cordoned": cordoned, "group_id": group_id, "node_index": node_index}
        return CommitBatch((EventDraft(now_s, EventKind.SITE_CORDONED, f"sites/{site_id}", body),))

    def drain(
        self, state: ClusterState, now_s: int, site_id: str, group_id: str = "", node_index: int = -1
    ) -> CommitBatch:
        """Cordon a site or one node and stop what runs there; the next rounds place it elsewhere.

        A gang that loses one replica is stopped as a whole.
        """
        cordon = self.cordon(state, now_s, site_id, True, group_id, node_index)
        nodes = _nodes_named(state, site_id, group_id, node_index)
        on_node = state.replicas["node"]
        rows = set(np.flatnonzero((on_node >= 0) & nodes[on_node]).tolist())
        for row in sorted(rows):
            if state.spec(int(state.replicas["spec"][row])).stage.gang:
                gang = state.rows_of(int(state.replicas["workload"][row]))
                same = state.replicas["spec"][gang] == state.replicas["spec"][row]
                rows |= set((gang.start + np.flatnonzero(same & (on_node[gang] >= 0))).tolist())
        phase = dict.fromkeys(sorted(rows), Phase.WAITING)
        events = [stop_of_row(state, row, now_s, StopKind.DRAINED, "drained") for row in phase]
        owners = {int(state.replicas["workload"][row]) for row in phase}
        events += state_changes(state, owners, phase, now_s, "drained")
        return CommitBatch((*cordon.events, *events))

    def report(self, state: ClusterState, now_s: int, report: TelemetryReport) -> CommitBatch:
        """Telemetry in time order: outages, starts and ends of replicas, meters."""
        return CommitBatch(tuple(report_events(state, report)))

    # ------------------------------------------------------------------ answers

    def explain(
        self,
        state: ClusterState,
        name: str,
        now_s: int,
        site_id: str = "",
        node: int | None = None,
        *,
        with_relaxations: bool = False,
    ) -> Explanation:
        """All blocking reasons with the minimal conflict set, or the candidates that lost; at one place if named."""
        if not state.has_workload(name):
            raise NotFound.among("workload", name, state.names)
        explainer = self._explainer(state, now_s)
        return explainer.explain(name, site_id, node, with_relaxations=with_relaxations)

    def waiting(
        self, state: ClusterState, now_s: int, names: Iterable[str], *, with_start: bool = False
    ) -> dict[str, WaitingStatus]:
        """Place in the queue, reasons and, if asked for, expected start of those of these workloads that wait."""
        if state.topology is None:
            return {}
        explainer = self._explainer(state, now_s)
        found = {
            n: explainer.waiting_status(n, with_start=with_start) for n in names if state.has_workload(n)
        }
        return {n: status for n, status in found.items() if status is not None}

    def _explainer(self, state: ClusterState, now_s: int) -> Explainer:
        """Kept until the state or the second changes: its round answers everybody who asks of that moment."""
        if self._asked is not None:
            of_state, revision, explainer = self._asked
            if of_state is state and revision == state.revision and explainer.now_s == now_s:
                return explainer
        views, patterns = self._caches(state)
        scorer = self.strategy.scorer(state, state.guide.body, now_s)
        explainer = Explainer(state, views, patterns, scorer, now_s)
        self._asked = (state, state.revision, explainer)
        return explainer

    def next_wake_s(self, state: ClusterState, now_s: int) -> int | None:
        """The next instant at which the cycle has something to do without news; None when it never has."""
        if state.topology is None:
            return None
        every_s = state.policy.plan_every_s
        plan_s = (now_s // every_s + 1) * every_s
        return min(
            [*([plan_s] if self.strategy.plan_due(state, plan_s) else []), *wakes_of_queue(state, now_s)],
            default=None,
        )

    def plan_dry_run(self, state: ClusterState, now_s: int, workloads: Sequence[Workload]) -> DryRun:
        """Submit in a fork that is thrown away, run one round there, say what happened to these workloads."""
        if state.topology is None:
            return DryRun(base_revision=state.revision)
        views, _ = self._caches(state)
        trial = state.fork()
        trial.apply(_as_events(self.submit(trial, now_s, workloads).events, trial.revision))
        views = views.fork(trial.shapes)
        patterns = PatternCache(views)
        scorer = self.strategy.scorer(trial, trial.guide.body, now_s)
        done = run_round(trial, views, patterns, scorer, now_s)
        result = done.result
        loaded = {w.name: w for w in workloads}
        owner = [trial.names[int(trial.replicas["workload"][p.row])] for p in result.placed]
        mine = [p for p, name in zip(result.placed, owner, strict=True) if name in loaded]
        placed_of = Counter(name for name in owner if name in loaded)
        missing = {
            name: int(trial.workloads["replica_count"][trial.index_of[name]]) - placed_of[name]
            for name in loaded
        }
        waits = [name for name, count in missing.items() if count]
        explainer = Explainer(trial, views, patterns, scorer, now_s, done)
        asked = waits[:MAX_EXPLAINED]
        explanations = {name: explainer.explain(name) for name in asked if not placed_of[name]}
        before = Snapshot.take(trial, views)
        events = _start_events(trial, views, scorer, done.snapshot, mine, now_s)
        added = _added(trial, before, scorer, mine, marginal_ipue(trial, now_s))
        trial.apply(_as_events(events, trial.revision))
        after = Explainer(trial, views, patterns, scorer, now_s, done)
        if in_part := [name for name in asked if placed_of[name]]:
            # asked beside what is placed of them: the round that has just been run placed that
            beside = Explainer(trial, views, patterns, scorer, now_s)
            explanations |= {name: beside.explain(name) for name in in_part}
        starts = [name for name, count in missing.items() if not count]
        explanations |= {name: _would_start(after.explain(name)) for name in starts[:MAX_EXPLAINED]}
        return DryRun(
            placed=tuple(e.body for e in events),
            added=added,
            base_revision=state.revision,
            explanations=explanations,
        )


# ---------------------------------------------------------------------- dry runs


def _as_events(drafts: Sequence[EventDraft], after_revision: int) -> list[Event]:
    """Drafts as the store would hand them on, for a fork that is thrown away."""
    return [
        Event.model_construct(
            revision=after_revision + 1 + i, at_s=d.at_s, kind=d.kind, subject=d.subject, body=d.body
        )
        for i, d in enumerate(drafts)
    ]


def _added(
    state: ClusterState,
    before: Snapshot,
    scorer: Scorer,
    placed: Sequence[Placed],
    ipue: NDArray[np.float64],
) -> dict[str, Added]:
    """Per workload its IT power, the facility power of that at the sites' marginal iPUE, and its price.

    A node that sleeps is woken by the first workload placed on it.
    """
    topology = before.topology
    found: dict[str, Added] = {}
    woken: set[int] = set()
    for p in placed:
        view = before.views[int(state.replicas["spec"][p.row])]
        group, site = int(topology.node_group[p.node]), int(topology.node_site[p.node])
        it_w, yuan = float(view.watts[group]), float(scorer.energy_yuan_per_hour(view, before)[group])
        if before.empty_node[p.node] and p.node not in woken:
            woken.add(p.node)
            it_w += float(topology.group_idle_w[group])
            yuan += float(scorer.node_cost(view, before)[p.node])
        name = state.names[int(state.replicas["workload"][p.row])]
        known = found.get(name, Added())
        found[name] = Added(
            known.it_power_w + it_w,
            known.facility_power_w + it_w * float(ipue[site]),
            known.yuan_per_hour + yuan,
        )
    return found


def _would_start(found: Explanation) -> Explanation:
    """The explanation of a placement that is only planned."""
    summary = found.summary.replace("runs at", "would be placed at", 1)
    return found.model_copy(update={"summary": summary, "state": WorkloadState.PLANNED.value})


# ---------------------------------------------------------------------- one round's events


def _leaving_events(state: ClusterState, result: RoundResult, now_s: int) -> list[EventDraft]:
    """Stop orders of what gives way or pauses, before the starts that take its room: who, why, what is lost and won."""
    replicas = state.replicas
    events = []
    for p in result.preempted:
        by = state.names[int(replicas["workload"][p.by_row])]
        priority = state.spec(int(replicas["spec"][p.by_row])).workload.priority_class.value
        stop = stop_of_row(state, p.row, now_s, StopKind.PREEMPTED, f"preempted by {by}")
        body = {
            "by": by,
            "cause": f"{priority} work found no free room",
            "site_id": stop.body["site_id"],
            "workload": state.names[int(replicas["workload"][p.row])],
            "lost_gpu_hours": round(p.lost_gpu_s / SECONDS_PER_HOUR, 6),
            "gained_gpu": round(_reference_gpus(state, result, int(replicas["workload"][p.by_row])), 3),
            "gain": f"{by} starts now instead of waiting",
        }
        events += [stop, EventDraft(now_s, EventKind.REPLICA_PREEMPTED, stop.subject, body)]
    for pause in result.paused:
        stop = stop_of_row(state, pause.row, now_s, StopKind.PAUSED, "paused until the tariff falls")
        body = {
            "workload": state.names[int(replicas["workload"][pause.row])],
            "site_id": stop.body["site_id"],
            "until_s": pause.until_s,
            "lost_gpu_hours": round(pause.lost_gpu_s / SECONDS_PER_HOUR, 6),
        }
        events += [stop, EventDraft(now_s, EventKind.REPLICA_PAUSED, stop.subject, body)]
    displaced = (stop_of_row(state, d.row, now_s, StopKind.DISPLACED, d.cause) for d in result.displaced)
    return [*events, *displaced]


def _reference_gpus(state: ClusterState, result: RoundResult, workload: int) -> float:
    """Reference GPUs that a workload starts in this round."""
    rows = [p.row for p in result.placed if int(state.replicas["workload"][p.row]) == workload]
    return sum(state.spec(int(state.replicas["spec"][r])).stage.reference_gpu_milli for r in rows) / MILLI


def _start_events(
    state: ClusterState,
    views: Views,
    scorer: Scorer,
    snapshot: Snapshot,
    placed: Sequence[Placed],
    now_s: int,
) -> list[EventDraft]:
    """Start orders of what the round has placed: work goes on from what it kept when it stopped."""
    kept_s = state.replicas["done_work_s"][[p.row for p in placed]].tolist()
    return start_drafts(state, views, _starts(state, views, scorer, snapshot, placed, kept_s), now_s)


def _starts(
    state: ClusterState,
    views: Views,
    scorer: Scorer,
    snapshot: Snapshot,
    placed: Sequence[Placed],
    kept_s: Sequence[float],
) -> list[Start]:
    """Where each starts, at which price and from which work (s): members of a gang from the least that any kept."""
    rows, group_of = [p.row for p in placed], views.topology.node_group
    specs, workloads = (state.replicas[column][rows].tolist() for column in ("spec", "workload"))
    energy = {spec: scorer.energy_yuan_per_hour(views[spec], snapshot) for spec in dict.fromkeys(specs)}
    gangs: dict[tuple[int, int], list[float]] = {}
    for workload, spec, kept in zip(workloads, specs, kept_s, strict=True):
        if views[spec].spec.stage.gang:
            gangs.setdefault((workload, spec), []).append(kept)
    starts = []
    for p, workload, spec, kept in zip(placed, workloads, specs, kept_s, strict=True):
        together = gangs.get((workload, spec), [kept])
        price = float(energy[spec][group_of[p.node]])
        starts.append(Start(p.row, p.node, p.gpu_mask, len(together), min(together), price))
    return starts


MOVERS: tuple[Callable[[Moving, int, Collection[int]], list[PlannedMove]], ...] = (
    propose_moves,  # towards the plan's counts
    evacuate,  # off sites it closes
    move_gangs,  # whole gangs to where it wants them
    make_room,  # for gangs that wait
    undo_moves,  # back, once those are gone
    consolidate,  # off nodes that may sleep
)
"""In their order; they share one budget, and a replica moves once."""


def _moves_after_plan(done: Round, guide: dict[str, Any]) -> list[PlannedMove]:
    """What each mover proposes on the snapshot that those before it have left."""
    moving, budget = Moving.after(done, guide), done.state.policy.move_budget_per_hour
    leaving = done.result.leaving()
    moves: list[PlannedMove] = []
    for mover in MOVERS:
        moves += mover(moving, budget - len(moves), leaving | {m.placed.row for m in moves})
    return moves


def _move_events(
    state: ClusterState,
    views: Views,
    scorer: Scorer,
    snapshot: Snapshot,
    moves: Sequence[PlannedMove],
    now_s: int,
) -> list[EventDraft]:
    """Start orders of new places, from the last checkpoint, each with what the move costs and saves."""
    placed = [m.placed for m in moves]
    kept_s = [kept_work_s(state, p.row, now_s) for p in placed]
    orders = start_drafts(state, views, _starts(state, views, scorer, snapshot, placed, kept_s), now_s)
    events = []
    for move, order in zip(moves, orders, strict=True):
        body = move.body(state)
        if move.makes_room_for:
            body["makes_room_for"] = move.makes_room_for
        events += [order, EventDraft(now_s, EventKind.REPLICA_MOVED, order.subject, body)]
    return events


def _states_after(state: ClusterState, result: RoundResult, now_s: int) -> list[EventDraft]:
    phase = {p.row: Phase.WAITING for p in result.preempted}
    phase |= {p.row: Phase.WAITING for p in result.paused}
    phase |= {d.row: Phase.WAITING for d in result.displaced}
    phase |= {p.row: Phase.ORDERED for p in result.placed}
    touched = {int(state.replicas["workload"][row]) for row in phase}
    events = state_changes(state, touched, phase, now_s)
    if result.waiting[ReasonCode.WAITS_FOR_PRICE]:
        events += _planned_events(state, touched, now_s)
    return events


def _planned_events(state: ClusterState, touched: set[int], now_s: int) -> list[EventDraft]:
    """Deferrable work that waits for a cheaper hour is planned, not stuck: say so once."""
    deferrable = np.array([t.deferrable for t in state.shapes.templates] or [False])
    is_pending = state.workloads["state"] == STATE_CODE[WorkloadState.PENDING]
    waits = is_pending & deferrable[state.workloads["shape"]] & (state.workloads["not_before_s"] <= now_s)
    return [
        state_draft(state.names[i], WorkloadState.PLANNED, now_s, "waits for a cheaper hour")
        for i in np.flatnonzero(waits).tolist()
        if i not in touched
    ]


def _plan_events(outcome: PlanOutcome, now_s: int) -> list[EventDraft]:
    events = []
    if outcome.cut_off:
        body: dict[str, Any] = {"status": outcome.plan.status.value, "cause": outcome.cut_off}
        events.append(EventDraft(now_s, EventKind.SOLVER_CUT_OFF, outcome.plan.plan_id, body))
    body = {**outcome.plan.model_dump(mode="json"), **outcome.body, "guide": outcome.guide}
    events.append(EventDraft(now_s, EventKind.PLAN_COMMITTED, outcome.plan.plan_id, body))
    return events


def _plan_document(state: ClusterState, outcome: PlanOutcome, moves: Sequence[PlannedMove]) -> Document:
    """The plan as the API shows it: with its ledgers, and the moves that its first round makes."""
    plan = outcome.plan.model_copy(
        update={
            "ledgers": tuple(LedgerBalance.model_validate(b) for b in outcome.body.get("ledger", ())),
            "moves": tuple(Move.model_validate(m.body(state)) for m in moves),
        }
    )
    return Document(COLLECTION_PLANS, plan.plan_id, orjson.dumps(plan.model_dump(mode="json")))


def _round_event(
    state: ClusterState,
    result: RoundResult,
    moves: Sequence[PlannedMove],
    samples: Sequence[Reason],
    now_s: int,
) -> EventDraft:
    waiting = {code.value: n for code, n in sorted(result.waiting.items()) if n}
    round_id = f"rounds/{now_s}-{state.revision}"
    body = {
        "round_id": round_id,
        "at_s": now_s,
        "considered": result.considered,
        "placed": len(result.placed),
        "moved": len(moves),
        "preempted": len(result.preempted),
        "paused": len(result.paused),
        "pending": sum(waiting.values()),
        "pending_by_reason": waiting,
        "moves": [m.body(state) for m in moves],
        "sample_reasons": [r.model_dump(mode="json") for r in samples],
    }
    return EventDraft(now_s, EventKind.ROUND_COMMITTED, round_id, body)


# ---------------------------------------------------------------------- helpers


def _submitted(workload: Workload, shape: int, now_s: int) -> EventDraft:
    body = {
        "shape": shape,
        "replicas": [s.replicas for s in workload.stages],
        "duration_s": [s.duration_s for s in workload.stages],
        "not_before_s": 0 if workload.not_before_at is None else epoch_s(workload.not_before_at),
        "deadline_s": 0 if workload.deadline_at is None else epoch_s(workload.deadline_at),
        "class": workload.workload_class,
    }
    return EventDraft(now_s, EventKind.WORKLOAD_SUBMITTED, workload.name, body)


def _shared_problems(
    state: ClusterState, workload: Workload, together: dict[str, Workload]
) -> list[FieldProblem]:
    """Shared stages need a live owner that runs a stage of that id itself; it may come in the same request."""
    problems = []
    for i, stage in enumerate(workload.stages):
        if stage.shared_with is None:
            continue
        owner = together.get(stage.shared_with)
        current = state.workload_state(stage.shared_with)
        if owner is None and current is not None:
            owner = state.shapes.templates[int(state.workloads["shape"][state.index_of[stage.shared_with]])]
        if owner is None or (current is not None and current.is_final):
            what = "no workload" if owner is None else "the workload has ended:"
            problem, expected, code = f"{what} {stage.shared_with!r}", "a live workload", "unknown_workload"
        elif stage.stage_id not in {s.stage_id for s in owner.stages if s.shared_with is None}:
            own = ", ".join(s.stage_id for s in owner.stages if s.shared_with is None)
            problem = f"{stage.shared_with!r} runs no stage {stage.stage_id!r} of its own"
            expected, code = f"one of {own}", "unknown_shared_stage"
        elif (spread := owner.stage(stage.stage_id).spread) is not None and spread.over == "site":
            problem = f"stage {stage.stage_id!r} of {stage.shared_with!r} is spread over sites"
            expected, code = "a stage that lies on one site", "shared_stage_spread"
        else:
            continue
        field = f"stages[{i}].shared_with"
        problems.append(FieldProblem(field=field, problem=problem, expected=expected, code=code))
    return problems


def _nodes_named(state: ClusterState, site_id: str, group_id: str, node_index: int) -> NDArray[np.bool_]:
    """(N,) nodes of a site, or the one node named; NotFound for what does not exist."""
    topology = state.topology
    if topology is None or site_id not in topology.site_index:
        raise NotFound.among("site", site_id, topology.site_index if topology is not None else ())
    if node_index < 0:
        here: NDArray[np.bool_] = topology.node_site == topology.site_index[site_id]
        return here
    group = topology.group_index.get((site_id, group_id))
    if group is None:
        groups = [g for s, g in topology.group_index if s == site_id]
        raise NotFound.among(f"group at {site_id}", group_id, groups)
    if node_index >= int(topology.group_node_count[group]):
        raise NotFound(f"no node {node_index} in group {group_id} at {site_id}")
    only: NDArray[np.bool_] = np.arange(topology.node_count) == topology.group_first_node[group] + node_index
    return only
