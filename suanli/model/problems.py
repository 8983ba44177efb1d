"""Validation with every problem in one answer: raw data in, a value or `InvalidRequest` out.

`validate` is the door for YAML, JSON and the wire. What is wrong comes back as `FieldProblem`s whose paths are written
in the caller's own field names (`Names`: those of the model for YAML, those of the protos for the wire).

A model's cross-checks run only when its fields are sound, so one pass shows only part of the problems. `validate`
therefore peels: it notes what a pass found, replaces the broken parts of a copy by harmless ones and looks again.
`Violations` is what the models' own checks raise, so that each of their problems keeps its place.
"""

from __future__ import annotations

import copy
import difflib
import re
import types
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Annotated, Any, Literal, Protocol, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, TypeAdapter, ValidationError

from suanli.model.amounts import amount_meant, unit_of
from suanli.model.errors import FieldProblem, InvalidRequest

V = TypeVar("V", bound=BaseModel)
Loc = tuple[str | int, ...]

MAX_PROBLEMS = 200
"""More than this many problems help nobody; the rest is counted."""
OUT_OF_RANGE = "out_of_range"
MAX_LISTED = 12
"""Ids named in one message."""
MOST_CEILINGS = 16
"""Values beyond their field's range of one workload for which the fleet's own most is sought."""
MAX_PEELS = 6
"""Passes over one value: fields, nested checks, checks of the whole, and some slack."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One problem found by a model's own check, at `loc` within that model.

    `nearest` is a value that would do, in model units. `refers_to` are the values it rests on: when one of them is
    itself broken, this is not a problem of its own.
    """

    loc: Loc
    problem: str
    expected: str = ""
    nearest: Any = None
    code: str = "inconsistent"
    refers_to: tuple[str, ...] = ()


class Violations(ValueError):
    """Raised by a model's check; pydantic keeps it in the error's context."""

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        super().__init__("; ".join(f"{_plain_path(v.loc)}: {v.problem}" for v in violations))


@dataclass(frozen=True, slots=True)
class Malformed:
    """Stands in raw data for something that could not be read at all; no field accepts it."""

    value: object
    problem: str
    expected: str = ""


def repeated_ids(items: str, key: str, ids: Sequence[str]) -> list[Violation]:
    """One violation for every id of the list `items` that an earlier entry has already."""
    seen: set[str] = set()
    found: list[Violation] = []
    for i, value in enumerate(ids):
        if value in seen:
            found.append(Violation((items, i, key), f"{value!r} is defined twice", code="duplicate"))
        seen.add(value)
    return found


def unknown_id(loc: Loc, what: str, given: str, known: Collection[str], prefix: str = "") -> list[Violation]:
    """A violation when `given` is not one of `known`, naming the closest; `prefix` stands before ids there."""
    if given in known:
        return []
    ordered = sorted(i for i in known if i != HARMLESS_ID)
    close = difflib.get_close_matches(given, ordered, n=1)
    some = ", ".join(prefix + i for i in ordered[:MAX_LISTED]) + (
        ", ..." if len(ordered) > MAX_LISTED else ""
    )
    return [
        Violation(
            loc,
            f"there is no {what} {given!r}",
            f"one of {some}" if ordered else "",
            nearest=prefix + close[0] if close else None,
            code="unknown_reference",
            refers_to=(given,),
        )
    ]


class Names(Protocol):
    """How the caller writes fields and values."""

    def field(self, cls: type[BaseModel], name: str) -> str:
        """Name of the model's field."""
        ...

    def show(self, cls: type[BaseModel], name: str, value: object) -> str:
        """A value of that field, in the caller's unit."""
        ...


class ModelNames:
    """The model's own names and units, as in YAML."""

    def field(self, cls: type[BaseModel], name: str) -> str:
        """The name itself."""
        return name

    def show(self, cls: type[BaseModel], name: str, value: object) -> str:
        """The value as YAML would have it."""
        return show_plain(value)


def show_plain(value: object) -> str:
    """A scalar as YAML and JSON write it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.12g}" if abs(value) < 1e15 else repr(value)
    return str(value)


MODEL_NAMES = ModelNames()


def validate(cls: type[V], raw: object, names: Names = MODEL_NAMES, prefix: str = "") -> V:
    """The value that `raw` describes.

    Raises:
        InvalidRequest: with every problem, paths beginning with `prefix`.
    """
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise InvalidRequest(*_all_problems(cls, raw, error, names, prefix)) from None


def within_fleet(told: FieldProblem, found: FieldProblem) -> FieldProblem | None:
    """A value beyond its field's range, told with the most that the fleet takes there; None when that is not `found`.

    `found` is what admission says of the same field once it is mended to the most that the field itself takes.
    """
    if told.code != OUT_OF_RANGE or not (told.nearest.isdecimal() and found.nearest.isdecimal()):
        return None
    if not 0 < int(found.nearest) < int(told.nearest):
        return None
    return told.model_copy(update={"expected": found.expected, "nearest": found.nearest})


def renamed(cls: type[BaseModel], path: str, names: Names, prefix: str = "") -> str:
    """A path of `cls` in the model's names as the caller writes it: `stages[0].replicas` → `…replica_count`."""
    loc = tuple(int(part) if part.isdecimal() else part for part in _PATH_PARTS.findall(path))
    return _Spot.at(cls, loc).path(names, prefix)


_PATH_PARTS = re.compile(r"[^.\[\]]+")


def nearest_identifier(text: str) -> str:
    """`text` bent into the form of an id: lower case, other characters as `-`, at most 63."""
    return re.sub(r"[^a-z0-9._-]+", "-", text.lower()).strip("._-")[:63].strip("._-")


ALL = "*"
"""Among the broken values: the whole list that others refer to."""
HARMLESS_ID = "peeled"
_HARMLESS_NAMES = (HARMLESS_ID, "zones/peeled", "tenants/peeled/workloads/peeled")


@dataclass(slots=True)
class _Found:
    """Problems by place, in the order of the fields, and the ids that were broken themselves."""

    problems: dict[tuple[str, str], tuple[tuple[Any, ...], FieldProblem]] = field(default_factory=dict)
    broken: set[str] = field(default_factory=lambda: set(_HARMLESS_NAMES))
    ceilings: list[tuple[_Spot, Any]] = field(default_factory=list)
    """Values above what any fleet could have, with the most that the field takes."""

    def add(self, key: tuple[Any, ...], problem: FieldProblem) -> bool:
        place = (problem.field, problem.problem)
        if place in self.problems:
            return False
        self.problems[place] = (key, problem)
        return True

    def in_order(self) -> list[FieldProblem]:
        ordered = [p for _, p in sorted(self.problems.values(), key=lambda kp: kp[0])]
        if len(ordered) <= MAX_PROBLEMS:
            return ordered
        more = FieldProblem(field="", problem=f"and {len(ordered) - MAX_PROBLEMS} more problems", code="more")
        return [*ordered[:MAX_PROBLEMS], more]


def _all_problems(
    cls: type[BaseModel], raw: object, first: ValidationError, names: Names, prefix: str
) -> tuple[list[FieldProblem], BaseModel | None]:
    """Every problem, and the value with all of them mended if that is possible."""
    found = _Found()
    peeled = copy.deepcopy(raw)
    mended: BaseModel | None = None
    error: ValidationError | None = first
    for _ in range(MAX_PEELS):
        if error is None or not _note_and_peel(cls, peeled, error, names, prefix, found):
            break
        try:
            mended = cls.model_validate(peeled)
            error = None
        except ValidationError as again:
            error = again
    if mended is None and error is not None:
        mended = _mended_as_a_whole(cls, peeled, error)
    return found.in_order(), _at_ceilings(cls, peeled, mended, found.ceilings)


def _mended_as_a_whole(cls: type[V], peeled: Any, error: ValidationError) -> V | None:
    """The value after what its parts say of each other is mended, too: references and ids; None if that is not enough.

    Apart from the search for problems: nothing can hide behind these, and mending them must not bring new ones.
    """
    unheard = _Found()
    for item in error.errors(include_url=False):
        raised = item.get("ctx", {}).get("error")
        for v in raised.violations if isinstance(raised, Violations) else ():
            _Spot.at(cls, (*item["loc"], *v.loc)).mend(peeled, v.nearest, unheard)
    return _sound(cls, peeled)


def _sound(cls: type[V], raw: object) -> V | None:
    try:
        return cls.model_validate(raw)
    except ValidationError:
        return None


def _at_ceilings(
    cls: type[V], peeled: Any, mended: V | None, ceilings: Sequence[tuple[_Spot, Any]]
) -> V | None:
    """The mended value with the most in each field that asked for more, so that whoever knows the fleet can say what
    does fit; a field whose most contradicts another field stays as mended."""
    if mended is None or not ceilings:
        return mended
    for spot, most in ceilings[:MOST_CEILINGS]:
        tried = copy.deepcopy(peeled)
        if spot.put(tried, most) and (sound := _sound(cls, tried)) is not None:
            peeled, mended = tried, sound
    return mended


def _note_and_peel(
    cls: type[BaseModel], peeled: Any, error: ValidationError, names: Names, prefix: str, found: _Found
) -> bool:
    """Note this pass's problems and mend them in `peeled`; False when nothing is left to mend."""
    mended = False
    for item in error.errors(include_url=False):
        loc: Loc = tuple(item["loc"])
        if item["type"] == "too_short" and len(item["input"]) >= item["ctx"]["min_length"]:
            continue  # pydantic counts only the sound items; the broken ones have their own problems
        raised = item.get("ctx", {}).get("error")
        if isinstance(raised, Violations):
            for v in raised.violations:
                if v.refers_to and (ALL in found.broken or not found.broken.isdisjoint(v.refers_to)):
                    continue
                spot = _Spot.at(cls, (*loc, *v.loc))
                nearest = "" if v.nearest is None else spot.show(names, v.nearest)
                problem = FieldProblem(
                    field=spot.path(names, prefix),
                    problem=v.problem,
                    expected=v.expected,
                    nearest=nearest,
                    code=v.code,
                )
                mended |= found.add(spot.order(), problem)
                mended |= bool(loc) and spot.mend(peeled, v.nearest, found)
            continue
        spot = _Spot.at(cls, loc)
        problem, nearest = _describe(item, spot, names, prefix)
        if item["type"] == "less_than_equal" and nearest == item["ctx"]["le"]:
            found.ceilings.append((spot, nearest))
        mended |= found.add(spot.order(), problem)
        mended |= spot.mend(peeled, nearest, found, unknown=item["type"] == "extra_forbidden")
    return mended


@dataclass(frozen=True, slots=True)
class _Step:
    """One step of a location: a field of a model, a key of a dict or an index of a list."""

    owner: type[BaseModel] | None
    key: str | int
    annotation: Any


@dataclass(frozen=True, slots=True)
class _Spot:
    """A location with the model classes along it."""

    root: type[BaseModel]
    steps: tuple[_Step, ...]

    @classmethod
    def at(cls, root: type[BaseModel], loc: Loc) -> _Spot:
        steps: list[_Step] = []
        here: Any = root
        for key in loc:
            if key == "[key]":
                continue
            model = _model_of(here)
            if model is not None and isinstance(key, str):
                info = model.model_fields.get(key)
                here = None if info is None else info.annotation
                steps.append(_Step(model, key, here))
            else:
                here = _item_of(here)
                steps.append(_Step(None, key, here))
        return cls(root, tuple(steps))

    def path(self, names: Names, prefix: str) -> str:
        text = prefix
        for step in self.steps:
            if step.owner is None:
                text += f"[{step.key}]"
            else:
                name = names.field(step.owner, str(step.key))
                text += f".{name}" if text and name else name
        return text

    def order(self) -> tuple[Any, ...]:
        """Sorts as the fields stand in the models; unknown fields come last."""
        return tuple(_order_of(step) for step in self.steps)

    @property
    def field_step(self) -> _Step | None:
        """The nearest model field at or above the spot."""
        return next((s for s in reversed(self.steps) if s.owner is not None), None)

    def show(self, names: Names, value: object) -> str:
        step = self.field_step
        if step is None or step.owner is None:
            return show_plain(value)
        return names.show(step.owner, str(step.key), value)

    def put(self, raw: Any, value: Any) -> bool:
        """Set what lies here; False when nothing is there to hold it."""
        try:
            for step in self.steps[:-1]:
                raw = raw[step.key]
            raw[self.steps[-1].key] = value
        except (KeyError, IndexError, TypeError):
            return False
        return True

    def mend(self, raw: Any, nearest: Any, found: _Found, unknown: bool = False) -> bool:
        """Replace what lies here by something harmless; False when that is not possible."""
        if not self.steps:
            return False
        parent = raw
        for step in self.steps[:-1]:
            try:
                parent = parent[step.key]
            except (KeyError, IndexError, TypeError):
                return False
        last = self.steps[-1]
        if isinstance(parent, dict):
            old = parent.get(last.key)
            found.broken.update(_strings(old))
            info = last.owner.model_fields.get(str(last.key)) if last.owner is not None else None
            if unknown or info is None or not info.is_required():
                if last.key not in parent:
                    return False
                del parent[last.key]
                return True
            value = nearest
            if value is None:
                assert last.owner is not None
                value = _harmless(last.owner, str(last.key))
                if last.key == "stages":
                    found.broken.add(ALL)
            if value is _NOTHING:
                return False
            parent[last.key] = value
            return True
        if isinstance(parent, list) and isinstance(last.key, int) and last.key < len(parent):
            found.broken.update(_strings(parent[last.key]))
            value = nearest if nearest is not None else _harmless_item(last.annotation)
            if value is _NOTHING:
                return False
            parent[last.key] = value
            return True
        return False


def _order_of(step: _Step) -> tuple[int, str | int]:
    if step.owner is not None:
        fields = list(step.owner.model_fields)
        return (
            fields.index(str(step.key)) if step.key in step.owner.model_fields else len(fields),
            str(step.key),
        )
    return (step.key, "") if isinstance(step.key, int) else (0, step.key)


def _share_meant(spot: _Spot, given: Any, limit: Any) -> float | None:
    """0.35 for a share given as 35: whoever writes so means per cent."""
    step = spot.field_step
    is_share = step is not None and str(step.key).endswith("_frac") and limit == 1
    is_percent = isinstance(given, (int, float)) and not isinstance(given, bool) and 1 < given <= PERCENT
    return given / PERCENT if is_share and is_percent else None


def _describe(item: Any, spot: _Spot, names: Names, prefix: str) -> tuple[FieldProblem, Any]:
    """Pydantic's error in our words, and the nearest value in model units (None if there is none)."""
    kind, ctx, given = item["type"], item.get("ctx", {}), item.get("input")
    path = spot.path(names, prefix)
    if isinstance(given, Malformed):
        return FieldProblem(
            field=path, problem=given.problem, expected=given.expected, code="malformed"
        ), None
    if kind == "missing":
        return FieldProblem(field=path, problem="is missing", code="missing"), None
    if kind == "extra_forbidden":
        return _unknown_field(path, spot, names), None
    if kind in _BOUNDS:
        word, key, open_end = _BOUNDS[kind]
        limit = ctx[key]
        nearest = None if open_end else _share_meant(spot, given, limit) or limit
        return (
            FieldProblem(
                field=path,
                problem=f"{_quote(spot, names, given)} is out of range",
                expected=f"{word} {spot.show(names, limit)}",
                nearest="" if nearest is None else spot.show(names, nearest),
                code=OUT_OF_RANGE,
            ),
            nearest,
        )
    if kind in ("enum", "literal_error"):
        return _unknown_choice(path, spot, given, ctx)
    if kind == "string_pattern_mismatch":
        problem = _bad_pattern(path, str(given), str(ctx["pattern"]))
        return problem, problem.nearest or None
    if kind in ("too_long", "too_short", "string_too_long", "string_too_short"):
        return _bad_length(path, kind, ctx, given)
    if kind == "value_error":
        return FieldProblem(field=path, problem=str(ctx.get("error", item["msg"])), code="invalid"), None
    if kind in _NUMBERS and isinstance(given, str):
        return _no_number(path, spot, names, given, whole=kind in _WHOLE_NUMBERS)
    wanted = _PLAIN_WORDS.get(kind) or str(item["msg"]).removeprefix("Input should be ").removeprefix(
        "Value error, "
    )
    return (
        FieldProblem(field=path, problem=f"{_short(given)} does not fit", expected=wanted, code=kind),
        None,
    )


PERCENT = 100
_BOUNDS = {
    "greater_than_equal": ("at least", "ge", False),
    "less_than_equal": ("at most", "le", False),
    "greater_than": ("more than", "gt", True),
    "less_than": ("less than", "lt", True),
}


_WHOLE_NUMBERS = ("int_parsing", "int_type", "int_from_float")
_NUMBERS = (*_WHOLE_NUMBERS, "float_parsing", "float_type")
_INSTANT = "an instant with its time zone, e.g. 2026-07-15T10:00:00+08:00"
_PLAIN_WORDS = {
    **dict.fromkeys(_WHOLE_NUMBERS, "a whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "a number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "true or false"),
    **dict.fromkeys(("datetime_parsing", "datetime_from_date_parsing", "datetime_type"), _INSTANT),
    "string_type": "text",
    "model_type": "a mapping of fields",
    "dict_type": "a mapping",
    "tuple_type": "a list",
    "timezone_aware": _INSTANT,
}


def _no_number(
    path: str, spot: _Spot, names: Names, given: str, *, whole: bool
) -> tuple[FieldProblem, float | None]:
    """A text where a number belongs; one with a unit is understood, but only to say which number it is."""
    step = spot.field_step
    field = "" if step is None else str(step.key)
    unit, meant = unit_of(field), amount_meant(field, given, whole=whole)
    problem = FieldProblem(
        field=path,
        problem=f"{_short(given)} is no number",
        expected=("a whole number" if whole else "a number") + (f" of {unit}" if unit else ""),
        nearest="" if meant is None else spot.show(names, meant),
        code="no_number",
    )
    return problem, meant


def _unknown_field(path: str, spot: _Spot, names: Names) -> FieldProblem:
    step = spot.steps[-1]
    known = [] if step.owner is None else [names.field(step.owner, n) for n in step.owner.model_fields]
    close = difflib.get_close_matches(str(step.key), known, n=1)
    return FieldProblem(
        field=path,
        problem="is not a field",
        expected="" if close else f"one of {', '.join(known)}",
        nearest=close[0] if close else "",
        code="unknown_field",
    )


def _unknown_choice(path: str, spot: _Spot, given: object, ctx: Any) -> tuple[FieldProblem, Any]:
    choices = _choices(spot.steps[-1].annotation) if spot.steps else []
    close = difflib.get_close_matches(str(given), choices, n=1, cutoff=0.4)
    problem = FieldProblem(
        field=path,
        problem=f"{_short(given)} is not known",
        expected=f"one of {', '.join(choices)}" if choices else str(ctx.get("expected", "")),
        nearest=close[0] if close else "",
        code="unknown_value",
    )
    return problem, close[0] if close else None


_PATTERN_WORDS = {
    "^tenants/": "tenants/{tenant}/workloads/{workload}, each part lower-case letters, digits, . _ -, at most 63",
    "^(zones|stages)/": "zones/{zone} or stages/{stage}",
    "^(sites/": "sites/{site}, class:edge, class:cloud or fleet",
    "^[a-z0-9](": "lower-case letters, digits, . _ -, at most 63, letter or digit at both ends",
    "^[^\\x00": "one line of text without control characters",
}


def _bad_pattern(path: str, given: str, pattern: str) -> FieldProblem:
    expected = next((words for head, words in _PATTERN_WORDS.items() if pattern.startswith(head)), pattern)
    if pattern.startswith("^[a-z0-9]("):
        nearest = nearest_identifier(given)
    elif pattern.startswith("^tenants/"):
        nearest = _nearest_name(given)
    elif pattern.startswith("^[^\\x00"):
        nearest = re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", given).strip()
    else:
        nearest = ""
    return FieldProblem(
        field=path,
        problem=f"{_short(given)} has the wrong form",
        expected=expected,
        nearest=nearest,
        code="form",
    )


def _nearest_name(given: str) -> str:
    parts = given.split("/")
    if len(parts) != 4:
        return ""
    tenant, workload = nearest_identifier(parts[1]), nearest_identifier(parts[3])
    return f"tenants/{tenant}/workloads/{workload}" if tenant and workload else ""


MOST_QUOTED = 80
"""Characters of a text that a problem repeats; a longer one helps nobody."""


def _bad_length(path: str, kind: str, ctx: Any, given: object) -> tuple[FieldProblem, Any]:
    is_text = kind.startswith("string")
    limit = int(ctx["max_length"] if kind.endswith("long") else ctx["min_length"])
    unit = "character" if is_text else "item"
    bound = f"at {'most' if kind.endswith('long') else 'least'} {_counted(limit, unit)}"
    count = len(given) if isinstance(given, (str, list, tuple, dict)) else int(ctx.get("actual_length", 0))
    shortened = given[:limit] if kind.endswith("long") and isinstance(given, (str, list, tuple)) else None
    problem = FieldProblem(
        field=path,
        problem=f"has {_counted(count, unit)}",
        expected=bound,
        nearest=shortened if isinstance(shortened, str) and limit <= MOST_QUOTED else "",
        code="length",
    )
    return problem, list(shortened) if isinstance(shortened, (list, tuple)) else shortened


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _quote(spot: _Spot, names: Names, given: object) -> str:
    if isinstance(given, (int, float)) and not isinstance(given, bool):
        return spot.show(names, given)
    return _short(given)


def _short(given: object) -> str:
    text = repr(given) if isinstance(given, (str, dict, list, tuple)) else show_plain(given)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain_path(loc: Loc) -> str:
    text = ""
    for key in loc:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else key
    return text


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
        yield value.partition("/")[2]
    elif isinstance(value, Mapping):
        for v in value.values():
            yield from _strings(v)
    elif isinstance(value, (list, tuple)):
        for v in value:
            yield from _strings(v)


def _bare(annotation: Any) -> Any:
    """Without Annotated and Optional."""
    while True:
        origin = get_origin(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in (Union, types.UnionType):
            rest = [a for a in get_args(annotation) if a is not type(None)]
            if len(rest) != 1:
                return annotation
            annotation = rest[0]
        else:
            return annotation


def _model_of(annotation: Any) -> type[BaseModel] | None:
    bare = _bare(annotation)
    return bare if isinstance(bare, type) and issubclass(bare, BaseModel) else None


def _item_of(annotation: Any) -> Any:
    bare = _bare(annotation)
    origin, args = get_origin(bare), get_args(bare)
    if origin is dict:
        return args[1]
    if origin in (tuple, list):
        return args[0]
    return None


def _choices(annotation: Any) -> list[str]:
    bare = _bare(annotation)
    if get_origin(bare) is Literal:
        return [str(a) for a in get_args(bare)]
    if isinstance(bare, type) and issubclass(bare, Enum):
        return [str(m.value) for m in bare]
    return []


_NOTHING: Any = object()
_CANDIDATES: tuple[Any, ...] = (
    *(0, 1, 0.5, "", *_HARMLESS_NAMES, "fleet"),
    *([], {}, ["peeled", "peeled"], [0.0] * 24, False, 0.0),
)


@lru_cache(maxsize=512)
def _harmless(cls: type[BaseModel], name: str) -> Any:
    """Some value that a required field accepts, found by trying; `_NOTHING` if none does."""
    info = cls.model_fields[name]
    return _accepted(Annotated[(info.annotation, *info.metadata)] if info.metadata else info.annotation)


def _harmless_item(annotation: Any) -> Any:
    return _NOTHING if annotation is None else _accepted(annotation)


def _accepted(annotation: Any) -> Any:
    model = _model_of(annotation)
    if model is not None:
        return _harmless_model(model)
    candidates: Sequence[Any] = (*_choices(annotation), *_CANDIDATES)
    item = _item_of(annotation)
    if item is not None and _model_of(item) is not None:
        candidates = ([_accepted(item)], *candidates)
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    for candidate in candidates:
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        return copy.deepcopy(candidate)
    return _NOTHING


def _harmless_model(model: type[BaseModel]) -> Any:
    raw = {n: _harmless(model, n) for n, info in model.model_fields.items() if info.is_required()}
    return _NOTHING if any(v is _NOTHING for v in raw.values()) else raw
