"""PlacementProblem: everything a plan depends on, as ids, numpy arrays and raw facts, in one replayable file.

Facts, not verdicts: the tables say what a site draws, what a leg's RTT is and which labels a class asks
for; which pairs are candidates is derived by the model that plans and, apart from it, by the verifier
that checks.

Axes (one letter each, used in every shape below)

| axis | what | table |
|---|---|---|
| S | sites | `Sites` |
| G | node groups: identical nodes of one site | `Groups` |
| C | classes: folded workload stages of the same shape, flows, limits and priority | `Classes` |
| T | slots of the horizon | `Slots` |
| R | resources, see `RESOURCES` | – |
| K | pairs (class, group) with a defined need | `Pairs` |
| A | access legs: zone × access profile | `Network` |
| L | links | `Network` |
| E | entries of the routes: (origin, site, link) | `Network` |
| F | flows between a leg and a class | `Flows` |
| B | path budgets of single-stage classes | `Paths` |

Replicas of a class are interchangeable. A class is either a *service* (`demand_count` > 0 somewhere: so
many replicas wanted running in that slot) or *batch work* (`work_replica_h` > 0: so many replica-hours
between release
and deadline). A class that is a stage of a graph has neither: its graph's count drives it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from solvers import archive
from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.facts import fact_problems

RESOURCES = ("cpu_milli", "memory_mib", "gpu_milli", "storage_gib")
CPU_MILLI, MEMORY_MIB, GPU_MILLI, STORAGE_GIB = range(len(RESOURCES))
NODE = len(RESOURCES)
"""Index of the whole node where plans count what fills one: the resources, then the node itself (`solvers.alone`)."""
NODE_COLUMNS = (*RESOURCES, "node")
MILLI_PER_GPU = 1000
W_PER_KW = 1000.0
RANK_HARD_SAFETY, RANK_PUBLIC_SERVICE, RANK_INTERACTIVE, RANK_BATCH = range(4)
MAGIC = "suanli-placement-problem-1"

Labels = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Slots:
    """Time axis. Slots follow each other without gap and break where the tariff does."""

    start_s: Annotated[IntArray, "T"]
    hours: Annotated[FloatArray, "T"]


@dataclass(frozen=True, eq=False)
class Sites:
    """Sites with their plant in linear form, limits, prices and PUE caps.

    P_fac[kW] = off_kw + (fixed_kw − off_kw)·on + (1 + loss_slope)·P + (loss_square / rated_kw)·P²  with P
    the IT power. nan in a cap means: no cap.
    """

    site_id: tuple[str, ...]
    labels: tuple[Labels, ...]
    is_edge: Annotated[BoolArray, "S"]
    may_close: Annotated[BoolArray, "S"]
    initially_on: Annotated[BoolArray, "S"]
    start_yuan: Annotated[FloatArray, "S"]
    rated_kw: Annotated[FloatArray, "S"]
    power_limit_kw: Annotated[FloatArray, "S", "T"]
    """Limit of IT power, kW."""
    fixed_kw: Annotated[FloatArray, "S", "T"]
    """F: overhead drawn while the site is on, whatever its load."""
    off_kw: Annotated[FloatArray, "S", "T"]
    """F_off ≤ F: what the closed site still draws."""
    loss_slope: Annotated[FloatArray, "S", "T"]
    """a, kW of overhead per kW of IT."""
    loss_square: Annotated[FloatArray, "S", "T"]
    """q ≥ 0, no dimension."""
    price_yuan_per_kwh: Annotated[FloatArray, "S", "T"]
    carbon_g_per_kwh: Annotated[FloatArray, "S", "T"]
    ipue_cap_hourly: Annotated[FloatArray, "S"]
    hourly_is_hard: Annotated[BoolArray, "S"]
    """False: the excess is priced at `debt_yuan_per_kwh` instead."""
    pue_cap_annual: Annotated[FloatArray, "S"]
    annual_is_hard: Annotated[BoolArray, "S"]
    ledger_beta_kwh: Annotated[FloatArray, "S"]
    """β_H: what the ledger releases to this horizon (may be negative)."""
    debt_yuan_per_kwh: Annotated[FloatArray, "S"]
    demand_yuan_per_kw: Annotated[FloatArray, "S"]
    """Charge per kW by which this horizon's peak facility power exceeds `demand_peak_kw`; 0: none."""
    demand_peak_kw: Annotated[FloatArray, "S"]
    reserved_floor_frac: Annotated[FloatArray, "S"]
    """Share of every group kept free of work ranked below public service."""


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups of identical nodes. Capacity and needs are in the units of `RESOURCES`."""

    group_id: tuple[str, ...]
    gpu_model: tuple[str, ...]
    """Empty for groups without GPU."""
    site: Annotated[IntArray, "G"]
    node_count: Annotated[IntArray, "G", "T"]
    """Nodes usable in the slot: cordons and outages are already taken off."""
    capacity: Annotated[IntArray, "G", "R"]
    """Of one node; gpu_milli is 1000 × devices."""
    gpu_memory_mib: Annotated[IntArray, "G"]
    """Per device."""
    idle_w: Annotated[FloatArray, "G"]
    """Of one node that is on and empty."""
    wake_yuan: Annotated[FloatArray, "G"]
    """Cost of switching one node on."""
    initial_on_count: Annotated[FloatArray, "G"]
    island_node_count: Annotated[IntArray, "G"]
    """Nodes per fabric island; 0: the group is one island."""
    packing_yield: Annotated[FloatArray, "G", "R"]
    """Share (0..1] of a resource that packing the current mix of shapes can fill."""
    scarce_resource: tuple[int, ...] = ()
    """Resource (index into `RESOURCES`) that decides how many nodes of the group are on. Useful load counts a node's
    idle power by its share alone, so that it never exceeds what the nodes draw; (): by each replica's largest share."""


@dataclass(frozen=True, eq=False)
class Classes:
    """Folded work. Label and site rules are raw: `require_any` is an or of ands, empty means anywhere."""

    class_id: tuple[str, ...]
    require_any: tuple[tuple[Labels, ...], ...]
    allowed_site_ids: tuple[tuple[str, ...], ...]
    """Empty: any site."""
    gpu_milli_by_model: tuple[Mapping[str, int], ...]
    """Models allowed and milli-GPUs a replica needs on each; empty: needs no GPU."""
    gpu_memory_mib: Annotated[IntArray, "C"]
    """Per whole GPU; 0: no requirement."""
    priority_rank: Annotated[IntArray, "C"]
    """0 hard_safety, 1 public_service, 2 interactive, 3 batch."""
    demand_count: Annotated[FloatArray, "C", "T"]
    """Service: replicas wanted running, expected arrivals included."""
    unserved_yuan_per_replica_h: Annotated[FloatArray, "C"]
    work_replica_h: Annotated[FloatArray, "C"]
    """Batch: replica-hours to deliver."""
    release_slot: Annotated[IntArray, "C"]
    """First slot in which batch work may run."""
    deadline_slot: Annotated[IntArray, "C"]
    """First slot in which batch work is late; T or more: not late within the horizon."""
    max_parallel_count: Annotated[FloatArray, "C"]
    """Most replicas of batch work that can run at once."""
    lateness_yuan_per_replica_h: Annotated[FloatArray, "C"]
    """Once per replica-hour that is delivered after the deadline."""
    gang_size: Annotated[IntArray, "C"]
    """Replicas that start together or not at all; 1: none."""
    single_site: Annotated[BoolArray, "C"]
    """A gang lies on one site."""
    single_group: Annotated[BoolArray, "C"]
    single_island: Annotated[BoolArray, "C"]
    spread_site_min: Annotated[IntArray, "C"]
    """Distinct sites that must carry replicas; 0 or 1: no rule."""
    spread_node_min: Annotated[IntArray, "C"]
    migration_yuan: Annotated[FloatArray, "C"]
    """Cost of moving one running replica to another node group."""


@dataclass(frozen=True, eq=False)
class Pairs:
    """(class, group) with a defined need; sorted by class, then group, without repetition."""

    class_index: Annotated[IntArray, "K"]
    group_index: Annotated[IntArray, "K"]
    need: Annotated[IntArray, "K", "R"]
    """Of one replica on this group's GPU model."""
    dynamic_w: Annotated[FloatArray, "K"]
    """Power one running replica adds to its node's idle power, at its mean utilisation."""
    processing_p99_ms: Annotated[FloatArray, "K"]
    """nan: not declared; a path that needs it then cannot be shown to hold."""
    running_count: Annotated[FloatArray, "K"]
    """Replicas running here now."""
    other_yuan_per_replica_h: Annotated[FloatArray, "K"]
    """Money beyond energy, e.g. data transfer spread over the run time."""


@dataclass(frozen=True, eq=False)
class Flows:
    """Traffic of one replica between an access leg and its site; nan limit: only load, no RTT rule."""

    class_index: Annotated[IntArray, "F"]
    leg_index: Annotated[IntArray, "F"]
    rtt_p99_max_ms: Annotated[FloatArray, "F"]
    mbps: Annotated[FloatArray, "F"]


@dataclass(frozen=True, eq=False)
class Paths:
    """Budgets of single-stage classes: rtt(leg_in) + processing + rtt(leg_out) ≤ budget; −1: that leg is
    absent.
    """

    class_index: Annotated[IntArray, "B"]
    leg_in_index: Annotated[IntArray, "B"]
    leg_out_index: Annotated[IntArray, "B"]
    budget_ms: Annotated[FloatArray, "B"]


@dataclass(frozen=True, eq=False)
class Network:
    """RTTs at the planning load and the links each route loads. nan RTT: unknown, which never passes a limit.

    Routes are entries (origin, site, link); origin 0..A−1 is a leg, A + s is site s.
    """

    leg_id: tuple[str, ...]
    link_id: tuple[str, ...]
    leg_rtt_p99_ms: Annotated[FloatArray, "A", "S"]
    site_rtt_p99_ms: Annotated[FloatArray, "S", "S"]
    link_capacity_mbps: Annotated[FloatArray, "L"]
    route_origin: Annotated[IntArray, "E"]
    route_site: Annotated[IntArray, "E"]
    route_link: Annotated[IntArray, "E"]
    transfer_yuan_per_gb: Annotated[FloatArray, "S", "S"]
    planning_load_frac: float = 0.8
    """Share of a link that plans may load."""


@dataclass(frozen=True)
class GraphFlow:
    """Traffic between two stages of one graph, with the RTT limit of this leg (None: no limit)."""

    from_stage: int
    to_stage: int
    mbps: float = 0.0
    rtt_p99_max_ms: float | None = None


@dataclass(frozen=True)
class GraphPath:
    """End-to-end budget: `via` names stages (≥ 0) and legs (−1 − leg index) in order; processing of
    stages counts.
    """

    via: tuple[int, ...]
    budget_ms: float


@dataclass(frozen=True)
class Graph:
    """`count` identical workloads of several stages. Stage i is class `stage_class[i]` with so many
    replicas each.

    The flows between zones and a stage are flows of the stage's class. All replicas of a stage lie on one
    site. `fixed_site[i]` ≥ 0: that stage exists already at that site (shared with another workload) and
    takes
    no resources.
    """

    graph_id: str
    count: tuple[float, ...]
    """[T] graphs wanted running."""
    stage_class: tuple[int, ...]
    stage_replicas: tuple[int, ...]
    flows: tuple[GraphFlow, ...] = ()
    paths: tuple[GraphPath, ...] = ()
    colocate: tuple[tuple[int, int], ...] = ()
    fixed_site: tuple[int, ...] = ()
    """Empty: no stage is fixed; otherwise one entry per stage, −1 for free ones."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """From the JSON of an archive."""
        return cls(
            **{
                **facts,
                "flows": tuple(GraphFlow(**f) for f in facts["flows"]),
                "paths": tuple(GraphPath(**p) for p in facts["paths"]),
            }
        )


@dataclass(frozen=True)
class Terms:
    """What the policy says about the whole fleet. `portfolio` is the set of edge sites; None: no
    portfolio cap.
    """

    portfolio_pue_cap_annual: float | None = None
    portfolio_is_hard: bool = False
    portfolio_beta_kwh: float = 0.0
    portfolio_debt_yuan_per_kwh: float = 5.0
    ledger_load: Literal["useful", "legal"] = "useful"
    """useful: Π multiplies the power that placed work causes; legal: all IT power."""
    carbon_yuan_per_kg: float = 0.0
    padding_factor: float = 1.1
    padding_node_count: float = 1.0
    """Nodes on in a group ≤ padding_factor · Σ dominant share of what is placed there +
    padding_node_count.
    """
    move_budget_count: float | None = None
    """Most replicas of services that may change site within one slot; None: no limit."""


_TABLES: Mapping[str, type[Any]] = {
    "slots": Slots,
    "sites": Sites,
    "groups": Groups,
    "classes": Classes,
    "pairs": Pairs,
    "flows": Flows,
    "paths": Paths,
    "network": Network,
}


@dataclass(frozen=True, eq=False)
class PlacementProblem:
    """One planning problem. Arrays are read-only; shapes and references are checked on construction
    (ValueError).
    """

    problem_id: str
    slots: Slots
    sites: Sites
    groups: Groups
    classes: Classes
    pairs: Pairs
    flows: Flows
    paths: Paths
    network: Network
    graphs: tuple[Graph, ...] = ()
    terms: Terms = Terms()
    policy_revision: int = 0
    base_revision: int = 0

    def __post_init__(self) -> None:
        lengths = {
            "S": len(self.sites.site_id),
            "G": len(self.groups.group_id),
            "C": len(self.classes.class_id),
            "T": len(self.slots.hours),
            "R": len(RESOURCES),
            "K": len(self.pairs.class_index),
            "A": len(self.network.leg_id),
            "L": len(self.network.link_id),
            "E": len(self.network.route_link),
            "F": len(self.flows.class_index),
            "B": len(self.paths.class_index),
        }
        for name in _TABLES:
            archive.seal(getattr(self, name), name, lengths)
        _check_references(self, lengths)

    @property
    def site_count(self) -> int:
        """S."""
        return len(self.sites.site_id)

    @property
    def group_count(self) -> int:
        """G."""
        return len(self.groups.group_id)

    @property
    def class_count(self) -> int:
        """C."""
        return len(self.classes.class_id)

    @property
    def slot_count(self) -> int:
        """T."""
        return len(self.slots.hours)

    @property
    def pair_count(self) -> int:
        """K."""
        return len(self.pairs.class_index)

    @cached_property
    def pair_site(self) -> IntArray:
        """[K] site of each pair."""
        site = self.groups.site[self.pairs.group_index]
        site.setflags(write=False)
        return site

    def stage_classes(self) -> IntArray:
        """Sorted indices of the classes that are stages of a graph."""
        return np.unique(np.array([c for g in self.graphs for c in g.stage_class], dtype=np.int64))

    def to_bytes(self) -> bytes:
        """The archive: byte-stable, see `solvers.archive`."""
        facts: dict[str, Any] = {
            "problem_id": self.problem_id,
            "policy_revision": self.policy_revision,
            "base_revision": self.base_revision,
            "graphs": [dataclasses.asdict(g) for g in self.graphs],
            "terms": dataclasses.asdict(self.terms),
        }
        arrays: dict[str, npt.NDArray[Any]] = {}
        for name in _TABLES:
            archive.split_table(getattr(self, name), name, facts, arrays)
        facts = {
            k: [dict(v) for v in f] if k in ("sites.labels", "classes.gpu_milli_by_model") else f
            for k, f in facts.items()
        }
        return archive.to_bytes(MAGIC, facts, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`; ArchiveError or ValueError when the bytes are not a sound problem."""
        facts, arrays = archive.from_bytes(MAGIC, data)
        try:
            return cls._from_parts(facts, arrays)
        except (KeyError, TypeError, AttributeError, IndexError) as error:
            raise archive.ArchiveError(f"{MAGIC} archive with unusable parts: {error!r}") from error

    @classmethod
    def _from_parts(cls, facts: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        tables = {
            name: table(**archive.join_table(table, name, facts, arrays)) for name, table in _TABLES.items()
        }
        return cls(
            problem_id=facts["problem_id"],
            policy_revision=facts["policy_revision"],
            base_revision=facts["base_revision"],
            graphs=tuple(Graph.from_facts(archive.frozen(g)) for g in facts["graphs"]),
            terms=Terms(**facts["terms"]),
            **tables,
        )

    def save(self, path: Path | str) -> None:
        """Write the problem as one file."""
        archive.write(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a problem that `save` wrote."""
        return cls.from_bytes(archive.read(path))

    def content_hash(self) -> str:
        """SHA-256 (hex) of the archive's bytes."""
        return self._content_hash

    @cached_property
    def _content_hash(self) -> str:
        return archive.sha256_hex(self.to_bytes())


def _check_references(problem: PlacementProblem, lengths: Mapping[str, int]) -> None:
    """Indices point into their axes, order and signs are as documented; one ValueError lists everything
    wrong.
    """
    p, n = problem, lengths
    problems: list[str] = []

    def inside(name: str, index: IntArray, low: int, high: int) -> None:
        if index.size and (int(index.min()) < low or int(index.max()) >= high):
            problems.append(f"{name}: outside {low}..{high - 1}")

    inside("groups.site", p.groups.site, 0, n["S"])
    inside("pairs.class_index", p.pairs.class_index, 0, n["C"])
    inside("pairs.group_index", p.pairs.group_index, 0, n["G"])
    inside("flows.class_index", p.flows.class_index, 0, n["C"])
    inside("flows.leg_index", p.flows.leg_index, 0, n["A"])
    inside("paths.class_index", p.paths.class_index, 0, n["C"])
    inside("paths.leg_in_index", p.paths.leg_in_index, -1, n["A"])
    inside("paths.leg_out_index", p.paths.leg_out_index, -1, n["A"])
    inside("network.route_origin", p.network.route_origin, 0, n["A"] + n["S"])
    inside("network.route_site", p.network.route_site, 0, n["S"])
    inside("network.route_link", p.network.route_link, 0, n["L"])
    inside("classes.priority_rank", p.classes.priority_rank, 0, RANK_BATCH + 1)
    for name, ids in (
        ("sites.site_id", p.sites.site_id),
        ("groups.group_id", p.groups.group_id),
        ("classes.class_id", p.classes.class_id),
    ):
        if len(set(ids)) != len(ids):
            problems.append(f"{name}: repeats an id")
    for name, rows, axis in (
        ("sites.labels", p.sites.labels, "S"),
        ("groups.gpu_model", p.groups.gpu_model, "G"),
        ("classes.require_any", p.classes.require_any, "C"),
        ("classes.allowed_site_ids", p.classes.allowed_site_ids, "C"),
        ("classes.gpu_milli_by_model", p.classes.gpu_milli_by_model, "C"),
    ):
        if len(rows) != n[axis]:
            problems.append(f"{name}: {len(rows)} entries, expected {n[axis]}")
    scarce = p.groups.scarce_resource
    if scarce and (len(scarce) != n["G"] or not all(0 <= r < len(RESOURCES) for r in scarce)):
        problems.append(f"groups.scarce_resource: not {n['G']} resources")
    key = p.pairs.class_index * max(n["G"], 1) + p.pairs.group_index
    if np.any(np.diff(key) <= 0):
        problems.append("pairs: not sorted by class and group, or repeated")
    if n["T"] == 0 or np.any(p.slots.hours <= 0):
        problems.append("slots.hours: every slot needs a positive length")
    elif np.any(np.abs(np.diff(p.slots.start_s) - p.slots.hours[:-1] * 3600) > 1.0):
        problems.append("slots: gaps or overlaps")
    if np.any((p.groups.packing_yield <= 0) | (p.groups.packing_yield > 1)):
        problems.append("groups.packing_yield: outside (0, 1]")
    if np.any((p.classes.demand_count.max(axis=1, initial=0) > 0) & (p.classes.work_replica_h > 0)):
        problems.append("classes: a class is a service or batch work, not both")
    if np.any(p.classes.gang_size < 1):
        problems.append("classes.gang_size: below 1")
    for graph in p.graphs:
        problems.extend(_graph_problems(graph, n))
    stages = [c for g in p.graphs for c in g.stage_class if 0 <= c < n["C"]]
    if len(set(stages)) != len(stages):
        problems.append("graphs: a class is a stage of one graph only, once")
    elif np.any((p.classes.demand_count[stages] > 0).any(axis=1) | (p.classes.work_replica_h[stages] > 0)):
        problems.append("graphs: a stage's class has no demand or work of its own")
    problems += fact_problems(p)
    if problems:
        raise ValueError("; ".join(problems))


def _graph_problems(graph: Graph, lengths: Mapping[str, int]) -> list[str]:
    stages = len(graph.stage_class)
    sound = (
        len(graph.stage_replicas) == stages
        and len(graph.count) == lengths["T"]
        and len(graph.fixed_site) in (0, stages)
        and all(0 <= c < lengths["C"] for c in graph.stage_class)
        and all(0 <= f.from_stage < stages and 0 <= f.to_stage < stages for f in graph.flows)
        and all(-lengths["A"] <= v < stages for path in graph.paths for v in path.via)
        and all(0 <= i < stages for pair in graph.colocate for i in pair)
        and all(-1 <= s < lengths["S"] for s in graph.fixed_site)
    )
    return [] if sound else [f"graph {graph.graph_id}: a reference or a length is wrong"]
