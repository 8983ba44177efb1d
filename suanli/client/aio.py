"""The asyncio client: thin methods over `calls`, with retries, deadlines, pagination and watches that resume.

    async with AsyncClient("127.0.0.1:7411") as suanli:
        record = await suanli.create_workload(workload)
        async for site in suanli.list_sites():
            ...

Every method raises `suanli.model` errors: InvalidRequest with its problems, NotFound, Conflict, Unavailable and so on.
`sync.py` is made from this file by `tools/gen_sync_client.py`; a test keeps the two in step.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc

from suanli.client import calls
from suanli.client.core import (
    CHANNEL_OPTIONS,
    MAX_PAGE_SIZE,
    Backoff,
    Call,
    Lifetime,
    Method,
    Page,
    Patience,
    Settings,
    Waiting,
    WatchFold,
    address_or_default,
    after_watch_failure,
    chunks,
    error_of,
    may_retry,
    new_request_id,
)
from suanli.model import (
    Command,
    Event,
    Explanation,
    Fleet,
    FleetRecord,
    Link,
    Node,
    Operation,
    Placement,
    Plan,
    Policy,
    Round,
    RunProgress,
    SimulationRun,
    SiteRecord,
    SuanliError,
    TelemetryReceipt,
    TelemetryReport,
    Unavailable,
    Workload,
    WorkloadChange,
    WorkloadRecord,
    WorkloadsPlan,
    Zone,
)

T = TypeVar("T")


class AsyncClient:
    """One channel to one service. For one event loop; close it, or use it in an `async with`.

    Args:
        address: host:port; else SUANLI_ADDRESS; else the loopback default.
        timeout_s: deadline of each attempt of a call, always sent; methods that take long have their own.
        retry_unavailable_for_s: how long calls are repeated while the service is away; 0: never.
        request_id: source of request ids; simulations hand in one that counts.
        sleep, uniform, clock_s: waiting, chance and time of the retries; what `sleep` raises ends them.
        on_wait: told once of each wait that takes longer than a few seconds; else the logger `suanli.client` is.
        credentials: TLS; without them the channel is plain, for loopback and trusted networks.
        channel: an open channel instead of address and credentials; stays open on close.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout_s: float = 30.0,
        retry_unavailable_for_s: float = 10.0,
        request_id: Callable[[], str] = new_request_id,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        uniform: Callable[[], float] | None = None,
        clock_s: Callable[[], float] | None = None,
        on_wait: Callable[[Waiting], None] | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        channel: grpc.aio.Channel | None = None,
    ) -> None:
        defaults = Settings()
        self._settings = Settings(
            timeout_s=timeout_s,
            backoff=Backoff(for_s=retry_unavailable_for_s),
            request_id=request_id,
            uniform=uniform or defaults.uniform,
            clock_s=clock_s or defaults.clock_s,
            on_wait=on_wait or defaults.on_wait,
        )
        self._sleep = sleep
        self._lifetime = Lifetime()
        self._owns_channel = channel is None
        self._channel = channel or _open(address_or_default(address), credentials)
        self._unary: dict[str, grpc.aio.UnaryUnaryMultiCallable[Any, Any]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the channel, if this client opened it; calls that still wait raise SuanliError."""
        if self._owns_channel:
            self._lifetime.is_over = True
            await self._channel.close()

    # Workloads

    async def create_workload(
        self, workload: Workload, *, validate_only: bool = False, plan_etag: str = ""
    ) -> WorkloadRecord:
        """Submit one workload; durable when this returns.

        `plan_etag` of a dry run raises Conflict when what that rested on has changed.
        """
        return await self._run(
            calls.create_workload(
                workload,
                request_id=self._settings.request_id(),
                validate_only=validate_only,
                plan_etag=plan_etag,
            )
        )

    async def batch_create_workloads(
        self, workloads: Sequence[Workload], *, validate_only: bool = False, plan_etag: str = ""
    ) -> tuple[WorkloadRecord, ...]:
        """Submit up to 1000 workloads of any tenants, all or none."""
        return await self._run(
            calls.batch_create_workloads(
                workloads,
                request_id=self._settings.request_id(),
                validate_only=validate_only,
                plan_etag=plan_etag,
            )
        )

    async def submit_workloads(
        self, workloads: Sequence[Workload], *, batch_size: int = MAX_PAGE_SIZE
    ) -> list[WorkloadRecord]:
        """Submit any number of workloads in batches; each batch is all or none, and a failing one ends it."""
        records: list[WorkloadRecord] = []
        for batch in chunks(workloads, batch_size):
            records += await self.batch_create_workloads(batch)
        return records

    async def get_workload(self, name: str) -> WorkloadRecord:
        """One workload with its state."""
        return await self._run(calls.get_workload(name))

    def list_workloads(
        self,
        parent: str = calls.ANY_TENANT,
        *,
        filter: str = "",
        order_by: str = "",
        full: bool = False,
        page_size: int = MAX_PAGE_SIZE,
    ) -> AsyncGenerator[WorkloadRecord]:
        """Workloads of one tenant or of all; without their bodies unless `full`.

        They come page by page as they are read: who needs only the first few says so with `page_size`.
        """
        return self._pages(
            lambda token: self._run(
                calls.list_workloads(
                    parent,
                    filter=filter,
                    order_by=order_by,
                    full=full,
                    page_size=page_size,
                    page_token=token,
                )
            )
        )

    async def cancel_workload(
        self, name: str, *, etag: str = "", cause: str = "", validate_only: bool = False
    ) -> WorkloadRecord:
        """End a workload and free what it holds."""
        return await self._run(
            calls.cancel_workload(
                name,
                request_id=self._settings.request_id(),
                etag=etag,
                cause=cause,
                validate_only=validate_only,
            )
        )

    async def explain_workload(
        self, name: str, *, why_not: str = "", with_relaxations: bool = False
    ) -> Explanation:
        """Why it waits or lies where it lies; `why_not` names a site or a node."""
        return await self._run(
            calls.explain_workload(name, why_not=why_not, with_relaxations=with_relaxations)
        )

    async def plan_workloads(
        self, workloads: Sequence[Workload], *, timeout_s: float = 60.0
    ) -> WorkloadsPlan:
        """Dry run: what would happen if these were submitted now."""
        return await self._run(calls.plan_workloads(workloads), timeout_s)

    def watch_workloads(
        self,
        parent: str = calls.ANY_TENANT,
        *,
        filter: str = "",
        full: bool = True,
        resume_token: str = "",
    ) -> AsyncGenerator[WorkloadChange]:
        """Every change from now on, first all that exists as ADDED and a bookmark; never ends by itself.

        Resumes when the stream is cut or grows old, and lists again when the token has expired, without gaps or
        repeats. With `resume_token` (of a list or an earlier change) it begins right after that.

        Raises:
            Unavailable: the service was away for longer than `retry_unavailable_for_s`.
        """

        def open_stream(fold: WatchFold) -> AsyncGenerator[Any]:
            request = calls.watch_workloads_request(parent, filter, full, fold.resume_token)
            return self._stream(calls.METHODS["WatchWorkloads"], request, self._settings.watch_age_s)

        return self._watch(open_stream, WatchFold(resume_token))

    # Fleet

    async def register_fleet(
        self, fleet: Fleet, *, etag: str = "", validate_only: bool = False
    ) -> FleetRecord:
        """Register the whole fleet."""
        return await self._run(
            calls.register_fleet(
                fleet, request_id=self._settings.request_id(), etag=etag, validate_only=validate_only
            )
        )

    async def get_fleet(self) -> FleetRecord:
        """The fleet as registered."""
        return await self._run(calls.get_fleet())

    async def get_site(self, name: str) -> SiteRecord:
        """One site with its state; `sites/{site}`."""
        return await self._run(calls.get_site(name))

    def list_sites(self) -> AsyncGenerator[SiteRecord]:
        """All sites with their state."""
        return self._pages(
            lambda token: self._run(calls.list_sites(page_size=MAX_PAGE_SIZE, page_token=token))
        )

    async def get_node(self, name: str) -> Node:
        """One node; `sites/{site}/nodes/{node}`."""
        return await self._run(calls.get_node(name))

    def list_nodes(self, parent: str = calls.ANY_SITE) -> AsyncGenerator[Node]:
        """Nodes of one site or of all."""
        return self._pages(
            lambda token: self._run(calls.list_nodes(parent, page_size=MAX_PAGE_SIZE, page_token=token))
        )

    async def get_zone(self, name: str) -> Zone:
        """One zone; `zones/{zone}`."""
        return await self._run(calls.get_zone(name))

    def list_zones(self) -> AsyncGenerator[Zone]:
        """All zones."""
        return self._pages(
            lambda token: self._run(calls.list_zones(page_size=MAX_PAGE_SIZE, page_token=token))
        )

    async def get_link(self, name: str) -> Link:
        """One link; `links/{link}`."""
        return await self._run(calls.get_link(name))

    def list_links(self) -> AsyncGenerator[Link]:
        """All links."""
        return self._pages(
            lambda token: self._run(calls.list_links(page_size=MAX_PAGE_SIZE, page_token=token))
        )

    async def cordon_site(self, name: str, *, etag: str = "", cause: str = "") -> SiteRecord:
        """Close a site to new work."""
        return await self._run(
            calls.cordon_site(name, request_id=self._settings.request_id(), etag=etag, cause=cause)
        )

    async def uncordon_site(self, name: str, *, etag: str = "", cause: str = "") -> SiteRecord:
        """Open a site again."""
        return await self._run(
            calls.uncordon_site(name, request_id=self._settings.request_id(), etag=etag, cause=cause)
        )

    async def drain_site(self, name: str, *, etag: str = "", cause: str = "") -> Operation:
        """Close a site and move what runs there elsewhere."""
        return await self._run(
            calls.drain_site(name, request_id=self._settings.request_id(), etag=etag, cause=cause)
        )

    async def cordon_node(self, name: str, *, etag: str = "", cause: str = "") -> Node:
        """Close a node to new work."""
        return await self._run(
            calls.cordon_node(name, request_id=self._settings.request_id(), etag=etag, cause=cause)
        )

    async def uncordon_node(self, name: str, *, etag: str = "", cause: str = "") -> Node:
        """Open a node again."""
        return await self._run(
            calls.uncordon_node(name, request_id=self._settings.request_id(), etag=etag, cause=cause)
        )

    async def drain_node(self, name: str, *, etag: str = "", cause: str = "") -> Operation:
        """Close a node and move what runs there elsewhere."""
        return await self._run(
            calls.drain_node(name, request_id=self._settings.request_id(), etag=etag, cause=cause)
        )

    async def report_telemetry(self, report: TelemetryReport) -> TelemetryReceipt:
        """Hand in what sites measured and what happened to their replicas."""
        return await self._run(calls.report_telemetry(report, request_id=self._settings.request_id()))

    async def list_commands(self, parent: str = calls.ANY_SITE, *, resume_token: str = "") -> Page[Command]:
        """All orders to one site or to all after `resume_token`, in order, with the token to go on from."""
        items: list[Command] = []
        page_token = ""
        while True:
            page = await self._run(
                calls.list_commands(
                    parent, resume_token=resume_token, page_size=MAX_PAGE_SIZE, page_token=page_token
                )
            )
            items += page.items
            page_token = page.next_page_token
            if not page_token:
                return Page(items=tuple(items), resume_token=page.resume_token)

    async def watch_commands(
        self, parent: str = calls.ANY_SITE, *, resume_token: str = ""
    ) -> AsyncGenerator[Command]:
        """Orders as they are made; resumes when the stream is cut or grows old.

        Raises:
            WatchExpired: the token is older than the log keeps.
            Unavailable: the service was away for longer than `retry_unavailable_for_s`.
        """
        patience = Patience(self._settings)
        while True:
            request = calls.watch_commands_request(parent, resume_token)
            try:
                async with aclosing(
                    self._stream(calls.METHODS["WatchCommands"], request, self._settings.watch_age_s)
                ) as stream:
                    async for message in stream:
                        patience.well()
                        resume_token = message.resume_token
                        command = calls.read_command(message)
                        if command is not None:
                            yield command
                await self._sleep(self._settings.backoff.first_s)
            except Unavailable as failure:
                await self._wait(patience, failure)

    # Policies

    async def create_policy_revision(
        self, policy: Policy, *, etag: str = "", validate_only: bool = False
    ) -> Policy:
        """Add a revision, current from then on; `etag` is that of the revision it replaces."""
        return await self._run(
            calls.create_policy_revision(
                policy, request_id=self._settings.request_id(), etag=etag, validate_only=validate_only
            )
        )

    async def get_policy(self, policy_id: str = "default", revision: int | None = None) -> Policy:
        """One revision; None: the current one."""
        return await self._run(calls.get_policy(policy_id, revision))

    def list_policy_revisions(self, policy_id: str = "default") -> AsyncGenerator[Policy]:
        """Revisions, newest first."""
        return self._pages(
            lambda token: self._run(
                calls.list_policy_revisions(policy_id, page_size=MAX_PAGE_SIZE, page_token=token)
            )
        )

    # Plans

    async def get_round(self, name: str) -> Round:
        """One round; `rounds/{round}`."""
        return await self._run(calls.get_round(name))

    def list_rounds(self) -> AsyncGenerator[Round]:
        """Rounds, newest first."""
        return self._pages(
            lambda token: self._run(calls.list_rounds(page_size=MAX_PAGE_SIZE, page_token=token))
        )

    async def get_plan(self, name: str = "plans/latest") -> Plan:
        """One plan; `plans/{plan}`."""
        return await self._run(calls.get_plan(name))

    def list_plans(self) -> AsyncGenerator[Plan]:
        """Plans, newest first."""
        return self._pages(
            lambda token: self._run(calls.list_plans(page_size=MAX_PAGE_SIZE, page_token=token))
        )

    def list_placements(
        self, parent: str = calls.ANY_WORKLOAD, *, filter: str = ""
    ) -> AsyncGenerator[Placement]:
        """Placements that hold now, of one workload or of all."""
        return self._pages(
            lambda token: self._run(
                calls.list_placements(parent, filter=filter, page_size=MAX_PAGE_SIZE, page_token=token)
            )
        )

    # Simulations

    async def create_run(
        self,
        run_id: str,
        *,
        start_at_s: int,
        seed: int = 0,
        planner: str = "suanli",
        validate_only: bool = False,
    ) -> SimulationRun:
        """Open a run in virtual time."""
        return await self._run(
            calls.create_run(
                run_id,
                start_at_s=start_at_s,
                seed=seed,
                planner=planner,
                request_id=self._settings.request_id(),
                validate_only=validate_only,
            )
        )

    async def get_run(self, name: str) -> SimulationRun:
        """One run; `runs/{run}`."""
        return await self._run(calls.get_run(name))

    def list_runs(self) -> AsyncGenerator[SimulationRun]:
        """Runs, newest first."""
        return self._pages(
            lambda token: self._run(calls.list_runs(page_size=MAX_PAGE_SIZE, page_token=token))
        )

    async def advance_run(self, name: str, until_s: int, *, timeout_s: float = 900.0) -> RunProgress:
        """Move virtual time on; returns when the service is quiet."""
        return await self._run(
            calls.advance_run(name, until_s, request_id=self._settings.request_id()), timeout_s
        )

    async def close_run(self, name: str) -> SimulationRun:
        """End a run."""
        return await self._run(calls.close_run(name, request_id=self._settings.request_id()))

    async def export_log(
        self, name: str = "runs/-", *, after_revision: int = 0, kinds: Iterable[str] = ()
    ) -> AsyncGenerator[Event]:
        """The canonical event log, in order; goes on where it was cut when the service comes back."""
        wanted = tuple(kinds)
        patience = Patience(self._settings)
        while True:
            request = calls.export_log_request(name, after_revision, wanted)
            try:
                async with aclosing(
                    self._stream(calls.METHODS["ExportLog"], request, self._settings.watch_age_s)
                ) as stream:
                    async for message in stream:
                        patience.well()
                        for event in calls.read_events(message):
                            after_revision = event.revision
                            yield event
                return
            except Unavailable as failure:
                await self._wait(patience, failure)

    # Operations

    async def get_operation(self, name: str) -> Operation:
        """One operation; `operations/{operation}`."""
        return await self._run(calls.get_operation(name))

    def list_operations(self, *, filter: str = "") -> AsyncGenerator[Operation]:
        """Operations, newest first."""
        return self._pages(
            lambda token: self._run(
                calls.list_operations(filter=filter, page_size=MAX_PAGE_SIZE, page_token=token)
            )
        )

    async def cancel_operation(self, name: str) -> Operation:
        """Ask an operation to end early."""
        return await self._run(calls.cancel_operation(name, request_id=self._settings.request_id()))

    async def wait_operation(self, name: str, *, wait_s: float = 30.0) -> Operation:
        """The operation when it is done, or as it is after `wait_s`."""
        return await self._run(calls.wait_operation(name, wait_s), wait_s + self._settings.timeout_s)

    # How calls are sent

    async def _run(self, call: Call[T], timeout_s: float | None = None) -> T:
        send = self._unary_of(call.method)
        patience = Patience(self._settings)
        while True:
            try:
                with self._lifetime.lasting():
                    answer = await send(call.request, timeout=timeout_s or self._settings.timeout_s)
                return call.read(answer)
            except grpc.RpcError as failure:
                error = error_of(failure)
                wait_s = patience.wait_s(error) if call.repeatable and may_retry(error) else None
                if wait_s is None:
                    raise error from failure
                await self._sleep(wait_s)

    def _unary_of(self, method: Method) -> grpc.aio.UnaryUnaryMultiCallable[Any, Any]:
        found = self._unary.get(method.path)
        if found is None:
            found = self._channel.unary_unary(
                method.path, request_serializer=method.encode, response_deserializer=method.decode
            )
            self._unary[method.path] = found
        return found

    async def _stream(self, method: Method, request: Any, timeout_s: float) -> AsyncGenerator[Any]:
        send = self._channel.unary_stream(
            method.path, request_serializer=method.encode, response_deserializer=method.decode
        )
        with self._lifetime.lasting():
            stream = send(request, timeout=timeout_s)
        try:
            with self._lifetime.lasting():
                async for message in stream:
                    yield message
        except grpc.RpcError as failure:
            raise error_of(failure) from failure
        finally:
            stream.cancel()

    async def _pages(self, fetch: Callable[[str], Awaitable[Page[T]]]) -> AsyncGenerator[T]:
        page_token = ""
        while True:
            page = await fetch(page_token)
            for item in page.items:
                yield item
            page_token = page.next_page_token
            if not page_token:
                return

    async def _wait(self, patience: Patience, failure: SuanliError) -> None:
        wait_s = patience.wait_s(failure)
        if wait_s is None:
            raise failure
        await self._sleep(wait_s)

    async def _watch(
        self, open_stream: Callable[[WatchFold], AsyncGenerator[Any]], fold: WatchFold
    ) -> AsyncGenerator[WorkloadChange]:
        patience = Patience(self._settings)
        while True:
            try:
                async with aclosing(open_stream(fold)) as stream:
                    async for message in stream:
                        patience.well()
                        for change in fold.feed(calls.read_change(message)):
                            yield change
                fold.cut()
                await self._sleep(self._settings.backoff.first_s)
            except SuanliError as failure:
                if not after_watch_failure(fold, failure):
                    raise
                await self._wait(patience, failure)


def _open(address: str, credentials: grpc.ChannelCredentials | None) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, credentials, options=CHANNEL_OPTIONS)
