"""
The corporate proxy of the demo: the library proxy.py in a process of its own, with one plugin.

The plugin does three things. It logs every request line as it arrives; proxy.py's own log line is written when a
connection ends. It ends a connection after one plain answer, because proxy.py 2.4.10 sends whatever comes next on
a connection to the origin of the first request, even a CONNECT. And it knows names that nothing else knows, for a
machine whose hosts file must not be touched. This module is imported by proxy.py; it must not start anything.
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
    help="NAME:PORT=ADDRESS:PORT,http://NAME:PORT=ADDRESS:PORT,…: where these destinations really are.",
)


class CorporateProxy(HttpProxyBasePlugin):
    """Logs request lines, answers once per connection, and knows the destinations of `--demo-destinations`."""

    _is_answered = True

    def before_upstream_connection(self, request: HttpParser) -> HttpParser:
        """Log a request and say where it goes; proxy.py asks before it connects anywhere."""
        _logger.info("request: %s", _request_line(request))
        self._is_answered = request.is_https_tunnel
        scheme = "" if request.is_https_tunnel else "http://"
        destination = f"{scheme}{(request.host or b'').decode()}:{request.port}"
        table = dict(pair.split("=") for pair in self.flags.demo_destinations.split(",") if pair)
        if destination in table:
            host, _, port = table[destination].rpartition(":")
            request.host, request.port = host.encode(), int(port)
        return request

    def handle_upstream_chunk(self, chunk: memoryview) -> memoryview:
        """Announce the end of the connection in an answer's head; proxy.py asks with each piece."""
        if self._is_answered:
            return chunk
        self._is_answered = True
        status, line_end, rest = bytes(chunk).partition(b"\r\n")
        return memoryview(status + line_end + b"Connection: close" + line_end + rest)


def proxy_command(address: str, port: int, destinations: dict[str, str] | None = None) -> list[str]:
    """Return the command that runs the proxy on `address` and `port`."""
    return [
        *(sys.executable, "-m", "proxy", "--hostname", address, "--port", str(port)),
        *("--num-acceptors", "1", "--num-workers", "1", "--timeout", str(_IDLE_TIMEOUT)),
        *("--log-format", "%(message)s", "--plugins", f"{__name__}.{CorporateProxy.__name__}"),
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
