# ruff: noqa: N802  (methods carry the names of their RPCs)
"""gRPC servicer of simulations: virtual time from outside."""

from __future__ import annotations

from collections.abc import AsyncIterator

from scheduler.rpc.base import Backend
from scheduler.rpc.boundary import Context
from scheduler.rpc.names import id_of
from suanli import wire
from suanli.model import FieldProblem, InvalidRequest
from suanli.v1 import simulations_pb2, simulations_pb2_grpc

RUN = "runs/{run}"


class SimulationsServicer(simulations_pb2_grpc.SimulationsServiceServicer):
    """Each method: wire in, one verb, wire out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def CreateRun(
        self, request: simulations_pb2.CreateRunRequest, context: Context
    ) -> simulations_pb2.Run:
        run = await self._backend.service.simulations.create(
            wire.run_from_create(request), request_id=request.request_id, validate_only=request.validate_only
        )
        return wire.run_to_proto(run)

    async def GetRun(self, request: simulations_pb2.GetRunRequest, context: Context) -> simulations_pb2.Run:
        run_id = id_of(request.name, RUN)
        return wire.run_to_proto(await self._backend.blocking(self._backend.service.simulations.get, run_id))

    async def ListRuns(
        self, request: simulations_pb2.ListRunsRequest, context: Context
    ) -> simulations_pb2.ListRunsResponse:
        # one log has one run at most: there is never a second page
        runs = await self._backend.blocking(self._backend.service.simulations.runs)
        return simulations_pb2.ListRunsResponse(runs=[wire.run_to_proto(r) for r in runs])

    async def AdvanceRun(
        self, request: simulations_pb2.AdvanceRunRequest, context: Context
    ) -> simulations_pb2.AdvanceRunResponse:
        if not request.HasField("until_time") or request.until_time.nanos:
            problem = FieldProblem(
                field="until_time", problem="is no whole second", expected="a whole second"
            )
            raise InvalidRequest([problem])
        run_id = id_of(request.name, RUN)
        progress = await self._backend.service.simulations.advance(run_id, request.until_time.seconds)
        return wire.run_progress_to_proto(progress)

    async def CloseRun(
        self, request: simulations_pb2.CloseRunRequest, context: Context
    ) -> simulations_pb2.Run:
        run_id = id_of(request.name, RUN)
        run = await self._backend.service.simulations.close(run_id, request_id=request.request_id)
        return wire.run_to_proto(run)

    async def ExportLog(
        self, request: simulations_pb2.ExportLogRequest, context: Context
    ) -> AsyncIterator[simulations_pb2.ExportLogResponse]:
        pieces = self._backend.service.simulations.log(
            id_of(request.name, RUN), after_revision=request.after_revision, kinds=list(request.kinds)
        )
        async for events in self._backend.pieces(pieces):
            yield simulations_pb2.ExportLogResponse(events=[wire.event_to_proto(e) for e in events])
