"""Play one day of a scenario under one policy and keep what it left: its log, its latency, when it had drained."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import orjson

from cluster_sim.day import WINDOW_S, day_of, forecasts
from cluster_sim.day_values import LatencyMeasured, Mark
from cluster_sim.driver import Driver, Gateway, Progress
from cluster_sim.engines.local import LocalEngine
from cluster_sim.report import latency_from_json, latency_to_json
from cluster_sim.result import DayResult, DayWindow, build_day_result, read_log
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.network import LatencyMeter
from cluster_sim.world.protocol import Command, SiteEngine, SiteReport
from scheduler.domain.records import GC_THRESHOLD
from suanli.model import Event

ENGINES = ("ray", "local")
BASELINES = ("least-loaded", "nearest-edge", "pue-blind")
"""What a day is compared with; the policies themselves are in `cluster_sim.baselines`."""
BASELINE_RESULTS = "baselines.pickle"
"""In the run's folder, from the process that plays them to the one that waits for them."""


class LoggedGateway(Gateway, Protocol):
    """A gateway that keeps the event log."""

    log: list[Event]


@dataclass(frozen=True)
class PlayedDay:
    """One policy's day: canonical log, end of the drain, measured latency."""

    policy: str
    log: list[Event]
    window: DayWindow
    latency: LatencyMeasured

    def result(self, scenario: Scenario) -> DayResult:
        """The tables of this day."""
        return build_day_result(
            self.log,
            scenario.fleet(),
            self.window,
            policy=self.policy,
            latency=self.latency,
            marks=marks_of(scenario),
            class_names={k: (t.en, t.zh) for k, t in scenario.class_names().items()},
        )

    def save(self, folder: Path) -> None:
        """`{policy}.jsonl`, the canonical log, and `{policy}.json`, what is not in it."""
        folder.mkdir(parents=True, exist_ok=True)
        write_log(folder / f"{self.policy}.jsonl", self.log)
        extra = {
            "window": [self.window.start_s, self.window.day_end_s, self.window.drained_until_s],
            "latency": latency_to_json(self.latency),
        }
        (folder / f"{self.policy}.json").write_bytes(orjson.dumps(extra, option=orjson.OPT_INDENT_2))

    @classmethod
    def load(cls, folder: Path, policy: str) -> PlayedDay:
        """What `save` wrote."""
        extra = orjson.loads((folder / f"{policy}.json").read_bytes())
        log = read_log(folder / f"{policy}.jsonl")
        return cls(policy, log, DayWindow(*extra["window"]), latency_from_json(extra["latency"]))


def write_log(path: Path, events: Sequence[Event]) -> None:
    """Canonical log: one JSON object a line, keys sorted; equal runs give equal bytes."""
    with path.open("wb") as out:
        for e in events:
            line = {
                "revision": e.revision,
                "at_s": e.at_s,
                "kind": e.kind.value,
                "subject": e.subject,
                "body": e.body,
            }
            out.write(orjson.dumps(line, option=orjson.OPT_SORT_KEYS))
            out.write(b"\n")


def engine_of(name: str, scenario: Scenario, seed: int, fates: dict[str, object]) -> SiteEngine:
    """`local` or `ray`; Ray is imported only here, when asked for."""
    if name == "ray":
        from cluster_sim.engines.ray_engine import RayEngine

        return RayEngine(scenario, seed, fates)  # type: ignore[arg-type]
    return LocalEngine(scenario, seed, fates)  # type: ignore[arg-type]


class EngineToCome:
    """A scenario's sites, started on a thread of their own; who first steps them waits until they are there.

    A service can start, and decide what is due at the opening, while Ray starts. To be closed; a failed start is
    raised by the first step. The thread lives as long as the sites: the kernel ends Ray's processes with the thread
    that started them.
    """

    def __init__(self, name: str, scenario: Scenario, seed: int) -> None:
        def make() -> SiteEngine:
            _, submitted = day_of(scenario, seed)
            return engine_of(name, scenario, seed, dict(submitted.fates))

        self._thread = ThreadPoolExecutor(1, thread_name_prefix="suanli-sites")
        self._made = self._thread.submit(make)

    def step(self, commands: Sequence[Command], until_s: int) -> SiteReport:
        """See `SiteEngine.step`."""
        return self._made.result().step(commands, until_s)

    def stop_site(self, site_id: str) -> None:
        """See `SiteEngine.stop_site`."""
        self._made.result().stop_site(site_id)

    def close(self) -> None:
        """End the sites, once they have started, and their thread."""
        with self._thread:
            if self._made.exception() is None:
                self._thread.submit(self._made.result().close).result()


@contextmanager
def _rarely_collected() -> Iterator[None]:
    """The log grows by the thousand and holds no cycles; at its usual pace the collector looks for them too often."""
    before = gc.get_threshold()
    gc.set_threshold(*GC_THRESHOLD)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def play_day(
    scenario: Scenario,
    seed: int,
    policy: str,
    gateway: LoggedGateway,
    engine: str | SiteEngine,
    *,
    window_s: int = WINDOW_S,
    on_window: Callable[[Progress], None] | None = None,
) -> PlayedDay:
    """Play the day and its drain. An engine given by name is made here and closed at the end."""
    day, submitted = day_of(scenario, seed, window_s)
    meter = LatencyMeter(scenario, seed)
    cancelled_s = {name: at_s for at_s, name in submitted.cancellations}
    for _, workload in submitted.items:
        meter.know(workload, cancelled_s.get(workload.name))
    sites = engine_of(engine, scenario, seed, dict(submitted.fates)) if isinstance(engine, str) else engine

    def after(progress: Progress) -> None:
        meter.observe(progress.commands, progress.report)
        if on_window is not None:
            on_window(progress)

    try:
        with _rarely_collected():
            end_s = Driver(gateway, sites, day, forecasts(scenario, seed), after).play()
    finally:
        if sites is not engine:
            sites.close()
    window = DayWindow(scenario.start_s, scenario.end_s, max(end_s, scenario.end_s))
    return PlayedDay(policy, gateway.log, window, meter.result())


def marks_of(scenario: Scenario) -> list[Mark]:
    """What the scenario did to sites, for the plots."""
    failures = scenario.failures
    return [
        Mark(d.site, scenario.clock_s(d.from_), scenario.clock_s(d.until), d.cause)
        for d in (*failures.site_outages, *failures.cooling_degradations)
    ]
