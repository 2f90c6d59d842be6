"""The pod that is an example, as the installation of `deploy/` injects it: Envoy takes what its containers write."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import yaml
from click.testing import CliRunner

from tests.house.test_deploy import ALL, HOME, container, pick, settings_of
from tests.support.certificates import Authority
from tests.support.manifests import CHART, DEPLOY, KUSTOMIZE, Manifest, read_manifests
from tests.support.pod_rules import check_schema, find_violations
from tests.support.validation import find_envoy
from xds.admission.sidecars import Sidecars
from xds.cli.bootstrap import command as bootstrap_command
from xds.facts import FileContent
from xds.injection.annotations import INJECT
from xds.injection.inject import Surroundings, inject

if TYPE_CHECKING:
    from pathlib import Path

OBJECTS = ALL["generated"]
NAMES = ["egress-bootstrap", "egress-envoy", "egress-capture", "web"]
ROOTS = ("/etc/egress-xds", "/var/run/secrets/egress-xds", "/run/egress-xds")
PEM = Authority().certificate


def injected() -> Manifest:
    """Return the example as the webhook would have it."""
    namespace, pod = read_manifests(KUSTOMIZE / "examples" / "pod.yaml")
    metadata = namespace["metadata"]
    assert pod["metadata"]["namespace"] == metadata["name"]
    sidecars = Sidecars(settings_of(OBJECTS), home=HOME, has_native=lambda: True)
    sidecars.load({str(sidecars.ca): FileContent(PEM)})
    sidecar = sidecars.current()
    assert sidecar is not None
    around = Surroundings(
        namespace=metadata["name"],
        namespace_labels=metadata["labels"],
        namespace_annotations=metadata["annotations"],
        policy=None,
    )
    return dict(inject(pod, around, sidecar).pod)


POD = injected()
CONTAINERS = {item["name"]: item for item in [*POD["spec"]["initContainers"], *POD["spec"]["containers"]]}
BOOTSTRAP, ENVOY, CAPTURE, APPLICATION = (CONTAINERS[name] for name in NAMES)


def within(directory: Path, arguments: list[str]) -> list[str]:
    """Return arguments as in the pod, with its volumes in a directory."""
    text = "\n".join(arguments).replace("$(POD_NAME)", "web-0").replace("$(POD_NAMESPACE)", "shop")
    for number, root in enumerate(ROOTS):
        text = text.replace(f"={root}", f"={directory}/{number}").replace(f"\n{root}", f"\n{directory}/{number}")
    return text.split("\n")


def write_bootstrap(directory: Path) -> Manifest:
    """Run what the first container runs; return the bootstrap."""
    verb, *arguments = within(directory, BOOTSTRAP["args"])
    assert verb == "bootstrap"
    done = CliRunner().invoke(bootstrap_command, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    text = (directory / "0" / "bootstrap" / "bootstrap.yaml").read_text(encoding="utf-8")
    found = yaml.safe_load(text)
    assert isinstance(found, dict)
    return found


def mounts(item: Manifest) -> dict[str, str]:
    """Return which volume is mounted where."""
    return {mount["mountPath"]: mount["name"] for mount in item.get("volumeMounts", ())}


def test_the_example_asks_for_injection_and_becomes_a_pod_that_an_api_server_takes() -> None:
    namespace, pod = read_manifests(KUSTOMIZE / "examples" / "pod.yaml")

    assert namespace["metadata"]["labels"] == {INJECT: "true"}
    assert [*pod["spec"]] == ["containers"]
    check_schema(POD)
    assert find_violations(POD) == []


def test_containers_start_in_an_order_in_which_nothing_leaves_unseen() -> None:
    """Init containers one after the other; one that stays is followed as soon as it runs."""
    assert [*CONTAINERS] == NAMES
    assert [item["name"] for item in POD["spec"]["containers"]] == ["web"]
    assert ENVOY["restartPolicy"] == "Always"
    assert not any("restartPolicy" in item for item in (BOOTSTRAP, CAPTURE, APPLICATION))


def test_the_bootstrap_is_of_this_pod_and_of_this_control_plane(tmp_path: Path) -> None:
    bootstrap = write_bootstrap(tmp_path)
    service = pick(OBJECTS, "Service")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    port = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "ads")

    assert bootstrap["node"]["id"] == f"{POD['metadata']['name']}.{POD['metadata']['namespace']}"
    assert f"--server={host}:{port}" in BOOTSTRAP["args"]
    assert f"--server-name={host}" in BOOTSTRAP["args"]


def test_envoy_takes_the_bootstrap_and_its_flags(tmp_path: Path) -> None:
    write_bootstrap(tmp_path)
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "ca.crt").write_text(PEM, encoding="utf-8")
    (tmp_path / "1" / "token").write_text("token", encoding="utf-8")
    words = [find_envoy(), *within(tmp_path, ENVOY["args"]), "--mode", "validate"]

    run = subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)

    assert run.returncode == 0, run.stderr


def test_envoy_sees_every_file_that_the_bootstrap_names_and_others_see_no_token() -> None:
    seen = mounts(ENVOY)
    files = [word.partition("=")[2] for word in BOOTSTRAP["args"] if "=/" in word]

    assert len(files) == 4
    assert all(any(path == place or path.startswith(f"{place}/") for place in seen) for path in files)
    assert mounts(BOOTSTRAP).items() <= seen.items()
    assert {item["name"] for item in POD["spec"]["volumes"]} == set(seen.values())
    assert not mounts(CAPTURE)
    assert not mounts(APPLICATION)


def test_the_token_is_for_the_control_plane_alone() -> None:
    volumes = {item["name"]: item for item in POD["spec"]["volumes"]}
    token, authority = volumes["egress-identity"]["projected"]["sources"]

    assert f"--token-audience={token['serviceAccountToken']['audience']}" in container(OBJECTS)["args"]
    assert f"--token-file=/var/run/secrets/egress-xds/{token['serviceAccountToken']['path']}" in BOOTSTRAP["args"]
    (item,) = authority["downwardAPI"]["items"]
    assert f"--server-ca=/var/run/secrets/egress-xds/{item['path']}" in BOOTSTRAP["args"]
    assert POD["metadata"]["annotations"]["egress-xds/server-ca"] == PEM


def test_only_the_container_that_captures_may_change_the_network() -> None:
    for name, item in CONTAINERS.items():
        capabilities = item["securityContext"]["capabilities"]
        assert capabilities["drop"] == ["ALL"]
        assert capabilities.get("add", []) == (["NET_ADMIN"] if name == "egress-capture" else [])
        assert item["securityContext"]["allowPrivilegeEscalation"] is False
        assert "privileged" not in item["securityContext"]


def test_the_application_knows_of_no_proxy_and_its_choices_are_in_force() -> None:
    assert APPLICATION.keys() == {"name", "image", "securityContext"}
    assert ENVOY["resources"]["requests"]["memory"] == "200Mi"
    assert "--exclude-ports=5432" in CAPTURE["args"] or "--exclude-port=5432" in CAPTURE["args"]


def test_images_are_those_that_the_dockerfile_makes_of_this_version() -> None:
    (chart,) = read_manifests(CHART / "Chart.yaml")
    text = (DEPLOY.parent / "Dockerfile").read_text(encoding="utf-8")

    assert BOOTSTRAP["image"] == f"egress-xds:{chart['appVersion']}"
    assert CAPTURE["image"] == f"egress-xds-init:{chart['appVersion']}"
    assert f"--tag {BOOTSTRAP['image']} ." in text
    assert f"--target init --tag {CAPTURE['image']} ." in text


def test_envoys_own_limit_is_below_that_of_its_container() -> None:
    (heap,) = [word.partition("=")[2] for word in BOOTSTRAP["args"] if word.startswith("--max-heap=")]
    limit = ENVOY["resources"]["limits"]["memory"]

    assert int(heap.removesuffix("Mi")) * 5 == int(limit.removesuffix("Mi")) * 4
