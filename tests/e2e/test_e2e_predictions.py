"""What `xds diff` says of open connections, beside what a real Envoy does with them."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import (
    API,
    ECHO_PORT,
    MAIL,
    POLICY_FILE,
    ProxyKind,
    World,
    hold,
    open_world,
    read_response,
    render_policy,
)
from tests.support.bundles import leaks, read_bundle
from xds import names
from xds.changes import compare_worlds
from xds.cli import run_command
from xds.demo.cast import save_policy
from xds.demo.lab import API_ADDRESS, FILES_ADDRESS
from xds.demo.polling import wait_until
from xds.facts import Facts
from xds.judge import Judge, SourceRead
from xds.policy.parse import Document

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from xds.changes import OpenConnections
    from xds.judge import Judgement

pytestmark = pytest.mark.e2e

DIRECT = f"{{name: files, to: {{cidrs: [{FILES_ADDRESS}]}}, action: direct}}"
CORP = "{endpoints: [{url: 'http://proxy.corp.example:3128'}]%s}"
LOGIN = "login"
CANARY = "canary-4711"
DRAIN_TIME = 1


@dataclass(frozen=True)
class Edit:
    """One edit of the policy, and how many kinds of open connections it should cut, so that no side is vacuous."""

    name: str
    cuts: set[str]
    rules: str = f"[{DIRECT}]"
    default: str = "{action: tunnel, proxy: corp}"
    more: str = ""
    """Of the proxy."""
    extra: str = ""
    replaced: tuple[str, str] = ("", "")
    """A word of the whole document, and what stands in its place."""

    def render(self) -> str:
        """Return the document."""
        text = render_policy(self.rules, self.default, proxy=CORP % self.more, extra=self.extra)
        return text.replace(*self.replaced) if self.replaced[0] else text


PLAIN = Edit("as-it-was", set(), extra="explicit: {}")
CHAINS = {
    "tls": names.tls_tunnel_chain("corp"),
    "tcp": names.tcp_tunnel_chain("corp"),
    "direct": names.DIRECT_CHAIN,
    "http": names.HTTP_CHAIN,
    "explicit": names.EXPLICIT_CHAIN,
}
"""The chain that takes each of the open connections."""
KEPT: set[str] = set()
ALL = set(CHAINS)

EDITS = [
    Edit(
        "rules and the default are others",
        KEPT,
        rules=f"[{{to: {{domains: [{API}, '*.net'], ports: [1, 2]}}, action: deny}}, {DIRECT}]",
        default="{action: deny}",
        extra=PLAIN.extra,
    ),
    Edit("the rule of an open connection is gone", KEPT, rules="[]", extra=PLAIN.extra),
    Edit("the proxy is elsewhere", KEPT, replaced=("example:3128", "example:3999"), extra=PLAIN.extra),
    Edit(
        "the proxy is reached in another way",
        KEPT,
        more=", connectTimeout: 9s, health: {}, outlier: {}",
        extra=PLAIN.extra,
    ),
    Edit("names get addresses", KEPT, extra=f"{PLAIN.extra}\ndns: {{mode: capture, syntheticRange: 198.18.0.0/15}}"),
    Edit("the proxy has another name", {"tls", "tcp"}, replaced=("corp:", "other:"), extra=PLAIN.extra),
    Edit("idle tunnels are cut from now on", {"tls", "tcp"}, more=", idleTimeout: 1h", extra=PLAIN.extra),
    Edit("the proxy wants a login", {"tls", "tcp"}, more=f", auth: {{basic: {{file: {LOGIN}}}}}", extra=PLAIN.extra),
    Edit("the log is elsewhere", ALL, extra=f"{PLAIN.extra}\naccessLog: {{path: off}}"),
    Edit("other servers speak first", ALL - {"explicit"}, extra=f"{PLAIN.extra}\nserverFirstPorts: [25, 2525]"),
    Edit("nobody is served who knows of a proxy", {"explicit"}),
    Edit("those who know of a proxy are served elsewhere", {"explicit"}, extra="explicit: {port: 15099}"),
]


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_world(ProxyKind.EMBEDDED, envoy_options=("--drain-time-s", str(DRAIN_TIME))) as opened:
        (opened.lab.directory / LOGIN).write_text(f"user:{CANARY}", encoding="utf-8")
        yield opened
        assert opened.leaked == 0, "the pod sent packets towards the Internet by itself"


def judge(text: str) -> Judgement:
    """Judge a document as `xds diff` does for somebody who has neither the files nor the names."""
    judge = Judge()
    results = judge.parse(SourceRead((Document(source=POLICY_FILE, text=text),)))
    return judge.judge(results, Facts(reads_files=False))


def predict(before: str, after: str) -> OpenConnections:
    (change,) = compare_worlds(judge(before), judge(after), {}).policies
    assert change.connections is not None
    return change.connections


def put_in_force(world: World, text: str) -> None:
    before = world.updates()
    save_policy(world.lab, POLICY_FILE, text)
    world.wait_for_updates(before)


def say(connection: socket.socket, text: bytes) -> bool:
    """Whether what is said to an echo comes back."""
    try:
        connection.sendall(text)
        return connection.recv(100) == text
    except OSError:
        return False


def ask(connection: socket.socket) -> bool:
    """Whether a connection still takes requests."""
    try:
        connection.sendall(f"GET /open HTTP/1.1\r\nHost: {API}\r\n\r\n".encode())
        return read_response(connection).startswith(b"HTTP/1.1 ")
    except OSError:
        return False


def is_closed(connection: socket.socket) -> bool:
    """Whether the other side closed a connection that has nothing more to say."""
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True
    finally:
        with suppress(OSError):
            connection.settimeout(15)


def open_all(world: World, stack: ExitStack) -> dict[str, socket.socket]:
    """Open one connection of each kind, and see that it carries data."""
    opened: dict[str, socket.socket] = {
        "tls": stack.enter_context(world.connect_tls(MAIL)),
        "tcp": stack.enter_context(world.connect(API_ADDRESS, ECHO_PORT)),
        "direct": stack.enter_context(world.connect(FILES_ADDRESS, ECHO_PORT)),
        "http": stack.enter_context(world.connect(API, 80)),
        "explicit": stack.enter_context(world.connect("127.0.0.1", 15002)),
    }
    opened["explicit"].sendall(f"CONNECT {API}:{ECHO_PORT} HTTP/1.1\r\nHost: {API}:{ECHO_PORT}\r\n\r\n".encode())
    assert opened["explicit"].recv(1000).startswith(b"HTTP/1.1 200")
    for kind, connection in opened.items():
        assert ask(connection) if kind == "http" else say(connection, b"\x00\x01 before"), kind
    return opened


@pytest.mark.parametrize("edit", EDITS, ids=[edit.name.replace(" ", "-") for edit in EDITS])
def test_an_edit_cuts_what_was_predicted_and_nothing_else(world: World, edit: Edit) -> None:
    inside = str(world.lab.inside / LOGIN)
    before, after = PLAIN.render(), edit.render().replace(f"file: {LOGIN}", f"file: {inside}")
    if edit.replaced[0]:
        after = after.replace("proxy: corp", "proxy: other") if "other" in edit.replaced[1] else after
    predicted = {item.chain for item in predict(before, after).drained}
    put_in_force(world, before)
    with ExitStack() as stack:
        opened = open_all(world, stack)
        put_in_force(world, after)
        cut = {kind for kind in opened if CHAINS[kind] in predicted}
        assert cut == edit.cuts
        for kind in cut:
            wait_until(partial(is_closed, opened[kind]), f"the end of {kind}", 15)
        kept = {kind: connection for kind, connection in opened.items() if kind not in cut}
        hold(lambda: not any(map(is_closed, kept.values())), "an open connection is cut", 2 * DRAIN_TIME)
        for kind, connection in kept.items():
            assert ask(connection) if kind == "http" else say(connection, b"\x00\x01 after"), kind


def test_a_bundle_of_a_real_envoy_holds_its_resources_and_not_its_login(world: World, tmp_path: Path) -> None:
    policy = PLAIN.render().replace("3128'}]", f"3128'}}], auth: {{basic: {{file: {world.lab.inside / LOGIN}}}}}")
    put_in_force(world, policy)
    target = tmp_path / "bundle.tar.gz"
    admin = world.lab.directory / "envoy" / "admin.sock"

    code = run_command(["collect", "--envoy", str(admin), "--timeout", "5s", "-o", str(target)])

    members = read_bundle(target)
    assert code == 1, "no control plane listens outside of the laboratory"
    of_envoy = {name.rpartition("/")[2]: content for name, content in members.items() if name.startswith("envoys/")}
    assert set(of_envoy) == {"server_info.json", "config_dump.json", "clusters.json", "listeners.json", "stats.txt"}
    assert b"egress-outbound" in of_envoy["config_dump.json"]
    assert b"proxy-login/corp" in of_envoy["config_dump.json"]
    assert b"listener_manager" in of_envoy["stats.txt"]
    assert leaks(members, CANARY) == []
