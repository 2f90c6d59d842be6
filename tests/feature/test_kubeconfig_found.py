"""Commands of operators find the API server as kubectl does: by KUBECONFIG, or in the home directory."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.command_line import Runner
from tests.support.small_cluster import open_small_cluster

if TYPE_CHECKING:
    from pathlib import Path


def _run(environ: dict[str, str], *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, which knows nothing but `environ` of where a cluster is."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("EGRESS_XDS_", "KUBE")) and name != "HOME"
    }
    program = "import sys; from xds.cli import run_command; sys.exit(run_command(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-c", program, *words],
        env=kept | environ,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def _announce(kind: str, directory: Path, kubeconfig: Path) -> dict[str, str]:
    home = directory / "home"
    (home / ".kube").mkdir(parents=True)
    match kind:
        case "HOME":
            (home / ".kube" / "config").write_bytes(kubeconfig.read_bytes())
            return {"HOME": str(home)}
        case "KUBECONFIG":
            return {"HOME": str(home), "KUBECONFIG": f"{directory / 'absent'}:{kubeconfig}"}
        case _:
            return {"HOME": str(home), "EGRESS_XDS_KUBECONFIG": str(kubeconfig)}


@pytest.mark.parametrize("kind", ["HOME", "KUBECONFIG", "EGRESS_XDS_KUBECONFIG"])
async def test_what_kubectl_reads_is_enough(kind: str, tmp_path: Path) -> None:
    async with open_small_cluster() as server:
        environ = _announce(kind, tmp_path, server.write_kubeconfig(tmp_path))
        judged = await asyncio.to_thread(_run, environ, "validate", "--kubernetes")

    assert judged.returncode == 0, judged.stderr
    assert "2 documents: 2 good policies" in judged.stderr


async def test_replicas_are_looked_for_where_they_are_usually_installed(tmp_path: Path) -> None:
    async with open_small_cluster() as server:
        environ = _announce("HOME", tmp_path, server.write_kubeconfig(tmp_path))
        looked = await asyncio.to_thread(_run, environ, "status", "--kubernetes")

    assert looked.returncode == 3
    assert "no pod that runs in the namespace egress-system has the label" in looked.stderr


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("status",), id="status"),
        pytest.param(("validate",), id="validate"),
        pytest.param(("explain", "web-0.shop", "192.0.2.9:443"), id="explain"),
        pytest.param(("dump", "--node", "web-0.shop"), id="dump"),
        pytest.param(("diff", "-f", "FILE"), id="diff"),
        pytest.param(("inject", "-f", "FILE", "--server-ca", "AUTHORITY"), id="inject"),
    ],
)
def test_without_any_kubeconfig_every_command_names_the_flag(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    xds, file = Runner(capsys), tmp_path / "policy.yaml"
    file.write_text("httpProxy: deny\nhttpsProxy: deny\n", encoding="utf-8")
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    authority = tmp_path / "ca.crt"
    authority.write_text(
        "-----BEGIN CERTIFICATE-----\nMIIBszCCAVmgAwIBAgIU\n-----END CERTIFICATE-----\n", encoding="utf-8"
    )
    files = {"FILE": file, "AUTHORITY": authority}
    given = [str(files.get(word, word)) for word in words]

    outcome = xds(*given, "--kubernetes")

    assert outcome.code == 2
    assert f"There is no kubeconfig {tmp_path}/.kube/config; name yours: --kubeconfig FILE" in outcome.err
    monkeypatch.delenv("HOME")
    assert "Outside a cluster, name a kubeconfig: --kubeconfig FILE" in xds(*given, "--kubernetes").err
