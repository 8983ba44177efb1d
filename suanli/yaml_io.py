"""YAML and JSON documents → values of the model, with every problem at its file, line and field; and back to YAML.

One document describes one value in the model's own names and units. A workload may give its last name only, and a
document may hold a list of workloads, bare or under `workloads:`. What YAML lets pass silently is refused here: a key
given twice, aliases that grow without end, an instant without a time zone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from suanli.model import FieldProblem, Fleet, InvalidRequest, Policy, Workload
from suanli.model.problems import validate, within_fleet

V = TypeVar("V", bound=BaseModel)

MAX_TEXT_BYTES = 64 << 20
MAX_REPEATED_NODES = 20_000
"""Nodes read again through aliases: a few lines of YAML can describe terabytes."""
MAX_DEPTH = 64
DEFAULT_TENANT = "default"

_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PLAIN_TAGS = ("tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
_Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """Plain data of one YAML document, the line on which each of its paths stands, and what YAML itself hid."""

    source: str
    line: int
    raw: Any
    lines: dict[_Path, int]
    problems: tuple[FieldProblem, ...] = ()

    def validated(self, cls: type[V], raw: Any) -> V:
        """The value of `raw`, which may differ from the document's in a name.

        Raises:
            InvalidRequest: with every problem of YAML and model together.
        """
        problems = list(self.problems)
        value: V | None = None
        try:
            value = validate(cls, raw)
        except InvalidRequest as error:
            raise InvalidRequest([*problems, *self.located(error.problems)], error.mended) from None
        if problems:
            raise InvalidRequest(problems, value)
        return value

    def where(self, field: str) -> str:
        """`jobs.yaml:12` for a field path; of something missing, the line of what should hold it."""
        return f"{self.source}:{self._line(field)}"

    def depth(self, field: str) -> int:
        """How many of the field path's parts this document says, from the first on."""
        path = _normal(field)
        return max((n for n in range(len(path) + 1) if path[:n] in self.lines), default=0)

    def located(self, problems: Iterable[FieldProblem]) -> list[FieldProblem]:
        """The same problems, their fields led by file and line, in the order of the lines."""
        return [
            p.model_copy(update={"field": f"{self.where(p.field)}: {p.field}".rstrip(": ")})
            for p in sorted(problems, key=lambda p: self._line(p.field))
        ]

    def _line(self, field: str) -> int:
        path = _normal(field)
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, self.line)


def load_workloads(text: str, source: str = "-", tenant: str = DEFAULT_TENANT) -> list[Workload]:
    """All workloads of a text, in order; a `name` without slashes is taken to be one of `tenant`.

    Raises:
        InvalidRequest: with every problem of all documents.
    """
    read = read_workloads(text, source, tenant)
    if problems := [p for r in read for p in r.problems]:
        raise InvalidRequest(problems)
    return [r.workload for r in read if r.workload is not None]


@dataclass(frozen=True, slots=True)
class ReadWorkload:
    """One document: its workload, and what is wrong with it; then the workload is mended, or None beyond mending."""

    document: Document
    workload: Workload | None
    problems: tuple[FieldProblem, ...] = ()

    def tells(self, field: str) -> bool:
        """Whether a problem told already lies at the field, above it or below it."""
        place, asked = re.compile(rf"{re.escape(self.document.source)}:\d+: (.*)"), _normal(field)
        told = [_normal(found[1]) for p in self.problems if (found := place.fullmatch(p.field))]
        return any(path[: len(asked)] == asked or asked[: len(path)] == path for path in told)

    def within_fleet(self, field: str, found: FieldProblem) -> FieldProblem | None:
        """The problem told at this very field with the nearest value that the fleet takes; None when there is none."""
        place = f"{self.document.where(field)}: {field}"
        told = (within_fleet(p, found) for p in self.problems if p.field == place)
        return next((p for p in told if p is not None), None)


def read_workloads(text: str, source: str = "-", tenant: str = DEFAULT_TENANT) -> list[ReadWorkload]:
    """Every workload of a text with every problem of it.

    Raises:
        InvalidRequest: the text cannot be read at all, or holds no workload.
    """
    read: list[ReadWorkload] = []
    for document in _split_workloads(parse(text, source)):
        if stranger := _meant_for_others(document, Workload):
            read.append(ReadWorkload(document, None, (stranger,)))
            continue
        try:
            workload = document.validated(Workload, _with_full_name(document.raw, tenant))
            read.append(ReadWorkload(document, workload))
        except InvalidRequest as error:
            mended = error.mended if isinstance(error.mended, Workload) else None
            read.append(ReadWorkload(document, mended, error.problems))
    if not read:
        raise InvalidRequest([FieldProblem(field=source, problem="holds no workload", code="missing")])
    return read


def load_policy(text: str, source: str = "-") -> Policy:
    """The one policy of a text.

    Raises:
        InvalidRequest: with every problem.
    """
    return _load_one(Policy, text, source)


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """The policy of a text, and what is wrong with it; then the policy is mended, or None beyond mending."""

    document: Document
    policy: Policy | None
    problems: tuple[FieldProblem, ...] = ()

    def located(self, problems: Iterable[FieldProblem]) -> list[FieldProblem]:
        """Those of the service by file and line, without what the text's own problems brought about."""
        own = {p.field.rpartition(": ")[2] for p in self.problems}
        told = []
        for p in problems:
            field = p.field.removeprefix("policy_revision").lstrip(".")
            is_known = any(field.startswith(o) or o.startswith(field) for o in own) if field else False
            is_made = p.code == "duplicate_target" and any(o.endswith(".target") for o in own)
            if not (is_known or is_made):
                told.append(p.model_copy(update={"field": field}))
        return self.document.located(told)


def read_policy(text: str, source: str = "-") -> ReadPolicy:
    """The one policy of a text with every problem of it.

    Raises:
        InvalidRequest: the text cannot be read at all, or holds no policy or several.
    """
    document = _the_one(text, source)
    if stranger := _meant_for_others(document, Policy):
        raise InvalidRequest([stranger])
    try:
        return ReadPolicy(document, document.validated(Policy, document.raw))
    except InvalidRequest as error:
        mended = error.mended if isinstance(error.mended, Policy) else None
        return ReadPolicy(document, mended, error.problems)


def load_fleet(text: str, source: str = "-") -> Fleet:
    """The one fleet of a text.

    Raises:
        InvalidRequest: with every problem.
    """
    return _load_one(Fleet, text, source)


def to_yaml(value: object, *, complete: bool = False) -> str:
    """A value, or a list of values as documents, as YAML that reads back the same; `complete` with its defaults."""
    values = value if isinstance(value, (list, tuple)) else [value]
    return "---\n".join(
        yaml.safe_dump(_plain(v, complete), sort_keys=False, allow_unicode=True, width=100) for v in values
    )


def _plain(value: object, complete: bool) -> Any:
    if not isinstance(value, BaseModel):
        return value
    return value.model_dump(mode="json", exclude_defaults=not complete, exclude_none=complete)


_LAYOUT = "keys of one block indented alike, and quotes around a text with `: `"
_LAYOUT_WORDS = (
    "mapping values are not allowed",
    "did not find expected",
    "could not find expected",
    "character '\\t'",
)
"""Of the parser's complaints those that mostly come of indentation."""


def parse(text: str, source: str = "-") -> list[Document]:
    """The documents of a text, empty ones left out.

    Raises:
        InvalidRequest: not YAML, a key twice, an endless alias, or too large.
    """
    try:
        size_bytes = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest([FieldProblem(field=source, problem="is not UTF-8", code="yaml")]) from None
    if size_bytes > MAX_TEXT_BYTES:
        raise InvalidRequest(
            [
                FieldProblem(
                    field=source, problem="is too large", expected=f"at most {MAX_TEXT_BYTES >> 20} MiB"
                )
            ]
        )
    loader: Any = None
    try:
        _check_depth(text, source)
        loader = _Loader(text)
        return list(_documents(loader, source))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        where = f"{source}:{mark.line + 1}" if mark is not None else source
        what = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidRequest(
            [
                FieldProblem(
                    field=where,
                    problem=f"is not YAML: {what}",
                    expected=_LAYOUT if any(words in what for words in _LAYOUT_WORDS) else "",
                    code="yaml",
                )
            ]
        ) from None
    finally:
        if loader is not None:
            loader.dispose()


def _check_depth(text: str, source: str) -> None:
    """Refuse deep nesting before the composer, which is recursive C and would take the process with it."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH:
            where = f"{source}:{event.start_mark.line + 1}" if event.start_mark else source
            raise InvalidRequest([FieldProblem(field=where, problem="is nested too deeply", code="nesting")])


def _documents(loader: Any, source: str) -> Iterator[Document]:
    while loader.check_node():
        root = loader.get_node()
        reader = _Reader(loader, source)
        raw = reader.read(root, (), ())
        if raw is not None:
            yield Document(source, root.start_mark.line + 1, raw, reader.lines, tuple(reader.problems))


class _Reader:
    """Turns the nodes of one document into plain data and remembers their lines."""

    def __init__(self, loader: Any, source: str) -> None:
        self._loader = loader
        self._source = source
        self._read_before: set[int] = set()
        self._repeated_count = 0
        self.lines: dict[_Path, int] = {}
        self.problems: list[FieldProblem] = []

    def read(self, node: yaml.Node, path: _Path, above: tuple[int, ...]) -> Any:
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._repeated_count += id(node) in self._read_before
        self._read_before.add(id(node))
        if self._repeated_count > MAX_REPEATED_NODES or len(above) > MAX_DEPTH or id(node) in above:
            self._refuse(line, path, "holds itself, or more than can be read", "nesting")
            raise InvalidRequest(self.problems)
        above = (*above, id(node))
        if isinstance(node, yaml.CollectionNode) and node.tag not in _PLAIN_TAGS:
            self._refuse(line, path, f"has the tag {node.tag}", "yaml", "plain lists and mappings")
        if isinstance(node, yaml.MappingNode):
            return self._read_mapping(node, path, above)
        if isinstance(node, yaml.SequenceNode):
            return [self.read(item, (*path, str(i)), above) for i, item in enumerate(node.value)]
        try:
            return self._loader.construct_object(node, deep=True)
        except ValueError:
            # it looked like an instant, with a month 13; the model says what it wanted
            return node.value

    def _read_mapping(self, node: yaml.MappingNode, path: _Path, above: tuple[int, ...]) -> dict[Any, Any]:
        self._loader.flatten_mapping(node)
        out: dict[Any, Any] = {}
        own_keys: set[Any] = set()
        for key_node, value_node in node.value:
            key = self._loader.construct_object(key_node, deep=True)
            line = key_node.start_mark.line + 1
            if not isinstance(key, (str, int)) or isinstance(key, bool):
                self._refuse(line, path, f"has the key {key!r}", "key", "names as keys; put it in quotes")
                continue
            below = (*path, *_normal(str(key)))
            if key in own_keys:
                self._refuse(line, below, "is given twice", "duplicate")
            own_keys.add(key)
            self.lines[below] = line
            out[key] = self.read(value_node, below, above)
        return out

    def _refuse(self, line: int, path: _Path, problem: str, code: str, expected: str = "") -> None:
        where = f"{self._source}:{line}" + (f": {_field(path)}" if path else "")
        self.problems.append(FieldProblem(field=where, problem=problem, expected=expected, code=code))


def _load_one(cls: type[V], text: str, source: str) -> V:
    document = _the_one(text, source)
    if stranger := _meant_for_others(document, cls):
        raise InvalidRequest([stranger])
    return document.validated(cls, document.raw)


_TAKEN_BY: dict[type[BaseModel], tuple[str, str]] = {
    Workload: ("a workload", "suanli submit"),
    Policy: ("a policy", "suanli policy set"),
    Fleet: ("a fleet", "suanli fleet set"),
}


def _meant_for_others(document: Document, cls: type[BaseModel]) -> FieldProblem | None:
    """Told where far more keys are another's than those of `cls`: the file is sound and the command is not its own."""
    if not isinstance(document.raw, dict):
        return None
    keys = {str(k) for k in document.raw}
    known = {other: len(keys & set(other.model_fields)) for other in _TAKEN_BY}
    best = max(known, key=lambda other: known[other])
    if known[best] <= 2 * known.get(cls, 0):
        return None
    what, command = _TAKEN_BY[best]
    return FieldProblem(
        field=f"{document.source}:{document.line}",
        problem=f"looks like {what}",
        expected=f"{_TAKEN_BY[cls][0]}; `{command}` takes this one",
        code="other_kind",
    )


def _the_one(text: str, source: str) -> Document:
    documents = parse(text, source)
    if len(documents) != 1:
        problem = f"holds {len(documents)} documents"
        raise InvalidRequest([FieldProblem(field=source, problem=problem, expected="one", code="length")])
    return documents[0]


def _split_workloads(documents: Iterable[Document]) -> Iterator[Document]:
    """One document per workload of a list, bare or under `workloads:`; JSON has no other way to hold several."""
    for document in documents:
        raw, depth = document.raw, 0
        if isinstance(raw, dict) and set(raw) == {"workloads"}:
            raw, depth = raw["workloads"], 1
        if not isinstance(raw, list):
            yield document
            continue
        problems = document.problems
        lines_of: dict[str, dict[_Path, int]] = {}
        for path, line in document.lines.items():
            if len(path) > depth:
                lines_of.setdefault(path[depth], {})[path[depth + 1 :]] = line
        for i, item in enumerate(raw):
            lines = lines_of.get(str(i), {})
            yield Document(document.source, lines.get((), document.line), item, lines, problems)
            problems = ()  # told once, with the first item


def _with_full_name(raw: Any, tenant: str) -> Any:
    if isinstance(raw, dict) and isinstance(raw.get("name"), str) and "/" not in raw["name"]:
        return {**raw, "name": f"tenants/{tenant}/workloads/{raw['name']}"}
    return raw


def _normal(path: str) -> _Path:
    """`stages[0].gpu_milli[h800]` as its parts, whatever separates them."""
    return tuple(part for part in re.split(r"[.\[\]]+", path) if part)


def _field(path: _Path) -> str:
    """A path as the model's errors write it, indices in brackets."""
    text = ""
    for part in path:
        text += f"[{part}]" if part.isdecimal() else f".{part}" if text else part
    return text
