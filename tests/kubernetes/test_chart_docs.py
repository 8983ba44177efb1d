"""The chart's README table is made from the chart, and every value says what it is."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.kubernetes.conftest import CHART
from tools.chart_readme import BEGIN, END, chart_values, rendered


def test_the_table_is_fresh():
    readme = (CHART / "README.md").read_text(encoding="utf-8")
    assert rendered(readme, chart_values()) == readme, "make chart-docs"


def test_every_value_is_documented_and_typed():
    values = chart_values()
    assert len(values) > 50
    assert [value.path for value in values if not value.description or not value.type_name] == []


def test_a_value_without_description_would_be_found(tmp_path):
    shutil.copytree(CHART, tmp_path / "chart")
    schema_path = tmp_path / "chart" / "values.schema.json"
    schema = json.loads(schema_path.read_text(encoding="utf-8"))
    del schema["properties"]["tmpSize"]["description"]
    schema_path.write_text(json.dumps(schema), encoding="utf-8")
    assert [v.path for v in chart_values(tmp_path / "chart") if not v.description] == ["tmpSize"]


def test_the_table_replaces_only_what_stands_between_the_markers():
    text = f"before\n{BEGIN}\n| stale row |\n{END}\nafter\n"
    again = rendered(text, chart_values())
    assert again.startswith("before\n")
    assert again.endswith("\nafter\n")
    assert "stale row" not in again
    with pytest.raises(ValueError, match="needs the lines"):
        rendered("no markers", chart_values())
