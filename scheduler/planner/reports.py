"""What sites say becomes events: outages, starts and ends of replicas, meters, and the states that follow.

Statuses and replica reports are taken in time order. A placement that nobody knows, or that has ended, is ignored. A
placement whose stop was ordered may still report how it ended: that is the work a restart builds on.
"""

from __future__ import annotations

from typing import Any

from scheduler.domain.records import EventDraft
from scheduler.domain.state import ClusterState, Phase
from scheduler.planner.drafts import site_of_node, state_change, state_draft, stop_draft, stops_of_workload
from suanli.model import (
    EventKind,
    FieldProblem,
    InvalidRequest,
    ReplicaPhase,
    SiteStatus,
    StopKind,
    TelemetryReport,
    WorkloadState,
)
from suanli.model.telemetry import ReplicaReport


def report_events(state: ClusterState, report: TelemetryReport) -> list[EventDraft]:
    """Events of one report.

    Raises:
        InvalidRequest: when it speaks of sites that are not registered; nothing of it is taken then.
    """
    _check_sites(state, report)
    reading = _Reading(state)
    said: list[SiteStatus | ReplicaReport] = [*report.statuses, *report.replicas]
    for item in sorted(said, key=lambda x: x.at_s):
        if isinstance(item, SiteStatus):
            reading.status(item)
        else:
            reading.replica(item)
    reading.states(report.at_s)
    if report.meters or report.forecast is not None:
        reading.events.append(_meter_draft(report))
    return reading.events


def _check_sites(state: ClusterState, report: TelemetryReport) -> None:
    known = {} if state.topology is None else state.topology.site_index
    named = [(f"meters[{i}]", meter.site_id) for i, meter in enumerate(report.meters)]
    named += [(f"statuses[{i}]", status.site_id) for i, status in enumerate(report.statuses)]
    problems = [
        FieldProblem(
            field=f"{path}.site_id",
            problem=f"there is no site {site_id!r}",
            expected="a site of the registered fleet",
            code="unknown_site",
        )
        for path, site_id in named
        if site_id not in known
    ]
    if problems:
        raise InvalidRequest(problems)


class _Reading:
    """Scratch of one report: events so far and what they have changed already."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.events: list[EventDraft] = []
        self._phase: dict[int, Phase] = {}
        self._failed: dict[int, str] = {}
        self._ended: set[str] = set()
        self._stopped: dict[str, str] = {}
        self._drained: set[int] = set()
        self._ran_s: dict[int, int] = {}
        """Workload → when the last of its replicas that this report tells of began to run."""

    def status(self, status: SiteStatus) -> None:
        """A site went down or came back."""
        kind = EventKind.SITE_UP if status.up else EventKind.SITE_DOWN
        self.events.append(EventDraft(status.at_s, kind, f"sites/{status.site_id}", {"cause": status.cause}))

    def replica(self, said: ReplicaReport) -> None:
        """A start or an end."""
        row = self._state.row_of_placement.get(said.placement_id)
        if row is None or said.placement_id in self._ended:
            return
        if said.phase is ReplicaPhase.RUNNING:
            self._running(row, said)
        else:
            self._end(row, said)

    def _is_stopping(self, placement_id: str) -> bool:
        return placement_id in self._state.stopping or placement_id in self._stopped

    def _running(self, row: int, said: ReplicaReport) -> None:
        if self._is_stopping(said.placement_id):
            return
        site_id = self._site_of(row, said.placement_id)
        self.events.append(
            EventDraft(said.at_s, EventKind.REPLICA_RUNNING, said.placement_id, {"site_id": site_id})
        )
        if self._state.placement_id(row) != said.placement_id:
            return
        self._phase[row] = Phase.RUNNING
        workload = int(self._state.replicas["workload"][row])
        self._ran_s[workload] = max(said.at_s, self._ran_s.get(workload, 0))
        if not self._is_graph(workload):
            self._stop_old(row, said.at_s)

    def _stop_old(self, row: int, at_s: int) -> None:
        """The new placement of a replica that moves has taken over."""
        old = self._state.draining.get(row)
        if old is not None and row not in self._drained:
            self._stop(old.placement_id, old.node, at_s, StopKind.MOVED, "moved")
            self._drained.add(row)

    def _is_graph(self, workload: int) -> bool:
        state = self._state
        return len(state.shapes.templates[int(state.workloads["shape"][workload])].stages) > 1

    def _change_over(self, workload: int, at_s: int) -> None:
        """Stages that move together take over together, when the last of them runs: a mixture of old and new places
        might break the limits between them."""
        replicas, own = self._state.replicas, self._state.rows_of(workload)
        rows = range(own.start, own.stop)
        moving = [r for r in rows if r in self._state.draining and r not in self._drained]
        ordered_s = {int(replicas["placed_s"][r]) for r in moving}
        phase = {r: self._phase.get(r, replicas["phase"][r]) for r in rows}
        starts = any(phase[r] == Phase.ORDERED and int(replicas["placed_s"][r]) in ordered_s for r in rows)
        if not starts and all(phase[r] in (Phase.RUNNING, Phase.DONE) for r in moving):
            for row in moving:
                self._stop_old(row, at_s)

    def _end(self, row: int, said: ReplicaReport) -> None:
        state = self._state
        final = state.ends_for_good(row, said.phase.value)
        old = state.draining.get(row)
        is_old = old is not None and old.placement_id == said.placement_id
        if is_old and final and state.replicas["node"][row] >= 0 and row not in self._drained:
            new, node = state.placement_id(row), int(state.replicas["node"][row])
            self._stop(new, node, said.at_s, StopKind.DONE, "its work is done")
        body = {
            "site_id": self._site_of(row, said.placement_id),
            "phase": said.phase.value,
            "done_work_s": said.done_work_s,
            "delivered_gpu_s": said.delivered_gpu_s,
            "detail": said.detail,
        }
        self.events.append(EventDraft(said.at_s, EventKind.REPLICA_ENDED, said.placement_id, body))
        self._ended.add(said.placement_id)
        if is_old:
            self._drained.add(row)
            if final and said.placement_id not in self._stopped:
                self._end_for_good(row, said)
            else:
                self._phase.setdefault(row, Phase(int(state.replicas["phase"][row])))
            return
        if state.placement_id(row) != said.placement_id or said.placement_id in self._stopped:
            return
        if said.placement_id in state.stopping and state.replicas["phase"][row] != Phase.WAITING:
            return
        if not final:
            self._phase[row] = Phase.WAITING
            return
        self._end_for_good(row, said)
        if old is not None and row not in self._drained:
            self._stop(old.placement_id, old.node, said.at_s, StopKind.DONE, "its work is done")
            self._drained.add(row)

    def _end_for_good(self, row: int, said: ReplicaReport) -> None:
        self._phase[row] = Phase.DONE
        if said.phase is ReplicaPhase.FAILED:
            owner = int(self._state.replicas["workload"][row])
            self._failed.setdefault(owner, said.detail or "a replica failed")

    def _stop(self, placement_id: str, node: int, at_s: int, kind: StopKind, cause: str) -> None:
        if placement_id in self._ended or self._is_stopping(placement_id):
            return
        site_id = site_of_node(self._state, node)
        self.events.append(stop_draft(placement_id, site_id, at_s, kind, cause))
        self._stopped[placement_id] = site_id

    def _site_of(self, row: int, placement_id: str) -> str:
        state = self._state
        if placement_id in self._stopped:
            return self._stopped[placement_id]
        if placement_id in state.stopping:
            return site_of_node(state, state.stopping[placement_id].node)
        old = state.draining.get(row)
        if old is not None and old.placement_id == placement_id:
            return site_of_node(state, old.node)
        return site_of_node(state, int(state.replicas["node"][row]))

    def states(self, at_s: int) -> None:
        """States that follow; one failed replica of work with an end fails the workload and stops the others."""
        state = self._state
        gone = {row for row, phase in self._phase.items() if phase in (Phase.DONE, Phase.WAITING)}
        for index in sorted({int(state.replicas["workload"][row]) for row in self._phase}):
            current = state.workload_state(state.names[index])
            if self._is_graph(index) and index not in self._failed:
                self._change_over(index, self._ran_s.get(index, at_s))
            if index in self._failed and current is not None and not current.is_final:
                self.events += stops_of_workload(
                    state, index, at_s, StopKind.PARTNER_FAILED, "another replica failed", gone
                )
                self.events.append(
                    state_draft(state.names[index], WorkloadState.FAILED, at_s, self._failed[index])
                )
                continue
            event = state_change(state, index, self._phase, at_s, self._drained)
            if event is not None:
                self.events.append(event)


def _meter_draft(report: TelemetryReport) -> EventDraft:
    body: dict[str, Any] = {"meters": [m.model_dump(mode="json") for m in report.meters]}
    if report.forecast is not None:
        body["forecast"] = report.forecast.model_dump(mode="json")
    return EventDraft(report.at_s, EventKind.SITE_METERED, "sites", body)
