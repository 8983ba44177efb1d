"""The driver owns virtual time: it steps the sites, hands arrivals and telemetry to the service, asks it to advance.

Per window: sites run to its end under the orders read so far → arrivals of the window are submitted → sites' reports
go in → `advance` returns when the service is quiet → new orders are read from the event log, each once by its
placement id.
The driver keeps no copy of placements; a restart of the service is survived by repeating calls under the same ids.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from cluster_sim.world.protocol import Command, SiteEngine, SiteReport
from suanli.model import Fleet, Policy, TelemetryReport, WeatherForecast, Workload, WorkloadState
from suanli.model.units import SECONDS_PER_HOUR

REQUEST_NAMESPACE = uuid.UUID("6f6d0a3e-6a0f-5a58-9a2b-51c1a9b1d0aa")
SUBMIT_BATCH = 500


class Gateway(Protocol):
    """The service as the driver sees it: the public client, or the same use cases in process."""

    def open_run(self, run_id: str, seed: int, start_s: int, fleet: Fleet, policy: Policy) -> None:
        """Register the fleet and the policy, open a run whose clock stands at `start_s`."""
        ...

    def submit(self, workloads: Sequence[Workload], request_id: str) -> None:
        """Accept a batch; `InvalidRequest` when the service finds one impossible."""
        ...

    def cancel(self, name: str, request_id: str) -> None:
        """The tenant takes a workload back; one that has ended stays as it is."""
        ...

    def report(self, report: TelemetryReport, request_id: str) -> None:
        """Hand in what the sites said."""
        ...

    def advance(self, run_id: str, until_s: int, request_id: str) -> dict[str, int]:
        """Decide everything due at `until_s`; returns workloads by state."""
        ...

    def commands(self) -> list[Command]:
        """Orders written to the log since the last call, in order."""
        ...

    def close_run(self, run_id: str) -> None:
        """The run is over."""
        ...


@dataclass(frozen=True)
class DayPlan:
    """What a day consists of, all in seconds since 1970 and sorted in time."""

    run_id: str
    seed: int
    start_s: int
    day_end_s: int
    drain_until_s: int
    window_s: int
    fleet: Fleet
    policy: Policy
    arrivals: Sequence[tuple[int, Workload]]
    cancellations: Sequence[tuple[int, str]] = ()
    instants_s: Sequence[int] = ()
    """Instants that must end a window: failures and their ends."""


@dataclass(frozen=True)
class Progress:
    """One window, for a progress display."""

    now_s: int
    counts: dict[str, int]
    commands: Sequence[Command]
    report: SiteReport


ForecastAt = Callable[[int], WeatherForecast]


class Driver:
    """Plays one day through a gateway and an engine."""

    def __init__(
        self,
        gateway: Gateway,
        engine: SiteEngine,
        day: DayPlan,
        forecast_at: ForecastAt | None = None,
        on_window: Callable[[Progress], None] | None = None,
    ) -> None:
        self._gateway = gateway
        self._engine = engine
        self._day = day
        self._forecast_at = forecast_at
        self._on_window = on_window
        self._next_arrival = 0
        self._next_cancellation = 0
        self._finite = sum(all(s.duration_s is not None for s in w.stages) for _, w in day.arrivals)
        self._counts: dict[str, int] = {}

    def play(self) -> int:
        """The day, then the drain; returns the instant at which nothing finite was left, or the drain's end."""
        day = self._day
        self._gateway.open_run(day.run_id, day.seed, day.start_s, day.fleet, day.policy)
        now_s = day.start_s
        self._turn(now_s, (), SiteReport((), (), ()))
        for until_s in self._windows():
            commands = self._gateway.commands()
            report = self._engine.step(commands, until_s)
            self._turn(until_s, commands, report)
            now_s = until_s
            if now_s >= day.day_end_s and self._drained():
                break
        self._gateway.close_run(day.run_id)
        return now_s

    def _windows(self) -> list[int]:
        day = self._day
        regular = range(day.start_s + day.window_s, day.drain_until_s + 1, day.window_s)
        extra = {t for t in day.instants_s if day.start_s < t <= day.drain_until_s} | {
            day.day_end_s,
            day.drain_until_s,
        }
        return sorted({*regular, *extra})

    def _turn(self, now_s: int, commands: Sequence[Command], report: SiteReport) -> None:
        """Submit, report, advance, at one instant."""
        day = self._day
        for part, batch in enumerate(self._arrived(now_s)):
            self._gateway.submit(batch, self._request_id("submit", now_s, part))
        for name in self._taken_back(now_s):
            self._gateway.cancel(name, self._request_id(f"cancel/{name}", now_s))
        telemetry = TelemetryReport(
            at_s=now_s,
            replicas=report.replicas,
            meters=report.meters,
            statuses=report.statuses,
            forecast=self._forecast(now_s),
        )
        self._gateway.report(telemetry, self._request_id("report", now_s))
        self._counts = self._gateway.advance(day.run_id, now_s, self._request_id("advance", now_s))
        if self._on_window is not None:
            self._on_window(Progress(now_s, self._counts, commands, report))

    def _forecast(self, now_s: int) -> WeatherForecast | None:
        """A fresh outlook every whole hour."""
        if self._forecast_at is None or now_s % SECONDS_PER_HOUR:
            return None
        return self._forecast_at(now_s)

    def _arrived(self, now_s: int) -> list[list[Workload]]:
        arrivals = self._day.arrivals
        first = self._next_arrival
        if now_s > self._day.day_end_s:
            return []
        while self._next_arrival < len(arrivals) and arrivals[self._next_arrival][0] <= now_s:
            self._next_arrival += 1
        due = [w for _, w in arrivals[first : self._next_arrival]]
        return [due[i : i + SUBMIT_BATCH] for i in range(0, len(due), SUBMIT_BATCH)]

    def _taken_back(self, now_s: int) -> list[str]:
        cancellations = self._day.cancellations
        first = self._next_cancellation
        while (
            self._next_cancellation < len(cancellations)
            and cancellations[self._next_cancellation][0] <= now_s
        ):
            self._next_cancellation += 1
        return [name for _, name in cancellations[first : self._next_cancellation]]

    def _drained(self) -> bool:
        """Every workload with an end has ended; services alone keep nobody waiting."""
        ended = sum(self._counts.get(s.value, 0) for s in WorkloadState if s.is_final)
        return ended >= self._finite

    def _request_id(self, verb: str, now_s: int, part: int = 0) -> str:
        return request_id_of(self._day.run_id, f"{verb}/{now_s}/{part}")


def request_id_of(run_id: str, what: str) -> str:
    """The same id for the same step of the same run, whoever repeats it."""
    return str(uuid.uuid5(REQUEST_NAMESPACE, f"{run_id}/{what}"))
