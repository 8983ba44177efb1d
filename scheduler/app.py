"""Composition root: settings in, a running service out. The only place that knows which part goes with which.

run     1 listen (health says NOT_SERVING), unless port or store cannot be had
        2 open and migrate the store   3 fold the log   4 serve
        5 on SIGTERM or SIGINT drain: no new calls, streams end, calls in flight finish, the store closes;
          likewise when whoever started it is gone, if asked to live no longer
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import start_http_server

from scheduler.config import Settings
from scheduler.cycle import Cycle
from scheduler.domain.records import GC_THRESHOLD
from scheduler.planner.horizon import HorizonStrategy, PlannerSettings
from scheduler.ports import SolverPool, Store
from scheduler.rpc import RpcServer
from scheduler.service import Metrics, Pace, Service
from scheduler.service.logs import get_logger
from scheduler.store import open_store, refuse_unusable_store
from scheduler.workers import DumpingPool, LadderPool

log = get_logger(__name__)

MS_PER_S = 1000.0
# Python's default lets a busy planner keep the event loop waiting for 5 ms at each turn
SWITCH_S = 0.001

Announce = Callable[[str], None]


@dataclass
class Parts:
    """What `run` puts together, in the order in which it is taken apart again."""

    service: Service
    pool: SolverPool
    store: Store

    def close(self) -> None:
        """End the service, then what it stands on."""
        self.service.close()
        self.pool.close()
        self.store.close()


def build(settings: Settings, metrics: Metrics) -> Parts:
    """Start the solver process, open the store (which migrates it), fold the log; the service then serves."""
    # first, because it imports its libraries while the store is opened
    ladder = LadderPool(memory_limit_mib=settings.solver_memory_mib, observe=metrics.solver_rung)
    pool: SolverPool = ladder if settings.plan_dump is None else DumpingPool(ladder, settings.plan_dump)
    store: Store | None = None
    try:
        # who drives virtual time stands beside its service and falls with it when the power goes
        store = open_store(settings.store, outlives_power_cut=not settings.virtual)
        strategy = HorizonStrategy(PlannerSettings(plan_wall_limit_s=settings.plan_wall_limit_s))
        pace = Pace(settings.round_debounce_ms / MS_PER_S, settings.round_every_s)
        service = Service(
            store, Cycle(strategy, pool), pool=pool, virtual=settings.virtual, pace=pace, metrics=metrics
        )
        service.start()
    except BaseException:
        pool.close()
        if store is not None:
            store.close()
        raise
    return Parts(service, pool, store)


async def serve(
    settings: Settings,
    announce: Announce,
    parts_of: Callable[..., Parts] = build,
    lifeline: int | None = None,
) -> None:
    """Run until SIGTERM or SIGINT. `announce` gets one line once the port is bound and one once calls are served.

    `lifeline` is the read end of a pipe; when its last writer closes it, or dies, the service ends in order.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if lifeline is not None:
        _watch_lifeline(loop, lifeline, stop)
    refuse_unusable_store(settings.store)
    metrics = Metrics()
    server = RpcServer(metrics, with_reflection=settings.reflection)
    port = await server.listen(f"{settings.host}:{settings.port}")
    web = _serve_metrics(settings, metrics, announce)
    parts: Parts | None = None
    try:
        announce(f"listening on {settings.host}:{port}")
        if settings.port_file is not None:
            _write_whole(settings.port_file, f"{port}\n")
        # folding a long log takes seconds; health checks are answered meanwhile
        parts = await asyncio.to_thread(parts_of, settings, metrics)
        # what is there now stays: the collector need not look at it again
        gc.freeze()
        await server.open(parts.service)
        announce(f"serving at revision {parts.service.core.feed.last_revision}")
        await stop.wait()
        log.info("draining", seconds=settings.drain_s)
    finally:
        await server.stop(settings.drain_s)
        if parts is not None:
            await asyncio.to_thread(parts.close)
        if web is not None:
            await asyncio.to_thread(_end_metrics, *web)


def _watch_lifeline(loop: asyncio.AbstractEventLoop, lifeline: int, stop: asyncio.Event) -> None:
    def readable() -> None:
        if not os.read(lifeline, 4096):
            loop.remove_reader(lifeline)
            log.info("whoever started this service is gone")
            stop.set()

    loop.add_reader(lifeline, readable)


def run(settings: Settings, lifeline: int | None = None) -> None:
    """Configure logging and serve. InvalidRequest when the store cannot be had, OSError when the port cannot."""
    configure_logging(settings)
    sys.setswitchinterval(SWITCH_S)
    gc.set_threshold(*GC_THRESHOLD)
    asyncio.run(serve(settings, _announce, lifeline=lifeline))


def _announce(line: str) -> None:
    print(line, flush=True)


def _write_whole(path: Path, text: str) -> None:
    """Who waits for the file never sees half of it."""
    draft = path.with_name(path.name + ".tmp")
    draft.write_text(text, encoding="ascii")
    draft.replace(path)


def _serve_metrics(settings: Settings, metrics: Metrics, announce: Announce) -> tuple[Any, Any] | None:
    if not settings.metrics_port:
        return None
    port = max(0, settings.metrics_port)
    server, thread = start_http_server(port, addr=settings.host, registry=metrics.registry)
    announce(f"metrics on http://{settings.host}:{server.server_port}/metrics")
    return server, thread


def _end_metrics(server: Any, thread: Any) -> None:
    server.shutdown()
    server.server_close()
    thread.join()


def configure_logging(settings: Settings) -> None:
    """Lines on standard error, for people or as JSON; `extra` of any library's record becomes keys."""
    shared: list[Any] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        foreign_pre_chain=shared,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    # migrations announce themselves at every start
    logging.getLogger("alembic").setLevel(logging.WARNING)
