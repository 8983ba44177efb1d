"""What the simulator adds to the command line: `demo` (the main job), `simulate`, `audit`."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from cluster_sim.audit import audit_file, audit_log
from cluster_sim.client_gateway import ClientGateway
from cluster_sim.driver import Progress
from cluster_sim.play import (
    BASELINE_RESULTS,
    BASELINES,
    ENGINES,
    EngineToCome,
    LoggedGateway,
    PlayedDay,
    play_day,
)
from cluster_sim.questions import Questions
from cluster_sim.report import write_report
from cluster_sim.result import Comparison, DayResult, DayStory, DayWindow, RunChecks
from cluster_sim.scenarios.loader import load_scenario, shipped_scenarios
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.service_process import ServiceProcess
from cluster_sim.summary import LiveDay, print_summary
from cluster_sim.termination import TerminatedInOrder
from cluster_sim.traces.azure_llm import azure_llm_day, read_azure_llm
from cluster_sim.traces.openb_day import Cut, openb_day, read_openb
from cluster_sim.world.protocol import SiteEngine
from suanli.model import InvalidRequest

EXIT_FAILED = 1
EXIT_BAD_INPUT = 2
OURS = "suanli"
DEFAULT_SCENARIO = "songjiang-s"
TRACES = ("openb", "azure-llm")
DAY_HOURS = 24.0
TRACE_PANEL = "Recorded input"
TRACE_NEEDS = {"openb": ("nodes", "pods"), "azure-llm": ("requests",)}
TRACE_TAKES = {
    "openb": ("nodes", "pods", "limit_pods", "limit_nodes", "hours", "from_hour", "compress", "stay"),
    "azure-llm": ("requests", "hours"),
}

ScenarioArgument = Annotated[
    str, typer.Argument(help="Shipped scenario or path to a YAML file.", metavar="SCENARIO")
]
NoCheckOption = Annotated[
    bool,
    typer.Option(
        "--no-check",
        help="Play your own scenario file even when its check proves that the day cannot be played.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Seed of everything random; equal seeds give equal logs.")]
EngineOption = Annotated[
    str, typer.Option(help="Who simulates the sites: ray or local; both give the same log.")
]


def demo(
    scenario: ScenarioArgument = "songjiang-s",
    engine: EngineOption = "ray",
    seed: SeedOption = 42,
    out: Annotated[Path, typer.Option(help="Folder for this run's files; a new one is made inside.")] = Path(
        "runs"
    ),
    no_check: NoCheckOption = False,
) -> None:
    """Play a day of the city through a real service, compare it with three baselines, check and report it.

    Exit codes: 0 checker, hard latencies and accounts held, 1 one of them did not (said last), 2 bad input or a
    scenario file of your own that is proven unplayable. Caps are judged in the summary and change no exit code.

    Examples:
        suanli demo
        suanli demo songjiang-m --engine local
    """
    console = Console(highlight=False)
    world = _load(scenario)
    _check_choices(OURS, engine)
    if not no_check:
        _refuse_unplayable(scenario, world)
    run_dir = _new_run_dir(out, world.scenario_id)
    console.print(
        f"{world.title.en} · {world.title.zh}: one day, seed {seed}, sites on {engine}, files in {run_dir}"
    )
    started = time.monotonic()
    with _Baselines(scenario, seed, run_dir) as baselines:
        ours, questions = _play_through_service(console, world, seed, engine, run_dir, baselines)
        ours.save(run_dir)
        others = baselines.results(console)
    comparison = Comparison.of([(OURS, ours.result(world)), *others])
    audit = audit_log(ours.log, world.fleet())
    story = DayStory(
        comparison=comparison,
        checks=RunChecks(audit.checked_count, audit.violations),
        pending=questions.pending,
        placed=questions.placed,
        report_path=str(run_dir / "report.html"),
        next_commands=_next_commands(world.scenario_id, run_dir),
    )
    write_report(run_dir / "report.html", story, title=world.title.en, title_zh=world.title.zh)
    print_summary(console, story)
    console.print(f"\nplayed and reported in {time.monotonic() - started:.0f} s")
    _leave(console, story.failures)


def simulate(
    scenario: Annotated[
        str | None,
        typer.Argument(
            help="Shipped scenario or path to a YAML file; songjiang-s unless a trace brings its own.",
            metavar="[SCENARIO]",
        ),
    ] = None,
    policy: Annotated[str, typer.Option(help=f"{OURS} or a baseline: {', '.join(BASELINES)}.")] = OURS,
    engine: EngineOption = "local",
    seed: SeedOption = 42,
    out: Annotated[Path, typer.Option(help="Folder for POLICY.jsonl, POLICY.json and report.html.")] = Path(
        "runs"
    ),
    quiet: Annotated[bool, typer.Option("--quiet", help="Write the files, print nothing.")] = False,
    check: Annotated[
        bool,
        typer.Option(
            "--check",
            help="Prove that the scenario can be played (loads, hosts, caps per month); play nothing.",
        ),
    ] = False,
    no_check: NoCheckOption = False,
    trace: Annotated[
        str | None,
        typer.Option(help=f"Play recorded input instead: {', '.join(TRACES)}.", rich_help_panel=TRACE_PANEL),
    ] = None,
    nodes: Annotated[
        Path | None, typer.Option(help="openb: node list (CSV, may be gzip).", rich_help_panel=TRACE_PANEL)
    ] = None,
    pods: Annotated[
        Path | None, typer.Option(help="openb: pod list (CSV, may be gzip).", rich_help_panel=TRACE_PANEL)
    ] = None,
    requests: Annotated[
        Path | None,
        typer.Option(
            help="azure-llm: TIMESTAMP,ContextTokens,GeneratedTokens; they replace the requests of SCENARIO's LLMs.",
            rich_help_panel=TRACE_PANEL,
        ),
    ] = None,
    limit_pods: Annotated[
        int | None,
        typer.Option(help="openb: so many pods, evenly over the list.", min=1, rich_help_panel=TRACE_PANEL),
    ] = None,
    limit_nodes: Annotated[
        int | None,
        typer.Option(help="openb: so many nodes, evenly over the list.", min=1, rich_help_panel=TRACE_PANEL),
    ] = None,
    hours: Annotated[
        float | None,
        typer.Option(
            help="Length of the day: 24 for openb, as long as the requests (at most 24) for azure-llm.",
            min=0.1,
            max=168,
            rich_help_panel=TRACE_PANEL,
        ),
    ] = None,
    from_hour: Annotated[
        float | None,
        typer.Option(
            help="openb: trace hour at which the day opens; older pods run on. Left out: 1 % are older.",
            min=0,
            rich_help_panel=TRACE_PANEL,
        ),
    ] = None,
    compress: Annotated[
        float | None,
        typer.Option(
            help="openb: trace seconds in a second of the day. Left out: the whole list fits.",
            min=0.001,
            rich_help_panel=TRACE_PANEL,
        ),
    ] = None,
    stay: Annotated[
        bool | None,
        typer.Option(
            "--stay",
            help="openb: pods never leave, so that the cluster fills up as in the published experiments.",
            rich_help_panel=TRACE_PANEL,
        ),
    ] = None,
) -> None:
    """Play a day under one policy, in process: no service, the same decisions.

    With --trace the day comes from a recorded list; under Suanli's own policy it is submitted to a real service through
    the public client.

    Exit codes: 0 checker, hard latencies and accounts held, 1 one of them did not (said last), 2 bad input or a
    scenario file of your own that is proven unplayable. Caps are judged in the summary and change no exit code: a
    baseline may break them.

    Examples:
        suanli simulate tiny-cloud-edge
        suanli simulate songjiang-s --policy least-loaded --out runs/least-loaded
        suanli simulate songjiang-m --check
        suanli simulate --trace openb --nodes NODES.csv --pods PODS.csv --limit-pods 500 --limit-nodes 80
        suanli simulate --trace azure-llm --requests REQUESTS.csv --hours 2
    """
    console = Console(highlight=False, quiet=quiet)
    _check_choices(policy, engine)
    if check and no_check:
        _refuse("--check and --no-check do not go together")
    asked = _TraceOptions(
        trace, nodes, pods, requests, limit_pods, limit_nodes, hours, from_hour, compress, stay
    )
    world = _load(scenario or DEFAULT_SCENARIO) if trace is None else _recorded(console, scenario, asked)
    if trace is None:
        asked.refuse_without_trace()
    if check:
        _check_playable(console, world)
        return
    if scenario is not None and not no_check:
        _refuse_unplayable(scenario, world)
    if trace is not None and policy == OURS:
        run_dir = _new_run_dir(out, world.scenario_id)
        story = _story(*_play_through_service(console, world, seed, engine, run_dir), world, out)
    else:
        # the planner loads only where it decides in this process; `demo` has a service for that
        from cluster_sim.baselines import strategy_of
        from cluster_sim.in_process import InProcessGateway
        from scheduler.workers import InlineSolverPool

        gateway = InProcessGateway(strategy_of(policy), InlineSolverPool())
        day = _play(world, seed, policy, gateway, engine, console, None)
        story = _story(day, None, world, out)
    if not quiet:
        write_report(out / "report.html", story, title=world.title.en, title_zh=world.title.zh)
        print_summary(console, story)
    _leave(console, story.failures)


def audit(
    log: Annotated[
        Path, typer.Argument(help="Canonical event log of a played day (JSON lines).", metavar="LOG")
    ],
) -> None:
    """Check a played day against its fleet, rule by rule, with nothing that the planner or the solver uses.

    Exit codes: 0 no violation, 1 violations (listed), 2 bad input.

    Examples:
        suanli audit runs/songjiang-s-20260715/suanli.jsonl
    """
    console = Console(highlight=False)
    if log.is_dir():
        _refuse(f"{log}: is a folder; a log is a file in it, POLICY.jsonl of a played day")
    if not log.is_file():
        _refuse(f"{log}: no such file")
    try:
        result = audit_file(log)
    except ValueError as error:
        said = str(error)
        _refuse(said if said.startswith(f"{log}:") else f"{log}: {said}")
    for violation in result.violations:
        console.print(violation, style="red", markup=False)
    console.print(f"verify: {len(result.violations)} violations in {result.checked_count} checks")
    if result.violations:
        raise typer.Exit(EXIT_FAILED)


# ----------------------------------------------------------------------------------------------- parts


def _load(name: str) -> Scenario:
    try:
        return load_scenario(name)
    except InvalidRequest as error:
        _refuse(str(error))


@dataclass(frozen=True)
class _TraceOptions:
    """The options of `simulate` that speak of recorded input, as they were given."""

    trace: str | None
    nodes: Path | None
    pods: Path | None
    requests: Path | None
    limit_pods: int | None
    limit_nodes: int | None
    hours: float | None
    from_hour: float | None
    compress: float | None
    stay: bool | None

    def refuse_without_trace(self) -> None:
        """Options that mean nothing here are an error, not ignored."""
        self._refuse_strangers((), "goes with --trace only")

    def refuse_misfits(self) -> None:
        """Everything missing or out of place for the trace asked for, in one answer."""
        if self.trace not in TRACES:
            _refuse(f"--trace {self.trace!r}: expected one of {', '.join(TRACES)}")
        missing = [_flag(name) for name in TRACE_NEEDS[self.trace] if getattr(self, name) is None]
        if missing:
            _refuse(f"--trace {self.trace} needs {' and '.join(missing)}")
        self._refuse_strangers(TRACE_TAKES[self.trace], f"does not go with --trace {self.trace}")

    def _refuse_strangers(self, taken: tuple[str, ...], why: str) -> None:
        names = [f.name for f in fields(self) if f.name != "trace" and f.name not in taken]
        strangers = [_flag(name) for name in names if getattr(self, name) is not None]
        if strangers:
            _refuse("\n".join(f"{flag} {why}" for flag in strangers))


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _recorded(console: Console, scenario: str | None, asked: _TraceOptions) -> Scenario:
    """The scenario that the recorded input makes, and what became of it on the way, said first."""
    asked.refuse_misfits()
    try:
        if asked.trace == "openb":
            if scenario is not None:
                _refuse(f"{scenario}: --trace openb brings its own site, so it goes without a scenario")
            assert asked.nodes is not None and asked.pods is not None
            cut = Cut(
                asked.limit_pods,
                asked.limit_nodes,
                asked.hours or DAY_HOURS,
                asked.from_hour,
                asked.compress,
                bool(asked.stay),
            )
            day = openb_day(*read_openb(asked.nodes, asked.pods), cut)
        else:
            assert asked.requests is not None
            recorded = read_azure_llm(asked.requests)
            day = azure_llm_day(_load(scenario or DEFAULT_SCENARIO), recorded, asked.hours)
    except ValueError as error:
        _refuse(str(error))
    for note in day.notes:
        console.print(note)
    return day.scenario


def _check_playable(console: Console, world: Scenario) -> None:
    """The check of `cluster_sim.scenarios.check` on the terminal; exit 1 when the scenario cannot be played."""
    from cluster_sim.scenarios.check import check as check_scenario
    from cluster_sim.scenarios.check import table as check_table

    verdict = check_scenario(world)
    console.print(check_table(verdict), markup=False, soft_wrap=True)
    if verdict.problems:
        raise typer.Exit(EXIT_FAILED)


def _refuse_unplayable(name: str, world: Scenario) -> None:
    """Exit 2 when a file from outside is proven unplayable on its day; shipped ones are proven by tests."""
    if name in shipped_scenarios():
        return
    from cluster_sim.scenarios.check import check as check_scenario

    unplayable = check_scenario(world, months=()).unplayable
    if unplayable:
        _refuse(
            "\n".join(f"{name}: {problem}" for problem in unplayable)
            + f"\n{name}: this day cannot be played; `suanli simulate {name} --check` shows all loads and caps, "
            "--no-check plays it all the same"
        )


def _play_through_service(
    console: Console,
    world: Scenario,
    seed: int,
    engine: str,
    run_dir: Path,
    baselines: _Baselines | None = None,
) -> tuple[PlayedDay, Questions]:
    """A service of its own, everything through the public client; it and the sites start at the same time."""
    with (
        TerminatedInOrder(),
        ServiceProcess(run_dir) as service,
        closing(EngineToCome(engine, world, seed)) as sites,
    ):
        gateway = ClientGateway(service.await_address(), sleep=service.sleep)
        questions = Questions(gateway.client, world)
        day = _play(world, seed, OURS, gateway, sites, console, questions, baselines)
        gateway.client.close()
    return day, questions


def _story(day: PlayedDay, questions: Questions | None, world: Scenario, out: Path) -> DayStory:
    """Save the day, audit it, and put together what is told of it."""
    day.save(out)
    audit = audit_log(day.log, world.fleet())
    return DayStory(
        comparison=Comparison.of([(day.policy, day.result(world))]),
        checks=RunChecks(audit.checked_count, audit.violations),
        pending=questions.pending if questions else None,
        placed=questions.placed if questions else None,
        report_path=str(out / "report.html"),
    )


def _check_choices(policy: str, engine: str) -> None:
    """Every option that names nothing we have, in one answer."""
    problems = []
    if policy not in (OURS, *BASELINES):
        problems.append(f"--policy {policy!r}: expected {OURS} or one of {', '.join(BASELINES)}")
    if engine not in ENGINES:
        problems.append(f"--engine {engine!r}: expected one of {', '.join(ENGINES)}")
    if problems:
        _refuse("\n".join(problems))


def _refuse(text: str) -> NoReturn:
    # names from outside are no markup, and a problem stays one line
    Console(stderr=True, highlight=False).print(text, style="red", markup=False, soft_wrap=True)
    raise typer.Exit(EXIT_BAD_INPUT)


def _leave(console: Console, failures: tuple[str, ...]) -> None:
    for failure in failures:
        console.print(f"FAILED: {failure}", style="bold red")
    if failures:
        raise typer.Exit(EXIT_FAILED)


def _new_run_dir(out: Path, scenario_id: str) -> Path:
    """A folder of its own per run: a second run beside this one finds nothing of it."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    run_dir = out / f"{scenario_id}-{stamp}-{os.getpid()}"
    run_dir.mkdir(parents=True)
    return run_dir


def _play(
    world: Scenario,
    seed: int,
    policy: str,
    gateway: LoggedGateway,
    engine: str | SiteEngine,
    console: Console,
    questions: Questions | None,
    baselines: _Baselines | None = None,
) -> PlayedDay:
    window = DayWindow(world.start_s, world.end_s, world.drain_end_s)
    with TerminatedInOrder() as termination, LiveDay(console, world.fleet(), window, title=policy) as live:
        shown = 0

        def on_window(progress: Progress) -> None:
            nonlocal shown
            if not shown:
                termination.again()  # the sites are up
            if baselines is not None:
                baselines.start()
            live.advance(progress.now_s, gateway.log[shown:])
            shown = len(gateway.log)
            if questions is not None:
                questions.ask(progress.now_s)

        return play_day(world, seed, policy, gateway, engine, on_window=on_window)


def _next_commands(scenario_id: str, run_dir: Path) -> tuple[str, ...]:
    return (
        f".venv/bin/suanli audit {run_dir / 'suanli.jsonl'}",
        f".venv/bin/suanli simulate {scenario_id} --policy pue-blind --out {run_dir / 'pue-blind'}",
        "make dev",
    )


class _Baselines:
    """The baselines' days, played one after the other in a process beside the main day."""

    def __init__(self, scenario: str, seed: int, run_dir: Path) -> None:
        self._scenario, self._seed, self._dir = scenario, seed, run_dir
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> _Baselines:
        return self

    def start(self) -> None:
        """Begin; called when the main day has begun, so that Ray has the machine to itself while it starts."""
        if self._process is not None:
            return
        command = [
            sys.executable,
            "-m",
            "cluster_sim.baseline_days",
            self._scenario,
            str(self._seed),
            str(self._dir),
            "--while-stdin",
        ]
        with (self._dir / "baselines.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.PIPE)

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.terminate()
            self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()

    def results(self, console: Console) -> list[tuple[str, DayResult]]:
        """Wait for them; RuntimeError with the end of their log when one failed."""
        assert self._process is not None
        with console.status("waiting for the baselines …"):
            code = self._process.wait()
        if code != 0:
            tail = (self._dir / "baselines.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"the baselines ended with exit code {code}:\n{tail}")
        file = self._dir / BASELINE_RESULTS
        results: list[tuple[str, DayResult]] = pickle.loads(file.read_bytes())  # from our own process
        file.unlink()
        return results
