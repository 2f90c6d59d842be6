"""An emulated cluster with two policies and two pods, and commands that are run beside it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.support.api_server import ApiServerEmulation
from tests.support.cluster import HOME, namespace, pod, policy, secret

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.command_line import Outcome, Runner

CANARY = "s3cr3t-canary"
"""The password for the proxy of `CORP`."""
CORP = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: corp}
spec:
  proxies:
    corp:
      endpoints: [{url: "http://192.0.2.2:3128"}]
      auth: {basic: {secretRef: {name: login}}}
  default: {action: tunnel, proxy: corp}
  dialect: go
"""
WEB = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: web}
spec:
  selector: {podLabels: {matchLabels: {app: web}}}
  default: {action: direct}
"""


@asynccontextmanager
async def open_small_cluster() -> AsyncIterator[ApiServerEmulation]:
    """Emulate a cluster: `web-0.shop` has a sidecar and the policy `web`, `batch-0.shop` the policy `corp`."""
    async with ApiServerEmulation() as server:
        server.put(namespace(HOME))
        server.put(namespace("shop", {"team": "a"}))
        server.put(pod("shop", "web-0", {"app": "web"}, injected="true"))
        server.put(pod("shop", "batch-0"))
        server.put(policy(HOME, "corp", CORP))
        server.put(policy(HOME, "web", WEB))
        server.put(secret(HOME, "login", username="me", password=CANARY))
        yield server


async def run_beside(
    server: ApiServerEmulation, runner: Runner, directory: Path, verb: str, *arguments: object
) -> Outcome:
    """Run a command that reads the cluster behind `server`."""
    cluster = ("--kubernetes", "--kubeconfig", server.write_kubeconfig(directory), "--namespace", HOME)
    return await asyncio.to_thread(runner, verb, *cluster, "--no-resolve", "--resolv-conf", "", *arguments)
