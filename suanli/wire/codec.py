"""The machine of the converter: one table line per field, both directions and the path of an error from it.

A `Codec` ties a model class to a message. Its fields say, for one model field and one proto field, how a value is
read and written and how it is shown in an error, in proto units. Decoding turns a message into plain data and lets
the model validate that (the one place of validation); encoding builds the message.

`ListFields` hands over only what is set, in one call into C, so decoding costs one table look-up per field set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Generic, TypeVar, get_args, get_origin

from annotated_types import MinLen
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from suanli.model import units
from suanli.model.errors import FieldProblem, InvalidRequest
from suanli.model.problems import Malformed, show_plain, validate

V = TypeVar("V", bound=BaseModel)
M = TypeVar("M", bound=Message)
NANOS_PER_S = 1_000_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Field:
    """One field on both sides: `read` proto → plain data, `write` model → proto, `show` model → text."""

    model: str
    proto: str
    read: Callable[[Any], Any]
    write: Callable[[Any], Any]
    show: Callable[[Any], str] = show_plain


class Codec(Generic[V, M]):
    """Converter between `model` and `message`, one `Field` per line; `path` begins the paths of its errors.

    `read_more` and `write_more` serve what has no one-to-one field: they complete the plain data, or the keyword
    arguments of the message. `output`: the service writes it, so that a zero left out on the wire means zero; in what
    callers write it means that the field is missing or at its default.
    """

    def __init__(
        self,
        model: type[V],
        message: type[M],
        fields: Iterable[Field],
        *,
        path: str = "",
        output: bool = False,
        read_more: Callable[[M, dict[str, Any]], None] | None = None,
        write_more: Callable[[V, dict[str, Any]], None] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self.model = model
        self.message = message
        self.fields = tuple(fields)
        self.path = path
        self._new: Callable[..., M] = message
        self._read_more = read_more
        self._write_more = write_more
        self._by_number = {
            message.DESCRIPTOR.fields_by_name[f.proto].number: (f.model, f.read) for f in self.fields
        }
        self._zeros = self._zeros_left_out(output)
        self._writers = tuple(
            (f.model, f.proto, f.write, _zero_says_nothing(message, f)) for f in self.fields
        )
        NAMES.add(model, self.fields, aliases or {})

    def raw(self, message: M) -> dict[str, Any]:
        """Plain data under model names, not yet validated; output-only fields outside the table are left out."""
        by_number = self._by_number
        out: dict[str, Any] = dict(self._zeros)
        for descriptor, value in message.ListFields():
            entry = by_number.get(descriptor.number)
            if entry is not None:
                out[entry[0]] = entry[1](value)
        if self._read_more is not None:
            self._read_more(message, out)
        return out

    def from_proto(self, message: M, path: str | None = None) -> V:
        """The value.

        Raises:
            InvalidRequest: with every problem, named by proto paths beginning with `path`.
        """
        return validate(self.model, self.raw(message), NAMES, self.path if path is None else path)

    def to_proto(self, value: V) -> M:
        """The message.

        Raises:
            InvalidRequest: a number is too large for its proto field.
        """
        given: dict[str, Any] = {}
        values = value.__dict__
        for model, proto, write, zero_says_nothing in self._writers:
            field_value = values[model]
            if field_value is None or (zero_says_nothing and not field_value):
                continue
            try:
                given[proto] = write(field_value)
            except (ValueError, OverflowError) as error:
                problem = FieldProblem(field=proto, problem=f"{field_value!r}: {error}", code="unfit")
                raise InvalidRequest([problem]) from error
        if self._write_more is not None:
            self._write_more(value, given)
        try:
            return self._new(**given)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidRequest(self._unfit(given, error)) from error

    def _zeros_left_out(self, output: bool) -> dict[str, Any]:
        """What absent fields without presence stand for, where the model would take something else.

        An absent list is always an empty one, where the model allows that.
        """
        zeros: dict[str, Any] = {}
        for f in self.fields:
            descriptor, info = (
                self.message.DESCRIPTOR.fields_by_name[f.proto],
                self.model.model_fields[f.model],
            )
            if descriptor.has_presence or descriptor.enum_type is not None:
                continue
            if not output and not (descriptor.is_repeated and _may_be_empty(info)):
                continue
            zero = f.read([] if descriptor.is_repeated else descriptor.default_value)
            default = info.get_default(call_default_factory=True)
            if not isinstance(zero, Malformed) and (info.is_required() or default != zero):
                zeros[f.model] = zero
        return zeros

    def _unfit(self, given: dict[str, Any], error: Exception) -> list[FieldProblem]:
        problems = []
        for proto, value in given.items():
            try:
                self._new(**{proto: value})
            except (ValueError, TypeError, OverflowError) as unfit:
                problems.append(FieldProblem(field=proto, problem=f"{value!r}: {unfit}", code="unfit"))
        return problems or [FieldProblem(field=self.path, problem=str(error), code="unfit")]


def _zero_says_nothing(message: type[Message], f: Field) -> bool:
    """Whether a zero, an empty text or an empty list is the same on the wire as the field left out."""
    descriptor = message.DESCRIPTOR.fields_by_name[f.proto]
    return descriptor.is_repeated or (f.write is _identity and not descriptor.has_presence)


def _may_be_empty(info: FieldInfo) -> bool:
    """Whether a required list or map of the model may have no items."""
    fixed_length = get_origin(info.annotation) is tuple and get_args(info.annotation)[-1] is not Ellipsis
    return info.is_required() and not fixed_length and not any(isinstance(m, MinLen) for m in info.metadata)


class JoinedCodec(Codec[V, M]):
    """A value and its state in one message: `part` is the model field that holds the value, or None without it."""

    def __init__(
        self,
        model: type[V],
        part: str,
        part_codec: Codec[Any, M],
        fields: Iterable[Field],
        *,
        path: str = "",
        is_present: Callable[[M], bool] = lambda message: True,
    ) -> None:
        super().__init__(model, part_codec.message, fields, path=path, output=True, aliases={part: ""})
        self._part = part
        self._part_codec = part_codec
        self._is_present = is_present

    def raw(self, message: M) -> dict[str, Any]:
        """Plain data of state and value."""
        out = super().raw(message)
        if self._is_present(message):
            out[self._part] = self._part_codec.raw(message)
        return out

    def state_to_proto(self, value: V) -> M:
        """The message without the value."""
        return super().to_proto(value)

    def to_proto(self, value: V) -> M:
        """State and value in one message."""
        message = self.state_to_proto(value)
        part = getattr(value, self._part)
        if part is not None:
            message.MergeFrom(self._part_codec.to_proto(part))
        return message


class WireNames:
    """Proto names and units of model fields, for paths and limits in errors; filled by the codecs."""

    def __init__(self) -> None:
        self._fields: dict[tuple[type[BaseModel], str], tuple[str, Callable[[Any], str]]] = {}

    def add(self, model: type[BaseModel], fields: Sequence[Field], aliases: Mapping[str, str]) -> None:
        """Learn the names of one codec."""
        for f in fields:
            self._fields[model, f.model] = (f.proto, f.show)
        for name, proto in aliases.items():
            self._fields[model, name] = (proto, show_plain)

    def field(self, cls: type[BaseModel], name: str) -> str:
        """Proto name of a model field; the model's own where there is none."""
        return self._fields.get((cls, name), (name, show_plain))[0]

    def show(self, cls: type[BaseModel], name: str, value: object) -> str:
        """The value in proto units."""
        show = self._fields.get((cls, name), (name, show_plain))[1]
        try:
            return show(value)
        except (ValueError, TypeError, OverflowError, AttributeError):
            return show_plain(value)


NAMES = WireNames()


def same(model: str, proto: str = "") -> Field:
    """Equal on both sides."""
    return Field(model, proto or model, _identity, _identity)


def listed(model: str, proto: str = "") -> Field:
    """A list of scalars, equal on both sides."""
    return Field(model, proto or model, list, list)


def mapped(model: str, proto: str = "") -> Field:
    """A map of scalars, equal on both sides; keys come out sorted, since maps have no order on the wire."""
    return Field(model, proto or model, _sorted_map, dict)


def converted(
    model: str, proto: str, read: Callable[[Any], Any], write: Callable[[Any], Any], unit: str = ""
) -> Field:
    """A number whose unit changes."""
    return Field(model, proto, read, write, lambda v: show_plain(write(v)) + unit)


def converted_map(model: str, proto: str, read: Callable[[Any], Any], write: Callable[[Any], Any]) -> Field:
    """A map of numbers whose unit changes."""
    return Field(
        model,
        proto,
        lambda v: {k: read(v[k]) for k in sorted(v)},
        lambda v: {k: write(x) for k, x in v.items()},
        _show_by(write),
    )


def watts_from_kw(model: str, proto: str) -> Field:
    """kW in the model, W on the wire."""
    return converted(model, proto, units.kw_from_w, units.w_from_kw)


def joules_from_kwh(model: str, proto: str) -> Field:
    """kWh in the model, J on the wire."""
    return converted(model, proto, units.kwh_from_joules, units.joules_from_kwh)


def seconds_from_h(model: str, proto: str) -> Field:
    """Hours in the model, seconds on the wire."""
    return converted(model, proto, units.h_from_seconds, units.seconds_from_h)


def need_micros(model: str, proto: str) -> Field:
    """Milliseconds that something takes; whole microseconds on the wire, rounded up."""
    return converted(model, proto, units.ms_from_micros, units.need_micros)


def limit_micros(model: str, proto: str) -> Field:
    """A limit in milliseconds; whole microseconds on the wire, rounded down."""
    return converted(model, proto, units.ms_from_micros, units.limit_micros)


def need_nanos(model: str, proto: str) -> Field:
    """Milliseconds that something takes; whole nanoseconds on the wire, rounded up."""
    return converted(model, proto, units.ms_from_nanos, units.need_nanos)


def instant(model: str, proto: str) -> Field:
    """Whole seconds since 1970 in the model, Timestamp on the wire."""
    return Field(model, proto, at_s_from_timestamp, timestamp_from_at_s, _show_instant)


def instant_or_unset(model: str, proto: str) -> Field:
    """As `instant`; 0 means never and is not sent."""
    return Field(
        model, proto, at_s_from_timestamp, lambda v: timestamp_from_at_s(v) if v else None, _show_instant
    )


def moment(model: str, proto: str) -> Field:
    """datetime with time zone in the model, Timestamp on the wire."""
    return Field(model, proto, _datetime_from, _timestamp_from_datetime)


def seconds(model: str, proto: str) -> Field:
    """Seconds in the model, Duration on the wire."""
    return Field(model, proto, _s_from_duration, duration_from_s, lambda v: f"{v:g}s")


def hours(model: str, proto: str) -> Field:
    """Whole hours in the model, Duration on the wire."""
    per_hour = units.SECONDS_PER_HOUR
    return Field(
        model,
        proto,
        lambda v: _whole(_s_from_duration(v) / per_hour),
        lambda v: duration_from_s(v * per_hour),
        lambda v: f"{v * per_hour:g}s",
    )


def choice(model: str, proto: str, enum: Any) -> Field:
    """Enum: the model's word is the value's name without the prefix, in lower case."""
    read, write = enum_tables(enum)
    return Field(model, proto, lambda v: read.get(v, str(v)), lambda v: write[v])


def enum_tables(enum: Any) -> tuple[dict[int, str], dict[str, int]]:
    """Number → word and word → number of a generated enum; words are lower case, without the common prefix."""
    names: list[tuple[str, int]] = list(enum.items())
    prefix = next(name for name, number in names if number == 0).removesuffix("UNSPECIFIED")
    read = {number: name.removeprefix(prefix).lower() for name, number in names if number}
    return read, {word: number for number, word in read.items()}


def ref(model: str, proto: str, collection: str) -> Field:
    """An id in the model, `{collection}/{id}` on the wire; empty on both sides when there is none."""
    return Field(
        model, proto, lambda v: id_from_name(v, collection), lambda v: f"{collection}/{v}" if v else ""
    )


def refs(model: str, proto: str, collection: str) -> Field:
    """A list of `ref`s."""
    return Field(
        model,
        proto,
        lambda v: [id_from_name(x, collection) for x in v],
        lambda v: [f"{collection}/{x}" for x in v],
    )


def part(model: str, proto: str, codec: Codec[Any, Any]) -> Field:
    """A message inside."""
    return Field(model, proto, codec.raw, codec.to_proto)


def parts(model: str, proto: str, codec: Codec[Any, Any]) -> Field:
    """A list of messages."""
    return Field(model, proto, lambda v: [codec.raw(x) for x in v], lambda v: [codec.to_proto(x) for x in v])


def id_from_name(name: str, collection: str) -> str | Malformed:
    """`e01` from `sites/e01`; Malformed when `name` is not of that form."""
    head, _, last = name.partition("/")
    if head != collection or not last or "/" in last:
        return Malformed(name, f"{name!r} is not the name of one of {collection}", f"{collection}/{{id}}")
    return last


def at_s_from_timestamp(timestamp: Timestamp) -> int | float:
    """Seconds since 1970; a broken second stays one, for the model to refuse."""
    if timestamp.nanos:
        return timestamp.seconds + timestamp.nanos / NANOS_PER_S
    return timestamp.seconds


def timestamp_from_at_s(at_s: int) -> Timestamp:
    """Timestamp of a whole second."""
    return Timestamp(seconds=at_s)


def duration_from_s(duration_s: float) -> Duration:
    """Duration of seconds, to the nanosecond."""
    if isinstance(duration_s, int):
        return Duration(seconds=duration_s)
    nanos = round(duration_s * NANOS_PER_S)
    return Duration(seconds=nanos // NANOS_PER_S, nanos=nanos % NANOS_PER_S)


def _s_from_duration(duration: Duration) -> int | float:
    if duration.nanos:
        return duration.seconds + duration.nanos / NANOS_PER_S
    return duration.seconds


def _whole(value: float) -> int | float:
    return int(value) if value == int(value) else value


def _datetime_from(timestamp: Timestamp) -> datetime | Malformed:
    try:
        return _EPOCH + timedelta(seconds=timestamp.seconds, microseconds=timestamp.nanos // 1000)
    except OverflowError:
        return Malformed(timestamp.seconds, f"{timestamp.seconds} s is beyond the year 9999")


def _timestamp_from_datetime(at: datetime) -> Timestamp:
    since = at - _EPOCH
    return Timestamp(
        seconds=since.days * units.SECONDS_PER_DAY + since.seconds, nanos=since.microseconds * 1000
    )


def _show_instant(at_s: Any) -> str:
    return units.utc(at_s).isoformat().replace("+00:00", "Z")


def _show_by(write: Callable[[Any], Any]) -> Callable[[Any], str]:
    return lambda v: show_plain(write(v))


def _identity(value: Any) -> Any:
    return value


def _sorted_map(value: Any) -> dict[Any, Any]:
    return {k: value[k] for k in sorted(value)}
