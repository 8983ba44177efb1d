"""What all values of the API share: frozen, closed (unknown fields are refused), ids of one form."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field

ID_PATTERN = r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"
Identifier = Annotated[
    str, Field(pattern=ID_PATTERN, description="lower-case letters, digits, . _ -; at most 63")
]
Label = Annotated[str, Field(min_length=1, max_length=63)]
PlainText = Annotated[
    str,
    Field(pattern=r"^[^\x00-\x1f\x7f-\x9f]*$", description="text without line breaks and control characters"),
]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
NonNegative = Annotated[float, Field(ge=0.0)]
Positive = Annotated[float, Field(gt=0.0)]


class Value(BaseModel):
    """Immutable value; equality is by content, unknown fields are an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", str_strip_whitespace=True, allow_inf_nan=False)


V = TypeVar("V", bound=BaseModel)


def trusted(cls: type[V], values: dict[str, Any]) -> V:
    """The value with these fields, all of which must be given; nothing is checked, converted or filled in.

    For what is put together from parts that are valid already, where validating them again would cost more than all
    the rest. `model_construct` takes three times as long.
    """
    value = cls.__new__(cls)
    put = object.__setattr__
    put(value, "__dict__", values)
    put(value, "__pydantic_fields_set__", set(values))
    put(value, "__pydantic_extra__", None)
    put(value, "__pydantic_private__", None)
    return value
