"""
The capture rules in a real kernel, with iptables and with nftables: what is captured, what passes, what they leave.

Nothing here touches the network of the machine: see `capture_pod`.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.e2e.capture_pod import ENVOY, OTHER, PATH, XDS, Pod, Question, listening, open_pod
from xds.capture import (
    CHAIN,
    Family,
    UdpRejection,
    build_capture,
    build_plan,
    read_iptables,
    read_nftables,
    render_capture,
    render_nftables,
    table_words,
)
from xds.cli.capture_programs import Backend
from xds.demo.polling import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.capture import Capture

pytestmark = pytest.mark.e2e

BACKENDS = [backend.value for backend in Backend]


def put_iptables(capture: Capture) -> str:
    """Return the script that puts the printed rules in force, in a namespace that has none."""
    return "\n".join(f"echo '{render_capture(capture, one)}' | {one.restore_command} --noflush" for one in Family)


def put_nftables(capture: Capture) -> str:
    """Return the script that puts the printed rules in force."""
    return f"echo '{render_nftables(capture, Family)}' | nft -f -"


PUT = {"iptables": put_iptables, "nftables": put_nftables}


@pytest.fixture
def pod() -> Iterator[Pod]:
    with open_pod() as opened:
        yield opened


@pytest.fixture(scope="module")
def shared() -> Iterator[Pod]:
    """A pod for tests that replace all rules."""
    with open_pod() as opened:
        yield opened


EVERY = {
    "TCP is captured": Question("tcp", 443, "captured"),
    "an excluded port passes": Question("tcp", 22, "passed"),
    "an excluded user passes": Question("tcp", 443, "passed", uid=OTHER),
    "Envoy's user passes": Question("tcp", 443, "passed", uid=ENVOY),
    "Envoy's mark passes": Question("tcp", 443, "passed", mark=7, uid=0),
    "another mark is captured": Question("tcp", 443, "captured", mark=8, uid=0),
    "QUIC is rejected": Question("udp", 443, "refused"),
    "UDP of Envoy's user passes": Question("udp", 443, "passed", uid=ENVOY),
    "other UDP passes": Question("udp", 444, "passed"),
    "questions to name servers are captured": Question("udp", 53, "captured"),
    "those of Envoy pass": Question("udp", 53, "passed", uid=ENVOY),
    "excluded networks pass": Question("tcp", 443, "passed", ("192.0.2.200", "2001:db8::ff01")),
    "UDP to an excluded network passes": Question("udp", 443, "passed", ("192.0.2.200",)),
    "loopback stays in the pod": Question("tcp", 9, "refused", ("127.0.0.1",)),
    "the pod's own addresses stay in the pod": Question("tcp", 9, "refused", ("192.0.2.1", "2001:db8::1")),
}
"""What becomes of connections in a pod with one of everything that is excluded."""


@pytest.fixture(scope="module", params=BACKENDS)
def answers(request: pytest.FixtureRequest) -> Iterator[dict[str, set[str]]]:
    """What becomes of them, with each backend in turn."""
    with open_pod() as opened, listening(opened):
        opened.capture(
            *("--apply", "--backend", str(request.param), "--exempt-uid", str(ENVOY), "--exempt-mark", "7", "--dns"),
            *("--exclude-port", "22", "--exclude-uid", str(OTHER), "--exclude-cidr", "192.0.2.128/25"),
            *("--exclude-cidr", "2001:db8::ff00/120"),
        )
        yield dict(zip(EVERY, opened.ask_all(list(EVERY.values())), strict=True))


@pytest.mark.parametrize("what", EVERY)
def test_what_is_captured_and_what_passes(answers: dict[str, set[str]], what: str) -> None:
    assert answers[what] == {EVERY[what].expected}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("capture", "questions"),
    [
        (build_capture(reject_udp=UdpRejection.NONE), [Question("udp", 443, "passed")]),
        (build_capture(exclude_ports=[443]), [Question("udp", 443, "passed")]),
        (
            build_capture(reject_udp=UdpRejection.ALL),
            [Question("udp", 444, "refused"), Question("udp", 53, "passed")],
        ),
        (build_capture(reject_udp=UdpRejection.ALL, exclude_ports=[444]), [Question("udp", 444, "passed")]),
    ],
    ids=["none is rejected", "an excluded port is not", "all but questions are", "all but those and an excluded port"],
)
def test_udp_is_rejected_as_asked(shared: Pod, backend: str, capture: Capture, questions: list[Question]) -> None:
    shared.sh(PUT[backend](capture))
    try:
        assert shared.ask_all(questions) == [{one.expected} for one in questions]
    finally:
        shared.sh("nft flush ruleset")


FOREIGN = """
iptables -t nat -A OUTPUT -p udp -j ACCEPT; ip6tables -t nat -N OTHER; iptables -A OUTPUT -p sctp -j DROP
nft 'table inet ours { chain a { type filter hook output priority 10; udp dport 9 drop; }; }'
"""
OPTIONS = ["--exclude-port", "22", "--exclude-cidr", "10.0.0.0/8", "--exclude-cidr", "fd00::/8", "--dns", "--force"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_applying_again_changes_nothing_and_undoing_leaves_what_was_there_before(pod: Pod, backend: str) -> None:
    pod.sh(FOREIGN)
    before = pod.rules()

    pod.capture("--apply", "--backend", backend, "--exclude-port", "1", "--force")
    pod.capture("--apply", "--backend", backend, *OPTIONS)
    once = pod.rules()
    pod.capture("--apply", "--backend", backend, *OPTIONS)
    assert pod.rules() == once
    assert once != before

    assert pod.capture("--undo") == "no longer captured: ipv4 and ipv6\n"
    assert pod.rules() == before
    assert pod.capture("--undo") == "nothing was captured\n"


def test_changing_the_backend_takes_the_rules_of_the_other_one_away(pod: Pod) -> None:
    seen = []
    for backend in ("iptables", "nftables", "iptables", "auto"):
        pod.capture("--apply", "--force", "--backend", backend)
        seen.append(pod.own_rules())
    assert seen == [
        {"iptables": 2, "nftables": 0},
        {"iptables": 0, "nftables": 2},
        {"iptables": 2, "nftables": 0},
        {"iptables": 2, "nftables": 0},
    ]

    pod.capture("--apply", "--force", "--backend", "nftables", "--family", "ipv6")
    assert pod.own_rules() == {"iptables": 1, "nftables": 1}, "each family has its own"
    pod.capture("--undo")
    assert pod.own_rules() == {"iptables": 0, "nftables": 0}


def without(directory: Path, *names: str) -> str:
    """Return a PATH to which programs of some names are missing, or are replaced by what `directory` holds."""
    directory.mkdir(exist_ok=True)
    for name in ("nft", *(command for family in Family for command in (family.save_command, family.restore_command))):
        found = shutil.which(name, path=PATH)
        if name not in names and found and not (directory / name).exists():
            (directory / name).symlink_to(found)
    return str(directory)


def fake(directory: Path, name: str, script: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    (directory / name).chmod(0o755)


LEGACY = "import xds.cli.capture_programs as p; p.SYSTEM_PATH = '/nonexistent'; from xds.cli import main; main()"
ALONE = [sys.executable, "-c", LEGACY]
"""The command where nothing but what is on PATH is installed."""


@pytest.mark.parametrize(
    ("missing", "used"),
    [
        pytest.param((), "iptables", id="both are installed"),
        pytest.param(("ip6tables-restore",), "nftables", id="iptables is not complete"),
        pytest.param(("nft",), "iptables", id="nft is missing"),
    ],
)
def test_the_backend_is_the_one_that_is_installed(
    pod: Pod, tmp_path: Path, missing: tuple[str, ...], used: str
) -> None:
    path = without(tmp_path / "bin", *missing)
    done = pod.run(*ALONE, "capture", "--apply", "--force", path=path)

    assert (done.returncode, done.stderr) == (0, f"captured: ipv4 and ipv6, with {used}\n")


def test_the_backend_is_the_one_that_works(pod: Pod, tmp_path: Path) -> None:
    for family in Family:
        fake(tmp_path, family.save_command, 'echo "can\'t initialize iptables table: Table does not exist" >&2; exit 3')
    path = without(tmp_path)

    done = pod.run(*ALONE, "capture", "--apply", "--force", path=path)
    assert (done.returncode, done.stderr) == (0, "captured: ipv4 and ipv6, with nftables\n")
    done = pod.run(*ALONE, "capture", "--undo", path=path)
    assert (done.returncode, done.stderr) == (0, "no longer captured: ipv4 and ipv6\n")


FAILING = """for word in "$@"; do [ "$word" = --test ] && exit 0; done; echo 'RULE_APPEND failed' >&2; exit 4"""


def test_where_ipv6_fails_ipv4_is_put_back_as_it_was(pod: Pod, tmp_path: Path) -> None:
    """What only the kernel can refuse is not seen before IPv4 has its rules."""
    pod.capture("--apply", "--backend", "iptables", *OPTIONS)
    pod.sh("iptables -t nat -I OUTPUT 1 -p udp -j ACCEPT; iptables -t nat -A OUTPUT -d 198.51.100.1 -j ACCEPT")
    before = pod.rules()
    fake(tmp_path, "ip6tables-restore", FAILING)

    done = pod.run(*ALONE, "capture", "--apply", "--force", "--backend", "iptables", path=without(tmp_path))

    assert done.returncode == 3
    assert "ip6tables-restore" in done.stderr
    assert pod.rules() == before


def test_where_ipv6_fails_on_an_untouched_pod_nothing_is_left(pod: Pod, tmp_path: Path) -> None:
    before = pod.rules()
    fake(tmp_path, "ip6tables-restore", FAILING)

    assert pod.run(*ALONE, "capture", "--apply", "--force", path=without(tmp_path, "nft")).returncode == 3
    assert pod.rules() == before


def test_where_the_other_backends_rules_can_not_be_removed_they_stay_in_force_alone(pod: Pod, tmp_path: Path) -> None:
    pod.capture("--apply", "--force", "--backend", "iptables", "--exclude-port", "9")
    before = pod.rules()
    fake(tmp_path, "iptables-restore", FAILING)

    done = pod.run(*ALONE, "capture", "--apply", "--force", "--backend", "nftables", path=without(tmp_path))

    assert done.returncode == 3
    assert pod.rules() == before


def test_a_script_of_nft_that_fails_at_its_end_leaves_nothing(pod: Pod) -> None:
    before = pod.rules()
    script = render_nftables(build_capture(), Family) + "add rule ip6 egress_xds no_such_chain accept\n"
    assert pod.run("sh", "-c", f"echo '{script}' | nft -f -").returncode != 0
    assert pod.rules() == before


def test_commands_at_the_same_time_end_in_one_set_of_rules(pod: Pod) -> None:
    ports = ["1001", "1002", "1003", "1004"]
    running = [
        pod.start(*XDS, "capture", "--apply", "--force", "--exclude-port", port, "--backend", BACKENDS[index % 2])
        for index, port in enumerate(ports)
    ]
    ended = [program.communicate(timeout=60) for program in running]

    assert [program.returncode for program in running] == [0, 0, 0, 0], ended
    assert sorted(pod.own_rules().values()) == [0, 2]
    assert len([port for port in ports if port in pod.rules()]) == 1


def test_an_interrupted_run_is_finished_by_the_next(pod: Pod) -> None:
    pod.sh(f"iptables -t nat -N {CHAIN}; iptables -t nat -A OUTPUT -p tcp -j {CHAIN}")
    pod.capture("--apply", "--force", "--backend", "iptables")
    assert pod.own_rules() == {"iptables": 2, "nftables": 0}

    pod.sh("ip6tables -t nat -F OUTPUT")
    pod.capture("--undo")
    assert CHAIN not in pod.rules()


def test_a_run_that_is_told_to_end_finishes_what_it_has_begun(pod: Pod, tmp_path: Path) -> None:
    real = shutil.which("ip6tables-restore", path=PATH)
    fake(tmp_path, "ip6tables-restore", f'echo begun >> {tmp_path}/log; sleep 0.5; exec {real} "$@"')
    path = f"{without(tmp_path)}:{PATH}"
    running = pod.start("env", f"PATH={path}", *XDS, "capture", "--apply", "--force", "--backend", "iptables")
    wait_until((tmp_path / "log").exists, "the rules of IPv6", timeout=20)
    running.send_signal(signal.SIGTERM)
    running.communicate(timeout=20)

    assert pod.own_rules() == {"iptables": 2, "nftables": 0}


@pytest.mark.parametrize("backend", BACKENDS)
def test_ten_thousand_excluded_networks_are_taken_and_heeded(pod: Pod, backend: str) -> None:
    networks = [f"--exclude-cidr=10.{number >> 7}.{number % 128 * 2}.0/24" for number in range(10_000)]
    started = time.monotonic()
    pod.capture("--apply", "--force", "--backend", backend, *networks, "--exclude-cidr", "192.0.2.128/25")
    assert time.monotonic() - started < 40

    assert pod.ask("tcp", 443, "passed", "192.0.2.200") == {"passed"}
    assert pod.ask("tcp", 443, "refused", "192.0.2.9") == {"refused"}


def test_what_the_kernel_holds_is_read_back_as_what_was_asked_for(pod: Pod) -> None:
    capture = build_capture(
        to_port=16001, exempt_uids=[9], exempt_marks=[7, 0x8000_0000], exclude_ports=[22, 443], exclude_uids=[5],
        exclude_cidrs=["10.0.0.0/8", "192.0.2.7", "fd00::/8", "::ffff:10.0.0.0/104"],
        dns=True, reject_udp=UdpRejection.ALL,
    )  # fmt: skip
    pod.sh(put_iptables(capture))
    for family in Family:
        found = read_iptables(pod.sh(f"{family.save_command} -t nat; {family.save_command} -t filter"), family)
        assert found is not None
        assert (found.plan, found.strange) == (build_plan(capture, family), ())
    pod.sh(put_nftables(capture))
    for family in Family:
        found = read_nftables(pod.sh(f"nft -j list table {' '.join(table_words(family))}"), family)
        assert found is not None
        assert (found.plan, found.strange) == (build_plan(capture, family), ())


class TestWaiting:
    def test_it_says_what_it_waits_for_and_applies_when_envoy_listens(self, pod: Pod) -> None:
        waiting = pod.start(*XDS, "capture", "--apply", "--wait")
        assert waiting.stderr is not None
        assert waiting.stderr.readline() == "waiting for Envoy to listen on 127.0.0.1:15001 and [::1]:15001\n"
        assert pod.own_rules() == {"iptables": 0, "nftables": 0}

        with listening(pod):
            said = waiting.communicate(timeout=30)[1]
        assert (waiting.returncode, said) == (0, "captured: ipv4 and ipv6, with iptables\n")
        assert pod.own_rules()["iptables"] == 2

    def test_it_gives_up_when_its_time_is_over(self, pod: Pod) -> None:
        done = pod.xds("--apply", "--wait", "300ms")
        assert done.returncode == 3
        assert "waited 0.3 s for Envoy" in done.stderr
        assert pod.own_rules() == {"iptables": 0, "nftables": 0}

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_a_signal_ends_it_at_once(self, pod: Pod, number: signal.Signals, code: int) -> None:
        waiting = pod.start(*XDS, "capture", "--apply", "--wait")
        assert waiting.stderr is not None
        waiting.stderr.readline()
        started = time.monotonic()
        waiting.send_signal(number)
        waiting.communicate(timeout=10)

        assert waiting.returncode == code
        assert time.monotonic() - started < 2

    def test_sigterm_ends_it_as_the_first_process_of_a_container_too(self, pod: Pod) -> None:
        container = pod.start(
            "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *XDS, "capture", "--apply", "--wait"
        )
        assert container.stderr is not None
        container.stderr.readline()
        children = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text(encoding="ascii")
        os.kill(int(children.split()[0]), signal.SIGTERM)
        container.communicate(timeout=10)

        assert container.returncode == 143

    def test_an_envoy_that_would_be_captured_itself_is_not_waited_for(self, pod: Pod) -> None:
        with listening(pod, uid=OTHER):
            done = pod.xds("--apply", "--wait")
        assert done.returncode == 3
        assert f"--exempt-uid {OTHER}" in done.stderr
