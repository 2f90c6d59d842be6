"""The self-check of the capture and the capture from outside a pod, in a real kernel."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.capture_pod import APPLICATION, ENVOY, PATH, ROOT, XDS, Pod, listening, open_pod
from xds.cli.capture_programs import Backend

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

PAGE = ROOT / "docs" / "capture.md"


@pytest.fixture
def pod() -> Iterator[Pod]:
    with open_pod() as opened:
        yield opened


def check(pod: Pod, *options: str) -> tuple[int, dict[str, tuple[str, str]]]:
    """Run the check and return its exit code, and what it says by subject."""
    done = pod.xds("--check", "-o", "json", *options)
    told = json.loads(done.stdout)
    return done.returncode, {one["subject"]: (one["state"], one["message"]) for one in told["checks"]}


@pytest.mark.parametrize("backend", [backend.value for backend in Backend])
def test_a_captured_pod_is_good_and_one_that_is_captured_otherwise_is_not(pod: Pod, backend: str) -> None:
    options = ["--exclude-cidr", "10.0.0.0/8", "--exclude-cidr", "fd00::/8", "--dns", "--reject-udp", "all"]
    with listening(pod):
        before = pod.rules()
        code, told = check(pod, *options)
        assert (code, {subject for subject, (state, _) in told.items() if state != "good"}) == (
            1,
            {"IPv4 rules", "IPv6 rules"},
        )
        assert pod.rules() == before, "a check changes nothing"

        pod.capture("--apply", "--backend", backend, *options)
        before = pod.rules()
        code, told = check(pod, *options)
        assert (code, {state for state, _ in told.values()}) == (0, {"good"}), told
        assert told["IPv4 rules"][1] == f"of {backend}, in force as asked for"

        code, told = check(pod, *options, "--exclude-port", "22")
        assert (code, told["IPv6 rules"]) == (
            1,
            ("finding", f"of {backend}, not those asked for: UDP port 22 does not pass by; port 22 does not pass by"),
        )
        assert pod.rules() == before, "a check changes nothing"


def test_istios_rules_before_ours_are_found(pod: Pod) -> None:
    pod.sh("iptables -t nat -N ISTIO_OUTPUT; iptables -t nat -A OUTPUT -p tcp -j ISTIO_OUTPUT")
    pod.capture("--apply", "--force", "--backend", "iptables")

    code, told = check(pod)
    assert code == 1
    assert "Istio captures before us (ISTIO_OUTPUT, ipv4)" in told["others' rules"][1]


OTHERS = """
iptables -t raw -A OUTPUT -p tcp -j NOTRACK; ip6tables -t nat -N A; ip6tables -t nat -A A -p tcp -j ACCEPT
ip6tables -t nat -A OUTPUT -j A; iptables -t nat -A OUTPUT -o lo -j ACCEPT; iptables -t raw -A OUTPUT -p udp -j NOTRACK
nft 'table ip a { chain o { type nat hook output priority -150; tcp dport 80 dnat to 192.0.2.77; }; }'
nft 'table inet b { chain o { type filter hook output priority -300; ip protocol tcp notrack; }; }'
nft 'table inet c { chain o { type nat hook output priority -150; tcp dport 1-65535 accept; }; }'
nft 'table ip d { chain o { type filter hook output priority -300; }; }'
"""
"""Rules of others, of which those that are named in the test below take connections away."""


def test_rules_of_others_that_take_connections_away_are_found_and_nothing_is_captured_behind_them(pod: Pod) -> None:
    pod.sh(OTHERS)
    before = pod.rules()
    with listening(pod):
        refused = pod.xds("--apply", "--wait", "20s")
    assert refused.returncode == 3
    assert "nothing was changed" in refused.stderr
    assert pod.rules() == before

    pod.sh("nft delete table ip d")
    found = [
        one["message"]
        for one in json.loads(pod.xds("--check", "-o", "json").stdout)["checks"]
        if one["subject"] == "others' rules"
    ]
    wanted = ["(ipv6): -p tcp -j ACCEPT", "-p tcp -j NOTRACK (ipv4)", "with dnat (table ip a,", "(table inet b,"]
    assert len(found) == len(wanted), found
    assert all(any(words in message for message in found) for words in wanted), found


def test_ipv6_that_slips_through_is_found(pod: Pod) -> None:
    pod.capture("--apply", "--force", "--family", "ipv4")

    told = check(pod, "--family", "ipv4")[1]
    assert told["IPv6 rules"][0] == "finding"
    assert "there is 2001:db8::1, and IPv6 is not captured" in told["IPv6 rules"][1]


def test_without_root_it_says_what_it_could_not_look_at(pod: Pod) -> None:
    pod.capture("--apply", "--force")
    bare = ["setpriv", f"--reuid={APPLICATION}", "--clear-groups", "--bounding-set=-all"]
    done = pod.run(*bare, *XDS, "capture", "--check")

    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert (
        "✗ rights         this process lacks CAP_NET_ADMIN: it can neither look at the rules nor change them" in lines
    )
    assert "? IPv4 rules     could not be looked at" in lines


@pytest.mark.parametrize("backend", [backend.value for backend in Backend])
def test_net_admin_alone_is_enough_to_capture(pod: Pod, backend: str) -> None:
    """As the init container has it: root, every other capability dropped, no way to gain one."""
    bare = ["setpriv", "--bounding-set=-all,+net_admin", "--no-new-privs"]
    done = pod.run(*bare, *XDS, "capture", "--apply", "--force", "--backend", backend)

    assert (done.returncode, done.stderr) == (0, f"captured: ipv4 and ipv6, with {backend}\n")


@pytest.mark.parametrize("backend", [backend.value for backend in Backend])
def test_a_user_that_a_user_namespace_lacks_is_refused_and_a_mark_is_taken(backend: str) -> None:
    command = ["unshare", "--user", "--map-root-user", "--net", *XDS, "capture", "--apply", "--force"]
    environment = {"PATH": PATH, "PYTHONPATH": str(ROOT)}

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        words = [*command, "--backend", backend, *options]
        return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=ROOT)

    refused = run()
    assert refused.returncode == 3
    assert "--exempt-mark" in refused.stderr
    assert run("--exempt-mark", "7").returncode == 0


def documented(word: str) -> str:
    """Return the line of the page that captures from the node with `word`."""
    lines = [
        found[1]
        for found in re.finditer(r"^(?:.*`)?(nsenter [^`\n]+)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
        if f" {word}" in found[1]
    ]
    assert len(lines) == 1, lines
    (line,) = map(str, lines)
    return line


def test_a_pod_without_any_right_is_captured_from_the_node(pod: Pod, tmp_path: Path) -> None:
    """With the commands of docs/capture.md, by somebody outside, for a process that may do nothing itself."""
    (tmp_path / "xds").write_text(f'#!/bin/sh\nexec {shlex.join(XDS)} "$@"\n', encoding="utf-8")
    (tmp_path / "xds").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{PATH}", "PYTHONPATH": str(ROOT)}
    bare = ["setpriv", f"--reuid={APPLICATION}", "--clear-groups", "--bounding-set=-all", "--no-new-privs"]
    application = pod.start(*bare, sys.executable, "-c", "import time; print('ready', flush=True); time.sleep(600)")
    assert application.stdout is not None
    assert application.stdout.readline() == "ready\n"

    namespaces = [Path(f"/proc/{one}/ns/net").readlink() for one in (application.pid, "self")]
    assert namespaces[0] != namespaces[1], "never capture the machine that runs the tests"

    def from_the_node(word: str) -> subprocess.CompletedProcess[str]:
        script = documented(word).replace('"$PID"', str(application.pid))
        return subprocess.run(
            ["sh", "-c", script], capture_output=True, text=True, check=False, timeout=60, env=environment, cwd=ROOT
        )

    try:
        assert pod.ask("tcp", 443, "passed") == {"passed"}, "until somebody captures it, it is not captured"
        with listening(pod, uid=ENVOY):
            assert from_the_node("--apply").stderr == "captured: ipv4 and ipv6, with iptables\n"
            assert pod.ask("tcp", 443, "captured") == {"captured"}
            checked = from_the_node("--check")
            assert checked.returncode == 0, checked.stdout
            assert from_the_node("--undo").stderr == "no longer captured: ipv4 and ipv6\n"
        assert pod.ask("tcp", 443, "passed") == {"passed"}
    finally:
        application.kill()
        application.communicate()
