"""
What stands in `deploy/`: each object is one that an API server would take, and they fit one another and the program.

There is no dry run here, so the official client's models stand in for it: a field that gets lost on the way through
them is one that Kubernetes does not know.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes.client import ApiClient

from tests.support.certificates import Authority
from tests.support.charts import ChartWith
from tests.support.manifests import CHART, DEPLOY, KUSTOMIZE, Manifest, build, read_manifests
from xds.admission.policies import PolicyReviewer
from xds.admission.review import Review
from xds.admission.server import INJECT, VALIDATE_POLICY
from xds.admission.sidecars import Sidecars, read_defaults
from xds.cli.serve import command
from xds.facts import FileContent
from xds.injection.settings import DEFAULT_ENVOY_IMAGE
from xds.kubernetes.mirror import Mirror
from xds.kubernetes.status import ACCEPTED, PROBLEMS, STATUS, STATUS_JSON
from xds.policy.config_maps import LABEL
from xds.settings import Settings, read_settings
from xds.workloads import Workloads

if TYPE_CHECKING:
    from pathlib import Path

OVERLAYS = ("generated", "cert-manager")
HOME = "egress-system"
NO_MODEL = {"Certificate", "Issuer"}
"""Kinds of cert-manager."""
MODELS = {
    "ClusterRole": "V1ClusterRole",
    "ClusterRoleBinding": "V1ClusterRoleBinding",
    "ConfigMap": "V1ConfigMap",
    "Deployment": "V1Deployment",
    "MutatingWebhookConfiguration": "V1MutatingWebhookConfiguration",
    "Namespace": "V1Namespace",
    "NetworkPolicy": "V1NetworkPolicy",
    "Pod": "V1Pod",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Secret": "V1Secret",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
    "ValidatingAdmissionPolicy": "V1ValidatingAdmissionPolicy",
    "ValidatingAdmissionPolicyBinding": "V1ValidatingAdmissionPolicyBinding",
    "ValidatingWebhookConfiguration": "V1ValidatingWebhookConfiguration",
}


def everything() -> dict[str, list[Manifest]]:
    """Return all ways of installation, by name."""
    built = {name: build(KUSTOMIZE / "overlays" / name) for name in OVERLAYS}
    reviewed = [*build(KUSTOMIZE / "base"), *read_manifests(KUSTOMIZE / "components/token-review/cluster-role.yaml")]
    examples = [item for path in sorted((KUSTOMIZE / "examples").glob("*.yaml")) for item in read_manifests(path)]
    confined = read_manifests(KUSTOMIZE / "components/confine/policy.yaml")
    others = {"token-review": reviewed, "confine": confined, "examples": examples}
    return {**built, **others, "helm": ChartWith().render()}


ALL = everything()
INSTALLATIONS = {name: ALL[name] for name in (*OVERLAYS, "helm")}
every_installation = pytest.mark.parametrize("objects", INSTALLATIONS.values(), ids=INSTALLATIONS)
OBJECTS = [
    pytest.param(item, id=f"{where} {item['kind']} {item['metadata']['name']}") for where in ALL for item in ALL[where]
]


def pick(objects: list[Manifest], kind: str, name: str = "egress-xds") -> Manifest:
    """Return the one object of this kind and name."""
    (found,) = [item for item in objects if (item["kind"], item["metadata"]["name"]) == (kind, name)]
    return found


def container(objects: list[Manifest]) -> Manifest:
    """Return the one container."""
    (found,) = pick(objects, "Deployment")["spec"]["template"]["spec"]["containers"]
    assert isinstance(found, dict)
    return found


def settings_of(objects: list[Manifest]) -> Settings:
    """Return what `xds serve` makes of the arguments of the container."""
    verb, *arguments = (argument.replace("$(POD_NAME)", "egress-xds-0") for argument in container(objects)["args"])
    assert verb == "serve"
    flags = command.make_context("serve", arguments).params
    assert flags.pop("policies") is None
    return read_settings(flags, {})


def without_labels(item: Manifest) -> Manifest:
    """Return an object without the labels that only tell how it was installed."""
    found: Manifest = json.loads(json.dumps(item))
    found["metadata"].pop("labels", None)
    if item["kind"] == "Deployment":
        found["spec"]["template"]["metadata"].pop("labels")
        found["spec"]["template"]["spec"]["containers"][0].pop("imagePullPolicy", None)
    return found


def rules_of(objects: list[Manifest]) -> set[tuple[str, str, str, tuple[str, ...]]]:
    """Return all that is granted: scope, resource with its group, verb and names."""
    granted = set()
    for item in objects:
        if item["kind"] in {"Role", "ClusterRole"}:
            scope = item["metadata"].get("namespace", "*")
            for rule in item["rules"]:
                assert rule.keys() <= {"apiGroups", "resources", "resourceNames", "verbs"}
                (group,) = rule["apiGroups"]
                for resource in rule["resources"]:
                    place = f"{group}/{resource}".lstrip("/")
                    names = tuple(rule.get("resourceNames", ()))
                    granted |= {(scope, place, verb, names) for verb in rule["verbs"]}
    return granted


def lost(before: object, after: object, path: str = "") -> list[str]:
    """Return what of `before` is not in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        return [
            place
            for key, value in before.items()
            for place in (lost(value, after[key], f"{path}.{key}") if key in after else [f"{path}.{key}"])
        ]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        return [place for number, pair in enumerate(pairs) for place in lost(*pair, f"{path}[{number}]")]
    return [] if before == after else [f"{path}: {before!r} became {after!r}"]


def through_models(item: Manifest) -> object:
    """Return an object as the official client would send it on."""
    client = ApiClient()
    model = client.deserialize(json.dumps(item), MODELS[item["kind"]], "application/json")
    sent: object = client.sanitize_for_serialization(model)  # type: ignore[no-untyped-call]  # it has no types
    return sent


@pytest.mark.parametrize("item", OBJECTS)
def test_an_object_has_no_field_that_kubernetes_does_not_know(item: Manifest) -> None:
    if item["kind"] in NO_MODEL:
        assert item["apiVersion"] == "cert-manager.io/v1"
    else:
        assert lost(item, through_models(item)) == []


def test_a_misspelt_field_would_be_found() -> None:
    deployment = json.loads(json.dumps(pick(ALL["generated"], "Deployment")))
    deployment["spec"]["template"]["spec"]["securityContext"]["runAsNonroot"] = True

    assert lost(deployment, through_models(deployment)) == [".spec.template.spec.securityContext.runAsNonroot"]


@pytest.mark.parametrize("overlay", [*OVERLAYS])
def test_kustomize_builds_what_is_checked_here(overlay: str) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    words = [kubectl, "kustomize", str(KUSTOMIZE / "overlays" / overlay)]
    run = subprocess.run(words, capture_output=True, text=True, check=True, timeout=60)

    def order(item: Manifest) -> tuple[str, str]:
        return item["kind"], item["metadata"]["name"]

    built = sorted(yaml.safe_load_all(run.stdout), key=order)
    assert built == sorted(build(KUSTOMIZE / "overlays" / overlay), key=order)


def test_the_chart_makes_what_kustomize_makes() -> None:
    """But for the namespace, which Helm is told, and the Secrets, which its values name."""
    kustomized = {(item["kind"], item["metadata"]["name"]): without_labels(item) for item in ALL["generated"]}
    charted = {(item["kind"], item["metadata"]["name"]): without_labels(item) for item in ALL["helm"]}

    ours = {("Namespace", HOME), ("Role", "egress-xds-secrets"), ("RoleBinding", "egress-xds-secrets")}
    assert kustomized.keys() - charted.keys() == ours
    assert charted.keys() - kustomized.keys() == {("Secret", "egress-xds-ca"), ("Secret", "egress-xds-tls")}
    for key in kustomized.keys() & charted.keys():
        assert kustomized[key] == charted[key]


def test_the_charts_templates_are_closed_and_use_every_value_and_no_other() -> None:
    chart = ChartWith()
    texts = {path.name: path.read_text(encoding="utf-8") for path in chart.templates}
    used = {name for text in texts.values() for name in re.findall(r"\.Values(?:\.\w+)+", text)}

    def leaves(values: dict[str, Any], path: str) -> set[str]:
        found = set()
        for key, value in values.items():
            place = f"{path}.{key}"
            found |= leaves(value, place) if isinstance(value, dict) and value and place not in used else {place}
        return found

    assert {name: text.count("{{") for name, text in texts.items()} == {
        name: text.count("}}") for name, text in texts.items()
    }
    assert leaves(chart.values, ".Values") == used
    assert all(chart.look_up(name) is not None for name in used)


def test_each_value_of_the_chart_is_explained() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")

    assert text.count("#") >= len(ChartWith().values)


@every_installation
def test_the_flags_are_ones_that_the_program_takes(objects: list[Manifest]) -> None:
    settings = settings_of(objects)

    assert settings.kubernetes
    assert settings.demands_tokens
    assert settings.tls_certificate is not None
    assert (str(settings.tls_certificate), str(settings.tls_key)) == (
        "/etc/egress-xds/tls/tls.crt",
        "/etc/egress-xds/tls/tls.key",
    )
    (mount,) = container(objects)["volumeMounts"]
    assert mount["mountPath"] == str(settings.tls_certificate.parent)


def test_with_token_reviews_the_last_flag_wins() -> None:
    objects = build(KUSTOMIZE / "base")
    deployment = pick(objects, "Deployment")
    path = KUSTOMIZE / "components" / "token-review" / "deployment.yaml"
    (operation,) = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert operation["path"] == "/spec/template/spec/containers/0/args/-"
    deployment["spec"]["template"]["spec"]["containers"][0]["args"].append(operation["value"])

    assert settings_of(objects).token_source == "review"


@every_installation
def test_ports_lead_from_services_and_probes_to_where_the_program_listens(objects: list[Manifest]) -> None:
    settings, ports = (
        settings_of(objects),
        {port["name"]: port["containerPort"] for port in container(objects)["ports"]},
    )
    assert settings.http_listen is not None
    assert settings.admission_listen is not None
    assert ports == {
        "ads": settings.listen.port,
        "http": settings.http_listen.port,
        "admission": settings.admission_listen.port,
    }
    service = {port["name"]: (port["port"], port["targetPort"]) for port in pick(objects, "Service")["spec"]["ports"]}
    assert service == {"ads": (18000, "ads"), "admission": (443, "admission")}
    probes = {name: container(objects)[name]["httpGet"] for name in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert {probe["port"] for probe in probes.values()} == {"http"}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "startupProbe": "/healthz",
        "livenessProbe": "/healthz",
        "readinessProbe": "/readyz",
    }
    ingress = pick(objects, "NetworkPolicy")["spec"]["ingress"]
    assert [port["port"] for rule in ingress for port in rule["ports"]] == ["ads", "http", "admission"]


@every_installation
def test_a_pod_has_time_to_end_its_streams(objects: list[Manifest]) -> None:
    grace = pick(objects, "Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert grace > 2 * settings_of(objects).shutdown_grace


@every_installation
def test_selectors_find_the_pods_and_nothing_hangs_in_the_air(objects: list[Manifest]) -> None:
    deployment = pick(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    spec = deployment["spec"]["template"]["spec"]
    chosen = [
        deployment["spec"]["selector"]["matchLabels"],
        pick(objects, "Service")["spec"]["selector"],
        pick(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        pick(objects, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(spread["labelSelector"]["matchLabels"] for spread in spec["topologySpreadConstraints"]),
    ]
    assert all(selector and selector.items() <= labels for selector in chosen)
    assert pick(objects, "ServiceAccount")["metadata"]["name"] == spec["serviceAccountName"]
    names = {(item["kind"], item["metadata"]["name"]) for item in objects}
    for binding in (item for item in objects if item["kind"].endswith("RoleBinding")):
        (subject,) = binding["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": "egress-xds", "namespace": HOME}
        role = binding["roleRef"]
        assert (role["kind"], role["name"]) in names or role["name"] == "system:service-account-issuer-discovery"


@every_installation
def test_the_pod_may_do_nothing_to_its_node(objects: list[Manifest]) -> None:
    """The Pod Security Standard `restricted`, and more."""
    spec, own = pick(objects, "Deployment")["spec"]["template"]["spec"], container(objects)
    assert spec["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "fsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert own["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert all(volume.keys() == {"name", "secret"} for volume in spec["volumes"])
    assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}
    assert own["resources"]["requests"]
    assert own["resources"]["limits"]["memory"]


def test_the_image_runs_as_the_user_that_the_pod_asks_for() -> None:
    text = (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8")

    assert "USER 65532:65532" in text
    assert "requirements/kubernetes.txt" in (DEPLOY / "image" / "environment.sh").read_text(encoding="utf-8")


READING = {
    *(("*", resource, verb, ()) for resource in ("namespaces", "pods", "services") for verb in ("list", "watch")),
    *(("*", "networking.k8s.io/servicecidrs", verb, ()) for verb in ("list", "watch")),
    *(("*", "configmaps", verb, ()) for verb in ("list", "watch")),
}
TELLING = {
    *(("*", "configmaps", verb, ()) for verb in ("get", "patch")),
    *(("*", "events", verb, ()) for verb in ("create", "patch")),
    *(
        (HOME, "coordination.k8s.io/leases", verb, ())
        for verb in ("create", "delete", "get", "list", "patch", "update")
    ),
}
GRANTED = READING | TELLING
OF_SECRETS = {(HOME, "secrets", verb, ("corp-proxy-ca", "corp-proxy-login")) for verb in ("list", "watch")}
OF_NODES = {("*", "nodes", verb, ()) for verb in ("list", "watch")}


def test_no_right_is_granted_beyond_those_that_are_needed() -> None:
    assert rules_of(build(KUSTOMIZE / "base")) == GRANTED | OF_SECRETS
    assert rules_of(ALL["token-review"]) == GRANTED | OF_SECRETS | {
        ("*", "authentication.k8s.io/tokenreviews", "create", ())
    }
    for overlay in OVERLAYS:
        assert rules_of(ALL[overlay]) == GRANTED | OF_SECRETS | OF_NODES
    assert rules_of(ALL["helm"]) == GRANTED | OF_NODES


def build_with(directory: Path, **wanted: object) -> list[Manifest]:
    """Return what a kustomization that stands in `directory` comes to; its paths are absolute."""
    (directory / "kustomization.yaml").write_text(yaml.safe_dump(wanted), encoding="utf-8")
    return build(directory)


def built_silent(directory: Path) -> list[Manifest]:
    """Return the base with the component `without-status`."""
    component = KUSTOMIZE / "components" / "without-status"
    return build_with(directory, resources=[str(KUSTOMIZE / "base")], components=[str(component)])


def test_without_a_status_nothing_is_written_and_no_right_to_write_is_granted(tmp_path: Path) -> None:
    kustomized, charted = built_silent(tmp_path), ChartWith({"status": {"write": False}}).render()

    assert rules_of(kustomized) == READING | OF_SECRETS
    assert rules_of(charted) == READING | OF_NODES
    assert not settings_of(kustomized).write_status
    assert not settings_of(charted).write_status
    assert settings_of(ALL["generated"]).write_status


def test_without_a_status_what_an_earlier_apply_granted_is_taken_back(tmp_path: Path) -> None:
    """`kubectl apply` leaves an object that is not named any more as it was."""
    with_status, without = build(KUSTOMIZE / "base"), built_silent(tmp_path)

    def roles(objects: list[Manifest]) -> set[tuple[str, str]]:
        return {(item["kind"], item["metadata"]["name"]) for item in objects if item["kind"] in {"Role", "ClusterRole"}}

    assert roles(without) == roles(with_status)


@pytest.mark.parametrize("replicas", [1, 2, 5])
def test_a_node_can_be_drained_however_few_replicas_there_are(replicas: int) -> None:
    chart = ChartWith({"replicas": replicas}).render()

    assert pick(chart, "Deployment")["spec"]["replicas"] == replicas
    budget = pick(chart, "PodDisruptionBudget")["spec"]
    assert budget["maxUnavailable"] == 1
    assert "minAvailable" not in budget


def test_ports_of_other_clusters_are_values_of_the_chart() -> None:
    values = {"networkPolicy": {"apiServerPorts": [16443], "dnsPorts": [53, 5353]}}
    names, server = pick(ChartWith(values).render(), "NetworkPolicy")["spec"]["egress"]

    assert server == {"ports": [{"port": 16443}]}
    assert {(port["port"], port["protocol"]) for port in names["ports"]} == {
        (number, protocol) for number in (53, 5353) for protocol in ("UDP", "TCP")
    }


def askers(objects: list[Manifest]) -> list[str] | None:
    """Return the networks from which the port of the webhooks is reached; None: from anywhere."""
    rules = pick(objects, "NetworkPolicy")["spec"]["ingress"]
    (rule,) = [rule for rule in rules if {"port": "admission"} in rule["ports"]]
    assert rule["ports"] == [{"port": "admission"}], "all else is for sidecars"
    return [peer["ipBlock"]["cidr"] for peer in rule["from"]] if "from" in rule else None


def test_only_the_api_server_reaches_the_webhooks_where_its_networks_are_told() -> None:
    values = {"networkPolicy": {"apiServerCIDRs": ["192.0.2.4/32", "2001:db8::/64"]}}

    assert askers(ChartWith(values).render()) == ["192.0.2.4/32", "2001:db8::/64"]
    assert askers(ALL["helm"]) is None


def test_further_flags_of_the_chart_come_last() -> None:
    chart = ChartWith({"extraArgs": ["--canary=5%", "--log-level=debug"]}).render()

    assert container(chart)["args"][-2:] == ["--canary=5%", "--log-level=debug"]
    assert settings_of(chart).log_level == "debug"


def test_no_pod_mounts_the_key_of_the_authority() -> None:
    assert pick(ALL["helm"], "Secret", "egress-xds-ca")["type"] == "kubernetes.io/tls"
    assert "egress-xds-ca" not in json.dumps(pick(ALL["helm"], "Deployment"))


OWN = KUSTOMIZE / "examples" / "overlay"


def built_own(directory: Path) -> list[Manifest]:
    """Return what the overlay that is an example comes to, but for the name of the image."""
    (wanted,) = read_manifests(OWN / "kustomization.yaml")
    paths = {key: [str(OWN / name) for name in wanted[key]] for key in ("resources", "components")}
    patches = [{**patch, "path": str(OWN / patch["path"])} for patch in wanted["patches"]]
    return build_with(directory, **paths, patches=patches)


def test_an_overlay_of_ones_own_names_image_secrets_flags_and_ports(tmp_path: Path) -> None:
    objects, (wanted,) = built_own(tmp_path), read_manifests(OWN / "kustomization.yaml")

    (image,) = wanted["images"]
    assert container(objects)["image"] == f"{image['name']}:{image['newTag']}"
    settings = settings_of(objects)
    assert settings.inject_image == f"{image['newName']}:{image['newTag']}"
    assert settings.inject_init_image == f"{image['newName']}-init:{image['newTag']}"
    assert settings.inject_envoy_image.endswith(f"/{DEFAULT_ENVOY_IMAGE.rpartition('/')[2]}")
    (secrets,) = {names for _, resource, _, names in rules_of(objects) if resource == "secrets"}
    assert secrets == ("corp-proxy-ca", "corp-proxy-login", "partner-proxy-login")
    assert [str(network) for network in settings_of(objects).cluster_cidr] == ["10.96.0.0/12"]
    (_, server) = pick(objects, "NetworkPolicy")["spec"]["egress"]
    assert [port["port"] for port in server["ports"]] == [443, 6443, 16443]
    assert askers(objects) == ["192.0.2.4/32"]


def test_kustomize_builds_the_overlay_of_ones_own_with_its_image(tmp_path: Path) -> None:
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        pytest.skip("there is no kubectl")
    run = subprocess.run([kubectl, "kustomize", str(OWN)], capture_output=True, text=True, check=True, timeout=60)
    expected = built_own(tmp_path)
    container(expected)["image"] = "registry.corp.example/platform/egress-xds:0.1.0"

    def order(item: Manifest) -> tuple[str, str]:
        return item["kind"], item["metadata"]["name"]

    assert sorted(yaml.safe_load_all(run.stdout), key=order) == sorted(expected, key=order)


def test_the_confining_policy_is_about_the_account_and_what_it_may_write() -> None:
    policy = pick(ALL["confine"], "ValidatingAdmissionPolicy", "egress-xds-confine")["spec"]
    binding = pick(ALL["confine"], "ValidatingAdmissionPolicyBinding", "egress-xds-confine")["spec"]
    account = pick(ALL["generated"], "ServiceAccount")["metadata"]
    texts = json.dumps(policy)

    assert binding == {"policyName": "egress-xds-confine", "validationActions": ["Deny"]}
    assert policy["failurePolicy"] == "Fail"
    assert [condition["expression"] for condition in policy["matchConditions"]] == [
        f"request.userInfo.username == 'system:serviceaccount:{account['namespace']}:{account['name']}'"
    ]
    ours = next(item["expression"] for item in policy["variables"] if item["name"] == "ours")
    assert tuple(yaml.safe_load(ours)) == (STATUS, PROBLEMS, STATUS_JSON)
    assert f"'{ACCEPTED}'" in texts
    assert f"'{LABEL}'" in texts


def test_the_chart_confines_when_it_is_told_to_and_where_there_is_something_to_confine() -> None:
    kinds = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    charted = ChartWith({"status": {"confine": True}}).render()
    silent = ChartWith({"status": {"confine": True, "write": False}}).render()

    for kind in kinds:
        name = "egress-xds-confine"
        assert without_labels(pick(charted, kind, name)) == without_labels(pick(ALL["confine"], kind, name))
    assert not any(item["kind"] in kinds for item in [*ALL["helm"], *silent])


@pytest.mark.parametrize("where", [*ALL])
def test_secrets_are_granted_by_name_and_nothing_by_wildcard(where: str) -> None:
    for scope, resource, verb, names in rules_of(ALL[where]):
        assert "*" not in resource + verb
        assert resource != "secrets" or (scope != "*" and names)


async def test_all_that_is_watched_may_be_watched() -> None:
    class Nobody:
        """An API server that nobody asks."""

    mirror = Mirror(Nobody(), Workloads(), home=HOME)  # type: ignore[arg-type]  # it is not asked
    granted = READING | OF_NODES

    for reflector in mirror.reflectors:
        *_, group, _version, resource = reflector.collection.path.strip("/").split("/")
        place = resource if group == "api" else f"{group}/{resource}"
        assert {("*", place, "list", ()), ("*", place, "watch", ())} <= granted


@every_installation
def test_the_webhook_asks_where_reviews_are_answered_and_harms_nobody_if_not(objects: list[Manifest]) -> None:
    (webhook,) = pick(objects, "ValidatingWebhookConfiguration")["webhooks"]
    service = pick(objects, "Service")

    assert webhook["clientConfig"]["service"] == {
        "name": service["metadata"]["name"],
        "namespace": service["metadata"]["namespace"],
        "path": VALIDATE_POLICY,
        "port": 443,
    }
    assert (webhook["failurePolicy"], webhook["matchPolicy"], webhook["sideEffects"]) == (
        "Ignore",
        "Equivalent",
        "None",
    )
    assert webhook["admissionReviewVersions"] == ["v1"]
    assert webhook["objectSelector"] == {"matchLabels": {LABEL: "true"}}
    (rule,) = webhook["rules"]
    assert (rule["operations"], rule["resources"], rule["scope"]) == (
        ["CREATE", "UPDATE"],
        ["configmaps"],
        "Namespaced",
    )
    assert len(webhook["name"].split(".")) >= 3


@every_installation
def test_no_pod_goes_without_the_sidecar_that_was_asked_for_and_no_other_is_asked_about(
    objects: list[Manifest],
) -> None:
    (webhook,) = pick(objects, "MutatingWebhookConfiguration")["webhooks"]
    (rule,) = webhook["rules"]
    asked, spared = webhook["namespaceSelector"]["matchExpressions"]
    service = pick(objects, "Service")["metadata"]

    assert webhook["clientConfig"]["service"] == {
        **{k: service[k] for k in ("name", "namespace")},
        "path": INJECT,
        "port": 443,
    }
    assert (webhook["failurePolicy"], webhook["reinvocationPolicy"]) == ("Fail", "IfNeeded")
    assert (webhook["matchPolicy"], webhook["sideEffects"]) == ("Equivalent", "None")
    assert webhook["admissionReviewVersions"] == ["v1"]
    assert asked == {"key": "egress-xds/inject", "operator": "In", "values": ["true"]}
    assert spared == {"key": "kubernetes.io/metadata.name", "operator": "NotIn", "values": ["kube-system", HOME]}
    assert webhook["objectSelector"]["matchExpressions"] == [{**asked, "operator": "NotIn", "values": ["false"]}]
    assert (rule["operations"], rule["resources"], rule["scope"]) == (["CREATE"], ["pods"], "Namespaced")


@every_installation
def test_sidecars_find_the_control_plane_by_its_service_and_believe_its_authority(objects: list[Manifest]) -> None:
    settings, service = settings_of(objects), pick(objects, "Service")
    sidecars = Sidecars(settings, home=HOME, has_native=lambda: True)
    sidecars.load({str(sidecars.ca): FileContent(Authority().certificate)})
    sidecar = sidecars.current()
    ports = {port["name"]: port["port"] for port in service["spec"]["ports"]}

    assert sidecar is not None
    assert sidecar.server == f"{service['metadata']['name']}.{HOME}.svc:{ports['ads']}"
    assert sidecar.image == container(objects)["image"]
    assert sidecar.envoy_image == DEFAULT_ENVOY_IMAGE
    assert str(sidecars.ca) == "/etc/egress-xds/tls/ca.crt"


def test_the_chart_without_an_injector_asks_about_no_pod() -> None:
    chart = ChartWith({"injector": {"enabled": False}}).render()

    assert not any(item["kind"] == "MutatingWebhookConfiguration" for item in chart)
    assert not settings_of(chart).injects
    assert settings_of(chart).admission_listen is not None


def test_the_chart_without_reviews_of_policies_still_injects() -> None:
    chart = ChartWith({"admission": {"enabled": False}}).render()

    assert not any(item["kind"] == "ValidatingWebhookConfiguration" for item in chart)
    assert settings_of(chart).injects
    assert settings_of(chart).admission_listen is not None


def test_where_the_chart_forbids_to_opt_out_the_webhook_is_asked_about_those_who_do() -> None:
    chart = ChartWith({"injector": {"forbid": ["inject", "reject-udp"]}}).render()
    (webhook,) = pick(chart, "MutatingWebhookConfiguration")["webhooks"]

    assert settings_of(chart).inject_forbid == ("inject", "reject-udp")
    assert "objectSelector" not in webhook


def test_defaults_of_the_chart_are_annotations_that_injection_knows() -> None:
    given = ["sidecar-memory=256Mi", "dns=true", "native-sidecar=false"]
    settings = settings_of(ChartWith({"injector": {"defaults": given}}).render())

    assert read_defaults(settings.inject_default) == {
        f"egress-xds/{name}": value for name, _, value in (text.partition("=") for text in given)
    }
    assert all(text in (CHART / "values.yaml").read_text(encoding="utf-8") for text in given)


def test_cert_manager_issues_for_the_names_that_are_asked_for() -> None:
    objects = ALL["cert-manager"]
    certificate = pick(objects, "Certificate")
    volume = pick(objects, "Deployment")["spec"]["template"]["spec"]["volumes"][0]
    kinds = ("ValidatingWebhookConfiguration", "MutatingWebhookConfiguration")
    annotated = [pick(objects, kind)["metadata"]["annotations"] for kind in kinds]

    assert f"egress-xds.{HOME}.svc" in certificate["spec"]["dnsNames"]
    assert certificate["spec"]["secretName"] == volume["secret"]["secretName"]
    assert annotated == [{"cert-manager.io/inject-ca-from": f"{HOME}/egress-xds"}] * 2
    issuers = {item["metadata"]["name"] for item in objects if item["kind"] == "Issuer"}
    wanted = {item["spec"]["issuerRef"]["name"] for item in objects if item["kind"] == "Certificate"}
    assert issuers == wanted


EXAMPLES = [item for item in ALL["examples"] if item["kind"] == "ConfigMap"]


@pytest.mark.parametrize("item", EXAMPLES, ids=[item["metadata"]["name"] for item in EXAMPLES])
def test_an_example_is_a_good_policy(item: Manifest) -> None:
    metadata = item["metadata"]
    review = Review(
        uid="1",
        operation="CREATE",
        kind=("", "v1", "ConfigMap"),
        namespace=metadata["namespace"],
        name=metadata["name"],
        new=item,
    )

    verdict = PolicyReviewer(home=HOME, documents=lambda: (), clock=lambda: 0.0)(review)()

    assert metadata["labels"] == {LABEL: "true"}
    assert verdict.refusal == ""
    assert verdict.warnings == ()


def test_the_secrets_of_examples_may_be_read_and_no_example_holds_one() -> None:
    texts = [text for item in EXAMPLES for text in item["data"].values()]
    named = {name for text in texts for name in re.findall(r"secretRef:\s+name: (\S+)", text)}
    granted = {name for *_, names in rules_of(ALL["generated"]) for name in names}

    assert named
    assert named <= granted
    assert not any(item["kind"] == "Secret" for item in ALL["examples"])
