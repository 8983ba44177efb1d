"""The chart passes helm's strict lint, Kubernetes' schemas and its own; wrong values do not."""

from __future__ import annotations

import json

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.kubernetes.conftest import CHART, PROMETHEUS, VALUES_FILES

OLDEST, NEWEST = "1.30", "1.37"
# kinds outside Kubernetes: their own schema below
CUSTOM_KINDS = {"ServiceMonitor"}
# the part of the Prometheus operator's schema (monitoring.coreos.com/v1) that this chart uses, closed
SERVICE_MONITOR_SPEC = {
    "type": "object",
    "additionalProperties": False,
    "required": ["selector", "endpoints"],
    "properties": {
        "selector": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"matchLabels": {"type": "object", "additionalProperties": {"type": "string"}}},
        },
        "endpoints": {
            "type": "array",
            "items": {
                "type": "object",
                "additionalProperties": False,
                "properties": {
                    "port": {"type": "string"},
                    "path": {"type": "string"},
                    "interval": {"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                    "scrapeTimeout": {"type": "string", "pattern": r"^\d+(ms|s|m)$"},
                },
            },
        },
    },
}


@pytest.mark.parametrize("values", VALUES_FILES)
def test_strict_lint(helm, values):
    file = VALUES_FILES[values]
    done = helm("lint", "--strict", CHART, *(["--values", file] if file else []))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("version", [OLDEST, "1.36", NEWEST])
def test_every_document_is_valid_kubernetes(rendered, version):
    for document in rendered.documents:
        if document["kind"] not in CUSTOM_KINDS:
            kubernetes_validate.validate(document, version, strict=True)


def test_the_validator_would_find_a_wrong_field(render):
    document = render().one("StatefulSet")
    document["spec"]["template"]["spec"]["containers"][0]["livenessProbe"]["grpc"]["sevice"] = "x"
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, NEWEST, strict=True)


def test_the_service_monitor_fits_its_definition(render):
    spec = render("everything", *PROMETHEUS).one("ServiceMonitor")["spec"]
    jsonschema.validate(spec, SERVICE_MONITOR_SPEC)


def test_the_values_schema_is_a_schema_and_closed():
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"].endswith("2020-12/schema")
    open_objects = []

    def visit(node, path):
        if isinstance(node, dict):
            if (
                node.get("type") == "object"
                and "properties" in node
                and node.get("additionalProperties") is not False
            ):
                open_objects.append(path)
            for key, inner in node.items():
                visit(inner, f"{path}/{key}")

    visit(schema, "")
    assert open_objects == []


def test_the_schema_knows_every_value_and_no_other():
    """A value only in one of the two files is either refused or undocumented."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    defaults = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def compare(node, value, path):
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].rpartition("/")[2]]
        if "properties" in node:
            assert node["properties"].keys() == value.keys(), path
            for key in value:
                compare(node["properties"][key], value[key], f"{path}.{key}")

    compare(schema, defaults, "values")


@pytest.mark.parametrize(
    ("setting", "complaint"),
    [
        ("replicaCount=2", "/replicaCount"),
        ("replicas=1", "'replicas' not allowed"),
        ("image.tags=x", "'tags' not allowed"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy"),
        ("image.digest=sha256:123", "/image/digest"),
        ("service.port=80", "/service/port"),
        ("service.port=grpc", "/service/port"),
        ("metrics.enabled=maybe", "/metrics/enabled"),
        ("metrics.serviceMonitor.interval=often", "/metrics/serviceMonitor/interval"),
        ("persistence.size=large", "/persistence/size"),
        ("persistence.accessMode=ReadWriteMany", "/persistence/accessMode"),
        ("security.runAsUser=0", "/security/runAsUser"),
        ("settings.loglevel=debug", "loglevel"),
        ("settings.SUANLI_LOG=3", "/settings/SUANLI_LOG"),
        ("probes.liveness.httpGet=x", "'httpGet' not allowed"),
        ("terminationGracePeriodSeconds=1", "/terminationGracePeriodSeconds"),
        ("podLabels.team=7", "/podLabels/team"),
        ("nodeSelector=x", "/nodeSelector"),
        ("extraArgs=x", "/extraArgs"),
    ],
)
def test_wrong_values_are_refused_by_name(render, setting, complaint):
    answer = render("default", "--set", setting)
    assert answer.code != 0
    assert complaint in answer.message
