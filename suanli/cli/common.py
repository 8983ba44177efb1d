"""What the commands share: options, the client, names, numbers and reasons in words."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from suanli.cli.output import Format

if TYPE_CHECKING:
    from suanli.client import Client
    from suanli.model import FieldProblem, SiteRecord, Workload
    from suanli.yaml_io import Document

DEFAULT_TENANT = "default"
CLI_RETRY_S = 2.0
"""A person at a terminal would rather hear soon that nobody answers."""

_IN_BATCH = re.compile(r"^(?:requests|workloads)\[(\d+)\](?:\.workload)?\.?")
"""Where the problems of a batch lie, in the API's words."""

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
    return [n for n in (found if "/" in incomplete else short) if n.startswith(incomplete)]


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
        help="Name, with or without tenants/…/workloads/.",
        autocompletion=complete_workload,
        show_default=False,
    ),
]
Files = Annotated[
    list[Path],
    typer.Argument(metavar="FILE...", help="YAML or JSON files; - reads standard input.", show_default=False),
]


def connect(address: str | None) -> Client:
    """A client for one command."""
    from suanli.client import Client

    return Client(address, retry_unavailable_for_s=CLI_RETRY_S)


def workload_name(given: str, tenant: str) -> str:
    """Full name of a workload given in short or in full."""
    return given if "/" in given else f"tenants/{tenant}/workloads/{given}"


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
    """Workloads read from files, and the documents that tell where each of their fields stands."""

    workloads: list[Workload]
    documents: list[Document]

    def batches(self, size: int) -> Iterator[WorkloadFiles]:
        """The same in parts of at most `size` workloads."""
        for start in range(0, len(self.workloads), size):
            part = slice(start, start + size)
            yield WorkloadFiles(self.workloads[part], self.documents[part])

    @contextmanager
    def located(self) -> Iterator[None]:
        """Problems that the service finds in these workloads, told by file and line instead of place in the batch."""
        from suanli.model import InvalidRequest

        try:
            yield
        except InvalidRequest as error:
            raise InvalidRequest([self._located(p) for p in error.problems]) from None

    def _located(self, problem: FieldProblem) -> FieldProblem:
        found = _IN_BATCH.match(problem.field)
        if found is None or int(found[1]) >= len(self.workloads):
            return problem
        index, rest = int(found[1]), problem.field[found.end() :]
        where = f"{self.documents[index].where(rest)}: {self.workloads[index].workload_id}"
        return problem.model_copy(update={"field": f"{where}: {rest}".removesuffix(": ")})


def read_workloads(
    files: Iterable[Path], tenant: str, check: Callable[[WorkloadFiles], None] | None = None
) -> WorkloadFiles:
    """Workloads of all files.

    When some of them are malformed, `check` may ask the service about the sound ones, so that one answer names all.

    Raises:
        InvalidRequest: with every problem of every file.
    """
    from suanli import yaml_io
    from suanli.model import InvalidRequest, SuanliError

    problems: list[FieldProblem] = []
    sound: list[tuple[Workload, Document]] = []
    for path in files:
        try:
            found, bad = yaml_io.read_workloads(read_text(path), str(path), tenant)
        except InvalidRequest as error:
            found, bad = [], list(error.problems)
        sound += found
        problems += bad
    read = WorkloadFiles([w for w, _ in sound], [d for _, d in sound])
    if not problems:
        return read
    if check is not None and read.workloads:
        try:
            check(read)
        except InvalidRequest as error:
            problems += error.problems
        except SuanliError:
            pass  # what stands in the files is wrong with or without a service
    raise InvalidRequest(problems)


def when(at_s: int) -> str:
    """An instant in local time; empty for 0."""
    from datetime import UTC, datetime

    if not at_s:
        return ""
    return datetime.fromtimestamp(at_s, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def gpus(milli: int) -> str:
    """Milli-GPUs as GPUs; empty for none."""
    return f"{milli / 1000:g}" if milli else ""


def fixed(value: float | None, digits: int = 1) -> str:
    """A number with so many digits; empty for None."""
    return "" if value is None else f"{value:,.{digits}f}"


def yuan(value: float | None) -> str:
    """A price with two decimals, or two significant digits where that would show nothing; empty for None."""
    if value is None:
        return ""
    return f"{value:,.2f}" if value == 0 or abs(value) >= 0.1 else f"{value:.2g}"


def site_labels(sites: Iterable[SiteRecord]) -> dict[str, str]:
    """Site id → Chinese and English name."""
    from suanli.cli.output import both_names

    return {s.site.site_id: both_names(s.site.display_name, s.site.display_name_zh) for s in sites}
