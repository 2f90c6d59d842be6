"""
Programs that run beside the demo: started with a log file each, watched, and ended.

A program gets exactly the environment that it is given, so that no proxy setting of the machine reaches it.
Invariant: what `Program.stop` returns from has ended.
"""

from __future__ import annotations

import os
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from xds.demo.errors import LabError
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_TAIL = 15
"""Lines of a log that a failure shows."""

_TCP_LISTEN = "0A"

_KEEP_PID = 'read -r pid rest </proc/self/stat; echo "$pid" >"$0"; exec "$@"'
"""
Shell: write down which process becomes the program, then become it.

`nsenter` stays in front of a program that it moves into a PID namespace and passes no signal on. The `/proc`
of this machine shows the number that the program has outside.
"""


@dataclass(slots=True)
class Program:
    """A running program. `name` is what messages call it."""

    name: str
    log: Path
    _popen: subprocess.Popen[bytes]
    _pid_file: Path | None

    @property
    def pid(self) -> int:
        """The program's process id as this machine sees it."""
        if self._pid_file is None:
            return self._popen.pid
        return wait_until(self._read_pid, f"the process id of {self.name}", timeout=10)

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs."""
        return self._popen.poll()

    def text(self) -> str:
        """Return all that it has written so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def tail(self) -> str:
        """Return the end of its log, for a message about a failure."""
        lines = self.text().splitlines()[-_TAIL:]
        return "\n".join([f"--- the last lines of {self.name}'s log:", *lines])

    def wait_for(self, words: str, timeout: float = 20, after: int = 0) -> str:
        """Return the first line behind character `after` that holds `words`; LabError if there is none in time."""

        def look() -> str | None:
            line = next((line for line in self.text()[after:].splitlines() if words in line), None)
            if line is None and self.exit_code is not None:
                raise LabError(f"{self.name} ended with code {self.exit_code}\n{self.tail()}")
            return line

        try:
            return wait_until(look, f"{words!r} in the log of {self.name}", timeout)
        except LabError as error:
            raise LabError(f"{error}\n{self.tail()}") from error

    def wait_for_port(self, port: int, timeout: float = 20) -> None:
        """Return once something listens on TCP `port` in the program's network namespace; LabError if not in time."""

        def look() -> bool:
            if self.exit_code is not None:
                raise LabError(f"{self.name} ended with code {self.exit_code}\n{self.tail()}")
            return port in _listening_ports(self.pid)

        wait_until(look, f"{self.name} listening on port {port}", timeout)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself."""
        if self.exit_code is None:
            os.kill(self.pid, number)

    def stop(self, timeout: float = 10) -> int:
        """Ask it to end, insist after `timeout` seconds, and return its exit code."""
        if self.exit_code is None:
            self.signal(signal.SIGTERM)
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def kill(self) -> int:
        """End it at once."""
        self.signal(signal.SIGKILL)
        return self._popen.wait(10)

    def _read_pid(self) -> int | None:
        assert self._pid_file is not None, "only a program behind a prefix writes its number down"
        try:
            return int(self._pid_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            if self.exit_code is not None:
                raise LabError(f"{self.name} did not start\n{self.tail()}") from None
            return None


def _listening_ports(pid: int) -> set[int]:
    """Read the kernel's tables of the namespace that `pid` is in (Linux, proc(5): /proc/[pid]/net/tcp)."""
    ports: set[int] = set()
    for table in ("tcp", "tcp6"):
        path = Path(f"/proc/{pid}/net/{table}")
        rows = path.read_text(encoding="ascii").splitlines()[1:] if path.exists() else []
        fields = (row.split() for row in rows)
        ports.update(int(local.rpartition(":")[2], 16) for _, local, _, state, *_ in fields if state == _TCP_LISTEN)
    return ports


def start_program(
    name: str,
    arguments: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    pid_file: Path | None = None,
) -> Program:
    """
    Start `arguments` with the output in `directory`.

    Behind a way into other namespaces the program writes its number to `pid_file`, see `keep_pid`.

    The program is in a session of its own: Ctrl-C on the terminal reaches the demo only, which then ends it.
    """
    log = directory / f"{name}.log"
    if pid_file is not None:
        pid_file.unlink(missing_ok=True)
    with log.open("ab") as output:
        popen = subprocess.Popen(
            list(arguments),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            start_new_session=True,
        )
    return Program(name, log, popen, pid_file)


def keep_pid(pid_file: Path | str) -> list[str]:
    """Return the words in front of a command that write its process id down."""
    return ["sh", "-c", _KEEP_PID, str(pid_file)]
