"""The default render, word for word, and the notes after an install. Rewritten with `make goldens`."""

from __future__ import annotations

from pathlib import Path

from tests.kubernetes.conftest import CHART, VALUES_FILES

GOLDENS = Path(__file__).parent / "goldens"


def test_default_render(render, golden):
    answer = render()
    assert answer.code == 0, answer.message
    golden(GOLDENS / "default.yaml", answer.text)


def test_notes_speak_of_what_was_chosen(helm):
    def notes(values: str) -> str:
        file = VALUES_FILES[values]
        chosen = ["--values", file] if file else []
        done = helm("install", "city", CHART, "--namespace", "suanli", "--dry-run=client", *chosen)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]

    assert "helm test city --namespace suanli" in notes("default")
    assert "stays when the release is uninstalled" in notes("default")
    assert "are lost with the Pod" in notes("small")
    assert "does not know monitoring.coreos.com/v1" in notes("everything")
