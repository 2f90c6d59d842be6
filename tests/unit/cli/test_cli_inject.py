"""`xds inject`: manifests become what the webhook would make of them, and all else in them stays as it was written."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.support.pod_rules import check_schema, find_violations
from xds.cli.pod_manifests import read_manifests, render_manifests, write_manifest

if TYPE_CHECKING:
    from tests.support.command_line import Runner

AUTHORITY = "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----\n"
POLICY = "httpProxy: http://proxy.corp.example:3128\nhttpsProxy: http://proxy.corp.example:3128\n"
POD = (
    "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\nspec: {containers: [{name: web, image: w:1}]}\n"
)
SERVICE = (
    "# in front of it\napiVersion: v1\nkind: Service\nmetadata: {name: web}  # as it is\nspec: {ports: [{port: 80}]}\n"
)
CONTAINERS = "spec: {containers: [{name: web, image: w:1}]}"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "ca.crt").write_text(AUTHORITY)
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "explicit.yaml").write_text(POLICY + "mode: explicit\n")
    (tmp_path / "env.yaml").write_text(POLICY + "mode: env\n")
    (tmp_path / "pod.yaml").write_text(POD)
    return tmp_path


def inject(xds: Runner, place: Path, *arguments: str) -> Any:  # noqa: ANN401  # JSON has no types
    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt", *arguments)
    assert done.code == 0, done.err
    return list(yaml.safe_load_all(done.out))


@pytest.mark.parametrize(
    ("policy", "mode", "containers"),
    [
        (None, "transparent", ["egress-bootstrap", "egress-envoy", "egress-capture"]),
        ("policy.yaml", "transparent", ["egress-bootstrap", "egress-envoy", "egress-capture"]),
        ("explicit.yaml", "explicit", ["egress-bootstrap", "egress-envoy"]),
        ("env.yaml", "env", []),
    ],
    ids=["without a policy it is captured", "transparent", "explicit", "env"],
)
def test_a_pod_gets_what_its_policy_says(
    xds: Runner, place: Path, policy: str | None, mode: str, containers: list[str]
) -> None:
    (pod,) = inject(xds, place, *([] if policy is None else [f"{place}/{policy}"]))

    check_schema(pod)
    assert find_violations(pod) == []
    assert pod["metadata"]["annotations"]["egress-xds/mode"] == mode
    assert [item["name"] for item in pod["spec"].get("initContainers", ())] == containers


@pytest.mark.parametrize(
    "text",
    [
        f"apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: web}}\nspec: {{template: {{{CONTAINERS}}}}}\n",
        f"apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: web}}\nspec: {{template: {{{CONTAINERS}}}}}\n",
        f"apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: web}}\nspec: {{template: {{{CONTAINERS}}}}}\n",
        f"apiVersion: apps/v1\nkind: ReplicaSet\nmetadata: {{name: web}}\nspec: {{template: {{{CONTAINERS}}}}}\n",
        f"apiVersion: batch/v1\nkind: Job\nmetadata: {{generateName: web-}}\nspec: {{template: {{{CONTAINERS}}}}}\n",
        f"apiVersion: batch/v1\nkind: CronJob\nspec: {{jobTemplate: {{spec: {{template: {{{CONTAINERS}}}}}}}}}\n",
        f"apiVersion: v1\nkind: List\nitems: [{{apiVersion: v1, kind: Pod, metadata: {{name: web}}, {CONTAINERS}}}]\n",
        f"apiVersion: v1\nkind: PodList\nitems: [{{metadata: {{name: web}}, {CONTAINERS}}}]\n",
        json.dumps(yaml.safe_load(POD)),
    ],
    ids=["Deployment", "StatefulSet", "DaemonSet", "ReplicaSet", "Job", "CronJob", "List", "PodList", "JSON"],
)
def test_every_kind_of_object_that_makes_pods_is_known_and_the_same_when_it_is_injected_again(
    xds: Runner, place: Path, text: str
) -> None:
    (place / "pod.yaml").write_text(text)
    once = inject(xds, place)
    (place / "pod.yaml").write_text(yaml.safe_dump_all(once, sort_keys=False))

    assert json.dumps(once).count('"name": "egress-envoy"') == 1
    assert inject(xds, place) == once


def test_what_holds_no_pod_is_printed_as_it_was_written(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(f"{SERVICE}---\n{POD}---\n{SERVICE}")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt")

    first, pod, last = done.out.split("\n---\n")
    assert f"{first}\n" == last == SERVICE
    assert "egress-envoy" in pod
    assert "-----BEGIN CERTIFICATE-----\n" in pod


def test_without_a_pod_nothing_changes_and_that_is_said(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(SERVICE)

    done = xds("inject", "-f", f"{place}/pod.yaml")

    assert (done.code, done.out) == (0, SERVICE)
    assert "there is no pod in it" in done.err


def test_values_stay_what_kubectl_takes_them_for(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\n"
        "metadata: {name: web, labels: {sha: '1e10', y: 'y'}, annotations: {at: 2026-11-21}}\n"
        "spec:\n  terminationGracePeriodSeconds: 010\n"
        "  containers: [{name: web, image: w, args: [22:22, '0x1f', '1_0']}]\n"
    )
    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt", "-o", "json")
    pod = json.loads(done.out)

    assert pod["spec"]["terminationGracePeriodSeconds"] == 8
    assert pod["spec"]["containers"][0]["args"] == ["22:22", "0x1f", "1_0"]
    assert pod["metadata"]["labels"] == {"sha": "1e10", "y": "y"}
    assert pod["metadata"]["annotations"]["at"] == "2026-11-21"
    written = write_manifest(pod)
    assert "sha: '1e10'" in written.text
    assert render_manifests([written], "json") == done.out.rstrip("\n")


def test_several_objects_are_one_list_in_json(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(f"{SERVICE}---\n{POD}")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt", "-o", "json")
    found = json.loads(done.out)

    assert found["kind"] == "List"
    assert [item["kind"] for item in found["items"]] == ["Service", "Pod"]


def test_manifests_may_be_piped_in(xds: Runner, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POD.encode())))

    done = xds("inject", "-f", "-", "--server-ca", f"{place}/ca.crt")

    assert "egress-envoy" in done.out


def test_what_is_left_alone_is_told_with_the_reason(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(POD.replace("spec: {", "spec: {hostNetwork: true, "))

    done = xds("inject", "-f", f"{place}/pod.yaml")

    assert (done.code, done.out) == (0, (place / "pod.yaml").read_text())
    assert "pod/web: left alone: it uses the network of its node" in done.err


def test_if_one_pod_can_not_get_what_it_asks_for_nothing_is_printed_and_all_problems_are_told(
    xds: Runner, place: Path
) -> None:
    wrong = POD.replace("name: web,", "name: bad, annotations: {egress-xds/mode: x, egress-xds/dns: x},")
    (place / "pod.yaml").write_text(f"{POD}---\n{wrong}")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt")

    assert (done.code, done.out) == (1, "")
    assert done.err.count("/pod.yaml, line 6: pod/bad: the annotation egress-xds/") == 2


@pytest.mark.parametrize(
    ("annotation", "remedy"),
    [("egress-xds/mode: env", "no policy was given"), ("egress-xds/trusted-ca: 'true'", "--kubernetes")],
    ids=["variables", "an authority"],
)
def test_what_is_made_of_a_policy_can_not_be_had_without_one(
    xds: Runner, place: Path, annotation: str, remedy: str
) -> None:
    (place / "pod.yaml").write_text(POD.replace("name: web,", f"name: web, annotations: {{{annotation}}},", 1))

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt")

    assert (done.code, done.out) == (1, "")
    assert remedy in done.err


def test_a_sidecar_needs_to_know_who_signs_for_the_control_plane_and_variables_do_not(xds: Runner, place: Path) -> None:
    captured = xds("inject", "-f", f"{place}/pod.yaml", f"{place}/policy.yaml")
    told = xds("inject", "-f", f"{place}/pod.yaml", f"{place}/env.yaml")

    assert captured.code == 1
    assert "--server-ca FILE" in captured.err
    assert told.code == 0


def test_the_namespace_is_what_the_flags_say(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(POD.replace(", namespace: shop", ""))

    (pod,) = inject(
        xds,
        place,
        f"{place}/explicit.yaml",
        "--namespace-label=istio-injection=enabled",
        "--namespace-annotation=egress-xds/run-as-user=4711",
        "--no-native-sidecars",
        "--image=i:1",
        "--pod-namespace=shop",
    )

    assert [item["name"] for item in pod["spec"]["containers"]] == ["egress-envoy", "web"]
    assert pod["spec"]["containers"][0]["securityContext"]["runAsUser"] == 4711
    assert pod["spec"]["initContainers"][0]["image"] == "i:1"
    assert "readinessProbe" not in pod["spec"]["containers"][0]


def test_the_policy_is_the_one_in_force_for_the_pod(xds: Runner, place: Path) -> None:
    long = (
        "apiVersion: egress-xds/v1alpha1\nkind: EgressPolicy\nmetadata: {name: web}\nspec:\n"
        "  selector: {podLabels: {matchLabels: {app: web}}}\n  mode: explicit\n"
        "  proxies: {corp: {endpoints: [{url: 'http://192.0.2.1:3128'}]}}\n  default: {action: tunnel, proxy: corp}\n"
    )
    (place / "policies").mkdir()
    (place / "policies" / "all.yaml").write_text(POLICY)
    (place / "policies" / "web.yaml").write_text(long)
    labelled = POD.replace("name: web,", "name: other, labels: {app: web},", 1)
    (place / "pod.yaml").write_text(f"{POD}---\n{labelled}")

    one, other = inject(xds, place, f"{place}/policies")

    assert one["metadata"]["annotations"]["egress-xds/mode"] == "transparent"
    assert other["metadata"]["annotations"]["egress-xds/mode"] == "explicit"


def test_a_document_that_can_not_be_used_is_shown(xds: Runner, place: Path) -> None:
    (place / "policy.yaml").write_text("httpProxy: 7\n")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt", f"{place}/policy.yaml")

    assert done.code == 0
    assert "error[EX" in done.err
    assert "the pod does not start before it has a policy" in done.err


def test_istio_is_told_of_the_proxies_of_the_pods_or_of_all(xds: Runner, place: Path) -> None:
    of_pods = xds("inject", "--service-entry", "-f", f"{place}/pod.yaml", f"{place}/explicit.yaml")
    of_all = xds("inject", "--service-entry", "--pod-namespace", "shop", f"{place}/explicit.yaml")

    assert of_pods.code == 0
    entry = yaml.safe_load(of_pods.out)
    assert (entry["kind"], entry["metadata"]["namespace"]) == ("ServiceEntry", "shop")
    assert of_all.out == of_pods.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "-f FILE"),
        (["-f", "{}/none.yaml"], "none.yaml can't be read"),
        (["-f", "-", "-"], "stdin can be read once only"),
        (["-f", "{}/pod.yaml", "{}/policy.yaml", "--kubernetes"], "either paths of policies, or --kubernetes"),
        (["-f", "{}/pod.yaml", "--server-ca", "{}/none.crt"], "--server-ca"),
        (["-f", "{}/pod.yaml", "--server-ca", "{}/pod.yaml"], "no certificate in PEM"),
        (["-f", "{}/broken.yaml"], "is no YAML"),
        (["-f", "{}/two.yaml"], "expected '<document start>'"),
        (["-f", "{}/number.yaml"], "no manifest"),
        (["-f", "{}/latin.yaml"], "not UTF-8"),
        (["-f", "{}/pod.yaml", "--namespace-annotation", "x"], "is not KEY=VALUE"),
        (["-f", "{}/pod.yaml", "--pod-namespace", "A B"], "it must be a namespace"),
        (["--service-entry"], "made of a policy"),
    ],
    ids=[
        "no manifest",
        "no file",
        "stdin twice",
        "two places of policies",
        "no authority",
        "an authority that is none",
        "no YAML",
        "a document after its end",
        "a number that JSON has not",
        "another encoding",
        "an annotation without a value",
        "a namespace that is none",
        "a ServiceEntry of nothing",
    ],
)
def test_wrong_usage_is_one_message(xds: Runner, place: Path, arguments: list[str], words: str) -> None:
    (place / "broken.yaml").write_text("a: [\n")
    (place / "two.yaml").write_text("a: 1\n...\nb: 2\n")
    (place / "number.yaml").write_text("a: !!float .nan\n")
    (place / "latin.yaml").write_bytes(b"a: \xe9\n")

    done = xds("inject", *(argument.replace("{}", str(place)) for argument in arguments))

    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_documents_without_content_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("# nothing\n---\n---\na: 1\n---\n")

    assert [manifest.value for manifest in read_manifests(path)] == [{"a": 1}]


OPTED_IN = "egress-xds/inject: 'true'"
NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {LABELS}, annotations: {ANNOTATIONS}}\n"


def namespace(labels: str = "", annotations: str = "") -> str:
    return NAMESPACE.replace("LABELS", labels).replace("ANNOTATIONS", annotations)


@pytest.mark.parametrize("home", ["kube-system", "egress-system", "elsewhere"])
@pytest.mark.parametrize("arguments", [[], ["--all"]], ids=["", "--all"])
def test_pods_that_the_control_plane_needs_to_start_are_left_alone(
    xds: Runner, place: Path, home: str, arguments: list[str]
) -> None:
    (place / "pod.yaml").write_text(POD.replace("shop", home))
    server = ["--server", "egress-xds.elsewhere.svc:18000"] if home == "elsewhere" else []

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt", *server, *arguments)

    assert (done.code, done.out) == (0, (place / "pod.yaml").read_text())
    assert f"pod/web: left alone: it is of {home}" in done.err


@pytest.mark.parametrize(
    ("written", "arguments", "is_injected"),
    [
        ("", [], True),
        (namespace(OPTED_IN), [], True),
        (namespace(), [], False),
        (namespace("egress-xds/inject: 'false'"), [], False),
        (namespace(), ["--all"], True),
        (namespace(), ["--namespace-label", "egress-xds/inject=true"], True),
        ("", ["--namespace-label", "egress-xds/inject=false"], False),
        (f"apiVersion: v1\nkind: List\nitems:\n- {json.dumps(yaml.safe_load(namespace()))}\n", [], False),
        (namespace().replace("shop", "other"), [], True),
    ],
    ids=[
        "nothing is known",
        "the label",
        "without the label",
        "another value",
        "all the same",
        "a flag beats the manifest",
        "a flag alone",
        "in a list",
        "another namespace",
    ],
)
def test_a_namespace_that_is_known_has_to_have_the_label(
    xds: Runner, place: Path, written: str, arguments: list[str], *, is_injected: bool
) -> None:
    (place / "pod.yaml").write_text(f"{POD}---\n{written}")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt", *arguments)

    assert done.code == 0
    assert ("egress-envoy" in done.out) is is_injected
    assert ("left alone: its namespace shop does not have the label" in done.err) is not is_injected


def test_what_a_namespace_of_the_input_says_holds_for_its_pods_unless_a_flag_says_otherwise(
    xds: Runner, place: Path
) -> None:
    said = "egress-xds/sidecar-memory: 200Mi, egress-xds/sidecar-cpu: 300m"
    (place / "pod.yaml").write_text(f"{POD}---\n{namespace(OPTED_IN, said)}")

    pod, _ = inject(xds, place, "--namespace-annotation=egress-xds/sidecar-cpu=400m")

    (envoy,) = (item for item in pod["spec"]["initContainers"] if item["name"] == "egress-envoy")
    assert envoy["resources"]["requests"] == {"cpu": "400m", "memory": "200Mi"}


def test_a_label_of_a_namespace_that_is_no_text_is_refused(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(f"{POD}---\n{namespace('egress-xds/inject: true')}")

    done = xds("inject", "-f", f"{place}/pod.yaml")

    assert (done.code, done.out) == (2, "")
    assert "line 6: labels of namespace/shop: 'egress-xds/inject' is no text; quote the value" in done.err


def test_a_policy_that_is_not_the_preferred_one_is_told_with_what_was_meant(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(POD.replace("name: web,", "name: web, annotations: {egress-xds/policy: crop},", 1))
    (place / "policy.yaml").write_text(f"name: corp\n{POLICY}")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt", f"{place}/policy.yaml")

    assert done.code == 0
    assert "prefers 'crop', but the policy in force is 'corp'; did you mean corp?" in done.err


@pytest.mark.parametrize(
    "text",
    [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\n",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: []}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n",
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec: {template: {spec: {}}}\n",
        "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: web}\nspec: {jobTemplate: null}\n",
    ],
    ids=["no spec", "no container", "no spec of a Deployment", "no container of it", "no template"],
)
def test_what_has_to_hold_a_pod_and_holds_none_is_refused(xds: Runner, place: Path, text: str) -> None:
    (place / "pod.yaml").write_text(f"{SERVICE}---\n{text}")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt")

    assert (done.code, done.out) == (1, "")
    assert f"{place}/pod.yaml, line 7: " in done.err
    assert "/web: there is no pod: its spec.containers is missing or empty" in done.err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (f"{SERVICE}---\n\n{POD}spec: {{}}\n", "line 12: pod/web has the key 'spec' twice"),
        (POD.replace("name: web,", "name: web, 1: a, '1': b,", 1), "line 3: pod/web has the key '1' twice"),
        ('{"kind": "Pod", "kind": "Job"}', "line 1, begins a document that is no manifest: the key 'kind' stands"),
    ],
    ids=["a key of YAML", "keys that are one in JSON", "a key of JSON"],
)
def test_a_key_that_stands_there_twice_is_refused_with_its_line(
    xds: Runner, place: Path, text: str, words: str
) -> None:
    (place / "pod.yaml").write_text(text)

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt")

    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_what_a_merge_key_brings_is_no_repetition(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: &m {name: web, labels: &l {a: b}}\n"
        "spec: {containers: [{<<: *m, labels: {<<: *l, a: c}, name: app, image: w}]}\n"
    )

    (pod,) = inject(xds, place)

    assert pod["spec"]["containers"][-1] == {"name": "app", "labels": {"a": "c"}, "image": "w"}


@pytest.mark.parametrize(
    ("version", "kind", "spec"),
    [
        ("argoproj.io/v1alpha1", "Rollout", f"{{template: {{{CONTAINERS}}}}}"),
        ("batch.volcano.sh/v1alpha1", "Job", f"{{tasks: [{{template: {{{CONTAINERS}}}}}]}}"),
        ("serving.knative.dev/v1", "Service", f"{{template: {{{CONTAINERS}}}}}"),
    ],
)
def test_a_kind_that_is_not_known_and_holds_a_pod_is_left_as_it_is_and_told(
    xds: Runner, place: Path, version: str, kind: str, spec: str
) -> None:
    (place / "pod.yaml").write_text(f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: web}}\nspec: {spec}\n")

    done = xds("inject", "-f", f"{place}/pod.yaml", "--server-ca", f"{place}/ca.crt")

    assert (done.code, done.out) == (0, (place / "pod.yaml").read_text())
    assert f"{kind.lower()}/web: left as it is: the kind {kind} is not known" in done.err


def test_the_example_becomes_what_its_namespace_says(xds: Runner, place: Path) -> None:
    (place / "pod.yaml").write_text(Path("deploy/kustomize/examples/pod.yaml").read_text())

    _, pod = inject(xds, place)

    (envoy,) = (item for item in pod["spec"]["initContainers"] if item["name"] == "egress-envoy")
    assert envoy["resources"]["requests"]["memory"] == "200Mi"


def test_what_pods_may_not_say_is_refused_here_as_by_the_webhook(xds: Runner, place: Path) -> None:
    out = POD.replace("name: web,", "name: web, labels: {egress-xds/inject: 'false'},", 1)
    (place / "pod.yaml").write_text(out)
    told = xds("inject", "-f", f"{place}/pod.yaml")
    refused = xds("inject", "-f", f"{place}/pod.yaml", "--inject-forbid", "inject")

    assert (told.code, told.out.strip()) == (0, out.strip())
    assert "left alone: it opted out" in told.err
    assert (refused.code, refused.out) == (1, "")
    assert 'the label egress-xds/inject: "false" of the pod is forbidden here' in refused.err
