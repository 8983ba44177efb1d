"""The figures of the documentation are drawn from the data beside them, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.model_error import draw

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"


@pytest.mark.parametrize("name", ["plan-quality.svg", "openb.svg"])
def test_a_figure_is_its_data(name):
    assert (FIGURES / name).read_text(encoding="utf-8") == draw(FIGURES)[name]
