# ruff: noqa: N802  (methods carry the names of their RPCs)
"""gRPC servicer of the fleet."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

from google.longrunning import operations_pb2

from scheduler.rpc.base import BOOKMARK_EVERY_S, STREAM_MOST_S, Backend
from scheduler.rpc.boundary import Context
from scheduler.rpc.names import id_of, ids_of
from scheduler.service.workloads import read_resume, write_resume
from suanli import wire
from suanli.model import Node, SiteRecord, Unavailable
from suanli.v1 import fleet_pb2, fleet_pb2_grpc

SITE = "sites/{site}"
NODE = "sites/{site}/nodes/{node}"
COMMANDS_PER_TURN = 500


class FleetServicer(fleet_pb2_grpc.FleetServiceServicer):
    """Each method: wire in, one verb, wire out."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def RegisterFleet(
        self, request: fleet_pb2.RegisterFleetRequest, context: Context
    ) -> fleet_pb2.Fleet:
        fleet = await self._backend.blocking(wire.fleet_from_register, request)
        record = await self._backend.service.fleet.register(
            fleet, request_id=request.request_id, etag=request.etag, validate_only=request.validate_only
        )
        return wire.fleet_record_to_proto(record)

    async def GetFleet(self, request: fleet_pb2.GetFleetRequest, context: Context) -> fleet_pb2.Fleet:
        ids_of(request.name, wire.FLEET_NAME)
        return wire.fleet_record_to_proto(await self._backend.blocking(self._backend.service.fleet.get))

    # ------------------------------------------------------------------ sites, nodes, zones, links

    async def GetSite(self, request: fleet_pb2.GetSiteRequest, context: Context) -> fleet_pb2.Site:
        site_id = id_of(request.name, SITE)
        return _site(await self._backend.blocking(self._backend.service.fleet.site, site_id))

    async def ListSites(
        self, request: fleet_pb2.ListSitesRequest, context: Context
    ) -> fleet_pb2.ListSitesResponse:
        fleet = self._backend.service.fleet
        page = await self._backend.blocking(fleet.site_page, size=request.page_size, token=request.page_token)
        return fleet_pb2.ListSitesResponse(
            sites=[_site(r) for r in page.items],
            next_page_token=page.next_token,
            unreachable=[wire.site_name(s) for s in fleet.unreachable()],
        )

    async def GetNode(self, request: fleet_pb2.GetNodeRequest, context: Context) -> fleet_pb2.Node:
        site_id, node = ids_of(request.name, NODE)
        return _node(await self._backend.blocking(self._backend.service.fleet.node, site_id, node))

    async def ListNodes(
        self, request: fleet_pb2.ListNodesRequest, context: Context
    ) -> fleet_pb2.ListNodesResponse:
        ids_of(request.parent, SITE, "parent")
        fleet = self._backend.service.fleet
        page = await self._backend.blocking(
            fleet.node_page, request.parent, size=request.page_size, token=request.page_token
        )
        return fleet_pb2.ListNodesResponse(
            nodes=[_node(n) for n in page.items],
            next_page_token=page.next_token,
            unreachable=[wire.site_name(s) for s in fleet.unreachable()],
        )

    async def GetZone(self, request: fleet_pb2.GetZoneRequest, context: Context) -> fleet_pb2.Zone:
        return wire.zone_to_proto(self._backend.service.fleet.zone(id_of(request.name, "zones/{zone}")))

    async def ListZones(
        self, request: fleet_pb2.ListZonesRequest, context: Context
    ) -> fleet_pb2.ListZonesResponse:
        page = self._backend.service.fleet.zone_page(size=request.page_size, token=request.page_token)
        return fleet_pb2.ListZonesResponse(
            zones=[wire.zone_to_proto(z) for z in page.items], next_page_token=page.next_token
        )

    async def GetLink(self, request: fleet_pb2.GetLinkRequest, context: Context) -> fleet_pb2.Link:
        return wire.link_to_proto(self._backend.service.fleet.link(id_of(request.name, "links/{link}")))

    async def ListLinks(
        self, request: fleet_pb2.ListLinksRequest, context: Context
    ) -> fleet_pb2.ListLinksResponse:
        page = self._backend.service.fleet.link_page(size=request.page_size, token=request.page_token)
        return fleet_pb2.ListLinksResponse(
            links=[wire.link_to_proto(k) for k in page.items], next_page_token=page.next_token
        )

    # ------------------------------------------------------------------ cordon and drain

    async def CordonSite(self, request: fleet_pb2.CordonSiteRequest, context: Context) -> fleet_pb2.Site:
        return _site(await self._cordon_site(request, True))

    async def UncordonSite(self, request: fleet_pb2.UncordonSiteRequest, context: Context) -> fleet_pb2.Site:
        return _site(await self._cordon_site(request, False))

    async def CordonNode(self, request: fleet_pb2.CordonNodeRequest, context: Context) -> fleet_pb2.Node:
        return _node(await self._cordon_node(request, True))

    async def UncordonNode(self, request: fleet_pb2.UncordonNodeRequest, context: Context) -> fleet_pb2.Node:
        return _node(await self._cordon_node(request, False))

    async def DrainSite(
        self, request: fleet_pb2.DrainSiteRequest, context: Context
    ) -> operations_pb2.Operation:
        operation = await self._backend.service.fleet.drain(
            id_of(request.name, SITE), request_id=request.request_id, etag=request.etag, cause=request.cause
        )
        return wire.operation_to_proto(operation)

    async def DrainNode(
        self, request: fleet_pb2.DrainNodeRequest, context: Context
    ) -> operations_pb2.Operation:
        site_id, node = ids_of(request.name, NODE)
        operation = await self._backend.service.fleet.drain(
            site_id, node, request_id=request.request_id, etag=request.etag, cause=request.cause
        )
        return wire.operation_to_proto(operation)

    async def _cordon_site(
        self, request: fleet_pb2.CordonSiteRequest | fleet_pb2.UncordonSiteRequest, cordoned: bool
    ) -> SiteRecord:
        return await self._backend.service.fleet.cordon_site(
            id_of(request.name, SITE),
            cordoned,
            request_id=request.request_id,
            etag=request.etag,
            cause=request.cause,
        )

    async def _cordon_node(
        self, request: fleet_pb2.CordonNodeRequest | fleet_pb2.UncordonNodeRequest, cordoned: bool
    ) -> Node:
        site_id, node = ids_of(request.name, NODE)
        return await self._backend.service.fleet.cordon_node(
            site_id, node, cordoned, request_id=request.request_id, etag=request.etag, cause=request.cause
        )

    # ------------------------------------------------------------------ telemetry in, orders out

    async def ReportTelemetry(
        self, request: fleet_pb2.ReportTelemetryRequest, context: Context
    ) -> fleet_pb2.ReportTelemetryResponse:
        report = await self._backend.blocking(wire.report_from_request, request)
        receipt = await self._backend.service.fleet.report(report, request_id=request.request_id)
        return wire.telemetry_receipt_to_proto(receipt)

    async def ListCommands(
        self, request: fleet_pb2.ListCommandsRequest, context: Context
    ) -> fleet_pb2.ListCommandsResponse:
        ids_of(request.parent, SITE, "parent")
        page = await self._backend.blocking(
            self._backend.service.fleet.commands,
            request.parent,
            size=request.page_size,
            token=request.page_token,
            resume=request.resume_token,
        )
        return fleet_pb2.ListCommandsResponse(
            commands=[wire.command_to_proto(c) for c in page.commands],
            next_page_token=page.next_token,
            resume_token=page.resume_token,
        )

    async def WatchCommands(
        self, request: fleet_pb2.WatchCommandsRequest, context: Context
    ) -> AsyncIterator[fleet_pb2.WatchCommandsResponse]:
        ids_of(request.parent, SITE, "parent")
        backend, fleet = self._backend, self._backend.service.fleet
        cursor = read_resume(request.resume_token) if request.resume_token else 0
        ends_at = time.monotonic() + STREAM_MOST_S
        while time.monotonic() < ends_at:
            commands, cursor, more = await backend.blocking(
                fleet.read_commands, request.parent, cursor, COMMANDS_PER_TURN
            )
            for command in commands:
                yield fleet_pb2.WatchCommandsResponse(
                    command=wire.command_to_proto(command), resume_token=write_resume(command.revision)
                )
            if more or await backend.bell.wait(cursor, BOOKMARK_EVERY_S):
                continue
            if backend.bell.is_closed:
                raise Unavailable("the service is stopping; resume with the last token")
            yield fleet_pb2.WatchCommandsResponse(resume_token=write_resume(cursor))


def _site(record: SiteRecord) -> fleet_pb2.Site:
    return wire.site_record_to_proto(record)


def _node(node: Node) -> fleet_pb2.Node:
    return wire.node_to_proto(node)
