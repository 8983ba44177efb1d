"""One file for a problem or a solution: JSON facts and raw arrays, byte-stable.

Layout: magic line, 8-byte length of the header, header (canonical JSON: facts, then name, dtype and shape of
every array in order), array bytes in that order, little-endian and C-contiguous. No compression and no time
stamp, so that equal content is equal bytes on every machine, and the SHA-256 of the bytes is the
content's hash.

Tables are frozen dataclasses; an array field is declared `Annotated[FloatArray, "S", "T"]` with its axes.
`seal` gives every array its canonical dtype, checks its shape against named axes and makes it read-only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

_DTYPES: Mapping[Any, str] = {FloatArray: "<f8", IntArray: "<i8", BoolArray: "|b1"}
_LENGTH_BYTES = 8


class ArchiveError(ValueError):
    """The file is not an archive of the expected kind, or is cut short."""


_AXES: dict[type[Any], Mapping[str, tuple[str, tuple[str, ...]]]] = {}
"""Answers of `array_axes`: reading type hints takes longer than reading a plan."""


def array_axes(cls: type[Any]) -> Mapping[str, tuple[str, tuple[str, ...]]]:
    """Array fields of a table: name → (dtype, axes), read from `Annotated[FloatArray, "S", "T"]`."""
    if cls not in _AXES:
        hints = get_type_hints(cls, include_extras=True)
        arrays = {
            f.name: get_args(hints[f.name])
            for f in dataclasses.fields(cls)
            if get_origin(hints[f.name]) is Annotated
        }
        _AXES[cls] = {
            name: (_DTYPES[array_type], tuple(axes)) for name, (array_type, *axes) in arrays.items()
        }
    return _AXES[cls]


def seal(table: Any, table_name: str, lengths: Mapping[str, int]) -> None:
    """Give every array of a frozen table its dtype, check its shape against `lengths`, make it read-only.

    ValueError names the field, the shape found and the shape expected.
    """
    for name, (dtype_name, axes) in array_axes(type(table)).items():
        given = np.asarray(getattr(table, name))
        expected = tuple(lengths[axis] for axis in axes)
        if given.shape != expected:
            raise ValueError(f"{table_name}.{name}: shape {given.shape}, expected {expected} {axes}")
        dtype = np.dtype(dtype_name)
        if given.dtype == dtype and given.flags.c_contiguous and not given.flags.writeable:
            continue
        if dtype.kind == "i" and given.dtype.kind == "f" and not np.array_equal(np.rint(given), given):
            raise ValueError(f"{table_name}.{name}: whole numbers are needed")
        sealed = np.array(given, dtype=dtype, order="C", copy=True)
        sealed.setflags(write=False)
        object.__setattr__(table, name, sealed)


def split_table(table: Any, prefix: str, facts: dict[str, Any], arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Sort the fields of a table into JSON facts and arrays, keyed `prefix.field`."""
    array_names = array_axes(type(table))
    for spec in dataclasses.fields(table):
        key = f"{prefix}.{spec.name}"
        value = getattr(table, spec.name)
        if spec.name in array_names:
            arrays[key] = value
        else:
            facts[key] = value


def join_table(
    cls: type[Any], prefix: str, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]
) -> dict[str, Any]:
    """Keyword arguments of `cls` out of what `split_table` made; lists come back as tuples."""
    arguments: dict[str, Any] = {}
    array_names = array_axes(cls)
    for spec in dataclasses.fields(cls):
        key = f"{prefix}.{spec.name}"
        if spec.name in array_names:
            arguments[spec.name] = arrays[key]
        elif key in facts:
            arguments[spec.name] = frozen(facts[key])
    return arguments


def to_bytes(magic: str, facts: Mapping[str, Any], arrays: Mapping[str, npt.NDArray[Any]]) -> bytes:
    """The archive's bytes; equal content gives equal bytes whatever the order of the mappings."""
    names = sorted(arrays)
    header = {
        "facts": facts,
        "arrays": [[name, arrays[name].dtype.str, list(arrays[name].shape)] for name in names],
    }
    text = json.dumps(
        header, sort_keys=True, ensure_ascii=True, separators=(",", ":"), allow_nan=False
    ).encode()
    parts = [magic.encode() + b"\n", len(text).to_bytes(_LENGTH_BYTES, "little"), text]
    parts.extend(np.ascontiguousarray(arrays[name]).tobytes() for name in names)
    return b"".join(parts)


def from_bytes(magic: str, data: bytes) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """Facts and arrays of an archive; ArchiveError when the bytes are something else."""
    opening = magic.encode() + b"\n"
    if not data.startswith(opening):
        raise ArchiveError(f"not a {magic} archive")
    position = len(opening)
    header_end = (
        position + _LENGTH_BYTES + int.from_bytes(data[position : position + _LENGTH_BYTES], "little")
    )
    try:
        header = json.loads(data[position + _LENGTH_BYTES : header_end])
        declared = [(str(n), np.dtype(d), tuple(int(i) for i in shape)) for n, d, shape in header["arrays"]]
        facts = dict(header["facts"])
    except (ValueError, KeyError, TypeError) as error:
        raise ArchiveError(f"{magic} archive with a broken header: {error}") from error
    arrays: dict[str, npt.NDArray[Any]] = {}
    position = header_end
    for name, dtype, shape in declared:
        size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
        if position + size > len(data):
            raise ArchiveError(f"{magic} archive is cut short at {name}")
        arrays[name] = np.frombuffer(
            data, dtype=dtype, count=size // dtype.itemsize, offset=position
        ).reshape(shape)
        position += size
    if position != len(data):
        raise ArchiveError(f"{magic} archive has {len(data) - position} bytes too many")
    return facts, arrays


def sha256_hex(data: bytes) -> str:
    """Content hash."""
    return hashlib.sha256(data).hexdigest()


def read(path: Path | str) -> bytes:
    """All bytes of a file."""
    return Path(path).read_bytes()


def write(path: Path | str, data: bytes) -> None:
    """Write at once, through a neighbour file, so that a reader never sees half of it."""
    target = Path(path)
    neighbour = target.with_name(target.name + ".part")
    neighbour.write_bytes(data)
    neighbour.replace(target)


def frozen(value: Any) -> Any:
    """Lists as tuples, all the way down."""
    if isinstance(value, list):
        return tuple(frozen(v) for v in value)
    if isinstance(value, dict):
        return {k: frozen(v) for k, v in value.items()}
    return value
