"""Builders: small fleets, workloads and a city to run them in, valid by default, so that a test shows what matters.

    a_fleet().site(a_site("e01").gpus("l20", nodes=2))      fleets: one hub, one zone `z1` at it, one link per site
    a_workload("w").gpus(l20=1000).within(5.0)               workloads: one CPU replica unless said otherwise
    given(fleet).submits(a_workload("w")).when_planned().expect("w", on="e01")

`City` runs `scheduler.cycle.Cycle` without a service: it folds every batch the way the store does (bodies go through
their bytes) and keeps the log. Nothing here knows how placements are found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from scheduler.cycle import Cycle
from scheduler.domain.records import CommitBatch
from scheduler.domain.state import ClusterState
from scheduler.planner.feasibility import SpecView, Views
from scheduler.planner.moves import Moving
from scheduler.planner.reserve import Reservations
from scheduler.planner.round import PatternCache
from scheduler.planner.scoring import CLOSED_SITE_YUAN_PER_HOUR, Scorer
from scheduler.planner.snapshot import Snapshot
from scheduler.planner.strategy import PlanOutcome, PlanTask
from scheduler.store.bodies import decode_body, encode_body
from suanli.model import (
    AccessProfile,
    CoolingPlant,
    Dataset,
    Event,
    EventKind,
    Explanation,
    Facility,
    Fleet,
    Flow,
    HostKind,
    Link,
    Network,
    NodeGroup,
    PathBudget,
    Plan,
    PriorityClass,
    ReplicaPhase,
    Site,
    SiteKind,
    SiteStatus,
    SolveStatus,
    Spread,
    Stage,
    Tariff,
    TelemetryReport,
    Workload,
    WorkloadKind,
    Zone,
)
from suanli.model.telemetry import ReplicaReport
from suanli.model.units import HOURS_PER_DAY, utc

START_S = 1_784_044_800
"""Wednesday 15 July 2026, 00:00 in Shanghai."""
GIB = 1024
HUB = "hub"


# ---------------------------------------------------------------------- fleets


class a_site:  # noqa: N801 - reads as a phrase in tests
    """A site of one hub; an edge room unless said otherwise, without nodes until some are given."""

    def __init__(self, site_id: str, kind: str = "edge") -> None:
        self.site_id, self.kind = site_id, kind
        self.groups: list[NodeGroup] = []
        self.site_labels: dict[str, str] = {}
        self.rtt_ms = 0.0
        self.limit_kw = 1_000.0
        self.link_gbps = 100.0
        self.has_upf = True
        self.home_for: tuple[str, ...] = ()

    def gpus(
        self, model: str = "l20", nodes: int = 1, per_node: int = 4, cores: int = 64, island: int = 0
    ) -> Self:
        """A group of GPU nodes with 48 GiB per GPU, 4 GiB of memory per core."""
        return self._group(f"{model}x{per_node}", nodes, cores, model, per_node, island)

    def cpus(self, nodes: int = 1, cores: int = 16, group_id: str = "cpu") -> Self:
        """A group of nodes without GPU."""
        return self._group(group_id, nodes, cores, "", 0, 0)

    def _group(self, group_id: str, nodes: int, cores: int, model: str, per_node: int, island: int) -> Self:
        self.groups.append(
            NodeGroup(
                group_id=group_id,
                node_type=group_id,
                node_count=nodes,
                cpu_milli=cores * 1000,
                memory_mib=cores * 4 * GIB,
                gpu_model=model,
                gpu_count=per_node,
                gpu_memory_mib=48 * GIB if per_node else 0,
                storage_gib=1000,
                idle_w=300,
                max_w=2000,
                gpu_dynamic_w=250.0 if per_node else 0.0,
                core_dynamic_w=5.0,
                island_node_count=island,
            )
        )
        return self

    def labels(self, **labels: str) -> Self:
        """Trust and residency."""
        self.site_labels |= labels
        return self

    def rtt(self, rtt_ms: float) -> Self:
        """RTT between the hub and the site."""
        self.rtt_ms = rtt_ms
        return self

    def power_limit_kw(self, limit_kw: float) -> Self:
        """Limit of IT power."""
        self.limit_kw = limit_kw
        return self

    def uplink_gbps(self, gbps: float) -> Self:
        """Capacity of its only link."""
        self.link_gbps = gbps
        return self

    def build(self) -> Site:
        """The value."""
        return Site(
            site_id=self.site_id,
            kind=SiteKind(self.kind),
            host_kind=HostKind.TELECOM_ROOM if self.kind == "edge" else HostKind.DATA_CENTER,
            labels=self.site_labels,
            rated_it_kw=1_000.0,
            power_limit_kw=self.limit_kw,
            facility=Facility(
                plant="plain", e0=0.01, e1=0.03, e2=0.02, lighting=0.01, cooling_fixed=0.02,
                cooling=CoolingPlant.CHILLER_FIXED, cooling_constant=0.3,
            ),
            tariff_id="flat",
            has_upf=self.has_upf,
            home_for=self.home_for,
            groups=tuple(self.groups),
        )  # fmt: skip


class a_fleet:  # noqa: N801
    """Sites around one hub; zone `z1` sits at the hub, its access adds 1 ms p99."""

    def __init__(self, *sites: a_site) -> None:
        self._sites = list(sites)
        self._datasets: list[Dataset] = []
        self._price_yuan_per_kwh = (1.0,) * HOURS_PER_DAY

    def site(self, site: a_site) -> Self:
        """One more site."""
        self._sites.append(site)
        return self

    def cheaper_from(self, hour: int) -> Self:
        """Energy at a tenth of its price from that hour of the day, counted from START_S, until the day ends."""
        self._price_yuan_per_kwh = (1.0,) * hour + (0.1,) * (HOURS_PER_DAY - hour)
        return self

    def priced(self, *yuan_per_kwh: float) -> Self:
        """Energy's price in each hour of the day, counted from START_S; the last one holds until the day ends."""
        rest = (yuan_per_kwh[-1],) * (HOURS_PER_DAY - len(yuan_per_kwh))
        self._price_yuan_per_kwh = yuan_per_kwh + rest
        return self

    def dataset(self, dataset_id: str, *site_ids: str) -> Self:
        """A data set of 10 GiB."""
        self._datasets.append(Dataset(dataset_id=dataset_id, size_gib=10, site_ids=site_ids))
        return self

    def build(self) -> Fleet:
        """The value; links have no delay but what `rtt` gives them."""
        return Fleet(
            sites=tuple(s.build() for s in self._sites),
            zones=(Zone(zone_id="z1", hub_id=HUB, access_mix={"pon": 1.0}),),
            network=Network(
                hubs={HUB: (0.0, 0.0)},
                links=tuple(
                    Link(
                        link_id=f"{HUB}-{s.site_id}",
                        ends=(HUB, s.site_id),
                        capacity_gbps=s.link_gbps,
                        hop_count=0,
                        extra_rtt_ms=s.rtt_ms,
                    )
                    for s in self._sites
                ),
                access=(
                    AccessProfile(
                        access_id="pon", rtt_p50_ms=0.5, rtt_p99_ms=1.0, down_mbps=1000, up_mbps=1000
                    ),
                    AccessProfile(
                        access_id="5g", rtt_p50_ms=4, rtt_p99_ms=8.0, down_mbps=200, up_mbps=50, via_upf=True
                    ),
                ),
                hop_rtt_ms=0.0,
                km_rtt_ms=0.0,
                queue_tau_ms=0.0,
            ),
            tariffs=(
                Tariff(
                    tariff_id="flat",
                    price_yuan_per_kwh_by_month=dict.fromkeys(range(1, 13), self._price_yuan_per_kwh),
                ),
            ),
            datasets=tuple(self._datasets),
        )


# ---------------------------------------------------------------------- workloads


class a_workload:  # noqa: N801
    """One stage `main` with one replica of 1 core and 1 GiB, a service of class batch, unless said otherwise."""

    def __init__(self, name: str, tenant: str = "t") -> None:
        self.name = name if "/" in name else f"tenants/{tenant}/workloads/{name}"
        self.stages: list[dict[str, Any]] = [{"stage_id": "main", "cpu_milli": 1000, "memory_mib": GIB}]
        self.flows: list[Flow] = []
        self.paths: list[PathBudget] = []
        self.fields: dict[str, Any] = {"kind": WorkloadKind.BATCH}

    def _last(self, **fields: Any) -> Self:
        self.stages[-1] |= fields
        return self

    def stage(self, stage_id: str, **fields: Any) -> Self:
        """The next stage; the first call names the first stage."""
        stage = {"stage_id": stage_id, "cpu_milli": 1000, "memory_mib": GIB, **fields}
        if self.stages[0]["stage_id"] == "main":
            self.stages = [stage]
        else:
            self.stages.append(stage)
        return self

    def cpu(self, cores: float, memory_gib: float = 1) -> Self:
        """Cores and memory of one replica."""
        return self._last(cpu_milli=int(cores * 1000), memory_mib=int(memory_gib * GIB))

    def gpus(self, **milli_by_model: int) -> Self:
        """Milli-GPUs of one replica on each model allowed."""
        return self._last(gpu_milli=milli_by_model)

    def replicas(self, count: int) -> Self:
        """How many."""
        return self._last(replicas=count)

    def gang(self, count: int) -> Self:
        """So many replicas, all or none."""
        return self._last(replicas=count, gang=True)

    def spread(self, over: str, min_domains: int) -> Self:
        """Over different nodes or sites."""
        return self._last(spread=Spread(over=over, min_domains=min_domains))  # type: ignore[arg-type]

    def starts_up_in(self, startup_s: int) -> Self:
        """From the start order until it works."""
        return self._last(startup_s=startup_s)

    def lasts(self, duration_s: int) -> Self:
        """Work with an end."""
        return self._last(duration_s=duration_s)

    def preemptible(self, checkpoint_s: int = 0) -> Self:
        """May give way; keeps its work at every checkpoint."""
        return self._last(preemptible=True, checkpoint_interval_s=checkpoint_s)

    def resides(self, *alternatives: dict[str, str]) -> Self:
        """Labels of the site."""
        return self._last(require_any=alternatives)

    def at(self, *site_ids: str) -> Self:
        """Only at these sites."""
        return self._last(site_ids=site_ids)

    def within(self, rtt_ms: float | None, zone: str = "z1", mbps: float = 0.0, access: str = "") -> Self:
        """A flow from the zone to the first stage, with its limit."""
        return self.flow(f"zones/{zone}", f"stages/{self.stages[0]['stage_id']}", rtt_ms, mbps, access)

    def flow(
        self, source: str, target: str, rtt_ms: float | None = None, mbps: float = 0.0, access: str = ""
    ) -> Self:
        """Traffic between two ends."""
        self.flows.append(
            Flow(source=source, target=target, rtt_p99_max_ms=rtt_ms, mbps=mbps, access_id=access)
        )
        return self

    def path(self, budget_ms: float, *via: str) -> Self:
        """An end-to-end budget."""
        self.paths.append(PathBudget(path_id=f"p{len(self.paths)}", via=via, budget_ms=budget_ms))
        return self

    def priority(self, name: str) -> Self:
        """Priority class."""
        self.fields["priority_class"] = PriorityClass(name)
        return self

    def deferrable(self, deadline_s: int | None = None) -> Self:
        """May wait for cheap hours until its deadline."""
        self.fields["deferrable"] = True
        if deadline_s is not None:
            self.fields["deadline_at"] = utc(deadline_s)
        return self

    def not_before(self, at_s: int) -> Self:
        """Not before that instant."""
        self.fields["not_before_at"] = utc(at_s)
        return self

    def build(self) -> Workload:
        """The value."""
        return Workload(
            name=self.name,
            stages=tuple(Stage(**s) for s in self.stages),
            flows=tuple(self.flows),
            paths=tuple(self.paths),
            **self.fields,
        )


def a_twin(name: str, budget_ms: float = 100.0, tenant: str = "t") -> a_workload:
    """ingest → sync → render, CPU only, 10 ms of processing each, one loop from zone z1 and back."""
    twin = a_workload(name, tenant)
    for stage_id in ("ingest", "sync", "render"):
        twin.stage(stage_id, processing_p99_ms={"cpu": 10.0})
    twin.flow("zones/z1", "stages/ingest").flow("stages/render", "zones/z1")
    return twin.path(budget_ms, "zones/z1", "stages/ingest", "stages/sync", "stages/render", "zones/z1")


def name_of(name: str) -> str:
    """A full workload name from a short one of tenant `t`."""
    return name if "/" in name else f"tenants/t/workloads/{name}"


# ---------------------------------------------------------------------- a strategy without a solver


@dataclass
class PlainScorer:
    """Costs by site (default 1 yuan/h), quotas by fold and deferral as told; nodes in use come first."""

    cost_by_site: Mapping[str, float] = field(default_factory=dict)
    quotas: Mapping[int, dict[int, float]] = field(default_factory=dict)
    wanted_deferred: int | None = None
    closed: frozenset[str] = frozenset()
    wake_yuan: float = 1e-3
    """An hour of a node that is on."""
    chunk: int = 0

    def group_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,)"""
        wall = np.where(self.open_sites(snapshot), 0.0, CLOSED_SITE_YUAN_PER_HOUR)
        return self.energy_yuan_per_hour(view, snapshot) + wall[snapshot.topology.group_site]

    def energy_yuan_per_hour(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,)"""
        site_ids = snapshot.topology.site_ids
        by_site = [self.cost_by_site.get(s, 1.0) for s in site_ids]
        energy: NDArray[np.float64] = np.array(by_site)[snapshot.topology.group_site]
        return energy

    def open_sites(self, snapshot: Snapshot) -> NDArray[np.bool_]:
        """(S,)"""
        return np.array([s not in self.closed for s in snapshot.topology.site_ids])

    def node_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(N,)"""
        return snapshot.empty_node.astype(np.float64) * self.wake_yuan

    def wake_cost(self, view: SpecView, snapshot: Snapshot) -> NDArray[np.float64]:
        """(G,)"""
        return np.full(len(snapshot.topology.group_ids), self.wake_yuan)

    def quota(self, spec: int, snapshot: Snapshot) -> dict[int, float]:
        """Group → replicas; as plans count, for all specs of a fold together."""
        return self.quotas.get(int(snapshot.fold[spec]), {})

    def may_start_deferred(self, spec: int, snapshot: Snapshot) -> int | None:
        """As told, less what runs."""
        if self.wanted_deferred is None:
            return None
        return max(0, self.wanted_deferred - int(snapshot.running[spec].sum()))


class PlainStrategy:
    """Scores as told; makes one plan, of nothing, when `guide` is set."""

    name = "plain"

    def __init__(self, scorer: PlainScorer | None = None) -> None:
        self.plain = scorer or PlainScorer()
        self.guide: dict[str, Any] | None = None

    def learn(self, state: ClusterState, now_s: int) -> dict[str, Any] | None:
        """Nothing."""
        return None

    def plan_due(self, state: ClusterState, now_s: int) -> bool:
        """When the test has set a guide."""
        return self.guide is not None

    def begin_plan(self, state: ClusterState, views: Views, now_s: int) -> PlanTask:
        """No problem to solve."""
        return PlanTask(None, now_s, 1.0)  # type: ignore[arg-type]

    def finish_plan(self, state: ClusterState, task: PlanTask, solution: Any) -> PlanOutcome:
        """The guide as set."""
        guide, self.guide = self.guide or {}, None
        plan = Plan(plan_id=f"plans/{task.at_s}", at_s=task.at_s, horizon_s=3600, status=SolveStatus.OPTIMAL)
        return PlanOutcome(plan, {}, guide)

    def scorer(self, state: ClusterState, guide: dict[str, Any], now_s: int) -> Scorer:
        """As told."""
        return self.plain


class _NoSolver:
    def solve_plan(self, problem: Any, wall_limit_s: float) -> Any:
        return None

    def close(self) -> None:
        pass


# ---------------------------------------------------------------------- a city


@dataclass(frozen=True)
class Place:
    """Where a replica lies."""

    site_id: str
    group_id: str
    node_index: int


class City:
    """A cycle over a state, with its log, a clock and sites that say what the test tells them to."""

    def __init__(self, fleet: Fleet, strategy: Any = None, now_s: int = START_S) -> None:
        self.fleet, self.now_s = fleet, now_s
        self.strategy = strategy or PlainStrategy()
        self.cycle = Cycle(self.strategy, _NoSolver())
        self.state = ClusterState.empty()
        self.log: list[Event] = []
        self.workloads: dict[str, Workload] = {}
        self.apply(self.cycle.register_fleet(self.state, now_s, fleet))

    def moving(self, scorer: Scorer | None = None, guide: dict[str, Any] | None = None) -> Moving:
        """What movers work on now, after a round that has placed nothing and keeps no nodes."""
        assert self.state.topology is not None
        views = Views(self.state.topology, self.state.shapes)
        snapshot = Snapshot.take(self.state, views)
        return Moving(
            state=self.state,
            snapshot=snapshot,
            patterns=PatternCache(views),
            scorer=scorer or self.strategy.plain,
            guide=guide or {},
            now_s=self.now_s,
            placed=(),
            kept=Reservations(snapshot, self.now_s),
        )

    # -------------------------------------------------------------- events

    def apply(self, batch: CommitBatch) -> list[Event]:
        """Fold a batch as the store hands it on."""
        first = self.state.revision + 1
        events = [
            Event(
                revision=first + i,
                at_s=d.at_s,
                kind=d.kind,
                subject=d.subject,
                body=decode_body(encode_body(d.body)),
            )
            for i, d in enumerate(batch.events)
        ]
        self.state.apply(events)
        self.log += events
        return events

    def replayed(self) -> ClusterState:
        """A new state from the whole log."""
        state = ClusterState.empty()
        state.apply(self.log)
        return state

    def events(self, kind: EventKind) -> list[Event]:
        """Of one kind, in order."""
        return [e for e in self.log if e.kind is kind]

    # -------------------------------------------------------------- what happens

    def submits(self, *workloads: a_workload | Workload) -> Self:
        """Admit and submit; fails on a refusal."""
        values = [w.build() if isinstance(w, a_workload) else w for w in workloads]
        refused = [p for problems in self.cycle.admit(self.state, values) for p in problems]
        assert not refused, "\n".join(map(str, refused))
        self.workloads |= {w.name: w for w in values}
        self.apply(self.cycle.submit(self.state, self.now_s, values))
        return self

    def when_planned(self, after_s: int = 0) -> Self:
        """One advance of the clock and the cycle."""
        self.now_s += after_s
        self.apply(self.cycle.advance(self.state, self.now_s))
        return self

    def cancels(self, name: str) -> Self:
        """The tenant gives up."""
        self.apply(self.cycle.cancel(self.state, self.now_s, name_of(name)))
        return self

    def reports(
        self,
        *said: tuple[str, ReplicaPhase] | ReplicaReport,
        statuses: Iterable[SiteStatus] = (),
        after_s: int = 0,
    ) -> Self:
        """Sites say what became of placements (ids, or full reports)."""
        self.now_s += after_s
        replicas = tuple(
            r
            if isinstance(r, ReplicaReport)
            else ReplicaReport(placement_id=r[0], phase=r[1], at_s=self.now_s)
            for r in said
        )
        report = TelemetryReport(at_s=self.now_s, replicas=replicas, statuses=tuple(statuses))
        self.apply(self.cycle.report(self.state, self.now_s, report))
        return self

    def all_run(self, after_s: int = 30) -> Self:
        """Everything that was ordered starts."""
        self.now_s += after_s
        ordered = [i for i in self.open_placements() if i not in self._running()]
        return self.reports(*((i, ReplicaPhase.RUNNING) for i in ordered))

    def site_fails(self, site_id: str, after_s: int = 60, done_work_s: float = 0.0) -> Self:
        """A site goes down and loses all it ran."""
        self.now_s += after_s
        lost = [
            ReplicaReport(placement_id=i, phase=ReplicaPhase.LOST, at_s=self.now_s, done_work_s=done_work_s)
            for i, place in self.open_placements().items()
            if place.site_id == site_id
        ]
        status = SiteStatus(site_id=site_id, at_s=self.now_s, up=False, cause="power")
        return self.reports(*lost, statuses=[status])

    def site_returns(self, site_id: str, after_s: int = 60) -> Self:
        """A site comes back."""
        self.now_s += after_s
        return self.reports(statuses=[SiteStatus(site_id=site_id, at_s=self.now_s, up=True)])

    def ended(self, name: str, phase: ReplicaPhase, done_work_s: float = 0.0, after_s: int = 60) -> Self:
        """Every open placement of a workload ends so."""
        self.now_s += after_s
        mine = [i for i in self.open_placements() if i.startswith(name_of(name) + "/")]
        return self.reports(
            *(
                ReplicaReport(placement_id=i, phase=phase, at_s=self.now_s, done_work_s=done_work_s)
                for i in mine
            )
        )

    # -------------------------------------------------------------- what is seen, read from the log alone

    def open_placements(self) -> dict[str, Place]:
        """Placements ordered and not reported ended, stop-ordered ones included."""
        out: dict[str, Place] = {}
        for e in self.log:
            if e.kind is EventKind.REPLICA_START_ORDERED:
                c = e.body["command"]
                out[e.subject] = Place(c["site_id"], c["group_id"], c["node_index"])
            elif e.kind is EventKind.REPLICA_ENDED:
                out.pop(e.subject, None)
        return out

    def placements(self, name: str) -> dict[str, Place]:
        """Placements of a workload that are not ended nor told to stop."""
        stopped = {e.subject for e in self.events(EventKind.REPLICA_STOP_ORDERED)}
        mine = name_of(name) + "/"
        return {i: p for i, p in self.open_placements().items() if i.startswith(mine) and i not in stopped}

    def stop_kinds(self, name: str) -> set[str]:
        """Why placements of a workload were told to stop."""
        orders = self.events(EventKind.REPLICA_STOP_ORDERED)
        return {e.body["kind"] for e in orders if e.subject.startswith(name_of(name) + "/")}

    def _running(self) -> set[str]:
        return {e.subject for e in self.events(EventKind.REPLICA_RUNNING)}

    def sites_of(self, name: str) -> Counter[str]:
        """Site → replicas there."""
        return Counter(p.site_id for p in self.placements(name).values())

    def state_of(self, name: str) -> str:
        """State of a workload."""
        state = self.state.workload_state(name_of(name))
        assert state is not None
        return state.value

    def stage_sites(self, name: str) -> dict[str, str]:
        """Stage → site of its last placement."""
        return {i.split("/")[4]: p.site_id for i, p in self.placements(name).items()}

    def explain(self, name: str, site_id: str = "", node: int | None = None) -> Explanation:
        """The cycle's answer, with the changes that would help."""
        return self.cycle.explain(self.state, name_of(name), self.now_s, site_id, node, with_relaxations=True)

    # -------------------------------------------------------------- expectations

    def expect(
        self,
        name: str,
        on: str | set[str] | None = None,
        replicas: int | None = None,
        state: str | None = None,
    ) -> Self:
        """The workload lies on these sites (every one of them carries it), with so many replicas, in that state."""
        sites = self.sites_of(name)
        if on is not None:
            assert set(sites) == ({on} if isinstance(on, str) else on), f"{name} lies on {dict(sites)}"
        if replicas is not None:
            assert sum(sites.values()) == replicas, f"{name}: {sum(sites.values())} replicas"
        if state is not None:
            assert self.state_of(name) == state, f"{name} is {self.state_of(name)}"
        return self

    def expect_waiting(self, name: str) -> Self:
        """Nothing of it lies anywhere."""
        assert not self.placements(name), f"{name} lies on {dict(self.sites_of(name))}"
        return self


def given(fleet: a_fleet | Fleet, scorer: PlainScorer | None = None) -> City:
    """A city with that fleet, where sites cost what the scorer says."""
    value = fleet.build() if isinstance(fleet, a_fleet) else fleet
    return City(value, PlainStrategy(scorer))


def names(workloads: Sequence[a_workload]) -> list[str]:
    """Full names."""
    return [w.name for w in workloads]
