"""What a GPU node's free room is worth to the work that is likely to come: the tie-break among equally dear nodes.

The measure is `solvers.packing`'s: usable capacity weighted by scarcity, stranded GPUs, cutting-stock value of shares.
The mix it expects is the work submitted so far, replica by replica: a pure function of the state, so that a restart
decides as the process before it did. The mix grows in steps of an eighth, so that the model is rebuilt a few times a
day and not with every submission.
"""

from __future__ import annotations

from collections.abc import Iterator
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from scheduler.domain.state import ClusterState
from scheduler.planner.feasibility import SpecView, Views
from scheduler.planner.snapshot import Snapshot
from solvers.nodes import NodeState, Shape
from solvers.packing import MixEntry, PackingModel
from solvers.placer import Placer

MIX_STEPS_PER_DOUBLING = 8
"""The mix is renewed when the history has grown by an eighth at most (ASSUMED: frequencies move slowly)."""


class PackingModels:
    """The packing model of one fleet for the mix of the moment; a cache, never a source of truth."""

    def __init__(self) -> None:
        self._of_history: tuple[int, PackingModel | None] = (-1, None)
        self._shapes: dict[tuple[object, ...], Shape] = {}
        """By need and groups, the first two of `SpecView.likeness`."""
        self._idle: list[Placer] = []
        """Placers that no round holds, with what they computed of nodes as the last round left them."""

    def lend(self, model: PackingModel, views: Views) -> Placer:
        """A placer of that model which nobody else uses, until it is handed back."""
        try:
            placer = self._idle.pop()  # one step, so that rounds in two threads never hold the same
        except IndexError:
            return Placer(installed_nodes(views), model)
        return placer if placer.model is model else Placer(installed_nodes(views), model)

    def hand_back(self, placer: Placer) -> None:
        """Keep it for the next round, with a state of its own."""
        placer.state = placer.state.copy()
        self._idle = [placer]

    def of(self, state: ClusterState, views: Views) -> PackingModel | None:
        """Model for the work submitted so far; None as long as none of it asked for a GPU."""
        history = mix_length(len(state.names))
        if self._of_history[0] != history:
            mix = self._mix(state, views, history)
            nodes = installed_nodes(views)
            self._of_history = (history, PackingModel.build(nodes, mix) if mix else None)
        return self._of_history[1]

    def _mix(self, state: ClusterState, views: Views, history: int) -> list[MixEntry]:
        """GPU shapes of the first `history` workloads with how many replicas of each were asked for."""
        rows = state.replicas["workload"] < history
        count = np.bincount(state.replicas["spec"][rows], minlength=len(state.shapes.specs))
        frequency: dict[Shape, int] = {}
        for spec in np.flatnonzero(count).tolist():
            view = views[spec]
            if view.spec.stage.gpu_milli and view.group_ok.any():
                shape = self.shape(view)
                frequency[shape] = frequency.get(shape, 0) + int(count[spec])
        return [MixEntry(shape, n) for shape, n in frequency.items()]

    def shape(self, view: SpecView) -> Shape:
        """The spec's need and groups as the placer reads them."""
        key = view.likeness[:2]
        known = self._shapes.get(key)
        if known is None:
            known = self._shapes[key] = Shape.per_group(view.need, view.group_ok)
        return known


def mix_length(submitted: int) -> int:
    """Workloads that make the mix: all of them, rounded down to steps of an eighth of a power of two."""
    step = 1 << max(0, submitted.bit_length() - 1 - (MIX_STEPS_PER_DOUBLING.bit_length() - 1))
    return submitted - submitted % step


def installed_nodes(views: Views) -> NodeState:
    """The fleet's nodes with nothing placed."""
    topology = views.topology
    capacity = topology.node_capacity
    return NodeState.empty(
        topology.node_group,
        capacity[:, 0],
        capacity[:, 1],
        topology.group_gpu_count[topology.node_group],
        storage_gib=capacity[:, 3],
        node_site=topology.node_site,
        group_gpu_memory_mib=topology.group_gpu_memory_mib,
    )


class Fragmentation:
    """Loss of packing value by one more replica, on the nodes of one round's snapshot; scratch of that round.

    What was computed in earlier rounds of nodes that have not changed since is still true: the placer that holds it is
    lent from round to round.
    """

    def __init__(self, snapshot: Snapshot, models: PackingModels, model: PackingModel) -> None:
        self._snapshot, self._models = snapshot, models
        self._model = model
        self._lent: Placer | None = None

    @property
    def _placer(self) -> Placer:
        if self._lent is None:
            self._lent = self._models.lend(self._model, self._snapshot.views)
            _follow(self._lent.state, self._snapshot)
        return self._lent

    def release(self) -> None:
        """The round is over: what was computed serves the next one."""
        if self._lent is not None:
            self._models.hand_back(self._lent)
            self._lent = None

    def loss_milli(self, view: SpecView, nodes: NDArray[np.int64]) -> NDArray[np.float64]:
        """(len(nodes),) milli-GPUs of packing value that one replica of a GPU spec destroys; inf without room."""
        return self._placer.costs_at(self._models.shape(view), nodes)

    def losses_milli(self, view: SpecView, node: int) -> Iterator[float]:
        """Loss by each of several replicas, one after the other on the same node, until it has no room."""
        return self._placer.costs_on(self._models.shape(view), node)

    def order(
        self,
        view: SpecView,
        count: int,
        nodes: NDArray[np.int64],
        price_milli: NDArray[np.float64] | None = None,
    ) -> NDArray[np.int64]:
        """(≤ count,) node of each of up to `count` replicas, each where it destroys least by then.

        price_milli: (N,) added to each node's loss.
        """
        return self._placer.propose(self._models.shape(view), count, nodes, price_milli).node

    def share_on(self, node: int, free: list[int], need_milli: int) -> int:
        """Bit of the device that loses least cut value by a share, among devices with `free` milli each."""
        cost = self._placer.share_cost(node, need_milli)
        by_device = [cost[milli] for milli in free]
        return 1 << by_device.index(min(by_device))


def _follow(state: NodeState, snapshot: Snapshot) -> None:
    """Make the state the snapshot's own arrays; stamps grow where a node is not as the state had it."""
    nodes, width = snapshot.nodes, state.gpu_milli.shape[1]
    gpu_milli, up = nodes.gpu_milli[:, :width], nodes.up & ~nodes.cordoned
    changed = (state.cpu_milli != nodes.cpu_milli) | (state.memory_mib != nodes.memory_mib)
    changed[(state.gpu_milli != gpu_milli).nonzero()[0]] = True
    changed |= (state.storage_gib != nodes.storage_gib) | (state.up != up)
    snapshot.stamp[:] = state.stamp + changed
    state.cpu_milli, state.memory_mib = nodes.cpu_milli, nodes.memory_mib
    state.storage_gib, state.gpu_milli = nodes.storage_gib, gpu_milli
    state.up, state.stamp = up, snapshot.stamp


_MODELS: WeakKeyDictionary[Views, PackingModels] = WeakKeyDictionary()


def fragmentation_of(state: ClusterState, snapshot: Snapshot) -> Fragmentation | None:
    """The measure for one round; None as long as nothing that was submitted asks for a GPU."""
    models = _MODELS.setdefault(snapshot.views.root, PackingModels())
    model = models.of(state, snapshot.views)
    return None if model is None else Fragmentation(snapshot, models, model)
