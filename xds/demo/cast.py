"""
The programs of the demo and of the end-to-end tests, and how each is started: proxy, origins, control plane, Envoy.

Everything is started as an operator would start it: `xds serve`, `xds bootstrap` and `xds capture` run as
commands. Nothing here decides whether what was seen is right.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from xds.demo.corporate_proxy import proxy_command
from xds.demo.envoy_admin import EnvoyAdmin
from xds.demo.errors import LabError
from xds.demo.lab import ENVOY_MARK, Namespace, python_command, python_environment
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from xds.demo.processes import Program
    from xds.demo.site import Site

ENVOY_UID = 1337
NODE = "web-0.shop"
_CALL_MAIN = "from xds.cli import main; main()"
_ENVOY_START = 30.0
"""Seconds."""


class Place(Protocol):
    """Where programs run: the laboratory, or this machine's loopback interface."""

    directory: Path
    envoy: str
    has_users: bool

    @property
    def inside(self) -> Path:
        """The directory as programs see it."""

    def run(
        self,
        namespace: Namespace,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end."""

    def start(
        self,
        name: str,
        namespace: Namespace,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> Program:
        """Start a program."""

    def owned_directory(self, name: str, user: int | None = None) -> Path:
        """Make a directory that `user` owns."""


@dataclass(slots=True)
class Sidecar:
    """A running Envoy and its admin interface."""

    program: Program
    admin: EnvoyAdmin

    def wait_until_live(self, timeout: float = _ENVOY_START) -> None:
        """Return once Envoy has its whole configuration."""

        def look() -> bool:
            if self.program.exit_code is not None:
                raise LabError(f"Envoy ended with code {self.program.exit_code}\n{self.program.tail()}")
            return self.admin.is_live()

        try:
            wait_until(look, "Envoy ready", timeout)
        except LabError as error:
            raise LabError(f"{error}\n{self.program.tail()}") from error


def xds_command(*arguments: str) -> list[str]:
    """Return the command `xds ARGUMENTS`, run by this interpreter."""
    return [sys.executable, "-c", _CALL_MAIN, *arguments]


def start_proxy(place: Place, site: Site) -> Program:
    """Start the embedded corporate proxy and wait until it listens."""
    command = proxy_command(site.proxy_address, site.proxy_port, dict(site.destinations))
    # proxy.py makes a directory in the home of its user.
    environment = {**python_environment(), "HOME": str(place.inside)}
    program = place.start("proxy", Namespace.CORP, command, environment=environment)
    program.wait_for_port(site.proxy_port)
    return program


def start_origin(place: Place, name: str, namespace: Namespace, *arguments: str) -> Program:
    """Start an origin with the certificate files of the place's directory; `arguments` say what it serves."""
    files = ["--certificate", str(place.inside / "server.pem"), "--key", str(place.inside / "server.key")]
    command = python_command("xds.demo.origin", "--name", name, *files, *arguments)
    program = place.start(name, namespace, command, environment=python_environment())
    program.wait_for("origin: ready")
    return program


def start_control_plane(place: Place, listen: str, *options: str) -> Program:
    """Start `xds serve` on the directory `policies` and wait until it listens."""
    policies = place.directory / "policies"
    policies.mkdir(exist_ok=True)
    command = xds_command("serve", str(place.inside / policies.name), "--listen", listen, *options)
    program = place.start("control-plane", Namespace.CORP, command, environment=python_environment())
    program.wait_for_port(int(listen.rpartition(":")[2]))
    return program


def start_envoy(
    place: Place, server: str, *, bootstrap_options: Sequence[str] = (), envoy_options: Sequence[str] = ()
) -> Sidecar:
    """Start Envoy with what `xds bootstrap` writes; it may not be ready yet."""
    user = ENVOY_UID if place.has_users else None
    home = place.owned_directory("envoy", user)
    inside = place.inside / home.name
    mark = [] if place.has_users else _mark_options(place)
    where = ["--directory", str(inside), "--admin", str(inside / "admin.sock")]
    arguments = ["--node", NODE, "--server", server, *where, *mark, *bootstrap_options]
    written = place.run(Namespace.POD, xds_command("bootstrap", *arguments), environment=python_environment())
    if written.returncode:
        raise LabError(f"xds bootstrap: {written.stderr.decode()}")
    # Two Envoys with hot restart on one machine meet in shared memory, and the second one panics. Envoy calls the
    # matchers' package unfinished, and would say so for every address of every policy.
    command = [place.envoy, "--disable-hot-restart", "--component-log-level", "misc:error", *envoy_options]
    program = place.start(
        "envoy", Namespace.POD, [*command, "--config-path", str(inside / "bootstrap.yaml")], user=user
    )
    return Sidecar(program, EnvoyAdmin(home / "admin.sock"))


def apply_capture(place: Place, *options: str) -> str:
    """Run `xds capture --apply` in the pod and return the words behind `xds`."""
    exemption = ["--exempt-uid", str(ENVOY_UID)] if place.has_users else ["--exempt-mark", str(ENVOY_MARK)]
    families = [] if os.path.exists("/proc/net/if_inet6") else ["--family", "ipv4"]  # noqa: PTH110 -- not a file
    words = ["capture", "--apply", *exemption, *families, *options]
    done = place.run(Namespace.POD, xds_command(*words), environment=python_environment())
    if done.returncode:
        raise LabError(f"xds {' '.join(words)}: {done.stderr.decode().strip()}")
    return " ".join(words)


def save_policy(place: Place, name: str, text: str) -> None:
    """Save a policy the way an editor does: whole, under its name, in one step."""
    policies = place.directory / "policies"
    policies.mkdir(exist_ok=True)
    draft = policies / f".{name}.draft"
    draft.write_text(text, encoding="utf-8")
    draft.replace(policies / name)


def _mark_options(place: Place) -> list[str]:
    """Envoy's connections are marked where they are captured and Envoy has no user of its own."""
    return ["--so-mark", str(ENVOY_MARK)] if place.inside != place.directory else []
