"""Our own rules over the rendered objects: Pod Security restricted, probes, storage, traffic, names."""

from __future__ import annotations

import pytest

from tests.kubernetes.conftest import PROMETHEUS, VALUES_FILES

# the volume types of the Pod Security Standard "restricted"
RESTRICTED_VOLUMES = {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "projected", "secret"} | {
    "persistentVolumeClaim"
}


def pod_specs(rendered):
    """(name, Pod spec) of everything that becomes a Pod."""
    for document in rendered.documents:
        if document["kind"] == "Pod":
            yield document["metadata"]["name"], document["spec"]
        elif "template" in document.get("spec", {}):
            yield document["metadata"]["name"], document["spec"]["template"]["spec"]


def restricted_violations(pod):
    """What the Pod Security Standard "restricted" finds in a Pod spec, as a list of sentences."""
    found = [f"{field} is set" for field in ("hostNetwork", "hostPID", "hostIPC") if pod.get(field)]
    for volume in pod.get("volumes", []):
        kinds = volume.keys() - {"name"}
        if not kinds <= RESTRICTED_VOLUMES:
            found.append(f"volume {volume['name']} is {kinds}")
    outer = pod.get("securityContext", {})
    for container in pod.get("initContainers", []) + pod["containers"]:
        name, inner = container["name"], container.get("securityContext", {})
        capabilities = inner.get("capabilities", {})
        if inner.get("privileged"):
            found.append(f"{name} is privileged")
        if inner.get("allowPrivilegeEscalation") is not False:
            found.append(f"{name} may escalate privileges")
        if "ALL" not in capabilities.get("drop", []):
            found.append(f"{name} does not drop all capabilities")
        if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
            found.append(f"{name} adds capabilities")
        if inner.get("runAsNonRoot", outer.get("runAsNonRoot")) is not True:
            found.append(f"{name} may run as root")
        if inner.get("runAsUser", outer.get("runAsUser")) == 0:
            found.append(f"{name} runs as user 0")
        profile = inner.get("seccompProfile", outer.get("seccompProfile", {})).get("type")
        if profile not in ("RuntimeDefault", "Localhost"):
            found.append(f"{name} has seccomp profile {profile}")
        if any("hostPort" in port for port in container.get("ports", [])):
            found.append(f"{name} uses a host port")
    return found


def test_every_pod_meets_restricted_also_the_test(rendered):
    specs = dict(pod_specs(rendered))
    assert len(specs) == 2, "the service and helm test"
    assert {name: restricted_violations(pod) for name, pod in specs.items()} == {name: [] for name in specs}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda pod: pod.update(hostNetwork=True), "hostNetwork is set"),
        (lambda pod: pod["securityContext"].pop("runAsNonRoot"), "suanli may run as root"),
        (lambda pod: pod["securityContext"].pop("seccompProfile"), "suanli has seccomp profile None"),
        (lambda pod: pod["containers"][0]["securityContext"].pop("capabilities"), "suanli does not drop all"),
        (lambda pod: pod["volumes"].append({"name": "h", "hostPath": {}}), "volume h is {'hostPath'}"),
    ],
)
def test_the_rule_finds_what_restricted_forbids(render, change, sentence):
    pod = render().one("StatefulSet")["spec"]["template"]["spec"]
    change(pod)
    assert any(line.startswith(sentence) for line in restricted_violations(pod))


def test_pods_have_no_token_a_read_only_root_and_a_memory_limit(rendered):
    for name, pod in pod_specs(rendered):
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, name
            assert "memory" in container["resources"]["limits"], name
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]), name


def test_no_rights_are_asked_for(rendered):
    assert not rendered.kinds() & {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding"}
    if "ServiceAccount" in rendered.kinds():
        assert rendered.one("ServiceAccount")["automountServiceAccountToken"] is False


def test_probes_ask_the_two_health_services_over_grpc(rendered):
    [container] = rendered.one("StatefulSet")["spec"]["template"]["spec"]["containers"]
    [grpc_port] = [port["containerPort"] for port in container["ports"] if port["name"] == "grpc"]
    asked = {kind: container[f"{kind}Probe"]["grpc"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {
        "startup": {"port": grpc_port, "service": "liveness"},
        "readiness": {"port": grpc_port, "service": "readiness"},
        "liveness": {"port": grpc_port, "service": "liveness"},
    }


def test_the_service_starts_with_its_store_on_the_volume(render):
    spec = render().one("StatefulSet")["spec"]
    [container] = spec["template"]["spec"]["containers"]
    assert [*container["command"], *container["args"]] == [
        "suanli",
        "serve",
        "--host=0.0.0.0",
        "--port=7470",
        "--store=sqlite:////var/lib/suanli/suanli.sqlite",
        "--metrics-port=9470",
    ]
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert mounts["data"] == "/var/lib/suanli"
    [claim] = spec["volumeClaimTemplates"]
    assert claim["metadata"]["name"] == "data"
    assert spec["persistentVolumeClaimRetentionPolicy"]["whenDeleted"] == "Retain"


def test_one_writer(rendered):
    assert rendered.one("StatefulSet")["spec"]["replicas"] == 1
    assert "PodDisruptionBudget" not in rendered.kinds()


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ("small", {"emptyDir": {}}),
        ("existing-claim", {"persistentVolumeClaim": {"claimName": "kept-from-before"}}),
    ],
)
def test_other_sources_of_the_data_volume(render, values, source):
    spec = render(values).one("StatefulSet")["spec"]
    assert "volumeClaimTemplates" not in spec
    assert {"name": "data", **source} in spec["template"]["spec"]["volumes"]


def test_selectors_match_the_pod_and_nothing_else(rendered):
    labels = rendered.one("StatefulSet")["spec"]["template"]["metadata"]["labels"]
    test_labels = rendered.one("Pod")["metadata"]["labels"]
    selectors = [rendered.one("StatefulSet")["spec"]["selector"]["matchLabels"]]
    for document in rendered.documents:
        if document["kind"] == "Service":
            selectors.append(document["spec"]["selector"])
        if document["kind"] == "NetworkPolicy":
            selectors.append(document["spec"]["podSelector"]["matchLabels"])
    assert len(selectors) >= 3
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= test_labels.items(), "the test Pod would receive the service's traffic"


def test_the_test_pod_asks_for_the_sites_at_the_service(rendered):
    pod = rendered.one("Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    [container] = pod["spec"]["containers"]
    assert container["command"] == ["suanli", "sites", "list"]
    address = next(item["value"] for item in container["env"] if item["name"] == "SUANLI_ADDRESS")
    host, _, port = address.partition(":")
    service = rendered.one("Service", host.split(".")[0])
    assert int(port) in [item["port"] for item in service["spec"]["ports"]]


def test_only_grpc_metrics_and_dns_pass_the_network_policy(render):
    spec = render().one("NetworkPolicy")["spec"]
    assert sorted(spec["policyTypes"]) == ["Egress", "Ingress"]
    assert [[port["port"] for port in rule["ports"]] for rule in spec["ingress"]] == [[7470], [9470]]
    assert all(rule["from"] == [{"podSelector": {}}] for rule in spec["ingress"])
    assert [port["port"] for rule in spec["egress"] for port in rule["ports"]] == [53, 53]


def test_more_peers_are_added_to_the_network_policy(render):
    spec = render("everything").one("NetworkPolicy")["spec"]
    assert {"namespaceSelector": {"matchLabels": {"team": "submitters"}}} in spec["ingress"][0]["from"]
    assert len(spec["ingress"][1]["from"]) == 2
    assert len(spec["egress"]) == 2


def test_a_service_monitor_needs_the_flag_and_the_cluster(render):
    assert "ServiceMonitor" in render("everything", *PROMETHEUS).kinds()
    assert "ServiceMonitor" not in render("everything").kinds()
    assert "ServiceMonitor" not in render("default", *PROMETHEUS).kinds()
    assert "ServiceMonitor" not in render("everything", *PROMETHEUS, "--set", "metrics.enabled=false").kinds()


def test_the_scraped_port_exists_on_exactly_one_service(render):
    answer = render("everything", *PROMETHEUS)
    [endpoint] = answer.one("ServiceMonitor")["spec"]["endpoints"]
    services = [document for document in answer.documents if document["kind"] == "Service"]
    holding = [s for s in services if endpoint["port"] in [port["name"] for port in s["spec"]["ports"]]]
    assert len(holding) == 1


def test_changed_settings_restart_the_pod(render):
    def checksum(*options):
        template = render("default", *options).one("StatefulSet")["spec"]["template"]
        return template["metadata"]["annotations"]["checksum/settings"]

    assert checksum() == checksum("--set", "priorityClassName=high")
    assert checksum() != checksum("--set", "settings.SUANLI_LOG_LEVEL=debug")


def test_settings_stay_strings(render):
    data = render("everything").one("ConfigMap")["data"]
    assert data == {"SUANLI_LOG_LEVEL": "debug", "SUANLI_BATCH": "1000000"}


@pytest.mark.parametrize(
    ("options", "image"),
    [
        ((), "suanli:0.1.0"),
        (("--set", "image.tag=1.2"), "suanli:1.2"),
        (("--set", f"image.tag=1.2,image.digest=sha256:{'a' * 64}"), f"suanli@sha256:{'a' * 64}"),
    ],
)
def test_a_digest_wins_over_a_tag_over_the_chart(render, options, image):
    answer = render("default", *options)
    assert {c["image"] for _, pod in pod_specs(answer) for c in pod["containers"]} == {image}


def test_everything_given_reaches_the_pod(render):
    spec = render("everything").one("StatefulSet")["spec"]["template"]["spec"]
    [container] = spec["containers"]
    assert {"secretRef": {"name": "suanli-secrets"}} in container["envFrom"]
    assert container["args"][-1] == "--verbose"
    assert "SUANLI_SITE_TOKEN" in [item["name"] for item in container["env"]]
    assert "fleet" in [volume["name"] for volume in spec["volumes"]]
    assert "fleet" in [mount["name"] for mount in container["volumeMounts"]]
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    for field in (
        "nodeSelector",
        "tolerations",
        "affinity",
        "topologySpreadConstraints",
        "priorityClassName",
    ):
        assert spec[field], field


@pytest.mark.parametrize("values", VALUES_FILES)
def test_long_names_stay_legal(render, values):
    answer = render(values, "--set", f"nameOverride={'n' * 80}", "--set", "fullnameOverride=")
    for document in answer.documents:
        assert len(document["metadata"]["name"]) <= 63
        for value in document["metadata"].get("labels", {}).values():
            assert len(value) <= 63


def test_two_releases_in_one_namespace_share_no_name(helm):
    from tests.kubernetes.conftest import CHART, Rendered

    names = []
    for release in ("east", "west"):
        done = helm("template", release, CHART)
        documents = Rendered(done.returncode, done.stdout, done.stderr).documents
        names.append({(document["kind"], document["metadata"]["name"]) for document in documents})
    assert not names[0] & names[1]


def test_every_object_carries_the_standard_labels(rendered):
    for document in rendered.documents:
        labels = document["metadata"]["labels"]
        for name in ("name", "instance", "managed-by"):
            assert f"app.kubernetes.io/{name}" in labels, document["kind"]
        assert document["metadata"]["namespace"] == "suanli", document["kind"]
