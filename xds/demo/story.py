"""
The main job, told in steps: no way out, then captured and tunnelled, then the policy edited while data flows.

Each step either sees what it claims, or raises a LabError; there is no step that cannot fail.
"""

from __future__ import annotations

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xds.demo import application
from xds.demo.authority import write_server_files
from xds.demo.cast import (
    Place,
    Sidecar,
    apply_capture,
    save_policy,
    start_control_plane,
    start_envoy,
    start_origin,
    start_proxy,
)
from xds.demo.errors import LabError
from xds.demo.lab import Lab, Namespace
from xds.demo.origin import pattern
from xds.demo.polling import wait_until
from xds.demo.site import API, FILES, Site, render_policy

if TYPE_CHECKING:
    from xds.demo.processes import Program
    from xds.demo.stage import Stage

POLICY = "egress.yaml"
DOWNLOAD_BYTES = 6_000_000
DOWNLOAD_SECONDS = 10
"""Longer than the edits take, so that they happen in the middle of it."""

_PICTURE_LAB = """
  pod (no proxy setting)          corporate network                  Internet
 ┌────────────────────────┐     ┌───────────────────────────┐     ┌──────────────────┐
 │ application            │     │ proxy.corp.example:3128   │     │ api.example.com  │
 │   │ iptables REDIRECT  │     │   (proxy.py)              │     │   :443  :80      │
 │   ▼                    │     │ files.corp.example:443    │     │                  │
 │ Envoy ─────────────────┼─────▶ xds serve policies/       ├─────▶                  │
 └────────────────────────┘     └───────────────────────────┘     └──────────────────┘
        the pod reaches the corporate network; nothing is forwarded to the Internet
"""

_PICTURE_LOOPBACK = """
  application ──▶ Envoy 127.0.0.1:15001 ──CONNECT──▶ proxy.py ──▶ api.example.com, files.corp.example
  (everything on the loopback interface of this machine)
"""


@dataclass(slots=True)
class Cast:
    """The running programs."""

    proxy: Program
    control_plane: Program
    envoy: Sidecar


@dataclass(frozen=True, slots=True)
class Answer:
    """What a run of the application came to."""

    exit_code: int
    body: str
    complaint: str


class Story:
    """One telling, at one place."""

    def __init__(self, place: Place, site: Site, stage: Stage) -> None:
        self._place = place
        self._site = site
        self._stage = stage

    def tell(self) -> None:
        """Tell it all. LabError: something was not seen."""
        self._stage.picture(_PICTURE_LAB if self._site.is_captured else _PICTURE_LOOPBACK)
        cast = self._start()
        leaked = self._capture()
        self._reach_the_internet(cast)
        download = self._start_download()
        self._edit_live(cast, download)
        self._finish_download(download)
        self._check_leaks(leaked)

    def _start(self) -> Cast:
        self._stage.title("Starting")
        place, site, stage = self._place, self._site, self._stage
        write_server_files(place.directory, [API, FILES])
        save_policy(place, POLICY, render_policy(site, "tunnel"))
        with stage.step(f"corporate proxy (proxy.py) listens on {site.proxy_host}:{site.proxy_port}"):
            proxy = start_proxy(place, site)
        with stage.step(f"origins answer for https://{API}, http://{API} and https://{FILES}"):
            start_origin(place, API, Namespace.INET, "--https", site.api_https, "--http", site.api_http)
            start_origin(place, FILES, Namespace.CORP, "--https", site.files_https)
        with stage.step(f"xds serve policies/ --listen {site.control_plane}"):
            control_plane = start_control_plane(place, site.control_plane)
        with stage.step("envoy -c bootstrap.yaml, made by xds bootstrap, has its configuration"):
            envoy = start_envoy(place, site.control_plane)
            envoy.wait_until_live()
        return Cast(proxy, control_plane, envoy)

    def _capture(self) -> int:
        """Return how many packets the firewall had dropped when the capture began."""
        if not isinstance(self._place, Lab):
            return 0
        self._stage.title("The pod has no way out of its own, until it is captured")
        self._show_command(self._site, f"https://{API}/")
        with self._stage.step("without capture, the application reaches nothing on the Internet"):
            answer = self._run(f"https://{API}/", max_time=1)
            _require(answer.exit_code != 0, "the application reached the Internet without capture")
        self._stage.detail("application", answer.complaint)
        leaked = self._place.leaked_packets()
        with self._stage.step(f"the firewall saw the attempt: {leaked} packet(s) dropped"):
            _require(leaked > 0, "the firewall counted nothing")
        with self._stage.step("captured"):
            words = apply_capture(self._place)
        self._stage.detail("pod", f"$ xds {words}")
        return leaked

    def _reach_the_internet(self, cast: Cast) -> None:
        self._stage.title("The application, with an empty environment")
        self._see_through_proxy(cast, f"https://{API}/", f"CONNECT {API}:{self._site.tls_port}", "TLS")
        self._see_through_proxy(
            cast, f"http://{API}/hello", f"GET http://{self._site.http_authority}/hello", "plain HTTP"
        )

    def _see_through_proxy(self, cast: Cast, url: str, request: str, how: str) -> None:
        self._show_command(self._site, url)
        mark = len(cast.proxy.text())
        with self._stage.step(f"{how} reached the Internet through the proxy"):
            answer = self._run(url)
            _require(answer.exit_code == 0, f"the application failed: {answer.complaint}\n{cast.envoy.program.tail()}")
            _require("greets you" in answer.body, f"an unexpected answer: {answer.body!r}")
            seen = cast.proxy.wait_for(request, timeout=5, after=mark)
        self._stage.detail("proxy's log", seen)
        self._stage.detail("answer", answer.body)

    def _start_download(self) -> Program:
        self._stage.title("The policy is edited while a download is running")
        url = f"https://{API}/slow?bytes={DOWNLOAD_BYTES}&seconds={DOWNLOAD_SECONDS}"
        target = self._place.inside / "download"
        program = self._place.start(
            "application", Namespace.POD, self._command(url, "--output", str(target), "--max-time", "120")
        )
        with self._stage.step(f"a download of {DOWNLOAD_BYTES:,} bytes runs through the tunnel"):
            wait_until(lambda: self._downloaded() > 0 or program.exit_code is not None, "the download's first byte", 20)
            _require(program.exit_code is None, f"the download ended early: {program.text()}")
        return program

    def _edit_live(self, cast: Cast, download: Program) -> None:
        url = f"https://{FILES}/"
        self._stage.detail("policy", f"{FILES}: tunnel")
        self._see_through_proxy(cast, url, f"CONNECT {FILES}:{self._site.tls_port}", "the rule 'tunnel' holds: TLS")
        self._edit(cast, "deny")
        with self._stage.step("the rule 'deny' holds: a new connection is refused"):
            answer = self._run(url)
            _require(answer.exit_code != 0, "the application still got an answer")
        self._stage.detail("application", answer.complaint)
        if self._site.is_captured:
            self._edit(cast, "direct")
            self._see_direct(cast, url)
        else:
            self._stage.note(
                "'direct' can't be shown without capture: Envoy does not know where the application wanted to go, "
                f"and asks the proxy for its own port {self._site.tls_port} for the same reason"
            )
        with self._stage.step(f"the download was running all the while: {self._downloaded():,} bytes so far"):
            _require(download.exit_code is None, f"the download has ended: {download.text()}")

    def _edit(self, cast: Cast, action: str) -> None:
        updates = "listener_manager.lds.update_success"
        before = cast.envoy.admin.counter(updates)
        text = render_policy(self._site, action)
        self._stage.detail("policy", f"{FILES}: {action}   (the download is at {self._downloaded():,} bytes)")
        saved = time.monotonic()
        save_policy(self._place, POLICY, text)
        try:
            wait_until(lambda: cast.envoy.admin.counter(updates) > before, "Envoy's ACK", 15, interval=0.002)
        except LabError as error:
            raise LabError(f"{error}\n{cast.control_plane.tail()}\n{cast.envoy.program.tail()}") from error
        milliseconds = (time.monotonic() - saved) * 1000
        with self._stage.step(f"saved; acknowledged by Envoy after {milliseconds:.0f} ms"):
            _require(cast.envoy.admin.counter("listener_manager.lds.update_rejected") == 0, "Envoy refused an update")

    def _see_direct(self, cast: Cast, url: str) -> None:
        mark = len(cast.proxy.text())
        with self._stage.step("the rule 'direct' holds: the answer came, and the proxy saw nothing of it"):
            answer = self._run(url)
            _require(answer.exit_code == 0, f"the application failed: {answer.complaint}\n{cast.envoy.program.tail()}")
            _require(FILES not in cast.proxy.text()[mark:], "the proxy saw the connection")
        self._stage.detail("answer", answer.body)

    def _finish_download(self, download: Program) -> None:
        def has_ended() -> bool:
            return download.exit_code is not None

        wait_until(has_ended, "the end of the download", DOWNLOAD_SECONDS + 30)
        with self._stage.step(f"the download is complete: {self._downloaded():,} bytes, every one of them right"):
            _require(download.exit_code == 0, f"the download was cut: {download.text()}")
            body = (self._place.directory / "download").read_bytes()
            _require(body == pattern(DOWNLOAD_BYTES), "the bytes differ from those that were sent")

    def _check_leaks(self, before: int) -> None:
        if not isinstance(self._place, Lab):
            return
        with self._stage.step("since the capture, not one packet of the pod tried to reach the Internet by itself"):
            leaked = self._place.leaked_packets() - before
            _require(leaked == 0, f"the firewall dropped {leaked} packets")

    def _run(self, url: str, max_time: float = 20) -> Answer:
        done = self._place.run(Namespace.POD, self._command(url, "--max-time", str(max_time)))
        return Answer(done.returncode, done.stdout.decode(), done.stderr.decode().strip())

    def _command(self, url: str, *options: str) -> list[str]:
        """Return the application's command: curl or the small client here, with nothing in its environment."""
        curl = shutil.which("curl")
        client = [curl, "--silent", "--show-error"] if curl else [sys.executable, str(Path(application.__file__))]
        connect = ["--connect-to", f"::{self._site.connect_to}"] if self._site.connect_to else []
        return ["env", "-i", *client, "--cacert", str(self._place.inside / "ca.pem"), *connect, *options, url]

    def _show_command(self, site: Site, url: str) -> None:
        client = "curl" if shutil.which("curl") else "application"
        connect = f"--connect-to ::{site.connect_to} " if site.connect_to else ""
        certificate = "--cacert ca.pem " if url.startswith("https:") else ""
        self._stage.detail("application", f"$ env -i {client} {certificate}{connect}{url}")

    def _downloaded(self) -> int:
        path = self._place.directory / "download"
        return path.stat().st_size if path.exists() else 0


def _require(holds: bool, otherwise: str) -> None:  # noqa: FBT001 -- reads as a sentence where it is called
    if not holds:
        raise LabError(otherwise)
