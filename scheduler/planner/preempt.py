"""Preemption: urgent work that fits nowhere takes the place of preemptible batch work, smallest lost work first.

Only replicas whose stage is `preemptible` and whose workload is of class batch give way. Work lost by a stop is what
ran since the last checkpoint (all of it without one), in GPU-seconds; a gang gives way whole, and loses what all its
members lose. Loss decides twice: which node is taken (through a penalty on its cost) and who leaves it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.snapshot import Snapshot, devices_among, devices_of, holds_gpus
from suanli.model import PriorityClass
from suanli.model.units import MILLI

MIN_GPUS = 0.1
"""Work without a GPU counts as a tenth of one, so that its loss is not nothing."""
MAX_NODES_WEIGHED = 64
"""Nodes whose loss is worked out exactly for one request, those with the smallest single loss first."""
TAKEN_PENALTY = 1e6
"""Above any price per hour and any wall around a closed site: room that is free always comes first."""
LOSS_SCALE = 1e-3
"""GPU-seconds as penalty units: a year on a thousand GPUs stays finite, a minute on one still counts."""


@dataclass(frozen=True, slots=True)
class Preempted:
    """A replica that gives way to the row `by_row`, and the work it loses (GPU-seconds)."""

    row: int
    by_row: int
    lost_gpu_s: float


@dataclass(frozen=True)
class _Unit:
    """Replicas that leave together: one, or a whole gang."""

    number: int
    rows: tuple[int, ...]
    lost_gpu_s: float


class RoomMaker:
    """Who could give way in this round, and what each would lose; scratch of one round."""

    def __init__(
        self, state: ClusterState, snapshot: Snapshot, now_s: int, leaving: Collection[int] = ()
    ) -> None:
        """Rows in `leaving` go anyway: the snapshot has their room already."""
        self._state, self._snapshot, self._now_s = state, snapshot, now_s
        self._rows = _preemptible_rows(state, leaving)
        self._node = state.replicas["node"][self._rows].astype(np.int64)
        self._lost = lost_gpu_s(state, self._rows, now_s)
        self._unit = units_of(state, self._rows)
        self._unit_lost = np.bincount(self._unit, self._lost, int(self._unit.max(initial=-1)) + 1)
        """(units,) GPU-seconds that all its members lose together."""
        self._is_gone = np.zeros(len(self._unit_lost), bool)
        self._by_unit = self._rows[np.argsort(self._unit, kind="stable")].tolist()
        self._first_of_unit = [0, *np.cumsum(np.bincount(self._unit)).tolist()]
        self._on_node: dict[int, list[int]] = {}

    def _units_on(self, node: int) -> list[int]:
        """Units with a member on the node, smallest loss first."""
        known = self._on_node.get(node)
        if known is None:
            here = set(self._unit[self._node == node].tolist())
            known = self._on_node[node] = sorted(
                here, key=lambda u: (self._unit_lost[u], self._by_unit[self._first_of_unit[u]])
            )
        return known

    def _open_units_on(self, node: int, leaving: Collection[int]) -> Iterator[_Unit]:
        """Those that may still leave, none of whose members are among the rows `leaving`."""
        for number in self._units_on(node):
            if not self._is_gone[number]:
                unit = _Unit(number, self._members(number), float(self._unit_lost[number]))
                if not leaving or not any(row in leaving for row in unit.rows):
                    yield unit

    def _members(self, unit: int) -> tuple[int, ...]:
        return tuple(self._by_unit[self._first_of_unit[unit] : self._first_of_unit[unit + 1]])

    def has_victims(self) -> bool:
        """Whether anybody could still give way."""
        return not bool(self._is_gone.all())

    def take_all_away(self) -> None:
        """The snapshot as if everybody who could had left."""
        self._take_away(self._rows[~self._is_gone[self._unit]])

    def _take_away(self, rows: NDArray[np.int64]) -> None:
        replicas = self._state.replicas
        self._snapshot.give_back(*(replicas[c][rows].astype(np.int64) for c in ("spec", "node", "gpu_mask")))

    def penalty(self, specs: set[int]) -> NDArray[np.float64]:
        """(N,) 0 where a replica of each spec fits already, else the loss that making room would cost.

        Nodes where even that makes no room, or that were not weighed, get the penalty of a total loss.
        """
        snapshot = self._snapshot
        total = float(self._lost.sum()) + 1.0
        open_ = ~self._is_gone[self._unit]
        least = np.full(snapshot.topology.node_count, np.inf)
        np.minimum.at(least, self._node[open_], self._unit_lost[self._unit[open_]])
        out = np.zeros(snapshot.topology.node_count)
        for spec in sorted(specs):
            view = snapshot.views[spec]
            at = snapshot.nodes_of(view.group_ok)
            full = at[snapshot.fit(view, at) <= 0]
            out[full] = np.maximum(out[full], TAKEN_PENALTY + total * LOSS_SCALE)
            near = full[np.isfinite(least[full])]
            near = near[np.argsort(least[near], kind="stable")]
            for node in near[:MAX_NODES_WEIGHED].tolist():
                units = self._leave(node, [spec], is_full=True)
                if units is not None:
                    out[node] = TAKEN_PENALTY + sum(u.lost_gpu_s for u in units) * LOSS_SCALE
        return out

    def victims_for(self, placed: Sequence[tuple[int, int]]) -> list[int] | None:
        """Rows that leave so that every (row, node) finds its room; None when they cannot."""
        by_node: dict[int, list[int]] = {}
        for row, node in placed:
            by_node.setdefault(node, []).append(int(self._state.replicas["spec"][row]))
        victims: set[int] = set()
        for node, specs in by_node.items():
            units = self._leave(node, specs, victims)
            if units is None:
                return None
            victims.update(r for u in units for r in u.rows)
        return sorted(victims)

    def _leave(
        self,
        node: int,
        specs: Sequence[int],
        leaving: set[int] | frozenset[int] = frozenset(),
        *,
        is_full: bool = False,
    ) -> list[_Unit] | None:
        """Units that leave the node for one replica of each of `specs`: smallest loss first, none in vain.

        `is_full`: it is known that the node holds none of them as it is.
        """
        units = self._open_units_on(node, leaving)
        already = [r for r in leaving if int(self._state.replicas["node"][r]) == node]
        chosen: list[_Unit] = []
        while (is_full and not chosen) or not self._holds(node, specs, already, chosen):
            unit = next(units, None)
            if unit is None:
                return None
            chosen.append(unit)
        if len(chosen) == 1:
            return chosen  # without it there was no room
        for unit in sorted(chosen, key=lambda u: (-u.lost_gpu_s, u.rows)):
            fewer = [u for u in chosen if u is not unit]
            if self._holds(node, specs, already, fewer):
                chosen = fewer
        return chosen

    def _holds(self, node: int, specs: Sequence[int], already: Sequence[int], units: Sequence[_Unit]) -> bool:
        """Whether the node holds one replica of each spec once the units have left it."""
        snapshot, replicas = self._snapshot, self._state.replicas
        nodes, group = snapshot.nodes, int(snapshot.topology.node_group[node])
        cpu_milli, memory_mib = int(nodes.cpu_milli[node]), int(nodes.memory_mib[node])
        storage_gib, gpus = int(nodes.storage_gib[node]), nodes.gpu_milli[node].tolist()
        left = [r for u in units for r in u.rows if replicas["node"][r] == node]
        for row in (*already, *left):
            need = snapshot.views[int(replicas["spec"][row])].need[group].tolist()
            cpu_milli, memory_mib, storage_gib = (
                cpu_milli + need[0],
                memory_mib + need[1],
                storage_gib + need[3],
            )
            mask = int(replicas["gpu_mask"][row])
            for g in devices_of(mask):
                gpus[g] += need[2] // mask.bit_count()
        for spec in specs:
            need = snapshot.views[spec].need[group].tolist()
            cpu_milli, memory_mib, storage_gib = (
                cpu_milli - need[0],
                memory_mib - need[1],
                storage_gib - need[3],
            )
            if min(cpu_milli, memory_mib, storage_gib) < 0 or not holds_gpus(gpus, need[2]):
                return False
            mask = devices_among(gpus, need[2])
            for g in devices_of(mask):
                gpus[g] -= need[2] // mask.bit_count()
        return True

    def remove(self, victims: Sequence[int]) -> None:
        """Take the victims off the snapshot for the rest of the round."""
        self._take_away(np.array(victims, np.int64))
        self._is_gone[self._unit[np.isin(self._rows, victims)]] = True

    def put_back(self, victims: Sequence[int]) -> None:
        """Forget a removal whose snapshot was restored."""
        self._is_gone[self._unit[np.isin(self._rows, victims)]] = False

    def record(self, victims: Sequence[int], by_row: int) -> list[Preempted]:
        """What the round reports of them."""
        lost = self._lost[np.searchsorted(self._rows, victims)].tolist()
        return [Preempted(row, by_row, each) for row, each in zip(victims, lost, strict=True)]


def units_of(state: ClusterState, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """(rows,) number of the unit that each row leaves with: its whole gang, or itself."""
    spec = state.replicas["spec"][rows].astype(np.int64)
    workload = state.replicas["workload"][rows].astype(np.int64)
    gang = workload * len(state.shapes.specs) + spec
    alone = -1 - rows
    key = np.where(state.shapes.columns["gang"][spec], gang, alone)
    return np.unique(key, return_inverse=True)[1]


def gives_way(state: ClusterState) -> NDArray[np.bool_]:
    """(specs,) preemptible batch work."""
    columns = state.shapes.columns
    out: NDArray[np.bool_] = columns["preemptible"] & (columns["rank"] == PriorityClass.BATCH.rank)
    return out


def _preemptible_rows(state: ClusterState, leaving: Collection[int]) -> NDArray[np.int64]:
    """Placed replicas that may give way; one that is moving is left alone."""
    replicas = state.replicas
    phase = replicas["phase"]
    placed = np.flatnonzero((phase == int(Phase.ORDERED)) | (phase == int(Phase.RUNNING)))
    rows: NDArray[np.int64] = placed[gives_way(state)[replicas["spec"][placed]]]
    stay = [*state.draining, *leaving]
    return rows[~np.isin(rows, stay)] if stay else rows


def since_checkpoint_s(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> NDArray[np.float64]:
    """(rows,) seconds of work since the last checkpoint, or since the start without any."""
    replicas = state.replicas
    ran_s = np.where(
        replicas["phase"][rows] == Phase.RUNNING, np.maximum(now_s - replicas["running_s"][rows], 0), 0
    )
    every_s = state.shapes.columns["checkpoint_interval_s"][replicas["spec"][rows]]
    total_s = replicas["done_work_s"][rows] + ran_s
    since_s: NDArray[np.float64] = np.where(
        every_s > 0, np.minimum(total_s % np.maximum(every_s, 1), ran_s), ran_s
    )
    return since_s


def lost_gpu_s(state: ClusterState, rows: NDArray[np.int64], now_s: int) -> NDArray[np.float64]:
    """(rows,) GPU-seconds of work that a stop at `now_s` would throw away: since the last checkpoint, or all."""
    reference = state.shapes.columns["reference_gpu_milli"][state.replicas["spec"][rows]]
    lost: NDArray[np.float64] = since_checkpoint_s(state, rows, now_s) * np.maximum(
        reference / MILLI, MIN_GPUS
    )
    return lost
