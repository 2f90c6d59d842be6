"""What the access log says of a connection: who decided, where it went, and why it did not get there."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.e2e.harness import API, FILES, ProxyKind, World
from xds.demo.lab import API_ADDRESS, PROXY_ADDRESS
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.parametrize("shared_world", [ProxyKind.SQUID], indirect=True, ids=["squid"]),
]

LineValue = str | int | float
NEVER = "never-in-a-log"
DENY_API = f"[{{name: api, to: {{domains: [{API}]}}, action: deny}}]"


def wait_for_line(world: World, mark: str, **wanted: LineValue) -> Mapping[str, LineValue]:
    """Return the line with these values about something that began after `mark`."""

    def look() -> Mapping[str, LineValue] | None:
        return next((line for line in lines_after(world, mark) if wanted.items() <= line.items()), None)

    return wait_until(look, f"a line with {wanted} in:\n{world.envoy.program.tail()}", timeout=15)


def lines_after(world: World, mark: str) -> list[Mapping[str, LineValue]]:
    """Return what Envoy has written so far about what began after `mark`; it writes every few seconds."""
    lines = world.envoy.program.log.read_text(encoding="utf-8").splitlines()
    parsed = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
    return [line for line in parsed if str(line["start"]) >= mark]


def mark_now() -> str:
    """Return this moment as the log writes it."""
    return datetime.now(tz=UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_a_tunnel_leaves_a_line(world: World) -> None:
    world.set_policy()
    mark = mark_now()

    world.curl(f"https://{API}/").expect()

    line = wait_for_line(world, mark, name=API, action="tunnel")
    assert (
        line.items()
        >= {
            "policy": "main",
            "chain": "tunnel-tls/corp",
            "protocol": "tls",
            "destination": f"{API_ADDRESS}:443",
            "asked_for": f"{API}:443",
            "cluster": "proxy/corp",
            "endpoint": f"{PROXY_ADDRESS}:3128",
        }.items()
    )
    assert int(line["bytes_sent"]) > 0
    assert int(line["bytes_received"]) > 0
    assert "reason" not in line


def test_a_connection_that_a_rule_refuses_leaves_a_line_with_a_reason(world: World) -> None:
    world.set_policy(DENY_API)
    mark = mark_now()

    assert world.curl(f"https://{API}/").exit_code

    line = wait_for_line(world, mark, name=API, action="deny")
    assert line["chain"] == "deny"
    assert line["protocol"] == "tls"
    assert "a rule or the default refuses it" in str(line["reason"])


def test_a_tunnel_that_the_proxy_refuses_leaves_its_answer_and_a_reason(world: World) -> None:
    """Squid takes CONNECT for port 443 only."""
    world.set_policy()
    mark = mark_now()

    assert world.curl(f"https://{API}:8443/").exit_code

    line = wait_for_line(world, mark, name=API, action="tunnel")
    assert line["failure"] == "tunnel_response:403"
    assert line["reason"] == "the proxy refuses this destination (403)"


def test_a_direct_connection_that_nobody_takes_says_so(world: World) -> None:
    world.set_policy(f"[{{name: files, to: {{domains: [{FILES}]}}, action: direct}}]")
    mark = mark_now()

    assert world.curl(f"https://{FILES}:4443/").exit_code

    line = wait_for_line(world, mark, name=FILES, action="direct")
    assert line["reason"] == "nothing listens at the destination"


@pytest.mark.parametrize(
    ("rules", "host", "action", "reason"),
    [
        ("[]", API, "tunnel", None),
        (DENY_API, API, "deny", "a rule or the default refuses it"),
        (DENY_API, f"{NEVER}:x@{API}", "deny", "neither a plain name nor an address"),
    ],
    ids=["a request to the proxy", "a request that a rule refuses", "a request with an odd Host"],
)
def test_a_plain_request_leaves_a_line_without_path_header_or_login(
    world: World, rules: str, host: str, action: str, reason: str | None
) -> None:
    world.set_policy(rules)
    mark = mark_now()

    world.exchange(API, 80, f"GET /{NEVER}?{NEVER} HTTP/1.1\r\nHost: {host}\r\nX-Secret: {NEVER}\r\n\r\n".encode())

    line = wait_for_line(world, mark, action=action, protocol="http")
    assert line.get("name") == (API if host == API else None)
    assert line["destination"] == f"{API_ADDRESS}:80"
    assert line["status"] == (200 if action == "tunnel" else 403)
    assert reason is None or reason in str(line["reason"])
    assert NEVER not in json.dumps(line)


def test_the_log_can_go_to_a_file(world: World) -> None:
    path = world.lab.directory / "egress.log"
    path.touch()
    path.chmod(0o666)
    inside = world.lab.inside / "egress.log"
    world.set_policy(extra=f"accessLog: {{path: {inside}}}")
    mark = mark_now()

    world.curl(f"https://{API}/").expect()

    wait_until(lambda: API in path.read_text(encoding="utf-8"), "a line in the file", timeout=20)
    assert lines_after(world, mark) == []


def test_the_log_can_be_switched_off(world: World) -> None:
    world.set_policy(extra="accessLog: {path: off}")
    mark = mark_now()

    world.curl(f"https://{API}/").expect()
    world.set_policy()
    world.curl(f"https://{API}/").expect()

    wait_for_line(world, mark, name=API, action="tunnel")
    assert len(lines_after(world, mark)) == 1
