"""
The laboratory: a pod, a corporate network and an Internet, as network namespaces that vanish with it.

A `Lab` is one anchor process in fresh mount, network and PID namespaces (and, for an ordinary user, in a user
namespace), with everything else started inside. The anchor reads from a pipe that only the demo holds: when the
demo ends in whatever way, the pipe closes, the anchor ends, and the kernel ends every process and removes every
namespace, mount and link. Nothing outside is touched but one temporary directory, which goes then, too.

::

    pod  10.77.0.10 ──── corp  10.77.0.1, 10.78.0.10-30 ──── inet  203.0.113.10, .20
         fd77::10              fd77::1, fd78::10-30               2001:db8:113::10, ::20

The pod reaches the corporate addresses; the corporate network forwards nothing, so that the Internet is
reached from there only.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from xds.capture import ENVOY_UID
from xds.demo.errors import LabError
from xds.demo.processes import Program, keep_pid, start_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self


POD_ADDRESS = "10.77.0.10"
PROXY_ADDRESS = "10.78.0.10"
FILES_ADDRESS = "10.78.0.20"
CONTROL_PLANE_ADDRESS = "10.78.0.30"
API_ADDRESS = "203.0.113.10"
MAIL_ADDRESS = "203.0.113.20"
API_ADDRESS_6 = "2001:db8:113::10"
FILES_ADDRESS_6 = "fd78::20"

HOSTS = {
    "proxy.corp.example": PROXY_ADDRESS,
    "files.corp.example": FILES_ADDRESS,
    "xds.corp.example": CONTROL_PLANE_ADDRESS,
    "api.example.com": API_ADDRESS,
    "ads.example.net": API_ADDRESS,
    "mail.example.net": MAIL_ADDRESS,
    "six.example.com": API_ADDRESS_6,
    "six.corp.example": FILES_ADDRESS_6,
}
"""What every host name resolves to, in every namespace: there is no DNS in the laboratory."""

ENVOY_MARK = 1337
"""How the capture knows Envoy's connections where Envoy can't have a user of its own."""

_SCRIPT = Path(__file__).with_name("lab.sh")
_INSIDE = Path("/run/lab")
_START_TIMEOUT = 60.0
"""Seconds."""

_KEEPER = 'directory=$1; shift; "$@"; code=$?; rm -rf -- "$directory"; exit $code'
"""Shell: run the anchor, then remove the directory; it does so even if the demo was killed."""

_NEEDED = {
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "ip": "iproute2",
    "iptables": "iptables",
    "iptables-restore": "iptables",
}
"""Programs that the laboratory runs, and the Debian packages that hold them."""

_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Namespace(Enum):
    """Where a program runs."""

    POD = "pod"
    CORP = "corp"
    INET = "inet"


@dataclass(slots=True)
class Lab:
    """
    An open laboratory. `with Lab.open(...) as lab:` builds it and takes it down again.

    `directory` is where its files are; programs inside see it as `inside`. `has_users` says whether programs can
    run as users of their own.
    """

    directory: Path
    has_users: bool
    _anchor: subprocess.Popen[str]
    _pid: int
    _programs: list[Program] = field(default_factory=list)

    inside: Path = _INSIDE
    envoy: str = "/run/envoy"
    """The Envoy binary under a path that every user can reach."""

    @classmethod
    def open(cls, envoy: str, hosts: Mapping[str, str] | None = None) -> Lab:
        """
        Build the laboratory, or raise a LabError that says what is missing.

        Args:
            envoy: path of the Envoy binary.
            hosts: names and addresses beside `HOSTS`.

        """
        _require_programs()
        reasons: list[str] = []
        # As root with users of one's own; else in a user namespace, where only one user exists.
        for has_users in [True, False] if os.geteuid() == 0 else [False]:
            try:
                return cls._try_open(envoy, {**HOSTS, **(hosts or {})}, has_users=has_users)
            except LabError as error:
                reasons.append(str(error))
        raise LabError(f"no network namespaces to be had here: {'; '.join(reasons)}")

    @classmethod
    def _try_open(cls, envoy: str, hosts: Mapping[str, str], *, has_users: bool) -> Lab:
        directory = Path(tempfile.mkdtemp(prefix="egress-xds-lab-"))
        try:
            _write_names(directory, hosts)
            directory.chmod(0o755)
            anchor, pid = _start_anchor(directory, envoy, has_users=has_users)
        except BaseException:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return cls(directory, has_users, anchor, pid)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End everything inside and remove the directory. Closing twice is closing once."""
        _end_anchor(self._anchor)
        for program in self._programs:
            program.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def programs(self) -> tuple[Program, ...]:
        """Every program that was started, in order."""
        return tuple(self._programs)

    def command(
        self, namespace: Namespace, arguments: Sequence[str], *, user: int | None = None, pid_file: str = ""
    ) -> list[str]:
        """
        Return `arguments` with the words in front that run them in `namespace`.

        `user` is the id to run as; where there are no users, it is ignored. `pid_file` names a file in `directory`
        in which the program's process id is kept.
        """
        into_lab = ["nsenter", f"--target={self._pid}", "--mount", "--pid"]
        into_namespace = ["nsenter", f"--net=/run/netns/{namespace.value}"]
        if not self.has_users:
            into_lab += ["--user", "--preserve-credentials"]
            into_namespace += ["--preserve-credentials"]
        elif user is not None:
            into_namespace += [f"--setuid={user}", f"--setgid={user}"]
        keep = keep_pid(self.inside / pid_file) if pid_file else []
        return [*into_lab, "--", *keep, *into_namespace, "--", *arguments]

    def run(
        self,
        namespace: Namespace,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end, whatever its exit code; LabError if that takes longer than `timeout` seconds."""
        try:
            return subprocess.run(
                self.command(namespace, arguments),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env={"PATH": _SYSTEM_PATH, **(environment or {})},
                timeout=timeout,
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{' '.join(arguments)}: still running after {timeout:g} s") from error

    def start(
        self,
        name: str,
        namespace: Namespace,
        arguments: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        user: int | None = None,
    ) -> Program:
        """Start a program that goes on until it is stopped or the laboratory is closed; its log is `<name>.log`."""
        pid_file = f"{name}.pid"
        program = start_program(
            name,
            self.command(namespace, arguments, user=user, pid_file=pid_file),
            directory=self.directory,
            environment={"PATH": _SYSTEM_PATH, **(environment or {})},
            pid_file=self.directory / pid_file,
        )
        self._programs.append(program)
        return program

    def owned_directory(self, name: str, user: int | None = None) -> Path:
        """Make a directory that `user` owns and return its name below `directory` and `inside`."""
        path = self.directory / name
        path.mkdir(exist_ok=True)
        if user is not None and self.has_users:
            os.chown(path, user, user)
        return path

    def leaked_packets(self) -> int:
        """How many packets the pod has sent towards the Internet by itself: the firewall's counters."""
        total = 0
        for program in ("iptables", "ip6tables"):
            listing = self.run(Namespace.CORP, [program, "-t", "mangle", "-nvxL", "PREROUTING"]).stdout.decode()
            total += sum(int(line.split()[0]) for line in listing.splitlines() if " DROP " in line)
        return total


def python_command(module: str, *arguments: str) -> list[str]:
    """Return the command that runs a module of this project with this interpreter."""
    return [sys.executable, "-m", module, *arguments]


def python_environment() -> dict[str, str]:
    """Return what this project's programs need in their environment, and nothing of this process's own."""
    root = Path(__file__).resolve().parents[2]
    return {"PYTHONPATH": str(root), "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "LANG": "C.UTF-8"}


def envoy_user(lab: Lab) -> int | None:
    """Return the user that Envoy runs as in `lab`, or None where the capture knows it by its mark."""
    return ENVOY_UID if lab.has_users else None


def _require_programs() -> None:
    missing = [name for name in _NEEDED if shutil.which(name, path=_SYSTEM_PATH) is None]
    if missing:
        packages = " ".join(sorted({_NEEDED[name] for name in missing}))
        raise LabError(f"{', '.join(missing)}: not installed; on Debian: apt-get install {packages}")


def _write_names(directory: Path, hosts: Mapping[str, str]) -> None:
    lines = ["127.0.0.1 localhost", "::1 localhost", *(f"{address} {name}" for name, address in hosts.items())]
    (directory / "hosts").write_text("\n".join([*lines, ""]), encoding="ascii")
    # Nobody answers there, at once: a name that is not in the file does not exist.
    (directory / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n", encoding="ascii")


def _start_anchor(directory: Path, envoy: str, *, has_users: bool) -> tuple[subprocess.Popen[str], int]:
    fresh = ["--mount", "--net", "--ipc", "--pid", "--fork", "--kill-child"]
    users = [] if has_users else ["--user", "--map-root-user"]
    anchor_command = ["unshare", *fresh, *users, "--", "sh", str(_SCRIPT), str(directory), envoy]
    with (directory / "lab.log").open("w+", encoding="utf-8") as log:
        anchor = subprocess.Popen(
            ["sh", "-c", _KEEPER, "keeper", str(directory), *anchor_command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={"PATH": _SYSTEM_PATH},
            text=True,
            start_new_session=True,
        )
        assert anchor.stdout is not None, "its output is a pipe"
        is_readable, _, _ = select.select([anchor.stdout], [], [], _START_TIMEOUT)
        answer = anchor.stdout.readline().split() if is_readable else []
        if answer[:1] == ["ready"]:
            return anchor, int(answer[1])
        _end_anchor(anchor)
        log.seek(0)
        complaint = log.read().strip().splitlines()
    raise LabError(complaint[-1] if complaint else "unshare failed without a word")


def _end_anchor(anchor: subprocess.Popen[str]) -> None:
    for pipe in (anchor.stdin, anchor.stdout):
        if pipe is not None:
            pipe.close()
    try:
        anchor.wait(10)
    except subprocess.TimeoutExpired:
        # The keeper, unshare and what it forked are one group; the namespaces end with the last one.
        os.killpg(anchor.pid, signal.SIGKILL)
        anchor.wait()
