"""PlanSolution: what a horizon plan says, with its proof, in one replayable file beside the problem's."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from solvers import archive
from solvers.archive import BoolArray, FloatArray, IntArray
from solvers.problem import NODE_COLUMNS, RESOURCES, PlacementProblem

MAGIC = "suanli-plan-solution-1"


BLOCK_MODEL = "true facility power, shares constant per block, nodes continuous, gangs fluid"
WHOLE_MODEL = "every class whole on one site, nodes whole; by prices of classes and a knapsack per site"
"""What the bound of a certificate speaks of: without and with the second proof, for whole classes."""
NODES_MODEL = (
    "one slot, true facility power, replicas whole on nodes: sums and dual feasible functions per group"
)
"""What the certificate of a plan on nodes speaks of."""
BULK_MODEL = "bulk relaxation: classes x groups, sums and sharp rows per group, tangents of the square loss"
"""What the bound of a bulk plan speaks of; such plans hold the move budget, others may pay for exceeding it."""


class SolveStatus(StrEnum):
    """Five outcomes, never folded together."""

    OPTIMAL = "optimal"
    """The bound of the named model is met within its tolerance."""
    FEASIBLE = "feasible"
    """A sound plan with a gap, or without a bound."""
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"
    """Ended by a limit or a crash before any plan."""
    INVALID = "invalid"
    """The problem or the answer is nonsense."""


@dataclass(frozen=True)
class Bound:
    """Objective, proven lower bound and gap of one model; `model` names what the bound speaks of."""

    model: str
    scope: Literal["fleet", "edge"]
    objective_yuan: float
    bound_yuan: float | None
    gap_frac: float | None
    """(objective − bound) / |objective|; None without a bound."""


@dataclass(frozen=True)
class Cost:
    """Objective of the plan in yuan, term by term (each over the whole horizon)."""

    energy_yuan: float = 0.0
    carbon_yuan: float = 0.0
    debt_yuan: float = 0.0
    demand_charge_yuan: float = 0.0
    lateness_yuan: float = 0.0
    unfinished_yuan: float = 0.0
    """Work left at the end, at the cheapest feasible price of the last day planned."""
    start_yuan: float = 0.0
    wake_yuan: float = 0.0
    migration_yuan: float = 0.0
    other_yuan: float = 0.0
    unserved_yuan: float = 0.0
    """Penalties of service demand left out; reported, ranked before everything above."""
    cap_excess_yuan: float = 0.0
    """Priced excess over hourly caps that are not hard."""

    @property
    def total_yuan(self) -> float:
        """Sum of all terms."""
        return float(sum(getattr(self, f.name) for f in dataclasses.fields(self)))


@dataclass(frozen=True)
class GraphPattern:
    """`count[t]` graphs of index `graph_index` run with stage i on site `stage_site[i]`.

    `stage_processing_ms[i]` is the processing p99 of the GPU model that stage i uses there, as path budgets
    count it (0 where the graph has no path over that stage).
    """

    graph_index: int
    stage_site: tuple[int, ...]
    stage_processing_ms: tuple[float, ...]
    count: tuple[float, ...]


@dataclass(frozen=True)
class BindingConstraint:
    """A rule that holds with next to no slack, or is exceeded at a price: value and limit in `unit`.

    `rule` and `subject` say which, e.g. `power_limit` and `site=e04`; `slot` is −1 for rules over the whole horizon.
    """

    rule: str
    subject: str
    slot: int
    value: float
    limit: float
    unit: str
    price_yuan_per_unit: float | None = None
    """What one more unit of the limit is worth, by the certificate's multipliers; None: the rule has no price."""

    @property
    def slack(self) -> float:
        """Limit − value for an upper limit; negative: exceeded (a priced cap)."""
        return self.limit - self.value


@dataclass(frozen=True, eq=False)
class Multipliers:
    """Prices of the rules that tie a plan's parts together; any values that keep the signs give a valid bound.

    Yuan per unit of the rule in its slot. Axes as in `solvers.problem`; V levels, O open cuts, X spread rules.
    """

    level_yuan: Annotated[FloatArray, "V"]
    """≥ 0; per yuan of penalty (per kWh for hard caps) of each level of the lexicographic order."""
    capacity: Annotated[FloatArray, "G", "N", "T"]
    """≥ 0, per node: Σ need/(capacity·yield)·x ≤ nodes on; last of N, Σ x ≤ nodes on of work that shares no node."""
    floor: Annotated[FloatArray, "G", "R", "T"]
    """≥ 0, per node: work ranked below public service leaves the reserved share free."""
    padding: Annotated[FloatArray, "G", "T"]
    """≥ 0, per node."""
    power: Annotated[FloatArray, "S", "T"]
    """Free sign, per kW: IT power = that of nodes on and work."""
    hourly_cap: Annotated[FloatArray, "S", "T"]
    """≥ 0, per kW of facility power; told to people, the bound does not need it."""
    ledger: Annotated[FloatArray, "S"]
    """≥ 0, per kWh."""
    peak: Annotated[FloatArray, "S", "T"]
    """≥ 0, per kW; over the slots at most the demand charge."""
    link: Annotated[FloatArray, "L", "T"]
    """≥ 0, per Mbps."""
    stay: Annotated[FloatArray, "K"]
    """≥ 0, per share of demand that a pair runs now."""
    stay_batch: Annotated[FloatArray, "K"]
    """≥ 0, per replica of batch work that a pair runs now."""
    wake: Annotated[FloatArray, "G", "T"]
    """≥ 0, per node switched on; at most its cost."""
    cut_class: Annotated[IntArray, "O"]
    cut_site: Annotated[IntArray, "O"]
    cut_slot: Annotated[IntArray, "O"]
    cut_yuan: Annotated[FloatArray, "O"]
    """≥ 0, per share of a class on a site: at most what one site may hold of it, and none while the site is closed."""
    spread_class: Annotated[IntArray, "X"]
    spread_site: Annotated[IntArray, "X"]
    spread_block: Annotated[IntArray, "X"]
    spread_yuan: Annotated[FloatArray, "X"]
    """≥ 0, per share of a class on one site."""
    block_of_slot: Annotated[IntArray, "T"]
    """Blocks in which the plan keeps the shares of services and the open sites constant."""
    portfolio: float = 0.0
    """≥ 0, per kWh of the edge portfolio's ledger."""
    move_budget: float = 0.0
    """≥ 0, per replica moved in the first slot."""
    node_rows: tuple[tuple[int, str, int, float], ...] = ()
    """(group, function, parameter, ≥ 0 yuan per node) of rows that hold for whole replicas (`solvers.node_rows`)."""


@dataclass(frozen=True, eq=False)
class Leaf:
    """One part of the choices of open sites, and the multipliers that bound it. [S,B] by site and block."""

    must_open: Annotated[BoolArray, "S", "B"]
    may_open: Annotated[BoolArray, "S", "B"]
    multipliers: Multipliers

    def holds(self, site_on: BoolArray) -> bool:
        """Whether a choice, [S,T] by slot, lies in this part."""
        block = self.multipliers.block_of_slot
        return bool(
            np.all(site_on | ~self.must_open[:, block]) and np.all(~site_on | self.may_open[:, block])
        )


@dataclass(frozen=True, eq=False)
class Certificate:
    """What proves a plan, checkable with numpy alone: `solvers.dual_bound` derives objective and bound again.

    The leaves are parts of the choices of open sites that together are all of them; the least of their bounds is the
    bound. A search that never branched has one leaf.

    The bound holds for every plan of the problem that keeps the shares of services and the open sites constant within
    a block and whose levels (work unserved by rank, excess over hard caps) are no worse than this plan's. It speaks of
    the true facility power, not of chords.
    """

    objective_yuan: float
    """Cost without the penalties of the levels; moves over the budget at ten times the dearest move."""
    bound_yuan: float
    leaves: tuple[Leaf, ...]
    binding: tuple[BindingConstraint, ...] = ()
    policy_revision: int = 0
    base_revision: int = 0
    model: str = BLOCK_MODEL
    whole_class_yuan: tuple[float, ...] = ()
    """[C] prices of a second proof, for plans that put every class whole on one site (`solvers.whole_bound`); empty:
    there is none. The bound is the higher of the two."""

    def multipliers_at(self, site_on: BoolArray) -> Multipliers | None:
        """Those of the leaf in which a choice of open sites lies."""
        return next((leaf.multipliers for leaf in self.leaves if leaf.holds(site_on)), None)

    @property
    def gap_frac(self) -> float:
        """(objective − bound) / |objective|."""
        return (self.objective_yuan - self.bound_yuan) / max(abs(self.objective_yuan), 1e-9)


@dataclass(frozen=True, eq=False)
class PlanSolution:
    """A plan for the slots of one problem. Axes as in `solvers.problem`; counts are continuous (mean over
    the slot).
    """

    problem_sha256: str
    status: SolveStatus
    running_count: Annotated[FloatArray, "K", "T"]
    """x: replicas of the pair running."""
    nodes_on: Annotated[FloatArray, "G", "T"]
    site_on: Annotated[BoolArray, "S", "T"]
    unserved_count: Annotated[FloatArray, "C", "T"]
    """Service replicas wanted and not placed (stages of unplaced graphs included)."""
    unfinished_replica_h: Annotated[FloatArray, "C"]
    """Batch work left at the end of the horizon."""
    late_replica_h: Annotated[FloatArray, "C"]
    """Batch work not delivered by its deadline."""
    it_kw: Annotated[FloatArray, "S", "T"]
    useful_it_kw: Annotated[FloatArray, "S", "T"]
    """IT power that placed work causes: Σ (share of the group's scarce resource · idle + dynamic)."""
    facility_kw: Annotated[FloatArray, "S", "T"]
    cap_excess_kw: Annotated[FloatArray, "S", "T"]
    """Facility power of an open site above Π·P where an hourly cap is set; 0 elsewhere."""
    ledger_used_kwh: Annotated[FloatArray, "S"]
    """Σ (P_fac − Π·P)·Δt, nan without an annual cap; P useful or legal as the problem's terms say."""
    ledger_debt_kwh: Annotated[FloatArray, "S"]
    price_yuan_per_unit_h: Annotated[FloatArray, "G", "R", "T"]
    """Dual of the group's capacity: yuan for one unit of the resource (milli-CPU, MiB, milli-GPU, GiB)
    for one hour.
    """
    energy_yuan_per_kwh_it: Annotated[FloatArray, "S", "T"]
    """Marginal price of one kWh of IT energy at the site, overhead, power limit and what ledgers charge and credit for
    it included; below 0 where load repays more debt than it costs."""
    moved_count: Annotated[FloatArray, "K"]
    """Replicas that run on the pair now and leave its group in the first slot."""
    graph_patterns: tuple[GraphPattern, ...] = ()
    portfolio_debt_kwh: float = 0.0
    cost: Cost = Cost()
    bounds: tuple[Bound, ...] = ()
    work: Mapping[str, float] = field(default_factory=dict)
    """Deterministic counters: lp_solves, lp_iterations, rows, columns, nonzeros, site_trials."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall clock by phase; never part of the archive, for answers are equal while machines are not."""
    message: str = ""
    method: Literal["full", "coarse", "greedy"] = "full"
    """Which rung of the ladder of fallbacks made it (`solvers.fallback`)."""
    certificate: Certificate | None = None

    def __post_init__(self) -> None:
        lengths = {
            "K": len(self.running_count),
            "T": self.running_count.shape[1],
            "G": len(self.nodes_on),
            "S": len(self.site_on),
            "C": len(self.unserved_count),
            "R": len(RESOURCES),
            "N": len(NODE_COLUMNS),
        }
        archive.seal(self, "plan", lengths)
        for leaf in self.certificate.leaves if self.certificate is not None else ():
            m = leaf.multipliers
            lengths |= {
                "L": len(m.link),
                "V": len(m.level_yuan),
                "O": len(m.cut_class),
                "X": len(m.spread_class),
            }
            archive.seal(m, "multipliers", lengths)
            archive.seal(leaf, "leaf", lengths | {"B": int(m.block_of_slot[-1]) + 1})

    @property
    def objective_yuan(self) -> float:
        """Total cost."""
        return self.cost.total_yuan

    @property
    def has_plan(self) -> bool:
        """Whether the arrays are a plan that may be used."""
        return self.status in (SolveStatus.OPTIMAL, SolveStatus.FEASIBLE)

    def bound(self, scope: Literal["fleet", "edge"]) -> Bound | None:
        """The bound of that scope, if there is one."""
        return next((b for b in self.bounds if b.scope == scope), None)

    def to_bytes(self) -> bytes:
        """The archive: byte-stable, without timings."""
        facts: dict[str, Any] = {}
        arrays: dict[str, npt.NDArray[Any]] = {}
        archive.split_table(self, "plan", facts, arrays)
        del facts["plan.seconds"], facts["plan.certificate"]
        facts["plan.status"] = self.status.value
        facts["plan.cost"] = dataclasses.asdict(self.cost)
        facts["plan.work"] = dict(self.work)
        facts["plan.bounds"] = [dataclasses.asdict(b) for b in self.bounds]
        facts["plan.graph_patterns"] = [dataclasses.asdict(p) for p in self.graph_patterns]
        if self.certificate is not None:
            archive.split_table(self.certificate, "certificate", facts, arrays)
            facts["certificate.leaves"] = len(self.certificate.leaves)
            facts["certificate.binding"] = [dataclasses.asdict(b) for b in self.certificate.binding]
            for i, leaf in enumerate(self.certificate.leaves):
                archive.split_table(leaf, f"leaf{i}", facts, arrays)
                del facts[f"leaf{i}.multipliers"]
                archive.split_table(leaf.multipliers, f"multipliers{i}", facts, arrays)
        return archive.to_bytes(MAGIC, facts, arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The inverse of `to_bytes`; ArchiveError when a part is missing or of the wrong kind."""
        facts, arrays = archive.from_bytes(MAGIC, data)
        try:
            return cls._from_parts(facts, arrays)
        except (KeyError, TypeError, AttributeError) as error:
            raise archive.ArchiveError(f"{MAGIC} archive with unusable parts: {error}") from error

    @classmethod
    def _from_parts(cls, facts: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> Self:
        arguments = archive.join_table(cls, "plan", facts, arrays)
        if "certificate.binding" in facts:
            parts = archive.join_table(Certificate, "certificate", facts, arrays)
            parts["binding"] = tuple(BindingConstraint(**b) for b in parts["binding"])
            parts["leaves"] = tuple(
                Leaf(
                    **archive.join_table(Leaf, f"leaf{i}", facts, arrays),
                    multipliers=Multipliers(
                        **archive.join_table(Multipliers, f"multipliers{i}", facts, arrays)
                    ),
                )
                for i in range(facts["certificate.leaves"])
            )
            arguments["certificate"] = Certificate(**parts)
        arguments["status"] = SolveStatus(arguments["status"])
        arguments["cost"] = Cost(**arguments["cost"])
        arguments["bounds"] = tuple(Bound(**b) for b in arguments["bounds"])
        arguments["graph_patterns"] = tuple(GraphPattern(**p) for p in arguments["graph_patterns"])
        return cls(**arguments)

    def save(self, path: Path | str) -> None:
        """Write the solution as one file."""
        archive.write(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Read a solution that `save` wrote."""
        return cls.from_bytes(archive.read(path))

    def content_hash(self) -> str:
        """SHA-256 (hex) of the archive's bytes."""
        return archive.sha256_hex(self.to_bytes())


def no_plan(problem: PlacementProblem, status: SolveStatus, message: str) -> PlanSolution:
    """An answer without a plan (UNKNOWN, INVALID, INFEASIBLE): all arrays are zero, everything is
    unserved.
    """
    p = problem
    sites_slots = np.zeros((p.site_count, p.slot_count))
    return PlanSolution(
        problem_sha256=p.content_hash(),
        status=status,
        running_count=np.zeros((p.pair_count, p.slot_count)),
        nodes_on=np.zeros((p.group_count, p.slot_count)),
        site_on=np.zeros((p.site_count, p.slot_count), dtype=bool),
        unserved_count=p.classes.demand_count,
        unfinished_replica_h=p.classes.work_replica_h,
        late_replica_h=np.zeros(p.class_count),
        it_kw=sites_slots,
        useful_it_kw=sites_slots,
        facility_kw=sites_slots,
        cap_excess_kw=sites_slots,
        ledger_used_kwh=np.full(p.site_count, np.nan),
        ledger_debt_kwh=np.zeros(p.site_count),
        price_yuan_per_unit_h=np.zeros((p.group_count, len(RESOURCES), p.slot_count)),
        energy_yuan_per_kwh_it=sites_slots,
        moved_count=np.zeros(p.pair_count),
        message=message,
    )


@dataclass(frozen=True, eq=False)
class NodePlacements:
    """Replicas on nodes, exactly: N rows. What rounds commit and the verifier checks.

    `workload_index` tells replicas of one workload apart from those of another of the same class (any numbering);
    `island_index` of a node is node_index // island_node_count of its group.
    """

    class_index: Annotated[IntArray, "N"]
    group_index: Annotated[IntArray, "N"]
    node_index: Annotated[IntArray, "N"]
    workload_index: Annotated[IntArray, "N"]
    gpu_ids: tuple[tuple[int, ...], ...]
    """Devices of the node: none, one that may be shared, or as many whole ones as the need says."""

    def __post_init__(self) -> None:
        archive.seal(self, "placements", {"N": len(self.class_index)})
        if len(self.gpu_ids) != len(self.class_index):
            raise ValueError(
                f"placements.gpu_ids: {len(self.gpu_ids)} entries, expected {len(self.class_index)}"
            )
