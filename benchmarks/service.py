"""How fast and how small the service is: `python -m benchmarks.service [--quick] [--json]`.

A real `suanli serve` on SQLite in a folder on disk, asked through gRPC by a client in another process:

1. single submissions, several in flight, each durable before its answer: submissions a second
2. batches of 500: workloads a second
3. at a steady 100 submissions a second, under the first horizon plan: from sending one to seeing its placement in the
   order stream, p50 and p99
4. resident memory with 100 000 workloads in the log, and how long a restart takes to fold them

Baselines: the targets of the project (500 and 5 000 a second, p99 150 ms, 600 MB). Every figure is measured over
submissions that were accepted, and the log is counted at the end: a lost one fails the run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from benchmarks.common import EXIT_FAILED, machine_line, print_json, print_table
from cluster_sim.scenarios import load_scenario
from suanli.client import AsyncClient, Client
from suanli.model import Fleet, Flow, PathBudget, PriorityClass, Stage, Workload, WorkloadKind
from suanli.model.words import grouped

SINGLES_PER_S = 500.0
BATCHED_PER_S = 5_000.0
P99_MS = 150.0
RSS_MB = 600.0
MEMORY_WORKLOADS = 100_000
STEADY_PER_S = 100
BATCH = 500
IN_FLIGHT = 32
START_LIMIT_S = 60.0
KIB_PER_MB = 1000_000 / 1024


@dataclass
class Figures:
    """What was measured."""

    single_per_s: float = 0.0
    batched_per_s: float = 0.0
    batched_cpu_us: float = 0.0
    placed_p50_ms: float = 0.0
    placed_p99_ms: float = 0.0
    placed_count: int = 0
    rss_mb: float = 0.0
    workload_count: int = 0
    restart_s: float = 0.0
    problems: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- workloads


def workloads(prefix: str) -> Iterator[Workload]:
    """Small services with a flow, every fifth a piece of batch work, every fiftieth a twin of three stages; 100 000 of
    them fit the fleet.
    """
    for i in count():
        name = f"tenants/bench/workloads/{prefix}-{i}"
        if i % 50 == 49:
            yield _twin(name)
        elif i % 5 == 4:
            yield Workload(
                name=name,
                kind=WorkloadKind.BATCH,
                workload_class="B",
                stages=(
                    Stage(
                        stage_id="main",
                        cpu_milli=100,
                        memory_mib=64,
                        duration_s=3600 + i % 7,
                        preemptible=True,
                    ),
                ),
            )
        else:
            yield Workload(
                name=name,
                kind=WorkloadKind.INFERENCE,
                workload_class="S",
                priority_class=PriorityClass.INTERACTIVE,
                stages=(Stage(stage_id="serve", cpu_milli=100 + 10 * (i % 5), memory_mib=128),),
                flows=(Flow(source="zones/z1", target="stages/serve", rtt_p99_max_ms=80.0, mbps=0.01),),
                labels={"team": f"t{i % 20}"},
            )


def _twin(name: str) -> Workload:
    stages = tuple(
        Stage(stage_id=s, cpu_milli=100, memory_mib=64, processing_p99_ms={"cpu": 5.0})
        for s in ("ingest", "simulate", "render")
    )
    return Workload(
        name=name,
        kind=WorkloadKind.TWIN,
        workload_class="T",
        stages=stages,
        flows=(
            Flow(source="zones/z1", target="stages/ingest", rtt_p99_max_ms=80.0, mbps=0.01),
            Flow(source="stages/ingest", target="stages/simulate", mbps=0.01),
            Flow(source="stages/simulate", target="stages/render", mbps=0.01),
        ),
        paths=(
            PathBudget(
                path_id="loop",
                via=("zones/z1", "stages/ingest", "stages/simulate", "stages/render"),
                budget_ms=200.0,
            ),
        ),
    )


# ---------------------------------------------------------------- the service under test


class Server:
    """A `suanli serve` of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.address = ""

    def start(self) -> float:
        """Start it; seconds until it serves."""
        begun = time.perf_counter()
        port_file = self._folder / "port"
        port_file.unlink(missing_ok=True)
        with (self._folder / "serve.log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable, "-m", "suanli.cli.main", "serve", "--port", "0", "--port-file", str(port_file),
                    "--store", f"sqlite:///{self._folder}/suanli.db", "--log-level", "warning",
                ],
                stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_LIMIT_S
        while not (line := self.process.stdout.readline().decode()).startswith("serving"):
            if not line or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not start, see {self._folder}/serve.log")
            if line.startswith("listening on "):
                self.address = line.split()[-1]
        return time.perf_counter() - begun

    def memory_mb(self, what: str = "VmRSS") -> float:
        """Resident memory of the service process (`VmHWM`: its highest so far)."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / KIB_PER_MB
        raise RuntimeError(f"no {what} for process {self.process.pid}")

    def cpu_s(self) -> float:
        """Processor time the service process has used; what it does beside submissions, rounds say, is in it."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """SIGTERM, and wait for the drain."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(START_LIMIT_S)
        if self.process is not None and self.process.stdout is not None:
            self.process.stdout.close()


@contextmanager
def a_server(folder: Path, fleet: Fleet) -> Iterator[Server]:
    """A running service with that fleet."""
    server = Server(folder)
    server.start()
    try:
        with Client(server.address) as client:
            client.register_fleet(fleet)
            _await_plan(client)
        yield server
    finally:
        server.stop()


def _await_plan(client: Client) -> None:
    """Until the first horizon plan is committed: it is made once, cold, and rounds follow it from then on."""
    deadline = time.monotonic() + START_LIMIT_S
    while not any(True for _ in client.list_plans()):
        if time.monotonic() > deadline:
            raise RuntimeError("no plan was made")
        time.sleep(0.1)


# ---------------------------------------------------------------- measurements


async def singles_per_s(address: str, seconds: float) -> tuple[float, int]:
    """(submissions a second, how many were accepted) with several in flight on one connection."""
    source = workloads("single")
    ends_at = time.perf_counter() + seconds
    accepted = 0

    async def submit_on(client: AsyncClient) -> None:
        nonlocal accepted
        while time.perf_counter() < ends_at:
            await client.create_workload(next(source))
            accepted += 1

    begun = time.perf_counter()
    async with AsyncClient(address) as client:
        await asyncio.gather(*(submit_on(client) for _ in range(IN_FLIGHT)))
    return accepted / (time.perf_counter() - begun), accepted


async def batched_per_s(address: str, wanted: int, prefix: str) -> float:
    """Workloads a second in batches, two batches in flight."""
    source = workloads(prefix)
    batches = [[next(source) for _ in range(min(BATCH, wanted - i))] for i in range(0, wanted, BATCH)]

    async def submit_on(client: AsyncClient) -> None:
        while batches:
            await client.batch_create_workloads(batches.pop())

    begun = time.perf_counter()
    async with AsyncClient(address, timeout_s=60) as client:
        await asyncio.gather(*(submit_on(client) for _ in range(2)))
    return wanted / (time.perf_counter() - begun)


async def placing_ms(address: str, seconds: float) -> list[float]:
    """Milliseconds from sending a submission to its first order in the stream, at 100 a second."""
    sent: dict[str, float] = {}
    took: dict[str, float] = {}
    async with AsyncClient(address) as client, orders(client, sent, took):
        begun = time.perf_counter()
        tasks = []
        for i, workload in enumerate(workloads("steady")):
            due = begun + i / STEADY_PER_S
            if due > begun + seconds:
                break
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent[workload.name] = time.perf_counter()
            tasks.append(asyncio.create_task(client.create_workload(workload)))
        await asyncio.gather(*tasks)
        patience = time.perf_counter() + 10
        while len(took) < len(sent) and time.perf_counter() < patience:
            await asyncio.sleep(0.01)
    # what was never placed counts as waiting still
    return sorted(1000 * took.get(name, time.perf_counter() - at) for name, at in sent.items())


@asynccontextmanager
async def orders(client: AsyncClient, sent: dict[str, float], took: dict[str, float]) -> AsyncIterator[None]:
    """Follow the order stream from now on and note when each workload's first order came."""
    token = ""
    while (page := await client.list_commands(resume_token=token)).items:
        token = page.resume_token

    async def follow() -> None:
        async for command in client.watch_commands(resume_token=token):
            name = command.start.workload if command.start else ""
            if name in sent:
                took.setdefault(name, time.perf_counter() - sent[name])

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


def quantile(ordered: list[float], share: float) -> float:
    """The value that this share of the sorted list does not exceed."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(folder: Path, fleet: Fleet, seconds: float, total: int) -> Figures:
    """All four measurements on one log."""
    figures = Figures()
    with a_server(folder, fleet) as server:
        latencies = asyncio.run(placing_ms(server.address, seconds))
        figures.placed_count = len(latencies)
        figures.placed_p50_ms, figures.placed_p99_ms = quantile(latencies, 0.5), quantile(latencies, 0.99)
        figures.single_per_s, singles = asyncio.run(singles_per_s(server.address, seconds))
        accepted = len(latencies) + singles
        batched = max(BATCH, total - accepted)
        cpu_s = server.cpu_s()
        figures.batched_per_s = asyncio.run(batched_per_s(server.address, batched, "batched"))
        figures.batched_cpu_us = 1e6 * (server.cpu_s() - cpu_s) / batched
        accepted += batched
        figures.rss_mb = server.memory_mb()
        figures.workload_count = _counted(server.address)
        if figures.workload_count != accepted:
            figures.problems.append(f"{accepted} were accepted and {figures.workload_count} are in the log")
        server.stop()
        figures.restart_s = server.start()
        if (again := _counted(server.address)) != accepted:
            figures.problems.append(f"after a restart {again} of {accepted} are there")
        figures.rss_mb = max(figures.rss_mb, server.memory_mb())
    return figures


def _counted(address: str) -> int:
    with Client(address, timeout_s=60) as client:
        return sum(1 for _ in client.list_workloads())


def _per_s(rate: float) -> str:
    return f"{grouped(rate)} /s"


def main() -> int:
    """Run, print, and fail when a target is missed or a submission was lost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes; no targets are judged"
    )
    parser.add_argument("--json", action="store_true", help="also print one JSON object on the last line")
    parser.add_argument("--scenario", default="songjiang-m", help="whose fleet to serve")
    parser.add_argument(
        "--folder", type=Path, default=None, help="where the store lies; default: a temporary folder"
    )
    options = parser.parse_args()
    fleet = load_scenario(options.scenario).fleet()
    seconds, total = (2.0, 2_000) if options.quick else (10.0, MEMORY_WORKLOADS)
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="suanli-bench-") as folder:
        figures = measure(Path(folder), fleet, seconds, total)
    f = figures
    steady, stored = f"{f.placed_count} at {STEADY_PER_S}/s", f"{grouped(f.workload_count)} workloads"
    rows = [
        ("single submissions", _per_s(f.single_per_s), f"{IN_FLIGHT} in flight", f">= {_per_s(SINGLES_PER_S)}"),
        ("in batches", _per_s(f.batched_per_s), f"batches of {BATCH}", f">= {_per_s(BATCHED_PER_S)}"),
        ("in batches, processor time", f"{f.batched_cpu_us:.0f} us each", "rounds included", "-"),
        ("submission to placement p50", f"{f.placed_p50_ms:.0f} ms", steady, "-"),
        ("submission to placement p99", f"{f.placed_p99_ms:.0f} ms", steady, f"<= {P99_MS:.0f} ms"),
        ("resident memory", f"{f.rss_mb:.0f} MB", stored, f"< {RSS_MB:.0f} MB"),
        ("restart", f"{f.restart_s:.1f} s", stored, "-"),
    ]  # fmt: skip
    print(machine_line())
    print_table(["service", "figure", "size", "target"], rows)
    missed = [] if options.quick else _missed(figures)
    for problem in (*figures.problems, *missed):
        print(problem, file=sys.stderr)
    if options.json:
        print_json({k: v for k, v in vars(figures).items() if k != "problems"})
    return EXIT_FAILED if figures.problems or missed else os.EX_OK


def _missed(figures: Figures) -> list[str]:
    checks = [
        (figures.single_per_s >= SINGLES_PER_S, "single submissions are too slow"),
        (figures.batched_per_s >= BATCHED_PER_S, "batches are too slow"),
        (figures.placed_p99_ms <= P99_MS, "placements come too late"),
        (figures.rss_mb < RSS_MB, "the service is too large"),
    ]
    return [text for kept, text in checks if not kept]


if __name__ == "__main__":
    raise SystemExit(main())
