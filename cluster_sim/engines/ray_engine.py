"""The simulated sites on Ray: one actor per core, each with a shard of the sites.

Shards go by core and not by site, because a call to an actor costs more than a window of a small site. Ray runs on this
machine alone: own token file, own short temporary folder (removed at the end), loopback, no usage report, a small
object store, and none of the processes that serve people or clusters (dashboard, autoscaler, log collector): they took
more processor time to start than the actors, and the dashboard's start fails now and then. A second engine beside it
has its own instance.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cluster_sim.engines.merge import ShardRows, merged, run_shard
from cluster_sim.scenarios.schema import Scenario
from cluster_sim.world.build import site_sims, site_specs
from cluster_sim.world.demand import Fate
from cluster_sim.world.protocol import Command, SiteReport
from cluster_sim.world.site import SiteSpec
from solvers.ray_token import TOKEN_VARIABLE, token_file

OBJECT_STORE_BYTES = 80 * 1024 * 1024
TEMP_PREFIX = "sl"
LOOPBACK = "127.0.0.1"

START_ATTEMPTS = 3
UNUSED_PROCESSES = ("start_api_server", "start_monitor", "start_log_monitor")
"""What a Ray head starts beside what actors need: the dashboard's server (also when no dashboard is asked for, and then
waits for it), the autoscaler's monitor, the collector of logs. `ray.init` has no setting against them."""


class RaySession:
    """One private Ray instance; `close` ends it, removes its folder and puts the environment back."""

    def __init__(self, cpu_count: int) -> None:
        # a socket path has 107 bytes, of which Ray needs 66 below its folder: keep the folder short
        self._folder = Path(tempfile.mkdtemp(prefix=TEMP_PREFIX, dir=_short_temp_root()))
        self._environment = _set_environment(token_file(self._folder))
        import ray  # here, because it reads its environment when first imported

        # started beside the main thread it warns that it sets no SIGTERM handler; who waits for the sites has one
        logging.getLogger("ray").setLevel(logging.ERROR)
        self._ray: Any = ray
        try:
            self._start(cpu_count)
        except BaseException:
            self._clean_up()
            raise

    def _start(self, cpu_count: int) -> None:
        """Start Ray; on a busy machine its head may miss Ray's own 30 s, so it is tried again."""
        for attempt in range(START_ATTEMPTS):
            try:
                with _only_what_actors_need():
                    self._ray.init(
                        address="local",
                        num_cpus=cpu_count,
                        num_gpus=0,
                        include_dashboard=False,
                        object_store_memory=OBJECT_STORE_BYTES,
                        _temp_dir=str(self._folder / f"r{attempt}"),
                        _node_ip_address=LOOPBACK,
                        log_to_driver=False,
                        logging_level=logging.ERROR,
                        configure_logging=False,
                    )
            except Exception:
                self._ray.shutdown()
                if attempt + 1 == START_ATTEMPTS:
                    raise
            else:
                return

    def actor(self, cls: type, *args: object) -> Any:
        """Start an actor of `cls` on one core."""
        return self._ray.remote(num_cpus=1)(cls).remote(*args)

    def get(self, references: list[Any]) -> list[Any]:
        """Results of remote calls, in order."""
        return list(self._ray.get(references))

    def close(self) -> None:
        """End Ray and remove what it left on disk."""
        self._ray.shutdown()
        self._clean_up()

    def _clean_up(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        for name, value in self._environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


class ShardActor:
    """A shard of sites inside one Ray process."""

    def __init__(self, specs: list[SiteSpec], fates: dict[str, Fate]) -> None:
        self._sites = {sim.spec.site_id: sim for sim in site_sims(specs, fates)}

    def step(self, commands: list[Command], until_s: int) -> ShardRows:
        """Run the shard to `until_s`."""
        return run_shard(self._sites, commands, until_s)

    def set_halted(self, site_id: str, is_halted: bool) -> None:
        """Halt one site or let it go on."""
        self._sites[site_id].is_halted = is_halted

    def delivered_running(self) -> dict[str, float]:
        """What runs now has delivered so far."""
        return {p: s for sim in self._sites.values() for p, s in sim.delivered_running().items()}


class RayEngine:
    """All sites of a scenario over Ray actors; equal reports to `LocalEngine`, byte for byte, for one seed."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        fates: Mapping[str, Fate],
        *,
        session: RaySession | None = None,
        shard_count: int | None = None,
    ) -> None:
        shards = shard_count or os.cpu_count() or 1
        self._owns_session = session is None
        self._session = session or RaySession(shards)
        specs = site_specs(scenario, seed)
        self._shard_of = {spec.site_id: i for i, part in enumerate(_balanced(specs, shards)) for spec in part}
        parts: list[list[SiteSpec]] = [[] for _ in range(shards)]
        for spec in specs:
            parts[self._shard_of[spec.site_id]].append(spec)
        self._actors = [self._session.actor(ShardActor, part, dict(fates)) for part in parts if part]

    def step(self, commands: Sequence[Command], until_s: int) -> SiteReport:
        """Apply commands at their instants, run every site up to and including `until_s`.

        KeyError on a command to a site that does not exist.
        """
        by_shard: list[list[Command]] = [[] for _ in self._actors]
        for command in commands:
            by_shard[self._shard_of[command.site_id]].append(command)
        calls = [a.step.remote(c, until_s) for a, c in zip(self._actors, by_shard, strict=True)]
        return merged(self._session.get(calls))

    def stop_site(self, site_id: str) -> None:
        """Halt one site's engine by hand: no starts, ends or energy until `resume_site`."""
        self._set_halted(site_id, True)

    def resume_site(self, site_id: str) -> None:
        """Let a halted site go on where it stood."""
        self._set_halted(site_id, False)

    def delivered_running(self) -> dict[str, float]:
        """Reference-GPU seconds delivered so far by what runs now, by placement id."""
        parts = self._session.get([actor.delivered_running.remote() for actor in self._actors])
        return {placement: seconds for part in parts for placement, seconds in part.items()}

    def close(self) -> None:
        """End the actors, and Ray if this engine started it."""
        import ray

        for actor in self._actors:
            ray.kill(actor)
        self._actors = []
        if self._owns_session:
            self._session.close()

    def _set_halted(self, site_id: str, is_halted: bool) -> None:
        actor = self._actors[self._shard_of[site_id]]
        self._session.get([actor.set_halted.remote(site_id, is_halted)])


@contextmanager
def _only_what_actors_need() -> Iterator[None]:
    """While Ray starts, its head leaves out those of `UNUSED_PROCESSES` that it knows.

    These are Ray's private names: one that has others starts all it likes, which costs seconds and changes no result
    (`tests/contract/test_engines_contract.py` says so then).
    """
    from ray._private.node import Node

    before = {name: getattr(Node, name) for name in UNUSED_PROCESSES if hasattr(Node, name)}
    for name in before:
        setattr(Node, name, _start_nothing)
    try:
        yield
    finally:
        for name, start in before.items():
            setattr(Node, name, start)


def _start_nothing(node: object, **_: object) -> None:
    """In place of starting a process."""


def _balanced(specs: Sequence[SiteSpec], shard_count: int) -> list[list[SiteSpec]]:
    """Shards of about equal node counts: the largest site first, each to the emptiest shard; empty shards last."""
    shards: list[list[SiteSpec]] = [[] for _ in range(shard_count)]
    weight = [0] * shard_count
    for spec in sorted(specs, key=lambda s: (-sum(g.node_count for g in s.groups), s.site_id)):
        lightest = weight.index(min(weight))
        shards[lightest].append(spec)
        weight[lightest] += sum(g.node_count for g in spec.groups)
    return sorted(shards, key=len, reverse=True)


def _short_temp_root() -> str:
    """The shortest writable folder for temporary files."""
    for root in ("/tmp", "/var/tmp"):  # mkdtemp makes a private folder inside
        if os.access(root, os.W_OK | os.X_OK):
            return root
    return tempfile.gettempdir()


def _set_environment(token: Path) -> dict[str, str | None]:
    """Settings that Ray reads from the environment; returns what stood there before."""
    wanted = {
        "RAY_AUTH_MODE": "token",
        TOKEN_VARIABLE: str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    }
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    return before
