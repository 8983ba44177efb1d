"""`suanli dev`: service, planner and simulated sites up in real time, to try the client and the command line on.

The city opens at this morning's midnight with the standing services submitted; what you submit is placed on it and runs
in its simulated sites at the pace of the clock.
"""

from __future__ import annotations

import time
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from cluster_sim.client_gateway import ClientGateway
from cluster_sim.driver import SUBMIT_BATCH
from cluster_sim.play import ENGINES, engine_of
from cluster_sim.scenarios.loader import load_scenario
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.service_process import ServiceError, ServiceProcess
from cluster_sim.termination import TerminatedInOrder
from cluster_sim.world.arrivals import arrivals
from cluster_sim.world.build import weather_of
from scheduler.rpc import refuse_taken
from suanli.client.core import DEFAULT_ADDRESS
from suanli.model import InvalidRequest, TelemetryReport
from suanli.model.units import SECONDS_PER_HOUR

DEFAULT_PORT = int(DEFAULT_ADDRESS.rpartition(":")[2])
"""Where the command line looks when nobody tells it."""
LOOPBACK = "127.0.0.1"
FORECAST_HOURS = 30
EXIT_FAILED = 1
EXIT_BAD_INPUT = 2


def dev(
    scenario: Annotated[str, typer.Argument(help="Shipped scenario or path to a YAML file.")] = "songjiang-s",
    engine: Annotated[str, typer.Option(help="Who simulates the sites: local or ray.")] = "local",
    port: Annotated[
        int,
        typer.Option(help="gRPC port of the service on loopback; 0 takes any free one.", min=0, max=65535),
    ] = DEFAULT_PORT,
    seed: Annotated[int, typer.Option(help="Seed of everything random in the simulated city.")] = 42,
    every_s: Annotated[float, typer.Option(help="Seconds between telemetry reports.", min=0.2)] = 2.0,
    out: Annotated[Path, typer.Option(help="Folder for the service's store and log.")] = Path("runs/dev"),
) -> None:
    """Keep service, planner and simulated city up in real time until Ctrl-C.

    Examples:
        suanli dev
        suanli dev tiny-cloud-edge --port 7461
    """
    console = Console(highlight=False)
    try:
        world = today(load_scenario(scenario), datetime.now(timezone(timedelta(hours=8))))
    except InvalidRequest as error:
        Console(stderr=True, highlight=False).print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    if engine not in ENGINES:
        Console(stderr=True).print(f"--engine {engine!r}: expected one of {', '.join(ENGINES)}", style="red")
        raise typer.Exit(EXIT_BAD_INPUT)
    try:
        refuse_taken(LOOPBACK, port)
    except OSError as error:
        Console(stderr=True).print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_BAD_INPUT) from error
    run_dir = out / uuid.uuid4().hex[:8]
    try:
        with (
            TerminatedInOrder() as termination,
            ServiceProcess(run_dir, virtual=False, host=LOOPBACK, port=port) as service,
        ):
            address = service.await_address()
            _greet(console, world, address, run_dir)
            _keep_up(
                world,
                seed,
                engine,
                ClientGateway(address, sleep=service.sleep),
                every_s,
                console,
                termination,
            )
    except ServiceError as error:
        Console(stderr=True).print(str(error), style="red", markup=False)
        raise typer.Exit(EXIT_FAILED) from error
    except KeyboardInterrupt:
        console.print("\nthe city closes")
    except SystemExit:
        console.print("\nthe city closes: told to terminate")
        raise


def _greet(console: Console, world: Scenario, address: str, run_dir: Path) -> None:
    console.print(
        f"{world.title.en} · {world.title.zh} on {address}; files in {run_dir}; Ctrl-C ends it",
        soft_wrap=True,
    )
    console.print("in another terminal:")
    if address != DEFAULT_ADDRESS:
        console.print(f"  export SUANLI_ADDRESS={address}")
    for command in ("sites", "list", "submit examples/inference.yaml"):
        console.print(f"  .venv/bin/suanli {command}")


def today(world: Scenario, now: datetime) -> Scenario:
    """The same city with its day set to the present one, in the scenario's own time zone.

    Before the hour at which its day begins, that is yesterday's: a world that has not begun yet starts nothing.
    """
    start = world.day.start
    local = now.astimezone(start.tzinfo)
    begun = local.replace(hour=start.hour, minute=start.minute, second=0, microsecond=0)
    if begun > local:
        begun -= timedelta(days=1)
    return world.model_copy(update={"day": world.day.model_copy(update={"start": begun})})


def _keep_up(
    world: Scenario,
    seed: int,
    engine_name: str,
    gateway: ClientGateway,
    every_s: float,
    console: Console,
    termination: TerminatedInOrder,
) -> None:
    submitted = arrivals(world, seed)
    standing = [
        w for at_s, w in submitted.items if at_s == world.start_s and all(s.is_service for s in w.stages)
    ]
    engine = engine_of(engine_name, world, seed, dict(submitted.fates))
    termination.again()
    weather = weather_of(world, seed)
    forecast_due_s = 0
    try:
        now_s = int(time.time())
        engine.step([], now_s)
        gateway.client.register_fleet(world.fleet())
        gateway.client.create_policy_revision(world.policy())
        for i in range(0, len(standing), SUBMIT_BATCH):
            gateway.submit(standing[i : i + SUBMIT_BATCH], str(uuid.uuid4()))
        console.print(f"{len(standing)} standing services submitted")
        while True:
            time.sleep(every_s)
            now_s = int(time.time())
            report = engine.step(gateway.commands(), now_s)
            forecast = weather.forecast(now_s, FORECAST_HOURS) if now_s >= forecast_due_s else None
            if forecast is not None:
                forecast_due_s = now_s + SECONDS_PER_HOUR
            telemetry = TelemetryReport(
                at_s=now_s,
                replicas=report.replicas,
                meters=report.meters,
                statuses=report.statuses,
                forecast=forecast,
            )
            gateway.report(telemetry, str(uuid.uuid4()))
    finally:
        engine.close()
        gateway.client.close()
