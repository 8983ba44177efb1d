"""Growable columns: numpy arrays that append in constant time; 100 000 workloads stay a few megabytes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

FIRST_CAPACITY = 1024


class Columns:
    """Named arrays of one length; `columns["x"]` is a view of the rows in use, valid until the next append."""

    def __init__(self, **dtypes: DTypeLike) -> None:
        self._data: dict[str, NDArray[Any]] = {k: np.zeros(FIRST_CAPACITY, t) for k, t in dtypes.items()}
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self._data[name][: self._size]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in the order of their definition."""
        return tuple(self._data)

    def append(self, count: int, **values: Any) -> int:
        """Add `count` rows; columns not named are zero. Returns the index of the first."""
        first = self._size
        self._reserve(first + count)
        self._size += count
        for name, value in values.items():
            self._data[name][first : self._size] = value
        return first

    def copy(self) -> Columns:
        """Own arrays of the rows in use, for a state that is thrown away."""
        twin = Columns()
        twin._data = {name: column[: max(self._size, 1)].copy() for name, column in self._data.items()}
        twin._size = self._size
        return twin

    def _reserve(self, needed: int) -> None:
        capacity = len(next(iter(self._data.values())))
        if needed <= capacity:
            return
        grown = max(needed, 2 * capacity)
        for name, column in self._data.items():
            self._data[name] = np.concatenate((column, np.zeros(grown - capacity, column.dtype)))
