"""Verbs that read what was decided: rounds, horizon plans, placements that hold now."""

from __future__ import annotations

import orjson

from scheduler.domain.records import COLLECTION_PLANS
from scheduler.domain.state import ClusterState
from scheduler.service.filters import parse_filter
from scheduler.service.paging import Page, page_size, read_token, write_token
from scheduler.service.views import need_topology, placed_rows, placement_of
from scheduler.service.workloads import ServiceCore
from suanli.model import Event, EventKind, NotFound, Placement, Plan, Round

LATEST = "plans/latest"
PLACEMENT_FIELDS = ("site", "node_id")


class Plans:
    """See the module."""

    def __init__(self, core: ServiceCore) -> None:
        self._core = core

    def plan(self, name: str) -> Plan:
        """One horizon plan, or the newest as `plans/latest`; NotFound."""
        if name == LATEST:
            newest = self._core.store.documents(COLLECTION_PLANS, limit=1, descending=True)
            document = newest[0] if newest else None
        else:
            document = self._core.store.document(COLLECTION_PLANS, name)
        if document is None or document.body is None:
            raise NotFound("no plan has been made yet" if name == LATEST else f"no plan {name}")
        return _plan(document.body)

    def plan_page(self, *, size: int = 0, token: str = "") -> Page[Plan]:
        """Horizon plans, newest first."""
        size = page_size(size)
        before = read_token(token, ["plans"]) or ""
        documents = self._core.store.documents(
            COLLECTION_PLANS, after_name=before, limit=size + 1, descending=True
        )
        more = len(documents) > size
        documents = documents[:size]
        return Page(
            tuple(_plan(d.body or b"") for d in documents),
            write_token(documents[-1].name, ["plans"]) if more else "",
        )

    def round(self, name: str) -> Round:
        """One round; NotFound."""
        events = self._core.store.events_about([name], [EventKind.ROUND_COMMITTED])
        if not events:
            raise NotFound(f"no round {name}")
        return _round(events[-1])

    def round_page(self, *, size: int = 0, token: str = "") -> Page[Round]:
        """Finished rounds, newest first."""
        size = page_size(size)
        before = read_token(token, ["rounds"]) or 0
        events = self._core.store.latest_events([EventKind.ROUND_COMMITTED], size + 1, before)
        more = len(events) > size
        events = events[:size]
        return Page(
            tuple(_round(e) for e in events), write_token(events[-1].revision, ["rounds"]) if more else ""
        )

    def placement_page(
        self, parent: str = "tenants/-/workloads/-", *, size: int = 0, token: str = "", filter_text: str = ""
    ) -> Page[Placement]:
        """Placements that hold now, of one workload, one tenant or all, in order of the workload's name.

        NotFound for one workload that never was, and for a site that is not there.
        """
        size = page_size(size)
        question = (parent, filter_text)
        start = read_token(token, question) or 0
        wanted = parse_filter(filter_text, PLACEMENT_FIELDS, labels=False)
        site_id, node = "", ""
        for c in wanted.comparisons:
            site_id = c.value.removeprefix("sites/") if c.field == "site" else site_id
            node = c.value if c.field == "node_id" else node

        def look(state: ClusterState) -> tuple[list[str], int]:
            if not parent.endswith("/-") and not state.has_workload(parent):
                raise NotFound.among("workload", parent, state.names)
            if site_id and site_id not in need_topology(state).site_index:
                raise NotFound.among("site", site_id, need_topology(state).site_index)
            rows = list(placed_rows(state, _prefix(parent), site_id, node))
            return [state.placement_id(row) for row in rows[start : start + size]], len(rows)

        ids, total = self._core.read(look)
        events = {e.subject: e for e in self._core.store.events_about(ids, [EventKind.REPLICA_START_ORDERED])}
        more = start + size < total
        return Page(
            tuple(placement_of(events[i]) for i in ids if i in events),
            write_token(start + size, question) if more else "",
            total,
        )


def _prefix(parent: str) -> str:
    """Beginning of the names that a placement parent covers: `tenants/{t}/workloads/{w}` with `-` for all."""
    _, tenant, _, workload = parent.split("/", 3)
    if tenant == "-":
        return ""
    return f"tenants/{tenant}/workloads/" + ("" if workload == "-" else workload)


def _plan(body: bytes) -> Plan:
    plan = Plan.model_validate(orjson.loads(body))
    return plan.model_copy(update={"plan_id": plan.plan_id.removeprefix("plans/")})


def _round(event: Event) -> Round:
    known = {k: v for k, v in event.body.items() if k in Round.model_fields}
    return Round.model_validate(
        {**known, "round_id": event.subject.removeprefix("rounds/"), "at_s": event.at_s}
    )
