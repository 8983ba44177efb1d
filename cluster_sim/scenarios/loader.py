"""From a name or a file to a `Scenario`: extend, keep, check; every problem in one answer.

load_scenario   1 find the file   2 merge it over what it extends   3 keep only what it asks for
                4 check fields    5 check references                 6 raise all problems together, each with the
                                                                       file and line where its field is set
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from cluster_sim.scenarios.schema import Scenario
from suanli import yaml_io
from suanli.model import FieldProblem, InvalidRequest
from suanli.model.problems import validate

SHIPPED_SUFFIX = ".yaml"
BASE_SUFFIX = "-base"
"""Of files that only others extend."""
Raw = dict[str, Any]
ABSENT = ("missing", "model_type", "dict_type", "list_type")
"""Codes of problems after which nothing can be said of the field's parts."""
_SAFE_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The same loader in C, where the library was built with it: six times faster."""


class ScenarioError(InvalidRequest):
    """The scenario cannot be played; carries every problem with its field."""


def shipped_scenarios() -> tuple[str, ...]:
    """Names of the scenarios that come with the package and are meant to be played."""
    return tuple(name for name in shipped_files() if not name.endswith(BASE_SUFFIX))


def shipped_files() -> tuple[str, ...]:
    """The same with the bases that they extend."""
    folder = resources.files("cluster_sim.scenarios")
    return tuple(
        sorted(
            f.name.removesuffix(SHIPPED_SUFFIX) for f in folder.iterdir() if f.name.endswith(SHIPPED_SUFFIX)
        )
    )


def load_scenario(name_or_path: str | Path) -> Scenario:
    """The scenario of that name, or of that YAML file; `ScenarioError` names all problems at once."""
    files: list[yaml_io.Document] = []
    raw = _read_extended(str(name_or_path), Path.cwd(), (), files)
    try:
        return scenario_from_raw(raw)
    except ScenarioError as error:
        raise ScenarioError(_located(error.problems, files)) from None


def scenario_from_raw(raw: Raw) -> Scenario:
    """Scenario from a merged tree (what a YAML file with its `extends` resolved holds)."""
    raw = dict(raw)
    keep = raw.pop("keep", None)
    problems = list(_keep_problems(raw, keep)) if keep is not None else []
    if keep is not None and not problems:
        raw = _kept(raw, keep)
    problems += _reference_problems(raw)
    scenario: Scenario | None = None
    try:
        scenario = validate(Scenario, raw)
    except InvalidRequest as error:
        problems += _told_once([p.model_copy(update={"field": _dotted(p.field)}) for p in error.problems])
    if problems or scenario is None:
        raise ScenarioError(problems)
    return scenario


def _read_extended(
    name: str, folder: Path, seen: tuple[str, ...], files: list[yaml_io.Document] | None = None
) -> Raw:
    """The file's tree merged over the one it extends; `files` gets what was read from outside, the outermost first."""
    if name in seen:
        raise ScenarioError([FieldProblem(field="extends", problem=f"circle {' -> '.join((*seen, name))}")])
    if name in shipped_files():
        raw = yaml.load(_shipped_text(name), Loader=_SAFE_LOADER)
    else:
        path = _file_of(name, folder)
        document, folder = _document_of_file(path, name), path.parent
        raw = document.raw if document is not None else None
        if files is not None and document is not None:
            files.append(document)
    if not isinstance(raw, dict):
        raise ScenarioError(
            [FieldProblem(field=name, problem="a scenario is a mapping", expected="keys and values")]
        )
    base = raw.get("extends")
    own = {key: value for key, value in raw.items() if key != "extends"}
    if base is None:
        return own
    return _merged(_read_extended(str(base), folder, (*seen, name), files), own)


def _file_of(name: str, folder: Path) -> Path:
    """Path of a scenario that somebody wrote."""
    path = folder / name
    if not path.is_file():
        nearest = difflib.get_close_matches(name, shipped_scenarios(), 1, 0.3)
        problem = FieldProblem(
            field="scenario",
            problem=f"no shipped scenario and no file {name!r}",
            expected=", ".join(shipped_scenarios()),
            nearest=nearest[0] if nearest else "",
        )
        raise ScenarioError([problem])
    return path


def _shipped_text(name: str) -> str:
    return (resources.files("cluster_sim.scenarios") / (name + SHIPPED_SUFFIX)).read_text(encoding="utf-8")


def _document_of_file(path: Path, name: str) -> yaml_io.Document | None:
    """The one document of a file from outside, read with all the care that `suanli.yaml_io` takes: a key given twice,
    deep nesting, endless aliases and what is no text are told, not followed; None when there is not just one."""
    try:
        documents = yaml_io.parse(path.read_text(encoding="utf-8"), name)
    except UnicodeDecodeError as error:
        problem = FieldProblem(field=name, problem=f"is not UTF-8 at byte {error.start}")
        raise ScenarioError([problem]) from None
    except InvalidRequest as error:
        raise ScenarioError(error.problems) from None
    if problems := [p for d in documents for p in d.problems]:
        raise ScenarioError(problems)
    return documents[0] if len(documents) == 1 else None


def _located(problems: Sequence[FieldProblem], files: Sequence[yaml_io.Document]) -> list[FieldProblem]:
    """The problems with the file and line that says most of their field; file by file, in the order of the lines.

    Shipped files are sound: what is wrong with one's own was said, or left out, in one's own.
    """
    if not files:
        return list(problems)
    lacking = [p for p in problems if p.code == "missing" and "." not in p.field]
    by_file: list[list[FieldProblem]] = [[] for _ in files]
    if lacking and "extends" not in files[-1].raw:
        problems = [p for p in problems if p not in lacking]
        hint = FieldProblem(
            field="extends",
            problem=f"is missing, and so are {', '.join(p.field for p in lacking)}",
            expected=f"one of {', '.join(shipped_scenarios())}, or a file",
            code="missing",
        )
        by_file[-1].append(hint)
    for problem in problems:
        depths = [document.depth(problem.field) for document in files]
        by_file[depths.index(max(depths))].append(problem)
    return [p for document, own in zip(files, by_file, strict=True) for p in document.located(own)]


def _merged(base: Raw, over: Raw) -> Raw:
    """`over` laid on `base`: mappings merge, anything else replaces."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = _merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return out


# ------------------------------------------------------------------------------------------------- keep
_KEPT_TABLES = ("sites", "zones", "classes")


def _keep_problems(raw: Raw, keep: Any) -> Iterator[FieldProblem]:
    """What `keep` asks for and the base does not have."""
    if not isinstance(keep, dict):
        yield FieldProblem(field="keep", problem="not a mapping", expected="sites, zones, classes")
        return
    for table, wanted in keep.items():
        if table not in _KEPT_TABLES:
            yield FieldProblem(
                field=f"keep.{table}", problem="unknown field", expected=", ".join(_KEPT_TABLES)
            )
            continue
        yield from _unknown(f"keep.{table}", wanted, _rows(raw, table))


def _kept(raw: Raw, keep: Raw) -> Raw:
    """The tree without the sites, zones and classes that are not kept, and without what only they used."""
    out = dict(raw)
    for table, wanted in keep.items():
        rows = _rows(raw, table)
        out[table] = {**raw[table], "rows": {k: v for k, v in rows.items() if k in set(wanted)}}
    sites, zones = set(_rows(out, "sites")), set(_rows(out, "zones"))
    hubs = set(raw["network"]["hubs"])
    links = {k: v for k, v in raw["network"]["links"].items() if set(v["ends"]) <= sites | hubs}
    out["network"] = {**raw["network"], "links": links}
    markups = {k: v for k, v in raw["network"].get("transfer_yuan_per_gb_by_site", {}).items() if k in sites}
    out["network"]["transfer_yuan_per_gb_by_site"] = markups
    datasets = {
        k: {**v, "sites": [s for s in v["sites"] if s in sites]} for k, v in _rows(raw, "datasets").items()
    }
    out["datasets"] = {**raw["datasets"], "rows": {k: v for k, v in datasets.items() if v["sites"]}}
    out["classes"] = {
        **out["classes"],
        "rows": {k: _class_kept(v, out, zones) for k, v in _rows(out, "classes").items()},
    }
    return out


def _class_kept(spec: Raw, kept: Raw, zones: set[str]) -> Raw:
    """A class without the data sets, zones and sites that were dropped."""
    pattern = dict(spec["pattern"])
    sites = set(_rows(kept, "sites"))
    if "zone_counts" in pattern:
        pattern["zone_counts"] = {z: n for z, n in pattern["zone_counts"].items() if z in zones}
    if "twins" in pattern:
        pattern["twins"] = {t: v for t, v in pattern["twins"].items() if v["zone"] in zones}
    if "load_sites" in pattern:
        pattern["load_sites"] = [s for s in pattern["load_sites"] if s in sites]
    return {
        **spec,
        "pattern": pattern,
        "datasets": [d for d in spec.get("datasets", []) if d in _rows(kept, "datasets")],
    }


# ------------------------------------------------------------------------------------------------- references
def _reference_problems(raw: Raw) -> list[FieldProblem]:
    """Names that point nowhere, read from the raw tree so that they show beside malformed fields."""
    sites, zones = _rows(raw, "sites"), _rows(raw, "zones")
    access = _table(raw, "network", "access")
    out: list[FieldProblem] = []
    for site_id, site in sites.items():
        at = f"sites.rows.{site_id}"
        out += _unknown(f"{at}.plant", [site.get("plant")], _rows(raw, "plants"))
        out += _unknown(f"{at}.tariff", [site.get("tariff")], _rows(raw, "tariffs"))
        out += _unknown(f"{at}.nodes", site.get("nodes", {}), _rows(raw, "node_types"))
    for site_id, counts in _mapping(raw.get("nodes")).items():
        out += _unknown("nodes", [site_id], sites)
        out += _unknown(f"nodes.{site_id}", counts, _rows(raw, "node_types"))
    for link_id, link in _table(raw, "network", "links").items():
        out += _unknown(
            f"network.links.{link_id}.ends", link.get("ends", []), {**sites, **_table(raw, "network", "hubs")}
        )
    for zone_id, zone in zones.items():
        out += _unknown(f"zones.rows.{zone_id}.access", zone.get("access", {}), access)
        out += _unknown(f"zones.rows.{zone_id}.own_edge", [zone.get("own_edge")], sites)
        out += _mix_problems(f"zones.rows.{zone_id}.access", zone.get("access", {}))
    for node_type, node in _rows(raw, "node_types").items():
        if node.get("gpu_model"):
            out += _unknown(
                f"node_types.rows.{node_type}.gpu_model", [node["gpu_model"]], _rows(raw, "gpu_equivalents")
            )
    for list_name in ("site_outages", "cooling_degradations"):
        for i, failure in enumerate(_mapping(raw.get("failures")).get(list_name) or []):
            out += _unknown(f"failures.{list_name}[{i}].site", [_mapping(failure).get("site")], sites)
    for class_id, spec in _rows(raw, "classes").items():
        out += _class_problems(f"classes.rows.{class_id}", spec, raw)
    return out


def _class_problems(at: str, spec: Raw, raw: Raw) -> list[FieldProblem]:
    zones, gpus = _rows(raw, "zones"), _rows(raw, "gpu_equivalents")
    pattern = _mapping(spec.get("pattern"))
    out = list(_unknown(f"{at}.gpu_models", spec.get("gpu_models", []), gpus))
    out += _unknown(f"{at}.datasets", spec.get("datasets", []), _rows(raw, "datasets"))
    if spec.get("access"):
        out += _unknown(f"{at}.access", [spec["access"]], _table(raw, "network", "access"))
    out += _unknown(f"{at}.pattern.zone_counts", pattern.get("zone_counts", {}), zones)
    out += _unknown(f"{at}.pattern.load_sites", pattern.get("load_sites", []), _rows(raw, "sites"))
    for key in ("reference_models", "small_models", "other_models"):
        out += _unknown(f"{at}.pattern.{key}", pattern.get(key, []), gpus)
    if "shape" in pattern:
        out += _unknown(f"{at}.pattern.shape", [pattern["shape"]], _rows(raw, "shapes"))
    out += _unknown(f"{at}.pattern.shapes", pattern.get("shapes", {}), _rows(raw, "shapes"))
    twins = _mapping(pattern.get("twins"))
    for twin_id, twin in twins.items():
        out += _unknown(f"{at}.pattern.twins.{twin_id}.zone", [twin.get("zone")], zones)
        if twin.get("shares"):
            out += _unknown(f"{at}.pattern.twins.{twin_id}.shares", [twin["shares"]], twins)
    return out


def _mix_problems(at: str, mix: Any) -> list[FieldProblem]:
    total = sum(v for v in _mapping(mix).values() if isinstance(v, int | float))
    return (
        [] if abs(total - 1) < 1e-6 else [FieldProblem(field=at, problem=f"sums to {total:g}", expected="1")]
    )


def _unknown(at: str, names: Any, known: Raw) -> Iterator[FieldProblem]:
    for name in names or ():
        if name is not None and name not in known:
            nearest = difflib.get_close_matches(str(name), known, 1, 0.3)
            yield FieldProblem(
                field=at,
                problem=f"unknown name {name!r}",
                expected=", ".join(known),
                nearest=nearest[0] if nearest else "",
            )


def _rows(raw: Raw, table: str) -> dict[str, Raw]:
    return _table(raw, table, "rows")


def _table(raw: Raw, table: str, key: str) -> dict[str, Raw]:
    rows = _mapping(_mapping(raw.get(table)).get(key))
    return {k: v if isinstance(v, dict) else {} for k, v in rows.items()}


def _mapping(value: Any) -> Raw:
    return value if isinstance(value, dict) else {}


def _told_once(problems: Sequence[FieldProblem]) -> list[FieldProblem]:
    """Without what lies at or under a field that is missing or no mapping at all: that is told already."""
    absent = {p.field for p in problems if p.field and p.code in ABSENT}
    told: dict[str, FieldProblem] = {}
    for problem in problems:
        parts = problem.field.split(".")
        if not any(".".join(parts[:n]) in absent for n in range(1, len(parts))):
            key = problem.field if problem.field in absent else f"{problem.field}: {problem.problem}"
            told.setdefault(key, problem)
    return list(told.values())


def _dotted(field: str) -> str:
    """`sites.rows.ai-core.plant` for `sites.rows[ai-core].plant`: keys as a reader of the YAML knows them."""
    return re.sub(r"\[(?!\d+\])([^\]]*)\]", r".\1", field)
