"""What the commands share: options, the client, names, numbers and reasons in words."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from suanli.cli.lazy import warn
from suanli.cli.output import Column, Format

if TYPE_CHECKING:
    from suanli.client import Client
    from suanli.model import (
        FieldProblem,
        PlannedWorkload,
        SiteRecord,
        SuanliError,
        Workload,
        WorkloadRecord,
    )
    from suanli.yaml_io import ReadWorkload

T = TypeVar("T")

DEFAULT_TENANT = "default"
CLI_RETRY_S = 2.0
"""A person at a terminal would rather hear soon that nobody answers."""
CLI_WATCH_RETRY_S = 120.0
"""Who watches wants to see on; a service that folds a long log again takes its time."""

_IN_BATCH = re.compile(r"^(?:requests|workloads)\[(\d+)\](?:\.workload)?\.?")
"""Where the problems of a batch lie, in the API's words."""

_FILE_AND_LINE = re.compile(r"^(.*?):(\d+)(?:: |$)")

ADDRESS_HELP = "address of the service, host:port"


def _client(ctx: typer.Context) -> Client:
    return connect(ctx.params.get("address"))


def complete_workload(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of workloads for shell completion; silent when the service is not there."""
    from suanli.model import SuanliError

    try:
        with _client(ctx) as client:
            tenant = str(ctx.params.get("tenant") or DEFAULT_TENANT)
            found = [w.name for w in client.list_workloads(f"tenants/{tenant}")]
    except SuanliError:
        return []
    short = [n.rpartition("/")[2] for n in found]
    full = found if incomplete.startswith("tenants/") else [f"{tenant}/{n}" for n in short]
    return [n for n in (full if "/" in incomplete else short) if n.startswith(incomplete)]


def complete_site(ctx: typer.Context, incomplete: str) -> list[str]:
    """Ids of sites for shell completion; silent when the service is not there."""
    from suanli.model import SuanliError

    try:
        with _client(ctx) as client:
            return [s.site.site_id for s in client.list_sites() if s.site.site_id.startswith(incomplete)]
    except SuanliError:
        return []


Address = Annotated[
    str | None,
    typer.Option("--address", envvar="SUANLI_ADDRESS", help=ADDRESS_HELP, show_default="127.0.0.1:7411"),
]
Output = Annotated[
    Format, typer.Option("--output", "-o", help="table, json, yaml or name.", case_sensitive=False)
]
Tenant = Annotated[
    str, typer.Option("--tenant", "-t", envvar="SUANLI_TENANT", help="Tenant of names given without one.")
]
WorkloadArgument = Annotated[
    str,
    typer.Argument(
        metavar="WORKLOAD",
        help="Name: short, tenant/name, or in full.",
        autocompletion=complete_workload,
        show_default=False,
    ),
]
Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="YAML or JSON files; - reads standard input.", show_default=False),
]


def connect(address: str | None, patience_s: float | None = None) -> Client:
    """A client for one command; what it waits for longer than a few seconds it says on stderr.

    Raises:
        InvalidRequest: the address names no host and port.
    """
    from suanli.client import Client
    from suanli.client.core import address_or_default

    _check_address(address_or_default(address))

    return Client(
        address,
        retry_unavailable_for_s=CLI_RETRY_S if patience_s is None else patience_s,
        on_wait=lambda waiting: warn(str(waiting)),
    )


_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(\d{1,5})")
_TARGET = re.compile(r"(unix|unix-abstract|dns|ipv4|ipv6|xds|vsock):\S+")
"""What gRPC takes beside host and port."""
_MOST_PORT = 65_535


def _check_address(address: str) -> None:
    """A typing mistake is told at once, not after waiting for a service that cannot be."""
    from suanli.model import FieldProblem, InvalidRequest

    if _TARGET.fullmatch(address):
        return
    found = _HOST_AND_PORT.fullmatch(address)
    if found is not None and 1 <= int(found[2]) <= _MOST_PORT:
        return
    raise InvalidRequest(
        [
            FieldProblem(
                field="--address",
                problem=f"{address!r} is not an address",
                expected=f"host:port, a port of 1 to {_MOST_PORT}, e.g. 127.0.0.1:7411",
                code="bad_address",
            )
        ]
    )


def workload_name(given: str, tenant: str) -> str:
    """Full name of a workload given in full, with its tenant (`city/v2x-07`), or in short."""
    head, slash, last = given.partition("/")
    if slash and head and last and "/" not in last:
        return f"tenants/{head}/workloads/{last}"
    return given if slash else f"tenants/{tenant}/workloads/{given}"


def told_workload(name: str) -> str:
    """The shortest form of a workload's name that the commands take without `--tenant`."""
    parts = name.split("/")
    if len(parts) != 4:
        return name
    tenant, workload = parts[1], parts[3]
    return workload if tenant == os.environ.get("SUANLI_TENANT", DEFAULT_TENANT) else f"{tenant}/{workload}"


def for_each(names: Sequence[str], do: Callable[[str], T]) -> tuple[list[T], list[SuanliError]]:
    """What was done for each of the names, and every refusal; a service that has gone ends it."""
    from suanli.model import SuanliError, Unavailable

    done: list[T] = []
    refused: list[SuanliError] = []
    for name in names:
        try:
            done.append(do(name))
        except SuanliError as error:
            refused.append(error)
            if isinstance(error, Unavailable):
                break
    return done, refused


def site_name(given: str) -> str:
    """`sites/{site}` of a site given in short or in full."""
    return given if given.startswith("sites/") else f"sites/{given}"


def place_name(given: str) -> str:
    """Name of a site (`e01`) or a node (`e01/l20x4-3`) given in short or in full."""
    if given.startswith("sites/"):
        return given
    site, _, node = given.partition("/")
    return f"sites/{site}/nodes/{node}" if node else f"sites/{site}"


def read_text(path: Path) -> str:
    """Text of a file or of standard input.

    Raises:
        InvalidRequest: not UTF-8.
        OSError: not readable.
    """
    from suanli.model import FieldProblem, InvalidRequest

    data = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        problem = f"is not UTF-8 at byte {error.start}"
        raise InvalidRequest([FieldProblem(field=str(path), problem=problem, code="yaml")]) from None


@dataclass(frozen=True)
class WorkloadFiles:
    """Workloads read from files, with what tells where each of their fields stands."""

    read: list[ReadWorkload]

    @property
    def workloads(self) -> list[Workload]:
        """Those that are well formed, or were mended."""
        return [r.workload for r in self.read if r.workload is not None]

    def batches(self, size: int) -> Iterator[WorkloadFiles]:
        """The same in parts of at most `size` workloads."""
        for start in range(0, len(self.read), size):
            yield WorkloadFiles(self.read[start : start + size])

    @contextmanager
    def located(self) -> Iterator[None]:
        """Problems that the service finds in these workloads, told by file and line instead of place in the batch."""
        from suanli.model import AlreadyExists, InvalidRequest

        try:
            yield
        except AlreadyExists as error:
            raise AlreadyExists(
                "\n".join(self._where_named(line) for line in str(error).splitlines())
            ) from None
        except InvalidRequest as error:
            raise InvalidRequest([q for p in error.problems if (q := self._located(p))]) from None

    def warnings(
        self, answered: Sequence[WorkloadRecord] | Sequence[PlannedWorkload]
    ) -> Iterator[FieldProblem]:
        """What the service warns of in its answer about these workloads, told by file and line."""
        for warning in (w for one in answered for w in one.warnings):
            located = self._located(warning)
            if located is not None:
                yield located

    def _where_named(self, text: str) -> str:
        """Led by file and line where the text begins with the name of one of these workloads."""
        name = text.partition(" ")[0]
        found = (r for r in self.read if r.workload is not None and r.workload.name == name)
        one = next(found, None)
        return text if one is None else f"{one.document.where('name')}: {text}"

    def _located(self, problem: FieldProblem) -> FieldProblem | None:
        """None for what the file's own problem at that place, or its mending, has brought about.

        Of a value beyond its field's range: the file's own problem, with the most that the fleet takes there.
        """
        from suanli.model.problems import HARMLESS_ID

        found = _IN_BATCH.match(problem.field)
        if found is None or int(found[1]) >= len(self.read):
            return problem
        one, rest = self.read[int(found[1])], problem.field[found.end() :]
        if one.problems and (one.tells(rest) or HARMLESS_ID in str(problem)):
            return one.within_fleet(rest, problem)
        assert one.workload is not None
        where = f"{one.document.where(rest)}: {one.workload.workload_id}"
        return problem.model_copy(update={"field": f"{where}: {rest}".removesuffix(": ")})


MOST_MENDED = 20
"""Malformed workloads of which the service is asked what else is wrong, each by itself."""


def read_workloads(
    files: Iterable[Path], tenant: str, check: Callable[[WorkloadFiles], None] | None = None
) -> WorkloadFiles:
    """Workloads of all files.

    When some of them are malformed, `check` may ask the service about the others, and about what is left of those once
    their problems are mended, so that one answer names all.

    Raises:
        InvalidRequest: with every problem of every file.
    """
    from suanli import yaml_io
    from suanli.model import InvalidRequest, SuanliError

    problems: list[FieldProblem] = []
    read: list[ReadWorkload] = []
    for path in files:
        try:
            read += yaml_io.read_workloads(read_text(path), str(path), tenant)
        except InvalidRequest as error:
            problems += error.problems
    problems += [p for r in read for p in r.problems]
    if not problems:
        return WorkloadFiles(read)
    sound = [r for r in read if not r.problems]
    mended = [[r] for r in read if r.problems and r.workload is not None][:MOST_MENDED]
    try:
        for part in [sound, *mended] if check is not None else []:
            problems += _found_by(check, WorkloadFiles(part))
    except SuanliError:
        pass  # what stands in the files is wrong with or without a service
    # what is told again, with the nearest value that the fleet takes, stands for what the file alone could tell
    told = {(p.field, p.problem): p for p in problems}
    raise InvalidRequest(sorted(told.values(), key=place_in_file))


def _found_by(check: Callable[[WorkloadFiles], None] | None, part: WorkloadFiles) -> Sequence[FieldProblem]:
    from suanli.model import AlreadyExists, InvalidRequest

    if check is None or not part.read:
        return ()
    try:
        check(part)
    except InvalidRequest as error:
        return error.problems
    except AlreadyExists as error:
        # a mended name is nobody's choice yet
        is_mended = any(one.problems and one.tells("name") for one in part.read)
        return () if is_mended else list(_taken(str(error).splitlines()))
    return ()


def _taken(lines: Iterable[str]) -> Iterator[FieldProblem]:
    """The names that are taken, told by file and line, as problems; `and 3 more` stays with the last of them."""
    from suanli.model import FieldProblem

    place = "name"
    for line in lines:
        found = _FILE_AND_LINE.match(line)
        place, text = (f"{found[1]}:{found[2]}", line[found.end() :]) if found else (place, line)
        yield FieldProblem(field=place, problem=text, code="already_exists")


def place_in_file(problem: FieldProblem) -> tuple[str, int]:
    """File and line; a problem without a place comes first."""
    found = _FILE_AND_LINE.match(problem.field)
    return (found[1], int(found[2])) if found else ("", 0)


def city_clock(client: Client, output: Format = Format.TABLE) -> CityClock:
    """The clock of the registered fleet, for tables; the other forms tell UTC."""
    from suanli.model import NotFound

    if output is not Format.TABLE:
        return CityClock(0)
    try:
        tariffs = client.get_fleet().fleet.tariffs
    except NotFound:
        return CityClock(0)
    return CityClock(tariffs[0].utc_offset_hours if tariffs else 0)


@dataclass(frozen=True)
class CityClock:
    """Tells instants as the service's own sentences do: in the city's time, whatever zone this machine is in."""

    utc_offset_hours: int

    def column(self, title: str, at_s: Callable[[Any], int], rank: int) -> Column:
        """A column of instants, empty for 0, with the zone named once in its heading."""
        zone = self.told_s(0)[-len("+08:00") :]
        return Column(
            f"{title} {zone}", lambda row: self.told_s(at_s(row))[: -len(zone)] if at_s(row) else "", rank
        )

    def told(self, at_s: int) -> str:
        """To the minute, as the service tells it: `2026-07-15 14:05+08:00`."""
        from suanli.model.units import local_time

        return local_time(at_s, self.utc_offset_hours)

    def told_s(self, at_s: int) -> str:
        """To the second: `2026-07-15 14:05:00+08:00`."""
        from datetime import datetime, timedelta, timezone

        zone = timezone(timedelta(hours=self.utc_offset_hours))
        return datetime.fromtimestamp(at_s, zone).isoformat(sep=" ")


def gpus(milli: int) -> str:
    """Milli-GPUs as GPUs; empty for none."""
    return f"{milli / 1000:g}" if milli else ""


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with so many digits; empty for None."""
    from suanli.model.words import grouped

    return "" if value is None else grouped(value, f".{digits}f")


def yuan(value: float | None) -> str:
    """A price with two decimals, or two significant digits where that would show nothing; empty for None."""
    if value is None:
        return ""
    return fixed(value, 2) if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def site_labels(sites: Iterable[SiteRecord]) -> dict[str, str]:
    """Site id → Chinese and English name."""
    from suanli.cli.output import both_names

    return {s.site.site_id: both_names(s.site.display_name, s.site.display_name_zh) for s in sites}
