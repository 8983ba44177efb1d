"""The gRPC server: all servicers behind one boundary, health, reflection, and an end without lost answers.

Health names: "" and `readiness` and every service tell whether calls are served (not while the store is migrated and
folded, not while the server drains); `liveness` tells whether the process should be left alive.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from scheduler.rpc.base import Backend
from scheduler.rpc.boundary import Boundary
from scheduler.rpc.fleet import FleetServicer
from scheduler.rpc.planning import OperationsServicer, PlansServicer, PoliciesServicer
from scheduler.rpc.ports import refuse_taken
from scheduler.rpc.simulations import SimulationsServicer
from scheduler.rpc.workloads import WorkloadsServicer
from scheduler.service import Metrics, Service
from suanli.v1 import (
    fleet_pb2,
    fleet_pb2_grpc,
    operations_pb2,
    operations_pb2_grpc,
    plans_pb2,
    plans_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
    simulations_pb2,
    simulations_pb2_grpc,
    workloads_pb2,
    workloads_pb2_grpc,
)

LIVENESS, READINESS, OVERALL = "liveness", "readiness", ""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# a batch of 1000 large twins, or a fleet of the whole city, is a few MB
MESSAGE_BYTES = 64 * 1024 * 1024
# threads that read the store for answers; SQLite serves as many readers
READ_THREADS = 8
HEALTH_EVERY_S = 0.5

SERVICERS: dict[str, tuple[Callable[[Any, Any], None], Callable[[Backend], Any]]] = {
    descriptor.full_name: (add, servicer)
    for descriptor, add, servicer in (
        (
            workloads_pb2.DESCRIPTOR.services_by_name["WorkloadsService"],
            workloads_pb2_grpc.add_WorkloadsServiceServicer_to_server,
            WorkloadsServicer,
        ),
        (
            fleet_pb2.DESCRIPTOR.services_by_name["FleetService"],
            fleet_pb2_grpc.add_FleetServiceServicer_to_server,
            FleetServicer,
        ),
        (
            policies_pb2.DESCRIPTOR.services_by_name["PoliciesService"],
            policies_pb2_grpc.add_PoliciesServiceServicer_to_server,
            PoliciesServicer,
        ),
        (
            plans_pb2.DESCRIPTOR.services_by_name["PlansService"],
            plans_pb2_grpc.add_PlansServiceServicer_to_server,
            PlansServicer,
        ),
        (
            simulations_pb2.DESCRIPTOR.services_by_name["SimulationsService"],
            simulations_pb2_grpc.add_SimulationsServiceServicer_to_server,
            SimulationsServicer,
        ),
        (
            operations_pb2.DESCRIPTOR.services_by_name["OperationsService"],
            operations_pb2_grpc.add_OperationsServiceServicer_to_server,
            OperationsServicer,
        ),
    )
}
"""Full name of every service → how to add it, and its servicer."""


class RpcServer:
    """A gRPC server on one address; listens at once, serves when a service is opened behind it."""

    def __init__(self, metrics: Metrics, *, with_reflection: bool = True) -> None:
        self._executor = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="suanli-read")
        self.backend = Backend(self._executor)
        self._health = health_aio.HealthServicer()
        self._watchdog: asyncio.Task[None] | None = None
        self._server = grpc.aio.server(
            interceptors=[Boundary(metrics, lambda: self.backend.is_open)],
            options=[
                ("grpc.max_receive_message_length", MESSAGE_BYTES),
                ("grpc.max_send_message_length", MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ],
        )
        for add, servicer in SERVICERS.values():
            add(servicer(self.backend), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if with_reflection:
            names = (*SERVICERS, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name)
            reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), self._server)

    async def listen(self, address: str) -> int:
        """Bind `host:port` (port 0: any free one), answer health checks; returns the port. OSError when taken."""
        host, _, wanted = address.rpartition(":")
        refuse_taken(host, int(wanted))
        try:
            port = self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise OSError(f"cannot listen on {address}: {error}") from error
        await self._set_health(NOT_SERVING)
        await self._health.set(LIVENESS, SERVING)
        await self._server.start()
        return port

    async def open(self, service: Service) -> None:
        """Serve calls with this service."""
        self.backend.open(service)
        await self._set_health(SERVING)
        self._watchdog = asyncio.create_task(self._watch_health(), name="health")

    async def stop(self, grace_s: float) -> None:
        """Drain: report NOT_SERVING, end the streams, let calls in flight finish within the grace."""
        await self._set_health(NOT_SERVING)
        if self._watchdog is not None:
            self._watchdog.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watchdog
            self.backend.bell.close()
        await self._server.stop(grace_s)
        self._executor.shutdown(wait=True, cancel_futures=True)

    async def _set_health(self, status: int) -> None:
        for name in (OVERALL, READINESS, *SERVICERS):
            await self._health.set(name, status)

    async def _watch_health(self) -> None:
        """Health follows the core: a state that is being rebuilt is not served, a dead core is not alive."""
        shown = True
        while True:
            await asyncio.sleep(HEALTH_EVERY_S)
            is_open = self.backend.is_open
            if is_open != shown:
                shown = is_open
                await self._set_health(SERVING if is_open else NOT_SERVING)
                is_alive = self.backend.service.core.is_alive
                await self._health.set(LIVENESS, SERVING if is_alive else NOT_SERVING)
