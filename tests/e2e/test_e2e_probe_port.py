"""The probe port of a real Envoy: it tells whether the sidecar has its configuration, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import SERVER, hold, open_lab, render_policy
from xds.demo.cast import save_policy, start_control_plane, start_envoy
from xds.demo.lab import POD_ADDRESS, Lab, Namespace
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

PORT = 15024
IPV4 = POD_ADDRESS
IPV6 = "[fd77::10]"
REFUSED = "refused"


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        save_policy(opened, "policy.yaml", render_policy())
        yield opened


def probe(lab: Lab, host: str, target: str = "/ready", *options: str) -> str:
    """Ask from another machine, as the kubelet does; return the status or `refused`."""
    said = ["--output", "/dev/null", "--write-out", "%{http_code} %{size_download}", "--path-as-is"]
    command = ["curl", "--silent", "--noproxy", "*", "--max-time", "10", *said, *options]
    done = lab.run(Namespace.CORP, [*command, f"http://{host}:{PORT}{target}"])
    if done.returncode:
        assert done.returncode == 7, done
        return REFUSED
    status, size = done.stdout.decode().split()
    assert size == "0", "something was told beside the status"
    return status


HOLDER = f"""
import socket
held = [socket.create_connection(("{IPV4}", {PORT}), 20) for _ in range(150)]
held[0].send(b"GET /ready HTTP/1.1\\r\\nHost: x\\r\\nX: ")
ended = 0
for connection in held:
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    ended += 1
print(ended)
"""
"""Opens more connections than may be there at a time, says half a request on one, and counts how many were ended."""


def test_the_probe_port_answers_when_envoy_has_its_configuration_and_not_before(lab: Lab) -> None:
    """It tells nothing else, whatever limit applications have; who is slow, or many, is sent away."""
    sidecar = start_envoy(lab, SERVER, bootstrap_options=["--probe-port", str(PORT), "--max-connections", "1"])
    wait_until(sidecar.admin.path.exists, "an Envoy that has started", 30)
    hold(lambda: probe(lab, IPV4) == probe(lab, IPV6) == REFUSED, "an answer without a configuration")

    start_control_plane(lab, SERVER)
    wait_until(lambda: probe(lab, IPV4) == "200", "an answer of the probe port", 30)

    assert probe(lab, IPV6) == "200"
    for target in ("/", "/ready/", "/readyz", "/stats", "/config_dump", "/quitquitquit", "//ready"):
        assert probe(lab, IPV4, target) == "404", target
    for options in (("--request", "POST"), ("--head",), ("--request", "OPTIONS")):
        assert probe(lab, IPV4, "/ready", *options) == "404", options
    # Applications may have one connection; two that say nothing are open while another one probes.
    opened = f"exec 3<>/dev/tcp/{IPV4}/{PORT} 4<>/dev/tcp/{IPV4}/{PORT}"
    assert lab.run(Namespace.CORP, ["bash", "-c", f"{opened}; curl --fail http://{IPV4}:{PORT}/ready"]).returncode == 0
    ended = lab.run(Namespace.CORP, ["python3", "-c", HOLDER])
    assert ended.stdout == b"150\n", ended
    assert probe(lab, IPV4) == "200"


def test_a_pod_without_ipv6_is_probed_over_ipv4(lab: Lab) -> None:
    off = [f"net.ipv6.conf.{name}.disable_ipv6=1" for name in ("all", "default")]
    assert lab.run(Namespace.POD, ["sysctl", "-w", *off]).returncode == 0
    start_control_plane(lab, SERVER)

    start_envoy(lab, SERVER, bootstrap_options=["--probe-port", str(PORT), "--probe-host", "::"])

    wait_until(lambda: probe(lab, IPV4) == "200", "an answer of the probe port", 30)
    assert probe(lab, IPV4, "/") == "404"
