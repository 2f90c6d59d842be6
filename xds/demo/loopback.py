"""
The demo without namespaces: the same programs on this machine's loopback interface, and no capture.

It has the shape of `Lab`, so that the story is told by the same code. Programs run as whoever runs the demo, each in
a process group of its own, and every group is ended as a whole. A guard reads from a pipe that only the demo holds:
if the demo is killed, the guard ends the groups and removes the directory.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xds.capture import LISTENER_PORT
from xds.demo.errors import LabError
from xds.demo.processes import Program, start_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from xds.demo.lab import Namespace

_GUARD = 'cat >/dev/null; while read -r group; do kill -s KILL -- "-$group"; done <"$1/groups"; rm -rf -- "$1"'
"""Shell: wait for the demo's end, then end what it left."""

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True)
class Loopback:
    """Programs on the loopback interface, in one temporary directory. `with Loopback.open(...)` ends them."""

    directory: Path
    envoy: str
    _guard: subprocess.Popen[bytes]
    has_users: bool = False
    _programs: list[Program] = field(default_factory=list)

    @classmethod
    def open(cls, envoy: str) -> Loopback:
        """Make the directory and start the guard. LabError: something else has the listener's port."""
        if _is_taken(LISTENER_PORT):
            raise LabError(f"port {LISTENER_PORT} of this machine is in use, perhaps by another demo; end that first")
        directory = Path(tempfile.mkdtemp(prefix="egress-xds-demo-"))
        (directory / "groups").touch()
        guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "guard", str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return cls(directory, envoy, guard)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every program and remove the directory."""
        for program in reversed(self._programs):
            # Some programs have children, which would outlive them.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(program.pid, signal.SIGKILL)
            program.kill()
        self._programs.clear()
        (self.directory / "groups").unlink(missing_ok=True)
        assert self._guard.stdin is not None, "its input is a pipe"
        self._guard.stdin.close()
        self._guard.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def inside(self) -> Path:
        """The directory as programs see it."""
        return self.directory

    @property
    def programs(self) -> tuple[Program, ...]:
        """Every program that was started, in order."""
        return tuple(self._programs)

    def run(
        self,
        namespace: Namespace,  # noqa: ARG002 -- there is only one here
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end, whatever its exit code; LabError if that takes longer than `timeout` seconds."""
        try:
            return subprocess.run(
                list(arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={"PATH": _PATH, **(environment or {})},
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{' '.join(arguments)}: still running after {timeout:g} s") from error

    def start(
        self,
        name: str,
        namespace: Namespace,  # noqa: ARG002 -- there is only one here
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,  # noqa: ARG002 -- and only one user
    ) -> Program:
        """Start a program that goes on until it is stopped or the place is closed; its log is `<name>.log`."""
        program = start_program(
            name,
            arguments,
            directory=self.directory,
            environment={"PATH": _PATH, **(environment or {})},
        )
        self._programs.append(program)
        with (self.directory / "groups").open("a", encoding="ascii") as groups:
            groups.write(f"{program.pid}\n")
        return program

    def owned_directory(self, name: str, user: int | None = None) -> Path:  # noqa: ARG002 -- only one user
        """Make a directory below `directory`."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path


def _is_taken(port: int) -> bool:
    """Whether something listens already. Envoy would not mind: its listeners share their port (SO_REUSEPORT)."""
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
