"""The capture rules: what they say, what they refuse, and what they leave in a real kernel."""

from __future__ import annotations

import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from xds.capture import CHAIN, Capture, Family, build_capture, render_capture, render_removal
from xds.cli.capture import command
from xds.errors import CaptureError, SettingsError

if TYPE_CHECKING:
    from pathlib import Path

SAVED = f"""\
*nat
:OUTPUT ACCEPT [0:0]
:OTHER - [0:0]
:{CHAIN} - [0:0]
-A OUTPUT -p udp -j ACCEPT
-A OUTPUT -p tcp -j {CHAIN}
-A OTHER -d 10.0.0.0/8 -m comment --comment "by hand" -g {CHAIN}
-A OTHER -j {CHAIN}_OF_SOMEBODY_ELSE
-A {CHAIN} -o lo -j RETURN
COMMIT
"""


COMMON_EXCLUSIONS = ("-m owner --uid-owner 5", "-p tcp -m tcp --dport 9", "-p tcp -m tcp --dport 22")


def test_the_rules_for_a_pod_are_these() -> None:
    assert render_capture(build_capture(), Family.IPV4) == (
        "*nat\n"
        ":EGRESS_XDS_OUTPUT - [0:0]\n"
        "-A EGRESS_XDS_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -o lo -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -d 127.0.0.0/8 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p tcp -j REDIRECT --to-ports 15001\n"
        "-A OUTPUT -p tcp -j EGRESS_XDS_OUTPUT\n"
        "COMMIT\n"
    )


@pytest.fixture
def full() -> Capture:
    return build_capture(
        to_port=16001,
        exempt_uids=[9, 9],
        exempt_marks=[77],
        exclude_ports=[22, 9, 22],
        exclude_cidrs=["10.1.2.3/8", "fd00::5/8", " 192.0.2.7 "],
        exclude_uids=[5],
    )


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        (
            Family.IPV4,
            ["-d 127.0.0.0/8", *COMMON_EXCLUSIONS, "-d 10.0.0.0/8", "-d 192.0.2.7/32"],
        ),
        (
            Family.IPV6,
            ["-d ::1/128", *COMMON_EXCLUSIONS, "-d fd00::/8"],
        ),
    ],
)
def test_exclusions_are_masked_sorted_once_each_and_of_their_family(
    full: Capture, family: Family, expected: list[str]
) -> None:
    returns = [line for line in render_capture(full, family).splitlines() if line.endswith("-j RETURN")]
    exempt = ["-m mark --mark 0x4d", "-m owner --uid-owner 9", "-o lo"]
    assert returns == [f"-A {CHAIN} {match} -j RETURN" for match in exempt + expected]


def test_a_mark_alone_exempts_nobody_by_user() -> None:
    assert "uid-owner" not in render_capture(build_capture(exempt_marks=[1]), Family.IPV4)


def test_earlier_jumps_are_replaced_whatever_they_look_like_and_nothing_else_is() -> None:
    removed = [line for line in render_capture(build_capture(), Family.IPV4, SAVED).splitlines() if line[:2] == "-D"]
    assert removed == [
        f"-D OUTPUT -p tcp -j {CHAIN}",
        f'-D OTHER -d 10.0.0.0/8 -m comment --comment "by hand" -g {CHAIN}',
    ]


def test_removal_takes_away_the_jumps_and_the_chain() -> None:
    lines = render_removal(SAVED).splitlines()
    assert lines[1] == f"-D OUTPUT -p tcp -j {CHAIN}"
    assert lines[3:] == [f"-F {CHAIN}", f"-X {CHAIN}", "COMMIT"]


def test_where_nothing_is_captured_there_is_nothing_to_remove() -> None:
    assert render_removal("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n") == ""


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["--to-port", "0"], id="port zero"),
        pytest.param(["--exclude-port", "65536"], id="a port too large"),
        pytest.param(["--exempt-uid", "-1"], id="a negative user"),
        pytest.param(["--exclude-uid", "4294967295"], id="the user that stands for nobody"),
        pytest.param(["--exempt-mark", "0"], id="the mark that every packet has"),
        pytest.param(["--exclude-cidr", "10.0.0.0/33"], id="a prefix too long"),
        pytest.param(["--exclude-cidr", "corp.example"], id="a name for a network"),
        pytest.param(["--exclude-cidr", "fe80::%eth0/64"], id="a network with a zone"),
        pytest.param(["--exclude-cidr", "10.0.0.0/8 -j ACCEPT\n-A OUTPUT"], id="rules smuggled into a network"),
    ],
)
def test_unusable_values_are_refused_before_anything_runs(options: list[str]) -> None:
    with pytest.raises(SettingsError):
        CliRunner().invoke(command, ["--apply", *options], catch_exceptions=False)


def test_printing_is_the_default_and_shows_both_families() -> None:
    result = CliRunner().invoke(command, [], catch_exceptions=False)
    assert [line for line in result.stdout.splitlines() if line.startswith("#")] == [
        "# iptables-restore --noflush",
        "# ip6tables-restore --noflush",
    ]


def _fake_program(directory: Path, name: str, script: str) -> None:
    program = directory / name
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


@pytest.mark.parametrize(
    ("complaint", "remedy"),
    [
        ("iptables: Permission denied (you must be root)", "as root"),
        ("modprobe: FATAL\nAddress family not supported by protocol", "--family"),
        ("Another app is currently holding the xtables lock", "try again"),
        ("line 3: RULE_APPEND failed (Invalid argument)", "--exempt-mark"),
        ("line 3 failed", "nothing was changed"),
        ("", "failed without a word"),
    ],
)
def test_a_refusal_of_the_kernel_comes_with_its_words_and_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, complaint: str, remedy: str
) -> None:
    _fake_program(tmp_path, "iptables-save", "exit 0")
    _fake_program(tmp_path, "iptables-restore", f"echo '{complaint}' >&2; exit 4")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CaptureError, match=remedy):
        CliRunner().invoke(command, ["--apply", "--family", "ipv4"], catch_exceptions=False)


def test_missing_iptables_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("xds.cli.capture._SYSTEM_PATH", "/nonexistent")
    with pytest.raises(CaptureError, match="apt-get install iptables"):
        CliRunner().invoke(command, ["--apply"], catch_exceptions=False)


def test_nothing_is_applied_if_one_family_would_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "applied"
    for name in ("iptables-save", "ip6tables-save"):
        _fake_program(tmp_path, name, "exit 0")
    _fake_program(tmp_path, "iptables-restore", f'echo "$*" >> {log}')
    _fake_program(tmp_path, "ip6tables-restore", "echo no >&2; exit 1")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(CaptureError, match="ip6tables-restore"):
        CliRunner().invoke(command, ["--apply"], catch_exceptions=False)
    assert log.read_text(encoding="utf-8").splitlines() == ["--noflush --wait 10 --test"]


NAMESPACE = ["unshare", "--net", "--user", "--map-root-user", "--mount"]
RUN = "import sys; from xds.cli.capture import command; command(sys.argv[1:])"
"""In a user namespace there is no user 1337 to exempt, hence the mark."""


def _can_make_a_namespace() -> bool:
    if shutil.which("unshare") is None or shutil.which("iptables-save", path="/usr/sbin:/sbin") is None:
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def _in_a_namespace(*steps: str) -> list[str]:
    """Run shell `steps` in a network namespace of their own; `$X` is the command."""
    script = "\n".join(
        [
            "set -e",
            "mount -t tmpfs tmpfs /run",
            f'x() {{ {sys.executable} -c "{RUN}" --exempt-mark 7 "$@" 2>/dev/null; }}',
            *steps,
        ]
    )
    done = subprocess.run([*NAMESPACE, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return [line for line in done.stdout.splitlines() if not line.startswith("#")]


@pytest.mark.skipif(not _can_make_a_namespace(), reason="needs iptables and the right to make a network namespace")
class TestInTheKernel:
    def test_applying_twice_leaves_what_applying_once_leaves(self) -> None:
        once = _in_a_namespace("x --apply", "iptables-save", "ip6tables-save")
        twice = _in_a_namespace("x --apply --exclude-port 1", "x --apply", "iptables-save", "ip6tables-save")
        assert once == twice
        assert once.count(f"-A OUTPUT -p tcp -j {CHAIN}") == 2

    def test_undo_leaves_the_tables_as_they_were_and_can_be_repeated(self) -> None:
        before = "iptables -t nat -A OUTPUT -p udp -j ACCEPT; ip6tables -t nat -N OTHER; x --apply; x --undo"
        lines = _in_a_namespace(before, "x --undo", "iptables-save -t nat", "ip6tables-save -t nat")
        assert not [line for line in lines if CHAIN in line]
        assert "-A OUTPUT -p udp -j ACCEPT" in lines
        assert ":OTHER - [0:0]" in lines

    def test_the_kernel_keeps_every_kind_of_rule(self) -> None:
        lines = _in_a_namespace(
            "x --apply --exclude-cidr 10.0.0.0/8 --exclude-cidr fd00::/8 --exclude-port 22 --to-port 99",
            "iptables-save -t nat",
            "ip6tables-save -t nat",
        )
        rules = [line.removeprefix(f"-A {CHAIN} ") for line in lines if line.startswith(f"-A {CHAIN}")]
        assert rules == [
            *("-m mark --mark 0x7 -j RETURN", "-o lo -j RETURN", "-d 127.0.0.0/8 -j RETURN"),
            *("-p tcp -m tcp --dport 22 -j RETURN", "-d 10.0.0.0/8 -j RETURN", "-p tcp -j REDIRECT --to-ports 99"),
            *("-m mark --mark 0x7 -j RETURN", "-o lo -j RETURN", "-d ::1/128 -j RETURN"),
            *("-p tcp -m tcp --dport 22 -j RETURN", "-d fd00::/8 -j RETURN", "-p tcp -j REDIRECT --to-ports 99"),
        ]
