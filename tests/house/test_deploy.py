"""
What stands in `deploy/`: each object is one that an API server would take, and they fit one another and the program.

There is no dry run here, so the official client's models stand in for it: a field that gets lost on the way through
them is one that Kubernetes does not know.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from kubernetes.client import ApiClient

from tests.support.manifests import CHART, DEPLOY, KUSTOMIZE, Chart, Manifest, build, read_manifests
from xds.admission.policies import LABEL, PolicyReviewer
from xds.admission.review import Review
from xds.admission.server import VALIDATE_POLICY
from xds.cli.serve import command
from xds.kubernetes.mirror import Mirror
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
    "Namespace": "V1Namespace",
    "NetworkPolicy": "V1NetworkPolicy",
    "PodDisruptionBudget": "V1PodDisruptionBudget",
    "Role": "V1Role",
    "RoleBinding": "V1RoleBinding",
    "Secret": "V1Secret",
    "Service": "V1Service",
    "ServiceAccount": "V1ServiceAccount",
    "ValidatingWebhookConfiguration": "V1ValidatingWebhookConfiguration",
}


def everything() -> dict[str, list[Manifest]]:
    """Return all ways of installation, by name."""
    built = {name: build(KUSTOMIZE / "overlays" / name) for name in OVERLAYS}
    reviewed = [*build(KUSTOMIZE / "base"), *read_manifests(KUSTOMIZE / "components/token-review/cluster-role.yaml")]
    examples = [item for path in sorted((KUSTOMIZE / "examples").iterdir()) for item in read_manifests(path)]
    return {**built, "token-review": reviewed, "examples": examples, "helm": Chart().render()}


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
    assert charted.keys() - kustomized.keys() == {("Secret", "egress-xds-tls")}
    for key in kustomized.keys() & charted.keys():
        assert kustomized[key] == charted[key]


def test_the_charts_templates_are_closed_and_use_every_value_and_no_other() -> None:
    chart = Chart()
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

    assert text.count("#") >= len(Chart().values)


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
    assert deployment["spec"]["replicas"] > pick(objects, "PodDisruptionBudget")["spec"]["minAvailable"]
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
    assert "requirements/kubernetes.txt" in text


GRANTED = {
    *(("*", resource, verb, ()) for resource in ("namespaces", "pods", "services") for verb in ("list", "watch")),
    *(("*", "networking.k8s.io/servicecidrs", verb, ()) for verb in ("list", "watch")),
    *(("*", "configmaps", verb, ()) for verb in ("get", "list", "watch", "patch")),
    *(("*", "events", verb, ()) for verb in ("create", "patch")),
    *(
        (HOME, "coordination.k8s.io/leases", verb, ())
        for verb in ("create", "delete", "get", "list", "patch", "update")
    ),
}
OF_SECRETS = {(HOME, "secrets", verb, ("corp-proxy-login",)) for verb in ("get", "list", "watch")}
OF_NODES = {("*", "nodes", verb, ()) for verb in ("list", "watch")}


def test_no_right_is_granted_beyond_those_that_are_needed() -> None:
    assert rules_of(build(KUSTOMIZE / "base")) == GRANTED | OF_SECRETS
    assert rules_of(ALL["token-review"]) == GRANTED | OF_SECRETS | {
        ("*", "authentication.k8s.io/tokenreviews", "create", ())
    }
    for overlay in OVERLAYS:
        assert rules_of(ALL[overlay]) == GRANTED | OF_SECRETS | OF_NODES
    assert rules_of(ALL["helm"]) == GRANTED | OF_NODES


@pytest.mark.parametrize("where", [*ALL])
def test_secrets_are_granted_by_name_and_nothing_by_wildcard(where: str) -> None:
    for scope, resource, verb, names in rules_of(ALL[where]):
        assert "*" not in resource + verb
        assert resource != "secrets" or (scope != "*" and names)


async def test_all_that_is_watched_may_be_watched() -> None:
    class Nobody:
        """An API server that nobody asks."""

    mirror = Mirror(Nobody(), Workloads(), home=HOME)  # type: ignore[arg-type]  # it is not asked
    granted = rules_of(ALL["generated"])

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


def test_cert_manager_issues_for_the_names_that_are_asked_for() -> None:
    objects = ALL["cert-manager"]
    certificate = pick(objects, "Certificate")
    volume = pick(objects, "Deployment")["spec"]["template"]["spec"]["volumes"][0]
    webhook = pick(objects, "ValidatingWebhookConfiguration")

    assert f"egress-xds.{HOME}.svc" in certificate["spec"]["dnsNames"]
    assert certificate["spec"]["secretName"] == volume["secret"]["secretName"]
    assert webhook["metadata"]["annotations"] == {"cert-manager.io/inject-ca-from": f"{HOME}/egress-xds"}
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


KUBECTL = """\
#!/bin/sh
# Stands in for kubectl: Secrets are files below $STORE, and what else is asked is noted.
echo "$*" >> "$STORE/asked"
case "$*" in
    *"get secret"*"tls\\.crt"*) cat "$STORE/egress-xds-ca/tls.crt" 2>/dev/null | base64 -w 0 ;;
    *"get secret"*"tls\\.key"*) cat "$STORE/egress-xds-ca/tls.key" 2>/dev/null | base64 -w 0 ;;
    *"create secret"*)
        name=$6
        mkdir -p "$STORE/$name"
        for word in "$@"; do
            case $word in --from-file=*) file=${word#--from-file=}; cp "${file#*=}" "$STORE/$name/${file%%=*}" ;; esac
        done ;;
    apply*) cat > /dev/null ;;
esac
"""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run commands with a kubectl that stores Secrets in the directory that is returned."""
    if shutil.which("openssl") is None and "CI" not in os.environ:
        pytest.skip("there is no openssl")
    program = tmp_path / "bin" / "kubectl"
    program.parent.mkdir()
    program.write_text(KUBECTL, encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STORE", str(tmp_path))
    return tmp_path


def make_certificate() -> None:
    """Run the script that stands in for cert-manager."""
    script = KUSTOMIZE / "make-certificate.sh"
    subprocess.run([script, "30"], check=True, capture_output=True, text=True, timeout=60)


def test_without_cert_manager_a_script_makes_a_certificate_that_the_webhook_believes(store: Path) -> None:
    make_certificate()

    made = store / "egress-xds-tls"
    assert {path.name for path in made.iterdir()} == {"tls.crt", "tls.key", "ca.crt"}
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made / "tls.crt", made / "tls.key")
    words = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", str(made / "ca.crt")]
    host = ["-verify_hostname", f"egress-xds.{HOME}.svc"]
    subprocess.run([*words, *host, str(made / "tls.crt")], check=True, capture_output=True)
    patch = next(line for line in (store / "asked").read_text(encoding="utf-8").splitlines() if "patch valid" in line)
    (operation,) = json.loads(patch[patch.index("[") :])
    assert operation["path"] == "/webhooks/0/clientConfig/caBundle"
    assert base64.b64decode(operation["value"]) == (made / "ca.crt").read_bytes()


def test_a_second_certificate_is_of_the_same_authority(store: Path) -> None:
    make_certificate()
    made = store / "egress-xds-tls"
    first, authority = (made / "tls.crt").read_bytes(), (made / "ca.crt").read_bytes()

    make_certificate()

    assert (made / "tls.crt").read_bytes() != first
    assert (made / "ca.crt").read_bytes() == authority
