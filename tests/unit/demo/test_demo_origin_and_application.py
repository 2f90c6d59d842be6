"""The far end and the near end of the demo, over a real socket of the loopback interface."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from xds.demo import application
from xds.demo.authority import write_server_files
from xds.demo.lab import Namespace, python_command, python_environment
from xds.demo.loopback import Loopback
from xds.demo.origin import BANNER, pattern
from xds.demo.site import loopback_site

if TYPE_CHECKING:
    from collections.abc import Iterator


class Origin:
    """A running origin."""

    def __init__(self, place: Loopback) -> None:
        site = loopback_site()
        self.https, self.http, self.banner = site.api_https, site.api_http, site.files_https
        files = write_server_files(place.directory, ["api.example.com"])
        self.authority = files.authority
        arguments = ["--certificate", str(files.certificate), "--key", str(files.key), "--name", "me"]
        places = ["--https", self.https, "--http", self.http, "--banner", self.banner]
        command = python_command("xds.demo.origin", *arguments, *places)
        place.start("origin", Namespace.INET, command, environment=python_environment()).wait_for("ready")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Loopback.open("/nonexistent/envoy") as place:
        yield Origin(place)


def _fetch(url: str, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run the application as the demo does: as a script, with an empty environment."""
    command = ["env", "-i", sys.executable, str(Path(application.__file__)), *options, url]
    return subprocess.run(command, capture_output=True, timeout=30, check=False)


def test_the_application_greets_over_plain_http(origin: Origin) -> None:
    assert _fetch(f"http://{origin.http}/").stdout == b"me greets you over plain HTTP.\n"


def test_the_application_connects_where_it_is_told_to_and_verifies_the_name(origin: Origin) -> None:
    options = ["--cacert", str(origin.authority), "--connect-to", f"::{origin.https}"]
    assert _fetch("https://api.example.com/", *options).stdout == b"me greets you over TLS.\n"
    refused = _fetch("https://other.example.com/", *options)
    assert refused.returncode == 1
    assert b"application: " in refused.stderr


def test_a_slow_answer_is_whole_and_follows_the_pattern(origin: Origin, tmp_path: Path) -> None:
    target = tmp_path / "body"
    done = _fetch(f"http://{origin.http}/slow?bytes=100001&seconds=0.3", "--output", str(target))
    assert done.returncode == 0
    assert target.read_bytes() == pattern(100_001)


def test_the_head_of_a_request_comes_back_byte_for_byte(origin: Origin) -> None:
    host, _, port = origin.http.rpartition(":")
    request = b"GET /headers HTTP/1.1\r\nhOsT: x\r\nX-A:  two spaces\r\n\r\n"
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(request)
        data = b""
        while not data.endswith(request):
            more = connection.recv(4096)
            assert more
            data += more
    assert data.startswith(b"HTTP/1.1 200 OK\r\n")


def test_the_server_that_speaks_first_does(origin: Origin) -> None:
    host, _, port = origin.banner.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        assert connection.recv(100) == BANNER


def test_a_refused_connection_is_one_line_and_exit_code_1() -> None:
    nowhere = loopback_site().api_http
    done = _fetch(f"http://{nowhere}/")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("length", [0, 1, 1024, 1025])
def test_the_pattern_has_the_length_that_is_asked_for(length: int) -> None:
    assert len(pattern(length)) == length
