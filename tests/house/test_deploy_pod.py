"""The pod that is an example: its flags are ones that the program takes, and its containers fit one another."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml
from click.testing import CliRunner

from tests.support.manifests import CHART, DEPLOY, KUSTOMIZE, Manifest, build, read_manifests
from tests.support.validation import find_envoy
from xds.capture import ENVOY_UID
from xds.cli.bootstrap import command as bootstrap_command
from xds.cli.capture import command as capture_command
from xds.kubernetes.objects import INJECTED_ANNOTATION

if TYPE_CHECKING:
    from pathlib import Path

(POD,) = read_manifests(KUSTOMIZE / "examples" / "pod.yaml")
BASE = build(KUSTOMIZE / "base")
NAMES = ["egress-bootstrap", "egress-envoy", "egress-capture", "web"]
CONTAINERS = {item["name"]: item for item in [*POD["spec"]["initContainers"], *POD["spec"]["containers"]]}
BOOTSTRAP, ENVOY, CAPTURE, APPLICATION = (CONTAINERS[name] for name in NAMES)
ROOTS = ("/etc/egress-xds", "/var/run/secrets/egress-xds", "/run/egress-xds")


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


def mounts(container: Manifest) -> dict[str, str]:
    """Return which volume is mounted where."""
    return {mount["mountPath"]: mount["name"] for mount in container.get("volumeMounts", ())}


def test_containers_start_in_an_order_in_which_nothing_leaves_unseen() -> None:
    """Init containers one after the other; one that stays is followed as soon as it runs."""
    assert [*CONTAINERS] == NAMES
    assert [item["name"] for item in POD["spec"]["containers"]] == ["web"]
    assert ENVOY["restartPolicy"] == "Always"
    assert not any("restartPolicy" in item for item in (BOOTSTRAP, CAPTURE, APPLICATION))


def test_the_bootstrap_is_of_this_pod_and_of_this_control_plane(tmp_path: Path) -> None:
    bootstrap = write_bootstrap(tmp_path)
    service = next(item for item in BASE if item["kind"] == "Service")
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    port = next(port["port"] for port in service["spec"]["ports"] if port["name"] == "ads")

    assert bootstrap["node"]["id"] == f"{POD['metadata']['name']}.{POD['metadata']['namespace']}"
    assert f"--server={host}:{port}" in BOOTSTRAP["args"]
    assert f"--server-name={host}" in BOOTSTRAP["args"]
    assert {item["name"]: item["valueFrom"]["fieldRef"]["fieldPath"] for item in BOOTSTRAP["env"]} == {
        "POD_NAME": "metadata.name",
        "POD_NAMESPACE": "metadata.namespace",
    }


def test_envoy_takes_the_bootstrap_and_its_flags(tmp_path: Path) -> None:
    write_bootstrap(tmp_path)
    (tmp_path / "0" / "ca").mkdir()
    (tmp_path / "0" / "ca" / "ca.crt").write_text("", encoding="utf-8")
    (tmp_path / "1").mkdir()
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
    (source,) = volumes["egress-token"]["projected"]["sources"]
    deployment = next(item for item in BASE if item["kind"] == "Deployment")
    (server,) = deployment["spec"]["template"]["spec"]["containers"]

    assert f"--token-audience={source['serviceAccountToken']['audience']}" in server["args"]
    assert f"--token-file=/var/run/secrets/egress-xds/{source['serviceAccountToken']['path']}" in BOOTSTRAP["args"]
    assert volumes["egress-ca"]["configMap"] == {"name": "egress-xds-ca"}


def test_envoy_runs_as_the_user_whose_connections_are_not_captured_and_nobody_else_does() -> None:
    assert ENVOY["securityContext"]["runAsUser"] == ENVOY_UID
    assert APPLICATION["securityContext"]["runAsUser"] not in {0, ENVOY_UID}
    assert "--exempt-uid" not in CAPTURE["args"][0]


def test_only_the_container_that_captures_may_change_the_network() -> None:
    for name, item in CONTAINERS.items():
        capabilities = item["securityContext"]["capabilities"]
        assert capabilities["drop"] == ["ALL"]
        assert capabilities.get("add", []) == (["NET_ADMIN"] if name == "egress-capture" else [])
        assert item["securityContext"]["allowPrivilegeEscalation"] is False
        assert "privileged" not in item["securityContext"]


def test_the_application_knows_of_no_proxy_and_the_pod_says_that_it_has_a_sidecar() -> None:
    assert APPLICATION.keys() <= {"name", "image", "securityContext"}
    assert POD["metadata"]["annotations"] == {INJECTED_ANNOTATION: "true"}


@pytest.mark.parametrize(
    ("codes", "result", "calls"),
    [
        pytest.param("0", 0, 1, id="captured at once"),
        pytest.param("3 3 3 0", 0, 4, id="tried again until Envoy listens"),
        pytest.param("3 2", 1, 2, id="a wrong flag is not tried again"),
    ],
)
def test_capture_waits_for_envoy(tmp_path: Path, codes: str, result: int, calls: int) -> None:
    (tmp_path / "codes").write_text("\n".join(codes.split()) + "\n", encoding="utf-8")
    scripts = {
        "xds": 'cd "${0%/*}"; echo "$*" >> asked; read -r code < codes; sed -i 1d codes; exit "$code"\n',
        "sleep": "exit 0\n",
    }
    for name, text in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}

    run = subprocess.run([*CAPTURE["command"], *CAPTURE["args"]], env=environment, check=False, timeout=60)

    asked = (tmp_path / "asked").read_text(encoding="utf-8").splitlines()
    assert run.returncode == result
    assert len(asked) == calls
    (words,) = {*asked}
    verb, *arguments = words.split()
    assert verb == "capture"
    flags = capture_command.make_context("capture", arguments).params
    assert flags["is_apply"]
    assert not flags["force"]


def test_images_are_those_of_this_version_and_the_one_that_captures_has_iptables() -> None:
    (chart,) = read_manifests(CHART / "Chart.yaml")
    text = (DEPLOY / "capture" / "Dockerfile").read_text(encoding="utf-8")

    assert BOOTSTRAP["image"] == f"egress-xds:{chart['appVersion']}"
    assert CAPTURE["image"] == f"egress-xds-capture:{chart['appVersion']}"
    assert f"ARG IMAGE={BOOTSTRAP['image']}\nFROM ${{IMAGE}}" in text
    assert f"--tag {CAPTURE['image']}" in text
    assert "install --yes --no-install-recommends iptables" in text
    assert CAPTURE["securityContext"]["runAsUser"] == 0


def test_envoys_own_limit_is_below_that_of_its_container() -> None:
    (heap,) = [word.partition("=")[2] for word in BOOTSTRAP["args"] if word.startswith("--max-heap=")]
    limit = ENVOY["resources"]["limits"]["memory"]

    assert int(heap.removesuffix("Mi")) * 5 == int(limit.removesuffix("Mi")) * 4
