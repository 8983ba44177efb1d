"""Verbs on the fleet: register, read sites, nodes, zones and links, cordon, drain, telemetry in, orders out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from scheduler.domain.records import COLLECTION_FLEET, CommitBatch
from scheduler.domain.state import ClusterState
from scheduler.planner.admission import unplannable
from scheduler.service.answers import Answer
from scheduler.service.messages import Outcome
from scheduler.service.operations import Operations, drain_document
from scheduler.service.paging import Page, page_size, read_token, write_token
from scheduler.service.views import (
    NO_FLEET,
    command_of,
    find_node,
    need_topology,
    node_views,
    placed_rows,
    site_of_order,
    site_states,
)
from scheduler.service.workloads import ServiceCore, read_resume, request_key, write_resume
from suanli.model import (
    Command,
    Conflict,
    EventKind,
    Fleet,
    FleetRecord,
    InvalidRequest,
    Link,
    Node,
    NotFound,
    Operation,
    SiteRecord,
    TelemetryReceipt,
    TelemetryReport,
    Zone,
)

if TYPE_CHECKING:
    from scheduler.cycle import Cycle

T = TypeVar("T")

ORDERS = (EventKind.REPLICA_START_ORDERED, EventKind.REPLICA_STOP_ORDERED)
ANY_SITE = "sites/-"
COMMANDS_PER_READ = 1000


@dataclass(frozen=True)
class CommandPage:
    """Orders in order of revision, and the token behind everything looked at."""

    commands: tuple[Command, ...]
    next_token: str
    resume_token: str


class FleetVerbs:
    """See the module."""

    def __init__(self, core: ServiceCore, cycle: Cycle, operations: Operations) -> None:
        self._core = core
        self._cycle = cycle
        self._operations = operations

    # ------------------------------------------------------------------ the fleet as a whole

    def register(
        self, fleet: Fleet, *, request_id: str = "", etag: str = "", validate_only: bool = False
    ) -> Answer[FleetRecord]:
        """Take this fleet as the installed world; Conflict when `etag` is not that of the present one."""

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            self._check_fleet_etag(etag)
            refuse_unplannable(fleet)
            return self._cycle.register_fleet(state, now_s, fleet), {}

        def check(state: ClusterState, now_s: int) -> Outcome:
            self._check_fleet_etag(etag)
            refuse_unplannable(fleet)
            return Outcome({}, state.revision)

        if validate_only:
            return Answer(self._core.ask(check), lambda _: FleetRecord(fleet=fleet))
        key = request_key(request_id, "fleet.register", fleet.model_dump_json(), etag) if request_id else None
        return Answer(self._core.act(decide, key), lambda _: self.get())

    def get(self) -> FleetRecord:
        """The registered fleet; NotFound before there is one."""
        document = self._core.store.document(COLLECTION_FLEET, "fleet")
        if document is None or document.body is None:
            raise NotFound(NO_FLEET)
        events = self._core.store.events_about(["fleet"], [EventKind.FLEET_REGISTERED])
        return FleetRecord(
            fleet=Fleet.model_validate(orjson.loads(document.body)),
            etag=str(document.revision),
            created_at_s=events[0].at_s,
            updated_at_s=events[-1].at_s,
        )

    def _check_fleet_etag(self, etag: str) -> None:
        document = self._core.store.document(COLLECTION_FLEET, "fleet")
        if etag and (document is None or str(document.revision) != etag):
            raise Conflict(f"the fleet has changed since etag {etag}; read it again")

    # ------------------------------------------------------------------ sites

    def sites(self) -> list[SiteRecord]:
        """Every site with its state, in order of registration."""
        now_s = self._core.now_s()

        def look(state: ClusterState) -> list[SiteRecord]:
            topology = need_topology(state)
            states = site_states(state, now_s)
            cordoned = _cordoned_sites(state)
            return [
                SiteRecord(
                    site=site.model_copy(update={"cordoned": site.site_id in cordoned}),
                    status=states[site.site_id],
                    etag=_site_etag(site.site_id in cordoned, state, site.site_id),
                )
                for site in topology.registered.sites
            ]

        return self._core.read(look)

    def site(self, site_id: str) -> SiteRecord:
        """One site; NotFound."""
        records = self.sites()
        for record in records:
            if record.site.site_id == site_id:
                return record
        raise NotFound.among("site", site_id, [r.site.site_id for r in records])

    def site_page(self, *, size: int = 0, token: str = "") -> Page[SiteRecord]:
        """One page of sites."""
        return _page(self.sites(), size, token, "sites")

    def unreachable(self) -> list[str]:
        """Ids of the sites that are down: what is shown of them is the last that was known."""
        return self._core.read(lambda state: sorted(state.site_down))

    # ------------------------------------------------------------------ nodes, zones, links

    def node(self, site_id: str, node: str) -> Node:
        """One node; NotFound."""
        return self._core.read(lambda s: node_views(s, [find_node(need_topology(s), site_id, node)])[0])

    def node_page(self, parent: str = ANY_SITE, *, size: int = 0, token: str = "") -> Page[Node]:
        """Nodes of one site or of all, by site and group."""
        site_id = parent.removeprefix("sites/")

        def look(state: ClusterState) -> Page[Node]:
            topology = need_topology(state)
            if site_id != "-" and site_id not in topology.site_index:
                raise NotFound.among("site", site_id, topology.site_index)
            rows: Sequence[int] = range(topology.node_count)
            if site_id != "-":
                rows = [r for r in rows if topology.node_site[r] == topology.site_index[site_id]]
            page = _page(rows, size, token, f"nodes of {parent}")
            return Page(tuple(node_views(state, page.items)), page.next_token, page.total_count)

        return self._core.read(look)

    def zones(self) -> tuple[Zone, ...]:
        """All zones."""
        return self._core.read(lambda s: need_topology(s).fleet.zones)

    def zone(self, zone_id: str) -> Zone:
        """One zone; NotFound."""
        return _one((z for z in self.zones() if z.zone_id == zone_id), f"no zone {zone_id}")

    def zone_page(self, *, size: int = 0, token: str = "") -> Page[Zone]:
        """One page of zones."""
        return _page(self.zones(), size, token, "zones")

    def links(self) -> tuple[Link, ...]:
        """All links."""
        return self._core.read(lambda s: need_topology(s).fleet.network.links)

    def link(self, link_id: str) -> Link:
        """One link; NotFound."""
        return _one((k for k in self.links() if k.link_id == link_id), f"no link {link_id}")

    def link_page(self, *, size: int = 0, token: str = "") -> Page[Link]:
        """One page of links."""
        return _page(self.links(), size, token, "links")

    # ------------------------------------------------------------------ cordon and drain

    def cordon_site(
        self, site_id: str, cordoned: bool, *, request_id: str = "", etag: str = "", cause: str = ""
    ) -> Answer[SiteRecord]:
        """Keep new work off a site, or let it in again. NotFound, Conflict on a stale etag."""

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            _check_site_etag(state, site_id, etag)
            return self._cycle.cordon(state, now_s, site_id, cordoned), {}

        key = request_key(request_id, "sites.cordon", site_id, str(cordoned), etag, cause)
        return Answer(self._core.act(decide, key), lambda _: self.site(site_id))

    def cordon_node(
        self,
        site_id: str,
        node: str,
        cordoned: bool,
        *,
        request_id: str = "",
        etag: str = "",
        cause: str = "",
    ) -> Answer[Node]:
        """Keep new work off a node, or let it in again. NotFound, Conflict on a stale etag."""

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            group_id, index = self._node_place(state, site_id, node, etag)
            return self._cycle.cordon(state, now_s, site_id, cordoned, group_id, index), {}

        key = request_key(request_id, "nodes.cordon", site_id, node, str(cordoned), etag, cause)
        return Answer(self._core.act(decide, key), lambda _: self.node(site_id, node))

    def drain(
        self, site_id: str, node: str = "", *, request_id: str = "", etag: str = "", cause: str = ""
    ) -> Answer[Operation]:
        """Cordon a site or node and move off it what runs there; the operation ends when nothing is left."""

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            if node:
                group_id, index = self._node_place(state, site_id, node, etag)
                batch = self._cycle.drain(state, now_s, site_id, group_id, index)
            else:
                _check_site_etag(state, site_id, etag)
                batch = self._cycle.drain(state, now_s, site_id)
            left = len(list(placed_rows(state, "", site_id, node)))
            document = drain_document(f"drain-{state.revision + 1}", site_id, node, now_s, left)
            batch = CommitBatch(batch.events, (*batch.documents, document), batch.requests)
            return batch, {"operation": document.name}

        key = request_key(request_id, "drain", site_id, node, etag, cause)
        return Answer(self._core.act(decide, key), lambda o: self._operations.get(o.answer["operation"]))

    def _node_place(self, state: ClusterState, site_id: str, node: str, etag: str) -> tuple[str, int]:
        topology = need_topology(state)
        row = find_node(topology, site_id, node)
        if etag and node_views(state, [row])[0].etag != etag:
            raise Conflict(f"{node} has changed since etag {etag}; read it again")
        _, group_id, index = topology.node_name(row)
        return group_id, index

    # ------------------------------------------------------------------ telemetry in, orders out

    def report(self, report: TelemetryReport, *, request_id: str = "") -> Answer[TelemetryReceipt]:
        """Take in what sites say; the same request id is applied once."""

        def decide(state: ClusterState, now_s: int) -> tuple[CommitBatch, dict[str, Any]]:
            unknown = [
                r.placement_id for r in report.replicas if r.placement_id not in state.row_of_placement
            ]
            batch = self._cycle.report(state, now_s, report)
            return batch, {"applied": len(report.replicas) - len(unknown), "ignored": unknown}

        key = request_key(request_id, "telemetry", report.model_dump_json()) if request_id else None
        return Answer(self._core.act(decide, key), _receipt)

    def commands(
        self, parent: str = ANY_SITE, *, size: int = 0, token: str = "", resume: str = ""
    ) -> CommandPage:
        """Orders to one site or all, in order of revision, behind the resume token. WatchExpired."""
        size = page_size(size)
        question = ("commands", parent, resume)
        after = read_token(token, question)
        cursor = int(after) if after is not None else read_resume(resume) if resume else 0
        found, cursor, more = self.read_commands(parent, cursor, size)
        return CommandPage(
            commands=tuple(found),
            next_token=write_token(cursor, question) if more else "",
            resume_token=write_resume(cursor),
        )

    def read_commands(self, parent: str, after_revision: int, limit: int) -> tuple[list[Command], int, bool]:
        """(orders, cursor to go on from, whether there may be more at once); never blocks."""
        site_id = parent.removeprefix("sites/")
        found: list[Command] = []
        cursor = after_revision
        while True:
            events, cursor = self._core.feed.read(cursor, COMMANDS_PER_READ, ORDERS)
            for event in events:
                if site_id not in ("-", site_of_order(event)):
                    continue
                if len(found) == limit:
                    return found, event.revision - 1, True
                found.append(command_of(event))
            if len(events) < COMMANDS_PER_READ:
                return found, cursor, False


def refuse_unplannable(fleet: Fleet) -> None:
    """InvalidRequest naming every fact that plans read and the fleet leaves out."""
    problems = unplannable(fleet)
    if problems:
        raise InvalidRequest([p.model_copy(update={"field": f"fleet.{p.field}"}) for p in problems])


def _receipt(outcome: Outcome) -> TelemetryReceipt:
    return TelemetryReceipt(
        revision=outcome.revision,
        applied_replica_count=outcome.answer["applied"],
        ignored_placement_ids=tuple(outcome.answer["ignored"]),
    )


def _cordoned_sites(state: ClusterState) -> set[str]:
    """Sites all of whose nodes are cordoned."""
    topology, nodes = state.topology, state.nodes
    assert topology is not None and nodes is not None
    return {
        site_id
        for i, site_id in enumerate(topology.site_ids)
        if bool(nodes.cordoned[topology.node_site == i].all())
    }


def _site_etag(cordoned: bool, state: ClusterState, site_id: str) -> str:
    """Changes with what a caller may set, the cordon; not with what the site carries, which changes all the time."""
    return f"{site_id}-{int(cordoned)}"


def _check_site_etag(state: ClusterState, site_id: str, etag: str) -> None:
    topology = need_topology(state)
    if site_id not in topology.site_index:
        raise NotFound.among("site", site_id, topology.site_index)
    if etag and etag != _site_etag(site_id in _cordoned_sites(state), state, site_id):
        raise Conflict(f"site {site_id} has changed since etag {etag}; read it again")


def _one(found: Iterable[T], missing: str) -> T:
    for item in found:
        return item
    raise NotFound(missing)


def _page(items: Sequence[T], size: int, token: str, question: str) -> Page[T]:
    """A page of a list whose order does not change."""
    size = page_size(size)
    start = read_token(token, [question]) or 0
    more = start + size < len(items)
    return Page(
        tuple(items[start : start + size]), write_token(start + size, [question]) if more else "", len(items)
    )
