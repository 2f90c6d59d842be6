"""
The demo without namespaces: the same programs on this machine's loopback interface, and no capture.

It has the shape of `Lab`, so that the story is told by the same code. Programs run as whoever runs the demo;
each one ends with the demo, if need be by the kernel's hand (prctl(2), PR_SET_PDEATHSIG, by way of `setpriv`).
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from xds.demo.errors import LabError
from xds.demo.processes import Program, start_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from xds.demo.lab import Namespace

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(slots=True)
class Loopback:
    """Programs on the loopback interface, in one temporary directory. `with Loopback.open(...)` ends them."""

    directory: Path
    envoy: str
    has_users: bool = False
    _programs: list[Program] = field(default_factory=list)

    @classmethod
    def open(cls, envoy: str) -> Loopback:
        """Make the directory; nothing runs yet."""
        return cls(Path(tempfile.mkdtemp(prefix="egress-xds-demo-")), envoy)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End every program and remove the directory."""
        for program in reversed(self._programs):
            program.kill()
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
        guard = ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv", path=_PATH) else []
        program = start_program(
            name,
            [*guard, *arguments],
            directory=self.directory,
            environment={"PATH": _PATH, **(environment or {})},
        )
        self._programs.append(program)
        return program

    def owned_directory(self, name: str, user: int | None = None) -> Path:  # noqa: ARG002 -- only one user
        """Make a directory below `directory`."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        return path
