"""
The corporate proxy of the demo: the library proxy.py in a process of its own, with one plugin.

The plugin logs every request line as it arrives (proxy.py's own log line is written when a connection ends), and
knows names that nothing else knows, for a machine whose hosts file must not be touched. This module is imported
by proxy.py; it must not start anything.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

from proxy.common.flag import flags
from proxy.http.proxy import HttpProxyBasePlugin

if TYPE_CHECKING:
    from proxy.http.parser import HttpParser

_IDLE_TIMEOUT = 3600
"""Seconds. The library's 10 would cut tunnels whose client only listens."""

flags.add_argument(
    "--demo-destinations",
    default="",
    help="NAME:PORT=ADDRESS:PORT,…: where connections to these destinations really go.",
)


class RequestLog(HttpProxyBasePlugin):
    """Logs request lines, and redirects the destinations that `--demo-destinations` lists."""

    def before_upstream_connection(self, request: HttpParser) -> HttpParser:
        """Called by proxy.py with each request before it connects anywhere."""
        _logger.info("request: %s", _request_line(request))
        destination = f"{(request.host or b'').decode()}:{request.port}"
        table = dict(pair.split("=") for pair in self.flags.demo_destinations.split(",") if pair)
        if destination in table:
            host, _, port = table[destination].rpartition(":")
            request.host, request.port = host.encode(), int(port)
        return request


def proxy_command(address: str, port: int, destinations: dict[str, str] | None = None) -> list[str]:
    """Return the command that runs the proxy on `address` and `port`."""
    return [
        *(sys.executable, "-m", "proxy", "--hostname", address, "--port", str(port)),
        *("--num-acceptors", "1", "--num-workers", "1", "--timeout", str(_IDLE_TIMEOUT)),
        *("--log-format", "%(message)s", "--plugins", f"{__name__}.{RequestLog.__name__}"),
        *("--demo-destinations", ",".join(f"{name}={place}" for name, place in (destinations or {}).items())),
    ]


def _request_line(request: HttpParser) -> str:
    method = (request.method or b"").decode("latin-1")
    host = (request.host or b"").decode("latin-1")
    if method == "CONNECT":
        return f"{method} {host}:{request.port}"
    path = (request.path or b"/").decode("latin-1")
    port = "" if request.port == _HTTP_PORT else f":{request.port}"
    return f"{method} http://{host}{port}{path}"


_HTTP_PORT = 80
_logger = logging.getLogger(__name__)
