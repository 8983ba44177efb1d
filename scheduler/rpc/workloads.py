# ruff: noqa: N802  (methods carry the names of their RPCs)
"""gRPC servicer of workloads."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence

from scheduler.rpc.base import BOOKMARK_EVERY_S, STREAM_MOST_S, Backend
from scheduler.rpc.boundary import Context
from scheduler.rpc.names import ids_of
from suanli import wire
from suanli.model import InvalidRequest, Unavailable, Workload, WorkloadChange, WorkloadRecord
from suanli.v1 import reasons_pb2, workloads_pb2, workloads_pb2_grpc

WORKLOAD = "tenants/{tenant}/workloads/{workload}"
TENANT = "tenants/{tenant}"


class WorkloadsServicer(workloads_pb2_grpc.WorkloadsServiceServicer):
    """Each method: wire in, one verb, wire out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def CreateWorkload(
        self, request: workloads_pb2.CreateWorkloadRequest, context: Context
    ) -> workloads_pb2.Workload:
        try:
            workload = wire.workload_from_create(request)
        except InvalidRequest as error:
            raise await self._with_the_rest(error, [error.mended], ["workload."]) from None
        record = await self._backend.service.workloads.create(
            workload,
            request_id=request.request_id,
            validate_only=request.validate_only,
            plan_etag=request.plan_etag,
            path="workload.",
        )
        return wire.workload_record_to_proto(record)

    async def BatchCreateWorkloads(
        self, request: workloads_pb2.BatchCreateWorkloadsRequest, context: Context
    ) -> workloads_pb2.BatchCreateWorkloadsResponse:
        # a thousand workloads take a while to read: other calls go on meanwhile
        try:
            workloads = await self._backend.blocking(wire.workloads_from_batch, request)
        except InvalidRequest as error:
            mended = error.mended if isinstance(error.mended, list) else []
            paths = [f"requests[{i}].workload." for i in range(len(mended))]
            raise await self._with_the_rest(error, mended, paths) from None
        records = await self._backend.service.workloads.batch_create(
            workloads,
            request_id=request.request_id,
            validate_only=request.validate_only,
            plan_etag=request.plan_etag,
            paths=[f"requests[{i}].workload." for i in range(len(workloads))],
        )
        return await self._backend.blocking(_batch_response, records)

    async def _with_the_rest(
        self, error: InvalidRequest, mended: Sequence[object], paths: Sequence[str]
    ) -> InvalidRequest:
        """What is malformed, what is impossible about the rest and which names are taken: one answer names all."""
        readable = [(w, path) for w, path in zip(mended, paths, strict=True) if isinstance(w, Workload)]
        found = await asyncio.wrap_future(
            self._backend.service.workloads.refused_for(
                [w for w, _ in readable], [path for _, path in readable]
            )
        )
        return wire.with_impossible(error, found)

    async def GetWorkload(
        self, request: workloads_pb2.GetWorkloadRequest, context: Context
    ) -> workloads_pb2.Workload:
        ids_of(request.name, WORKLOAD)
        record = await self._backend.blocking(self._backend.service.workloads.get, request.name)
        is_basic = request.view == workloads_pb2.WORKLOAD_VIEW_BASIC
        return wire.workload_record_to_proto(record.basic() if is_basic else record)

    async def ListWorkloads(
        self, request: workloads_pb2.ListWorkloadsRequest, context: Context
    ) -> workloads_pb2.ListWorkloadsResponse:
        ids_of(request.parent, TENANT, "parent")
        page = await self._backend.blocking(
            self._backend.service.workloads.page,
            request.parent,
            filter_text=request.filter,
            order_by=request.order_by,
            size=request.page_size,
            token=request.page_token,
            full=request.view == workloads_pb2.WORKLOAD_VIEW_FULL,
        )
        return workloads_pb2.ListWorkloadsResponse(
            workloads=[wire.workload_record_to_proto(r) for r in page.records],
            next_page_token=page.next_token,
            resume_token=page.resume_token,
            total_size=page.total_count,
        )

    async def CancelWorkload(
        self, request: workloads_pb2.CancelWorkloadRequest, context: Context
    ) -> workloads_pb2.Workload:
        ids_of(request.name, WORKLOAD)
        record = await self._backend.service.workloads.cancel(
            request.name,
            request_id=request.request_id,
            etag=request.etag,
            cause=request.cause,
            validate_only=request.validate_only,
        )
        return wire.workload_record_to_proto(record)

    async def WatchWorkloads(
        self, request: workloads_pb2.WatchWorkloadsRequest, context: Context
    ) -> AsyncIterator[workloads_pb2.WatchWorkloadsResponse]:
        ids_of(request.parent, TENANT, "parent")
        is_basic = request.view == workloads_pb2.WORKLOAD_VIEW_BASIC
        async for change in self._changes(request):
            if is_basic and change.record is not None:
                change = change.model_copy(update={"record": change.record.basic()})
            yield wire.workload_change_to_proto(change)

    async def _changes(self, request: workloads_pb2.WatchWorkloadsRequest) -> AsyncIterator[WorkloadChange]:
        backend = self._backend
        follower = backend.service.workloads.follow(
            request.parent, filter_text=request.filter, resume_token=request.resume_token
        )
        for change in await backend.blocking(follower.initial):
            yield change
        ends_at = time.monotonic() + STREAM_MOST_S
        while (now := time.monotonic()) < ends_at:
            bookmark_at = now + BOOKMARK_EVERY_S
            while (left_s := bookmark_at - time.monotonic()) > 0:
                if await backend.bell.wait(follower.revision, left_s):
                    for change in await backend.blocking(follower.next_changes):
                        bookmark_at = time.monotonic() + BOOKMARK_EVERY_S
                        yield change
                elif backend.bell.is_closed:
                    raise Unavailable("the service is stopping; resume with the last token")
            yield follower.bookmark()

    async def ExplainWorkload(
        self, request: workloads_pb2.ExplainWorkloadRequest, context: Context
    ) -> reasons_pb2.Explanation:
        ids_of(request.name, WORKLOAD)
        found = self._backend.service.workloads.explain(
            request.name, why_not=request.why_not, with_relaxations=request.with_relaxations
        )
        return wire.explanation_to_proto(await asyncio.wrap_future(found))

    async def PlanWorkloads(
        self, request: workloads_pb2.PlanWorkloadsRequest, context: Context
    ) -> workloads_pb2.PlanWorkloadsResponse:
        workloads = await self._backend.blocking(wire.workloads_from_plan, request)
        plan = self._backend.service.workloads.plan(workloads)
        return wire.workloads_plan_to_proto(await asyncio.wrap_future(plan))


def _batch_response(records: list[WorkloadRecord]) -> workloads_pb2.BatchCreateWorkloadsResponse:
    return workloads_pb2.BatchCreateWorkloadsResponse(
        workloads=[wire.basic_workload_record_to_proto(r) for r in records]
    )
