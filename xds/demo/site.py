"""
Where everything is: addresses and ports of one demo, and the policies that say what is allowed.

There are two sites. In the namespaces each host has its address and the usual ports. On the loopback interface the
names are known to the corporate proxy alone, and the application is told to connect to Envoy's listener.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xds.capture import LISTENER_PORT
from xds.demo.lab import API_ADDRESS, CONTROL_PLANE_ADDRESS, FILES_ADDRESS, PROXY_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Mapping

API = "api.example.com"
FILES = "files.corp.example"

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """
    The addresses of one demo.

    Servers are lists of `ADDRESS:PORT`. `destinations` tells the proxy where names really are: `NAME:PORT` for tunnels,
    `http://NAME:PORT` for plain HTTP. `connect_to` is what an application that is not captured must be told, empty
    where it is. `tls_port` is the port that Envoy asks the proxy for, `http_authority` what it asks it for plain HTTP.
    """

    proxy_host: str
    proxy_address: str
    proxy_port: int
    control_plane: str
    api_https: str
    api_http: str
    files_https: str
    destinations: Mapping[str, str] = field(default_factory=dict)
    connect_to: str = ""
    tls_port: int = 443
    http_authority: str = API

    @property
    def is_captured(self) -> bool:
        """Whether the application connects to the host it wants, and not to Envoy."""
        return not self.connect_to


NAMESPACES = Site(
    proxy_host="proxy.corp.example",
    proxy_address=PROXY_ADDRESS,
    proxy_port=3128,
    control_plane=f"{CONTROL_PLANE_ADDRESS}:18000",
    api_https=f"{API_ADDRESS}:443",
    api_http=f"{API_ADDRESS}:80",
    files_https=f"{FILES_ADDRESS}:443",
)
"""Everything at its place in the laboratory."""


def loopback_site() -> Site:
    """Choose free ports of the loopback interface."""
    proxy, control_plane, https, http, files = (_free_port() for _ in range(5))
    return Site(
        proxy_host=_LOOPBACK,
        proxy_address=_LOOPBACK,
        proxy_port=proxy,
        control_plane=f"{_LOOPBACK}:{control_plane}",
        api_https=f"{_LOOPBACK}:{https}",
        api_http=f"{_LOOPBACK}:{http}",
        files_https=f"{_LOOPBACK}:{files}",
        # Without a redirected connection there is no original port: Envoy names its own.
        destinations={
            f"{API}:{LISTENER_PORT}": f"{_LOOPBACK}:{https}",
            f"http://{API}:{LISTENER_PORT}": f"{_LOOPBACK}:{http}",
            f"{FILES}:{LISTENER_PORT}": f"{_LOOPBACK}:{files}",
        },
        connect_to=f"{_LOOPBACK}:{LISTENER_PORT}",
        tls_port=LISTENER_PORT,
        http_authority=f"{API}:{LISTENER_PORT}",
    )


def render_policy(site: Site, action: str) -> str:
    """Return the demo's policy, in which `action` is what happens to the company's file server."""
    with_action = {
        "tunnel": "tunnel, proxy: corp",
        # Its address is told as well as its name, so that no other address is reached by claiming the name.
        "direct": f"direct, verify: {site.files_https.rpartition(':')[0]}/32",
    }.get(action, action)
    loopback = "" if site.is_captured else "  alwaysDirect: {loopback: false}  # everything is on loopback here\n"
    return (
        "apiVersion: egress-xds/v1alpha1\n"
        "kind: EgressPolicy\n"
        "metadata: {name: demo}\n"
        "spec:\n"
        "  proxies:\n"
        "    corp:\n"
        f'      endpoints: [{{url: "http://{site.proxy_host}:{site.proxy_port}"}}]\n'
        "  rules:\n"
        f"    - {{name: files, to: {{domains: [{FILES}]}}, action: {with_action}}}\n"
        f"{loopback}"
        "  default: {action: tunnel, proxy: corp}\n"
        "  dialect: go\n"
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((_LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
