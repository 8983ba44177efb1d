"""Reader of the Alibaba "openb" node and pod lists (cluster-trace-gpu-v2023) and of arrival streams made from them.

- `read_nodes`: sn, cpu_milli, memory_mib, gpu, model
- `read_pods`: name, cpu_milli, memory_mib, num_gpu, gpu_milli, gpu_spec; times and qos where the file has them
- `read_stream`: the same with a leading index 0, 1, 2 …

Files are CSV with a header, plain or gzip. Columns may stand in any order and others are ignored. A file with mistakes
raises one `TraceError` that names every one of them with its line and column.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

MILLI_PER_GPU = 1000
NODE_COLUMNS = ("sn", "cpu_milli", "memory_mib", "gpu", "model")
POD_COLUMNS = ("name", "cpu_milli", "memory_mib", "num_gpu", "gpu_milli", "gpu_spec")
TIME_COLUMNS = ("creation_time", "deletion_time")
MAX_GPUS_PER_NODE = 62
"""More is taken for a mistake (GPU sets are bit masks in one word)."""
MAX_SHOWN = 50
"""Problems spelled out in the message of an error; `TraceError.problems` has all."""


@dataclass(frozen=True, slots=True)
class TraceNode:
    """One node; `gpu_model` is empty without GPU."""

    sn: str
    cpu_milli: int
    memory_mib: int
    gpu_count: int
    gpu_model: str
    line: int = field(default=0, compare=False)
    """Where it stands in its file."""


@dataclass(frozen=True, slots=True)
class TracePod:
    """One pod: `gpu_count` GPUs with `gpu_milli` on each, on one of `gpu_models` (sorted; empty: any).

    Times are seconds from the start of the trace, None where the file has none.
    """

    name: str
    cpu_milli: int
    memory_mib: int
    gpu_count: int
    gpu_milli: int
    gpu_models: tuple[str, ...]
    created_at_s: int | None = None
    deleted_at_s: int | None = None
    qos: str = field(default="", compare=False)
    line: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class TraceProblem:
    """One mistake: line of the file (the header is line 1; 0: the file itself) and column name."""

    line: int
    column: str
    message: str

    def __str__(self) -> str:
        place = f"line {self.line}" if self.line else "file"
        return f"{place}, {self.column}: {self.message}" if self.column else f"{place}: {self.message}"


class TraceError(ValueError):
    """Everything wrong with one file."""

    def __init__(self, path: Path | str, problems: Sequence[TraceProblem]) -> None:
        self.path = Path(path)
        self.problems = tuple(problems)
        shown = [f"  {p}" for p in self.problems[:MAX_SHOWN]]
        if len(self.problems) > MAX_SHOWN:
            shown.append(f"  … and {len(self.problems) - MAX_SHOWN} more")
        count = f"{len(self.problems)} problem{'s' if len(self.problems) > 1 else ''}"
        super().__init__("\n".join([f"{self.path}: {count}", *shown]))


def read_nodes(path: Path | str) -> list[TraceNode]:
    """All nodes of a list in the order of the file; a repeated sn is a mistake."""
    rows = _Rows(path, NODE_COLUMNS)
    nodes: list[TraceNode] = []
    first_line: dict[str, int] = {}
    for row in rows:
        sn = row.text("sn")
        gpu_count = row.count("gpu")
        model = row.text("model") if gpu_count else ""
        if gpu_count > MAX_GPUS_PER_NODE:
            row.wrong("gpu", f"{gpu_count} GPUs in one node, at most {MAX_GPUS_PER_NODE} can be")
        if sn in first_line:
            row.wrong("sn", f"{sn!r} stands in line {first_line[sn]} already")
        first_line.setdefault(sn, row.line)
        nodes.append(
            TraceNode(sn, row.count("cpu_milli"), row.count("memory_mib"), gpu_count, model, row.line)
        )
    rows.raise_problems()
    return nodes


def read_pods(path: Path | str) -> list[TracePod]:
    """All pods of a list in the order of the file."""
    rows = _Rows(path, POD_COLUMNS)
    pods = [_pod(row) for row in rows]
    rows.raise_problems()
    return pods


def read_stream(path: Path | str) -> list[TracePod]:
    """All arrivals of a stream; the index column must count 0, 1, 2 …"""
    rows = _Rows(path, ("index", *POD_COLUMNS))
    pods: list[TracePod] = []
    for expected, row in enumerate(rows):
        index = row.count("index")
        if index is not _WRONG and index != expected:
            row.wrong("index", f"{index}, expected {expected}")
        pods.append(_pod(row))
    rows.raise_problems()
    return pods


_WRONG = -1
"""Stands for a number that could not be read; its problem is noted and the file is refused in the end."""


def _pod(row: _Row) -> TracePod:
    gpu_count = row.count("num_gpu")
    gpu_milli = row.count("gpu_milli") if gpu_count else 0
    if gpu_count > 0 and gpu_milli == 0:
        row.wrong("gpu_milli", "0, but num_gpu asks for a GPU")
    models = row.values.get("gpu_spec") or ""
    times = [row.count(c) if row.values.get(c) else None for c in TIME_COLUMNS]
    return TracePod(
        name=row.text("name"),
        cpu_milli=row.count("cpu_milli"),
        memory_mib=row.count("memory_mib"),
        gpu_count=gpu_count,
        gpu_milli=min(gpu_milli, MILLI_PER_GPU),
        gpu_models=tuple(sorted({m.strip() for m in models.split("|")} - {""})) if gpu_count else (),
        created_at_s=times[0],
        deleted_at_s=times[1],
        qos=(row.values.get("qos") or "").strip(),
        line=row.line,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    line: int
    values: Mapping[str, str]
    problems: list[TraceProblem]

    def wrong(self, column: str, message: str) -> None:
        self.problems.append(TraceProblem(self.line, column, message))

    def text(self, column: str) -> str:
        value = self.values.get(column, "").strip()
        if not value:
            self.wrong(column, "is empty")
        return value

    def count(self, column: str) -> int:
        """A whole number, 0 or more; `_WRONG` (noted) otherwise."""
        value = self.values.get(column, "").strip()
        if not value:
            self.wrong(column, "is empty")
        elif not (value.isascii() and value.isdecimal()):
            self.wrong(column, f"{value[:40]!r} is not a whole number of 0 or more")
        elif len(value) > 15:
            self.wrong(column, f"{value[:40]}… is too large")
        else:
            return int(value)
        return _WRONG


class _Rows:
    """Rows of one CSV file, collecting problems; iterates over the rows that have all columns."""

    def __init__(self, path: Path | str, columns: Sequence[str]) -> None:
        self.path = Path(path)
        self.columns = columns
        self.problems: list[TraceProblem] = []

    def __iter__(self) -> Iterator[_Row]:
        reader = csv.reader(io.StringIO(self._text()))
        try:
            header = [h.strip() for h in next(reader, [])]
            missing = [c for c in self.columns if c not in header]
            if missing:
                found = ", ".join(header) or "nothing"
                self._wrong(1, f"the header lacks {', '.join(missing)}; it has {found}")
                return
            empty = True
            for values in reader:
                if not values:
                    continue
                empty = False
                if len(values) != len(header):
                    self._wrong(reader.line_num, f"{len(values)} fields, expected {len(header)}")
                    continue
                yield _Row(reader.line_num, dict(zip(header, values, strict=True)), self.problems)
            if empty:
                self._wrong(1, "no rows below the header")
        except csv.Error as error:
            self._wrong(reader.line_num, f"not CSV: {error}")

    def raise_problems(self) -> None:
        if self.problems:
            raise TraceError(self.path, sorted(self.problems, key=lambda p: p.line))

    def _wrong(self, line: int, message: str) -> None:
        self.problems.append(TraceProblem(line, "", message))

    def _text(self) -> str:
        try:
            data = self.path.read_bytes()
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            return data.decode("utf-8-sig")
        except (OSError, EOFError, zlib.error) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise TraceError(self.path, [TraceProblem(0, "", f"cannot be read: {reason}")]) from error
        except UnicodeDecodeError as error:
            raise TraceError(
                self.path, [TraceProblem(0, "", f"is not UTF-8 text: {error.reason}")]
            ) from error
