"""The figures of the documentation are drawn from the data beside them, byte for byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import assignment_curve, model_error

FIGURES = Path(__file__).resolve().parents[2] / "docs" / "figures"


@pytest.mark.parametrize("name", ["plan-quality.svg", "openb.svg", "sscflp-quality.svg"])
def test_a_figure_is_its_data(name):
    drawn = {**model_error.draw(FIGURES), **assignment_curve.draw(FIGURES)}
    assert (FIGURES / name).read_text(encoding="utf-8") == drawn[name]
