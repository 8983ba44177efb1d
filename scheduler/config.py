"""Settings of the service: file < environment < flag, and for every value where it came from.

The file is YAML, named by `--config` or `SUANLI_CONFIG`; its keys are the field names below. The environment sets
`SUANLI_{FIELD}`. `suanli config show --origin` prints the result.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from suanli import yaml_io
from suanli.model import FieldProblem, InvalidRequest

PREFIX = "SUANLI_"
CONFIG_VARIABLE = PREFIX + "CONFIG"


STORE_SCHEMES = ("sqlite:", "postgresql:", "postgresql+")
STORES = "`memory`, sqlite:///PATH, or a URL of PostgreSQL with a driver of your own"
"""What a store may be, as help and errors say it."""


class Settings(BaseSettings):
    """Everything an operator may set; unknown keys in the file are refused."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True, validate_default=True)

    host: str = Field(
        "127.0.0.1", description="address the gRPC server binds; all interfaces: 0.0.0.0 or [::]"
    )
    port: int = Field(7411, ge=0, le=65535, description="gRPC port; 0 takes any free one and prints it")
    port_file: Path | None = Field(None, description="file that gets the gRPC port once the server listens")
    metrics_port: int = Field(0, ge=-1, le=65535, description="port of /metrics; 0 none, -1 any free one")
    store: str = Field("sqlite:///suanli.db", description=STORES)
    virtual: bool = Field(False, description="time stands still until a simulation run advances it")
    reflection: bool = Field(True, description="let gRPC clients ask for the API's descriptors")
    round_debounce_ms: int = Field(
        20, ge=0, le=10_000, description="longest wait from a change to its round, ms"
    )
    round_every_s: float = Field(15.0, gt=0, description="rounds also run without news, s")
    plan_wall_limit_s: float = Field(60.0, gt=0, description="a plan that takes longer is cut off, s")
    solver_memory_mib: int = Field(6144, ge=512, description="address space of the solver process, MiB")
    plan_dump: Path | None = Field(
        None, description="folder that gets the problem and plan of the last 48 solves, for `suanli verify`"
    )
    drain_s: float = Field(20.0, ge=0, description="time that calls in flight get when the service stops, s")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for machines")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="least severity logged"
    )

    @field_validator("store")
    @classmethod
    def _known_store(cls, url: str) -> str:
        if url != "memory" and not url.startswith(STORE_SCHEMES):
            raise ValueError(f"{url!r} is no store: {STORES}")
        return url

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load` hands over: it merges the sources itself, to know where each value came from."""
        return (init_settings,)


@dataclass(frozen=True)
class Loaded:
    """Settings, and per field `default`, `file PATH`, `environment NAME` or `flag`."""

    settings: Settings
    origin: Mapping[str, str]


def load(
    flags: Mapping[str, Any] | None = None,
    config_file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Loaded:
    """Merge file, environment and flags (None: not given). InvalidRequest names every problem with its origin."""
    environment = os.environ if environment is None else environment
    named = environment.get(CONFIG_VARIABLE)
    path = config_file if config_file is not None else Path(named) if named else None
    values: dict[str, Any] = {}
    origin = dict.fromkeys(Settings.model_fields, "default")
    for source, given in (
        (f"file {path}", _read_file(path) if path else {}),
        ("environment", _from_environment(environment)),
        ("flag", {k: v for k, v in (flags or {}).items() if v is not None}),
    ):
        for name, value in given.items():
            values[name] = value
            origin[name] = f"{source} {PREFIX}{name.upper()}" if source == "environment" else source
    try:
        return Loaded(Settings(**values), origin)
    except ValidationError as error:
        raise InvalidRequest([_problem(dict(e), origin) for e in error.errors()]) from None


def _read_file(path: Path) -> dict[str, Any]:
    try:
        documents = yaml_io.parse(path.read_text(encoding="utf-8"), str(path))
    except OSError as error:
        raise InvalidRequest([FieldProblem(field="config", problem=f"{path}: {error.strerror}")]) from None
    except UnicodeDecodeError as error:
        problem = f"{path} is not UTF-8 at byte {error.start}"
        raise InvalidRequest([FieldProblem(field="config", problem=problem)]) from None
    if not documents:
        return {}
    if problems := [p for d in documents for p in d.problems]:
        raise InvalidRequest(problems)
    tree = documents[0].raw
    if len(documents) > 1 or not isinstance(tree, dict):
        raise InvalidRequest(
            [FieldProblem(field="config", problem=f"{path} holds no keys", expected="key: value")]
        )
    return {str(key): value for key, value in tree.items()}


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {PREFIX + name.upper(): name for name in Settings.model_fields}
    return {names[key]: value for key, value in environment.items() if key in names}


def _problem(error: dict[str, Any], origin: Mapping[str, str]) -> FieldProblem:
    name = str(error["loc"][0]) if error["loc"] else ""
    known = name in Settings.model_fields
    return FieldProblem(
        field=name,
        problem=f"{str(error['msg']).removeprefix('Value error, ')} (from {origin.get(name, 'file')})"
        if known
        else "no such setting",
        expected="" if known else ", ".join(Settings.model_fields),
    )
