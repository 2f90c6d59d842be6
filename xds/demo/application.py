"""
A small HTTP client with no proxy support at all, for a machine without curl.

Run as a script, with nothing in its environment: it uses the standard library only and takes the options of curl
that the demo uses. It must not read any setting but its arguments.
"""

from __future__ import annotations

import argparse
import http.client
import socket
import ssl
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

_CHUNK = 16384


def main(arguments: Sequence[str]) -> int:
    """Fetch a URL, print or save the body, and return 0 if the whole of it arrived."""
    parser = argparse.ArgumentParser(prog="application", description=main.__doc__)
    parser.add_argument("--cacert")
    parser.add_argument("--connect-to", metavar="::ADDRESS:PORT", default="")
    parser.add_argument("--max-time", type=float, default=60.0)
    parser.add_argument("--output", type=Path)
    parser.add_argument("url")
    options = parser.parse_args(arguments)
    try:
        _fetch(options)
    except (OSError, http.client.HTTPException) as error:
        sys.stderr.write(f"application: {error}\n")
        return 1
    return 0


def _fetch(options: argparse.Namespace) -> None:
    url = urlsplit(options.url)
    host, port = url.hostname or "", url.port or (443 if url.scheme == "https" else 80)
    connection = http.client.HTTPConnection(host, port, timeout=options.max_time)
    connection.sock = _connect(options, host, port, encrypted=url.scheme == "https")
    connection.request("GET", f"{url.path or '/'}{'?' if url.query else ''}{url.query}", headers={"Accept": "*/*"})
    response = connection.getresponse()
    with options.output.open("wb", buffering=0) if options.output else sys.stdout.buffer as output:
        while chunk := response.read1(_CHUNK):
            output.write(chunk)
    if response.length:
        raise http.client.IncompleteRead(b"", response.length)


def _connect(options: argparse.Namespace, host: str, port: int, *, encrypted: bool) -> socket.socket:
    place = options.connect_to.removeprefix("::").rpartition(":")
    target = (place[0], int(place[2])) if options.connect_to else (host, port)
    plain = socket.create_connection(target, timeout=options.max_time)
    if not encrypted:
        return plain
    context = ssl.create_default_context(cafile=options.cacert)
    return context.wrap_socket(plain, server_hostname=host)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
