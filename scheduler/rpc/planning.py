# ruff: noqa: N802  (methods carry the names of their RPCs)
"""gRPC servicers of policies, plans and operations."""

from __future__ import annotations

import asyncio
import time

from google.longrunning import operations_pb2 as longrunning_pb2

from scheduler.rpc.base import Backend
from scheduler.rpc.boundary import Context, deadline_s
from scheduler.rpc.names import id_of, ids_of
from suanli import wire
from suanli.v1 import (
    operations_pb2,
    operations_pb2_grpc,
    plans_pb2,
    plans_pb2_grpc,
    policies_pb2,
    policies_pb2_grpc,
)

POLICY = "policies/{policy}"
REVISION = "policies/{policy}/revisions/{revision}"
OPERATION = "operations/{operation}"
# WaitOperation answers before the caller's deadline, not at it
WAIT_MARGIN_S = 0.5


class PoliciesServicer(policies_pb2_grpc.PoliciesServiceServicer):
    """Each method: wire in, one verb, wire out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def CreatePolicyRevision(
        self, request: policies_pb2.CreatePolicyRevisionRequest, context: Context
    ) -> policies_pb2.PolicyRevision:
        policy = await self._backend.service.policies.revise(
            wire.policy_from_create(request),
            request_id=request.request_id,
            etag=request.etag,
            validate_only=request.validate_only,
        )
        return wire.policy_to_proto(policy)

    async def GetPolicyRevision(
        self, request: policies_pb2.GetPolicyRevisionRequest, context: Context
    ) -> policies_pb2.PolicyRevision:
        policy_id, revision = ids_of(request.name, REVISION)
        return wire.policy_to_proto(
            await self._backend.blocking(self._backend.service.policies.get, policy_id, revision)
        )

    async def ListPolicyRevisions(
        self, request: policies_pb2.ListPolicyRevisionsRequest, context: Context
    ) -> policies_pb2.ListPolicyRevisionsResponse:
        page = await self._backend.blocking(
            self._backend.service.policies.page,
            id_of(request.parent, POLICY, "parent"),
            size=request.page_size,
            token=request.page_token,
        )
        return policies_pb2.ListPolicyRevisionsResponse(
            policy_revisions=[wire.policy_to_proto(p) for p in page.items], next_page_token=page.next_token
        )


class PlansServicer(plans_pb2_grpc.PlansServiceServicer):
    """Each method: wire in, one verb, wire out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetRound(self, request: plans_pb2.GetRoundRequest, context: Context) -> plans_pb2.Round:
        ids_of(request.name, "rounds/{round}")
        return wire.round_to_proto(
            await self._backend.blocking(self._backend.service.plans.round, request.name)
        )

    async def ListRounds(
        self, request: plans_pb2.ListRoundsRequest, context: Context
    ) -> plans_pb2.ListRoundsResponse:
        page = await self._backend.blocking(
            self._backend.service.plans.round_page, size=request.page_size, token=request.page_token
        )
        return plans_pb2.ListRoundsResponse(
            rounds=[wire.round_to_proto(r) for r in page.items], next_page_token=page.next_token
        )

    async def GetPlan(self, request: plans_pb2.GetPlanRequest, context: Context) -> plans_pb2.Plan:
        ids_of(request.name, "plans/{plan}")
        return wire.plan_to_proto(
            await self._backend.blocking(self._backend.service.plans.plan, request.name)
        )

    async def ListPlans(
        self, request: plans_pb2.ListPlansRequest, context: Context
    ) -> plans_pb2.ListPlansResponse:
        page = await self._backend.blocking(
            self._backend.service.plans.plan_page, size=request.page_size, token=request.page_token
        )
        return plans_pb2.ListPlansResponse(
            plans=[wire.plan_to_proto(p) for p in page.items], next_page_token=page.next_token
        )

    async def ListPlacements(
        self, request: plans_pb2.ListPlacementsRequest, context: Context
    ) -> plans_pb2.ListPlacementsResponse:
        ids_of(request.parent, "tenants/{tenant}/workloads/{workload}", "parent")
        page = await self._backend.blocking(
            self._backend.service.plans.placement_page,
            request.parent,
            size=request.page_size,
            token=request.page_token,
            filter_text=request.filter,
        )
        return plans_pb2.ListPlacementsResponse(
            placements=[wire.placement_to_proto(p) for p in page.items], next_page_token=page.next_token
        )


class OperationsServicer(operations_pb2_grpc.OperationsServiceServicer):
    """Each method: wire in, one verb, wire out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def GetOperation(
        self, request: operations_pb2.GetOperationRequest, context: Context
    ) -> longrunning_pb2.Operation:
        ids_of(request.name, OPERATION)
        return wire.operation_to_proto(
            await self._backend.blocking(self._backend.service.operations.get, request.name)
        )

    async def ListOperations(
        self, request: operations_pb2.ListOperationsRequest, context: Context
    ) -> operations_pb2.ListOperationsResponse:
        page = await self._backend.blocking(
            self._backend.service.operations.page,
            size=request.page_size,
            token=request.page_token,
            filter_text=request.filter,
        )
        return operations_pb2.ListOperationsResponse(
            operations=[wire.operation_to_proto(o) for o in page.items], next_page_token=page.next_token
        )

    async def CancelOperation(
        self, request: operations_pb2.CancelOperationRequest, context: Context
    ) -> longrunning_pb2.Operation:
        ids_of(request.name, OPERATION)
        operation = await self._backend.service.operations.cancel(request.name, request_id=request.request_id)
        return wire.operation_to_proto(operation)

    async def WaitOperation(
        self, request: operations_pb2.WaitOperationRequest, context: Context
    ) -> longrunning_pb2.Operation:
        ids_of(request.name, OPERATION)
        backend = self._backend
        most_s = max(0.0, deadline_s(context) - WAIT_MARGIN_S)
        asked_s = request.timeout_duration.ToTimedelta().total_seconds()
        ends_at = time.monotonic() + (
            min(asked_s, most_s) if request.HasField("timeout_duration") else most_s
        )
        while True:
            revision = backend.service.core.feed.last_revision
            operation = await backend.blocking(backend.service.operations.get, request.name)
            left_s = ends_at - time.monotonic()
            if operation.done or left_s <= 0 or backend.bell.is_closed:
                return wire.operation_to_proto(operation)
            await backend.bell.wait(revision, left_s)
            # a cancel writes a document and no event: look again now and then
            await asyncio.sleep(0)
