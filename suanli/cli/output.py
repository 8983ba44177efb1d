"""How answers look: tables that fit the terminal, JSON, YAML, names.

A table leaves out the less important columns that do not fit and says how many; nothing is cut in the middle. Names in
two languages are told in one where columns would be left out for them. Without a terminal (CI, pipes) there is no
colour and the width is COLUMNS or 120. `-o json` is complete, `-o yaml` leaves out
defaults and reads back, `-o name` gives resource names for other commands.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import typer
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 120
MIN_WIDTH = 40
WEIGHTY = 6
"""Columns up to this rank are worth more than the second language of a name."""
GAP = 2


class Format(StrEnum):
    """Forms of output."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass(frozen=True, slots=True)
class Column:
    """One column: `value` gives the text of a row; rank 0 always stays, higher ranks are dropped first.

    `short` gives a shorter text, taken where the whole one would cost other columns their place.
    """

    title: str
    value: Callable[[Any], str]
    rank: int = 0
    justify: Literal["left", "right"] = "left"
    style: Callable[[Any], str] | None = None
    short: Callable[[Any], str] | None = None


def number(title: str, value: Callable[[Any], str], rank: int = 0) -> Column:
    """A column of numbers, set right."""
    return Column(title, value, rank, "right")


def console() -> Console:
    """Console on stdout, made anew so that the terminal of the moment decides."""
    if sys.stdout.isatty():
        return Console(highlight=False, soft_wrap=False)
    columns = os.environ.get("COLUMNS", "")
    width = int(columns) if columns.isdecimal() and int(columns) > 0 else PIPE_WIDTH
    return Console(highlight=False, width=max(MIN_WIDTH, width), no_color=True)


def tick() -> str:
    """A tick where the output can show one."""
    return "✓" if _can_show("✓") else "*"


def emit(
    values: Sequence[Any],
    output: Format,
    columns: Sequence[Column],
    name: Callable[[Any], str],
    *,
    single: bool = False,
    complete: bool = False,
    empty: str = "nothing",
) -> list[str]:
    """Print values in the form asked for; the titles of the columns shown, none in other forms than a table.

    `single`: one object instead of an array. `complete`: YAML with what is at its default, for people who edit it.
    """
    from suanli import yaml_io
    from suanli.model.words import printable

    if output is Format.NAME:
        for value in values:
            typer.echo(printable(name(value)))
    elif output is Format.JSON:
        typer.echo(dump_json(values[0] if single else values))
    elif output is Format.YAML:
        typer.echo(yaml_io.to_yaml(values[0] if single else list(values), complete=complete), nl=False)
    elif not values:
        typer.echo(empty)
    else:
        return print_table(values, columns)
    return []


def dump_json(value: Any, indent: int | None = 2) -> str:
    """A model value, or a sequence of them, as complete JSON."""
    import json

    from pydantic import BaseModel

    def plain(v: Any) -> Any:
        return v.model_dump(mode="json") if isinstance(v, BaseModel) else v

    tree = [plain(v) for v in value] if isinstance(value, (list, tuple)) else plain(value)
    return json.dumps(tree, ensure_ascii=False, indent=indent)


def print_table(rows: Iterable[Any], columns: Sequence[Column], title: str = "") -> list[str]:
    """A table of what fits; the titles of the columns shown."""
    from suanli.model.words import printable

    out = console()
    rows = list(rows)
    whole = [[printable(c.value(row)) for c in columns] for row in rows]
    short = [
        [printable(c.short(row)) if c.short else text for c, text in zip(columns, texts, strict=True)]
        for row, texts in zip(rows, whole, strict=True)
    ]
    styles = [[c.style(row) if c.style else "" for c in columns] for row in rows]
    cells = whole if _keeps_what_weighs(columns, whole, out.width) else short
    kept = fitting(columns, cells, out.width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), title=title or None, title_justify="left")
    for i in kept:
        table.add_column(columns[i].title, justify=columns[i].justify, header_style="bold", overflow="fold")
    for row_cells, row_styles in zip(cells, styles, strict=True):
        table.add_row(*(Text(row_cells[i], style=row_styles[i]) for i in kept))
    with out.capture() as printed:
        out.print(table)
    # the library fills every line up to the table's width; nobody wants that in a log
    typer.echo("\n".join(line.rstrip() for line in printed.get().splitlines()))
    dropped = len([c for i, c in enumerate(columns) if i not in kept and any(row[i] for row in cells)])
    if dropped:
        columns_word = "column" if dropped == 1 else "columns"
        typer.echo(f"({dropped} more {columns_word} in a wider terminal or with -o json)")
    return [columns[i].title for i in kept]


def fitting(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> list[int]:
    """Indices of the columns to show: all of rank 0, then by rank whatever still fits; empty ones never."""
    widths = {
        i: max([cell_len(c.title), *(cell_len(row[i]) for row in cells)])
        for i, c in enumerate(columns)
        if c.rank == 0 or any(row[i] for row in cells)
    }
    kept = [i for i in widths if columns[i].rank == 0]
    used = sum(widths[i] + GAP for i in kept) - GAP
    for i in sorted((i for i in widths if columns[i].rank > 0), key=lambda i: columns[i].rank):
        if used + GAP + widths[i] <= width:
            used += GAP + widths[i]
            kept.append(i)
    return sorted(kept)


def _keeps_what_weighs(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> bool:
    """Whether every column up to rank `WEIGHTY` fits."""
    weighty = [i for i, c in enumerate(columns) if c.rank <= WEIGHTY]
    texts = [[row[i] for i in weighty] for row in cells]
    empty = sum(not any(row[k] for row in texts) for k, i in enumerate(weighty) if columns[i].rank > 0)
    return len(fitting([columns[i] for i in weighty], texts, width)) == len(weighty) - empty


def one_name(display_name: str, display_name_zh: str) -> str:
    """The English name, or the Chinese one where there is no other."""
    return display_name or display_name_zh


def both_names(display_name: str, display_name_zh: str, otherwise: str = "") -> str:
    """Chinese and English name, whichever there are."""
    return " ".join(n for n in (display_name_zh, display_name) if n) or otherwise


def paragraph(text: str) -> None:
    """Text wrapped to the terminal, no figure torn apart."""
    _print_wrapped(text)


def heading(text: str) -> None:
    """A bold line with space above."""
    _print_wrapped(f"\n{text}", "bold")


def _print_wrapped(text: str, style: str = "") -> None:
    from suanli.model.words import wrapped

    out = console()
    out.print(Text("\n".join(wrapped(line, out.width) for line in text.split("\n")), style=style))


def _can_show(text: str) -> bool:
    try:
        text.encode(sys.stdout.encoding or "ascii")
    except (UnicodeEncodeError, LookupError):
        return False
    return True
