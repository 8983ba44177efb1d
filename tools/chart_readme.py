"""Write the table of values in the chart's README from ``values.yaml`` and ``values.schema.json``.

The schema says what a value means and which type it has, ``values.yaml`` says its default, so the table
cannot disagree with what Helm enforces. Everything outside the two markers is written by hand.

    python tools/chart_readme.py            rewrite the table
    python tools/chart_readme.py --check    write nothing, exit 1 when the table is stale
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).resolve().parent.parent / "helm" / "suanli"
BEGIN = "<!-- values: begin (made by `make chart-docs`) -->"
END = "<!-- values: end -->"


@dataclass(frozen=True)
class Value:
    """One row: a value a user can set. ``description`` is empty when the schema does not know the value."""

    path: str
    type_name: str
    default: str
    description: str


def chart_values(chart: Path = CHART) -> list[Value]:
    """All values of the chart, in the order of ``values.yaml``."""
    defaults = yaml.safe_load((chart / "values.yaml").read_text(encoding="utf-8"))
    schema = json.loads((chart / "values.schema.json").read_text(encoding="utf-8"))
    return list(_rows(defaults, schema, schema, ()))


def rendered(readme: str, values: list[Value]) -> str:
    """``readme`` with the table between the markers replaced.

    Raises:
        ValueError: when a marker is missing.
    """
    head, begin, rest = readme.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README needs the lines {BEGIN!r} and {END!r}")
    lines = ["| value | type | default | what it is |", "|---|---|---|---|"]
    lines += [f"| `{v.path}` | {v.type_name} | `{v.default}` | {v.description} |" for v in values]
    return "\n".join([f"{head}{BEGIN}", *lines, f"{END}{tail}"])


def _rows(
    default: Any, node: dict[str, Any], schema: dict[str, Any], path: tuple[str, ...]
) -> Iterator[Value]:
    if "$ref" in node:
        target: Any = schema
        for key in node["$ref"].removeprefix("#/").split("/"):
            target = target[key]
        node = {**target, **{key: value for key, value in node.items() if key != "$ref"}}
    inner = node.get("properties", {})
    if isinstance(default, dict) and default and inner:
        for key, value in default.items():
            for row in _rows(value, inner.get(key, {}), schema, (*path, key)):
                prefix = node.get("description", "") if path else ""
                text = f"{prefix}: {row.description}" if prefix and row.description else row.description
                yield Value(row.path, row.type_name, row.default, text)
        return
    default_text = json.dumps(default, ensure_ascii=False, separators=(", ", ": "))
    yield Value(".".join(path), _type_name(node), default_text, _cell(node.get("description", "")))


def _type_name(node: dict[str, Any]) -> str:
    if "enum" in node:
        return " or ".join(node["enum"])
    return str(node.get("type", "integer" if isinstance(node.get("const"), int) else ""))


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """Command line; returns the exit code."""
    path = CHART / "README.md"
    before = path.read_text(encoding="utf-8")
    after = rendered(before, chart_values())
    if "--check" in sys.argv[1:]:
        print("the table of values is fresh" if before == after else "stale: run `make chart-docs`")
        return int(before != after)
    path.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
