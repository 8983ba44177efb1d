"""Settings: file < environment < flag, each with its origin; every problem in one answer."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from scheduler.config import Settings, load
from suanli.cli.main import app
from suanli.model import InvalidRequest


def a_file(tmp_path, text: str):
    path = tmp_path / "suanli.yaml"
    path.write_text(text)
    return path


def test_flag_beats_environment_beats_file_beats_default(tmp_path):
    path = a_file(tmp_path, "port: 1\nhost: file\nstore: memory\n")
    loaded = load({"port": 3, "host": None}, path, {"SUANLI_PORT": "2", "SUANLI_HOST": "environment"})
    assert (loaded.settings.port, loaded.settings.host, loaded.settings.store) == (3, "environment", "memory")
    assert loaded.settings.drain_s == Settings.model_fields["drain_s"].default
    assert {name: loaded.origin[name] for name in ("port", "host", "store", "drain_s")} == {
        "port": "flag",
        "host": "environment SUANLI_HOST",
        "store": f"file {path}",
        "drain_s": "default",
    }


def test_the_environment_may_name_the_file(tmp_path):
    path = a_file(tmp_path, "port: 5\n")
    assert load({}, None, {"SUANLI_CONFIG": str(path)}).settings.port == 5


def test_the_environment_of_the_process_does_not_leak_in(monkeypatch):
    monkeypatch.setenv("SUANLI_PORT", "9")
    assert load({}, None, {}).settings.port == Settings.model_fields["port"].default
    assert load().settings.port == 9


def test_every_problem_is_named_with_its_origin(tmp_path):
    path = a_file(tmp_path, "port: 70000\ncolour: red\n")
    with pytest.raises(InvalidRequest) as caught:
        load({}, path, {"SUANLI_DRAIN_S": "soon"})
    problems = {p.field: p for p in caught.value.problems}
    assert set(problems) == {"port", "colour", "drain_s"}
    assert str(path) in problems["port"].problem
    assert "SUANLI_DRAIN_S" in problems["drain_s"].problem
    assert "port" in problems["colour"].expected


@pytest.mark.parametrize("text", ["- a\n- b\n", "port: [", "just words"])
def test_a_file_that_holds_no_settings_is_refused(tmp_path, text):
    with pytest.raises(InvalidRequest):
        load({}, a_file(tmp_path, text), {})


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"\xff\xfe", "is not UTF-8 at byte 0"),
        (b"a: " + b"[" * 5000, "is nested too deeply"),
        (b"port: 1\nport: 2\n", ":2: port: is given twice"),
    ],
)
def test_a_file_that_cannot_be_read_as_settings_says_why(tmp_path, content, told):
    path = tmp_path / "suanli.yaml"
    path.write_bytes(content)
    with pytest.raises(InvalidRequest) as refused:
        load({}, path, {})
    assert told in str(refused.value)


def test_a_missing_file_is_refused_and_an_empty_one_is_not(tmp_path):
    with pytest.raises(InvalidRequest):
        load({}, tmp_path / "nowhere.yaml", {})
    assert load({}, a_file(tmp_path, ""), {}).settings == Settings()


def test_config_show_tells_where_values_come_from(tmp_path, monkeypatch):
    monkeypatch.setenv("SUANLI_PORT", "9")
    path = a_file(tmp_path, "store: memory\n")
    shown = CliRunner().invoke(app, ["config", "show", "--origin", "-o", "json", "--config", str(path)])
    assert shown.exit_code == 0
    tree = json.loads(shown.stdout)
    assert tree["port"] == {"value": 9, "origin": "environment SUANLI_PORT"}
    assert tree["store"] == {"value": "memory", "origin": f"file {path}"}
    table = CliRunner().invoke(app, ["config", "show", "--origin"]).stdout
    assert "(environment SUANLI_PORT)" in table


def test_a_bad_setting_ends_with_exit_code_2(tmp_path):
    refused = CliRunner().invoke(app, ["serve", "--config", str(a_file(tmp_path, "port: x\n"))])
    assert refused.exit_code == 2
    assert "port" in refused.stderr


@pytest.mark.parametrize(
    "store", ["memory", "sqlite:///a.db", "postgresql://h/n", "postgresql+psycopg://h/n"]
)
def test_stores_that_there_are(store: str):
    assert load({"store": store}, None, {}).settings.store == store


def test_help_names_the_stores_that_errors_name(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = CliRunner().invoke(app, ["serve", "--help"]).output
    assert "memory, sqlite:///PATH, or a URL of PostgreSQL with a driver of your own" in shown.replace(
        "`", ""
    )


@pytest.mark.parametrize("store", ["mysql://h/n", "suanli.db", ""])
def test_a_store_that_there_is_not_is_refused_before_anything_listens(store: str):
    with pytest.raises(InvalidRequest) as refused:
        load({"store": store}, None, {})
    (problem,) = refused.value.problems
    assert problem.field == "store"
    assert problem.problem == (
        f"{store!r} is no store: `memory`, sqlite:///PATH, or a URL of PostgreSQL with a driver of your own (from flag)"
    )
