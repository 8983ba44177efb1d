"""Resource names in requests: taken apart, or refused with the form expected."""

from __future__ import annotations

from suanli.model import FieldProblem, InvalidRequest


def ids_of(name: str, pattern: str, field: str = "name") -> tuple[str, ...]:
    """The ids in a name of the form `sites/{site}/nodes/{node}`; InvalidRequest when it has another form."""
    parts, wanted = name.split("/"), pattern.split("/")
    fits = len(parts) == len(wanted) and all(
        part and (want.startswith("{") or want == part) for part, want in zip(parts, wanted, strict=True)
    )
    if not fits:
        problem = FieldProblem(field=field, problem=f"{name!r} is not a name of this kind", expected=pattern)
        raise InvalidRequest([problem])
    return tuple(part for part, want in zip(parts, wanted, strict=True) if want.startswith("{"))


def id_of(name: str, pattern: str, field: str = "name") -> str:
    """The only id in a name."""
    (found,) = ids_of(name, pattern, field)
    return found
