"""The driver's way to a real service: the public gRPC client, nothing else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from cluster_sim.driver import request_id_of
from cluster_sim.orders import commands_of
from cluster_sim.world.protocol import Command
from suanli.client import Client
from suanli.model import Event, Fleet, Policy, TelemetryReport, Workload


class ClientGateway:
    """`log` grows with what the service exported; orders to sites are read from it.

    Request ids are the driver's: a call repeated after the service came back is the same call. Between the repeats it
    sleeps by `sleep`; what that raises, as when nobody will start the service again, ends them.
    """

    def __init__(
        self,
        address: str,
        *,
        retry_unavailable_for_s: float = 120.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._request_id = ""
        self.client = Client(
            address,
            retry_unavailable_for_s=retry_unavailable_for_s,
            request_id=lambda: self._request_id,
            sleep=sleep,
        )
        self.log: list[Event] = []
        self._run = "runs/-"
        self._read = 0

    def open_run(self, run_id: str, seed: int, start_s: int, fleet: Fleet, policy: Policy) -> None:
        """Register fleet and policy, open the run."""
        self._run = f"runs/{run_id}"
        self._request_id = request_id_of(run_id, "run")
        self.client.create_run(run_id, start_at_s=start_s, seed=seed)
        self._request_id = request_id_of(run_id, "fleet")
        self.client.register_fleet(fleet)
        self._request_id = request_id_of(run_id, "policy")
        self.client.create_policy_revision(policy)

    def submit(self, workloads: Sequence[Workload], request_id: str) -> None:
        """One durable batch."""
        self._request_id = request_id
        self.client.batch_create_workloads(list(workloads))

    def cancel(self, name: str, request_id: str) -> None:
        """As a tenant would."""
        self._request_id = request_id
        self.client.cancel_workload(name)

    def report(self, report: TelemetryReport, request_id: str) -> None:
        """Telemetry of a window."""
        self._request_id = request_id
        self.client.report_telemetry(report)

    def advance(self, run_id: str, until_s: int, request_id: str) -> dict[str, int]:
        """Advance the run; workloads by state."""
        self._request_id = request_id
        progress = self.client.advance_run(f"runs/{run_id}", until_s)
        return {state.value: n for state, n in progress.workloads_by_state.items()}

    def commands(self) -> list[Command]:
        """New events of the log, and the orders among them."""
        self._fetch()
        new, self._read = self.log[self._read :], len(self.log)
        return commands_of(new)

    def close_run(self, run_id: str) -> None:
        """The day is over; the last events are fetched too."""
        self._request_id = request_id_of(run_id, "close")
        self.client.close_run(f"runs/{run_id}")
        self._fetch()

    def _fetch(self) -> None:
        after = self.log[-1].revision if self.log else 0
        self.log += self.client.export_log(self._run, after_revision=after)
