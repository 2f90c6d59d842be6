"""
A network namespace that stands for a pod, for the tests of the capture rules: no way to anywhere, and no neighbours.

A connection that passes by is left without an answer, and one that is captured is answered at once.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from tests.e2e.harness import needs
from xds.capture import CHAIN
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NSENTER = shutil.which("nsenter") or "nsenter"
ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
XDS = [sys.executable, "-c", "import sys; from xds.cli import main; main()"]
ADDRESSES = ["192.0.2.9", "2001:db8::9"]
ENVOY, APPLICATION, OTHER = 1337, 10001, 10002

_SERVER = """
import selectors, socket, sys
from xds.names import DNS_PORT
chosen = selectors.DefaultSelector()
for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    server = socket.create_server((host, 15001), family=family)
    chosen.register(server, selectors.EVENT_READ)
    names = socket.socket(family, socket.SOCK_DGRAM)
    names.bind((host, DNS_PORT))
    chosen.register(names, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in chosen.select():
        if key.fileobj.type == socket.SOCK_DGRAM:
            question, sender = key.fileobj.recvfrom(100)
            key.fileobj.sendto(question, sender)
        else:
            key.fileobj.accept()[0].send(b"envoy")
"""
"""Stands for Envoy: says who took the connection."""

_CLIENT = """
import os, socket, sys, json

def ask(kind, host, port, mark, uid, patience):
    if uid:
        os.setuid(uid)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    client = socket.socket(family, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
    if mark:
        client.setsockopt(socket.SOL_SOCKET, 36, mark)
    client.settimeout(patience)
    try:
        client.connect((host, port))
        if kind == "udp":
            client.send(b"names")
        return {b"envoy": "captured", b"names": "captured"}.get(client.recv(9), "strange")
    except (ConnectionRefusedError, PermissionError):
        return "refused"
    except (TimeoutError, OSError):
        return "passed"

answers = []
for question in json.loads(sys.argv[1]):
    ours, theirs = os.pipe()
    if not os.fork():
        os.write(theirs, ask(*question).encode())
        os._exit(0)
    os.close(theirs)
    answers.append(ours)
print(json.dumps([os.read(answer, 9).decode() for answer in answers]))
"""
"""What passes by gets no answer: the neighbour does not exist."""


_COMMANDS = """
import ctypes, json, os, sys
import xds.cli, xds.cli.capture, xds.capture
libc = ctypes.CDLL(None, use_errno=True)
for line in sys.stdin:
    place, path, words, outputs = json.loads(line)
    child = os.fork()
    if not child:
        code = 99
        try:
            with open(place) as namespace:
                assert libc.setns(namespace.fileno(), 0x40000000) == 0, os.strerror(ctypes.get_errno())
            for number, output in enumerate(outputs, start=1):
                os.dup2(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
            os.environ["PATH"] = path
            sys.argv = ["xds", "capture", *words]
            xds.cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code or 0
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Runs `xds capture` in one network namespace after the other, without loading everything for each."""


@lru_cache(1)
def _commands() -> subprocess.Popen[str]:
    """Start what runs commands; it ends with its stdin."""
    started = subprocess.Popen(
        [sys.executable, "-c", _COMMANDS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={"PATH": PATH, "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    atexit.register(started.communicate)
    return started


@dataclass(frozen=True, slots=True)
class Question:
    """Asks what becomes of connections to a port of some addresses."""

    kind: str
    port: int
    expected: str
    hosts: tuple[str, ...] = tuple(ADDRESSES)
    mark: int = 0
    uid: int = APPLICATION

    @property
    def patience(self) -> float:
        """Seconds. What passes by is known by waiting in vain, anything else by its answer."""
        return 0.4 if self.expected == "passed" else 10


@dataclass(frozen=True, slots=True)
class Pod:
    """A network namespace that a sleeping process keeps."""

    pid: int

    def run(self, *words: str, path: str = PATH) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace."""
        command = [NSENTER, f"--net=/proc/{self.pid}/ns/net", *words]
        environment = {"PATH": path, "PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=ROOT
        )

    def start(self, *words: str) -> subprocess.Popen[str]:
        """Start a program in the namespace; its two outputs are pipes."""
        command = [NSENTER, f"--net=/proc/{self.pid}/ns/net", *words]
        environment = {"PATH": PATH, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT
        )

    def sh(self, script: str) -> str:
        """Run a shell script that must succeed, and return what it prints."""
        done = self.run("sh", "-e", "-c", script)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def xds(self, *words: str, path: str = PATH) -> subprocess.CompletedProcess[str]:
        """Run `xds capture` in a process of its own."""
        commands = _commands()
        assert commands.stdin is not None
        assert commands.stdout is not None
        with TemporaryDirectory() as directory:
            outputs = [Path(directory, name) for name in ("out", "err")]
            place = f"/proc/{self.pid}/ns/net"
            commands.stdin.write(json.dumps([place, path, words, list(map(str, outputs))]) + "\n")
            commands.stdin.flush()
            code = int(commands.stdout.readline())
            said = [output.read_text(encoding="utf-8") for output in outputs]
        return subprocess.CompletedProcess(words, code, *said)

    def capture(self, *words: str) -> str:
        """Run `xds capture`, which must succeed, and return what it says."""
        done = self.xds(*words)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def rules(self) -> str:
        """All rules of the namespace, without counters and remarks."""
        saved = self.sh("for t in nat filter; do iptables-save -t $t; ip6tables-save -t $t; done")
        # What iptables keeps in nftables is seen above; of that, chains that it made and that are empty stay for ever.
        tables = [line.split() for line in self.sh("nft list tables").splitlines()]
        others = [self.sh(f"nft list {' '.join(words)}") for words in tables if words[-1] not in {"nat", "filter"}]
        kept = [line for line in saved.splitlines() if not line.startswith("#")]
        return re.sub(r"\[\d+:\d+\]", "", "\n".join([*kept, *others]))

    def own_rules(self) -> dict[str, int]:
        """How many families have rules of each backend."""
        text = self.rules()
        return {
            "iptables": text.count(f"-A OUTPUT -p tcp -j {CHAIN}"),
            "nftables": len(re.findall(r"^table ip6? egress_xds", text, re.MULTILINE)),
        }

    def ask(self, kind: str, port: int, expected: str, *hosts: str, mark: int = 0, uid: int = APPLICATION) -> set[str]:
        """Say what becomes of connections."""
        (answer,) = self.ask_all([Question(kind, port, expected, hosts or tuple(ADDRESSES), mark, uid)])
        return answer

    def ask_all(self, questions: Sequence[Question]) -> list[set[str]]:
        """Say of each question what becomes of its connections, all of which are opened at once."""
        flat = [(one.kind, host, one.port, one.mark, one.uid, one.patience) for one in questions for host in one.hosts]
        done = self.run(sys.executable, "-I", "-S", "-c", _CLIENT, json.dumps(flat))
        assert done.returncode == 0, done.stderr
        answers = iter(json.loads(done.stdout))
        return [{next(answers) for _ in one.hosts} for one in questions]


@contextmanager
def open_pod() -> Iterator[Pod]:
    """Make a namespace with an IPv4 and an IPv6 address, whose neighbours never answer."""
    if os.getuid() or not all(map(shutil.which, ("unshare", "nsenter", "iptables-restore", "nft"))):
        needs("root, util-linux, iptables and nftables")
    keeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
    try:
        pod = Pod(keeper.pid)
        own = Path("/proc/self/ns/net").readlink()
        wait_until(lambda: Path(f"/proc/{keeper.pid}/ns/net").readlink() != own, "a network namespace", timeout=10)
        pod.sh(
            "ip link set lo up; ip link add d0 type veth peer name d1; ip link set d0 up; ip link set d1 up;"
            "ip addr add 192.0.2.1/24 dev d0;"
            "ip addr add 2001:db8::1/64 dev d0 nodad;"
            "for t in nat filter; do iptables -t $t -L -n; ip6tables -t $t -L -n; done > /dev/null"
        )
        yield pod
    finally:
        keeper.kill()
        keeper.wait()


@contextmanager
def listening(pod: Pod, uid: int = ENVOY) -> Iterator[subprocess.Popen[str]]:
    """Let something take connections where Envoy does, as Envoy's user."""
    program = pod.start("setpriv", f"--reuid={uid}", "--clear-groups", sys.executable, "-c", _SERVER)
    try:
        assert program.stdout is not None
        assert program.stdout.readline() == "ready\n"
        yield program
    finally:
        program.kill()
        program.communicate()
