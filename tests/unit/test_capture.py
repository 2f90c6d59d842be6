"""The capture rules: what they say, and what they refuse."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from xds.capture import (
    CHAIN,
    Capture,
    Family,
    UdpRejection,
    build_capture,
    find_foreign_networks,
    find_listeners,
    render_capture,
    render_removal,
    render_restoration,
)
from xds.cli.capture import command
from xds.cli.capture_wait import parse_wait
from xds.errors import CaptureError, SettingsError

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


PORTS = ("-p tcp -m tcp --dport 9", "-p tcp -m tcp --dport 22")


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
        "*filter\n"
        ":EGRESS_XDS_OUTPUT - [0:0]\n"
        "-A EGRESS_XDS_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -o lo -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -d 127.0.0.0/8 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p udp -j REJECT --reject-with icmp-port-unreachable\n"
        "-A OUTPUT -p udp -m udp --dport 443 -j EGRESS_XDS_OUTPUT\n"
        "COMMIT\n"
    )


@pytest.mark.parametrize(
    "capture",
    [build_capture(reject_udp=UdpRejection.NONE), build_capture(exclude_ports=[443])],
    ids=["asked not to", "where TCP 443 passes by, too"],
)
def test_quic_may_pass_by(capture: Capture) -> None:
    assert "udp" not in render_capture(capture, Family.IPV4)
    earlier = f"*filter\n:{CHAIN} - [0:0]\n-A OUTPUT -p udp -m udp --dport 443 -j {CHAIN}\nCOMMIT\n"
    assert render_capture(capture, Family.IPV4, earlier).endswith(
        f"*filter\n-D OUTPUT -p udp -m udp --dport 443 -j {CHAIN}\n-F {CHAIN}\n-X {CHAIN}\nCOMMIT\n"
    )


def test_all_udp_but_questions_to_name_servers_may_be_rejected() -> None:
    capture = build_capture(reject_udp=UdpRejection.ALL, exclude_ports=[443, 9])
    assert render_capture(capture, Family.IPV6).partition("*filter\n")[2] == (
        ":EGRESS_XDS_OUTPUT - [0:0]\n"
        "-A EGRESS_XDS_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -o lo -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -d ::1/128 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p udp -m udp --dport 9 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p udp -m udp --dport 53 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p udp -m udp --dport 443 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p udp -j REJECT --reject-with icmp6-port-unreachable\n"
        "-A OUTPUT -p udp -j EGRESS_XDS_OUTPUT\n"
        "COMMIT\n"
    )


def test_questions_to_name_servers_are_captured_if_asked_for() -> None:
    nat = render_capture(build_capture(dns=True, exclude_ports=[53]), Family.IPV6).partition("*filter")[0]
    assert nat == (
        "*nat\n"
        ":EGRESS_XDS_OUTPUT - [0:0]\n"
        "-A EGRESS_XDS_OUTPUT -m owner --uid-owner 1337 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -o lo -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -d ::1/128 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p tcp -m tcp --dport 53 -j RETURN\n"
        "-A EGRESS_XDS_OUTPUT -p udp -m udp --dport 53 -j REDIRECT --to-ports 15053\n"
        "-A EGRESS_XDS_OUTPUT -p tcp -j REDIRECT --to-ports 15001\n"
        "-A OUTPUT -p tcp -j EGRESS_XDS_OUTPUT\n"
        "-A OUTPUT -p udp -m udp --dport 53 -j EGRESS_XDS_OUTPUT\n"
        "COMMIT\n"
    )


def test_envoy_known_by_its_mark_alone_would_ask_itself() -> None:
    with pytest.raises(SettingsError, match="--exempt-uid"):
        build_capture(dns=True, exempt_marks=[7])

    assert build_capture(dns=True, exempt_marks=[7], exempt_uids=[1337]).dns


def test_capturing_again_without_names_lets_their_questions_pass() -> None:
    earlier = f"*nat\n:{CHAIN} - [0:0]\n-A OUTPUT -p udp -m udp --dport 53 -j {CHAIN}\nCOMMIT\n"
    script = render_capture(build_capture(), Family.IPV4, earlier)
    assert f"-D OUTPUT -p udp -m udp --dport 53 -j {CHAIN}" in script
    assert "15053" not in script


@pytest.fixture(autouse=True)
def _no_programs_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test runs in this process must find no program that changes this machine's network."""
    monkeypatch.setattr("xds.cli.capture_programs.SYSTEM_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")


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
            ["-d 127.0.0.0/8", "-d 10.0.0.0/8", "-d 192.0.2.7/32", *PORTS],
        ),
        (
            Family.IPV6,
            ["-d ::1/128", "-d fd00::/8", *PORTS],
        ),
    ],
)
def test_exclusions_are_masked_sorted_once_each_and_of_their_family(
    full: Capture, family: Family, expected: list[str]
) -> None:
    nat, _, quic = render_capture(full, family).partition("*filter")
    returns = [line for line in nat.splitlines() if line.endswith("-j RETURN")]
    exempt = ["-m mark --mark 0x4d", "-m owner --uid-owner 5", "-m owner --uid-owner 9", "-o lo"]
    assert returns == [f"-A {CHAIN} {match} -j RETURN" for match in exempt + expected]
    assert [line for line in quic.splitlines() if line.endswith("-j RETURN")] == [
        line for line in returns if "-p tcp" not in line
    ]


def test_a_mark_alone_exempts_nobody_by_user() -> None:
    assert "uid-owner" not in render_capture(build_capture(exempt_marks=[1]), Family.IPV4)


def test_earlier_jumps_are_replaced_whatever_they_look_like_and_nothing_else_is() -> None:
    removed = [line for line in render_capture(build_capture(), Family.IPV4, SAVED).splitlines() if line[:2] == "-D"]
    assert removed == [
        f"-D OUTPUT -p tcp -j {CHAIN}",
        f'-D OTHER -d 10.0.0.0/8 -m comment --comment "by hand" -g {CHAIN}',
    ]


HOSTILE = f"""\
*nat
:OUTPUT ACCEPT [0:0]
:{CHAIN} - [0:0]
-A OUTPUT -p tcp -m comment --comment "a \\" quote
-A OUTPUT -p udp -j {CHAIN}
COMMIT
*filter
:{CHAIN} - [0:0]
" -j ACCEPT
-A OUTPUT -p tcp -j {CHAIN}
-A {CHAIN} -p tcp -j REDIRECT --to-ports 15001
COMMIT
"""
"""What `iptables-save` prints of a comment with line breaks."""


def test_a_line_break_in_a_comment_makes_no_rules() -> None:
    removal = render_removal(HOSTILE).splitlines()
    assert removal == ["*nat", f"-D OUTPUT -p tcp -j {CHAIN}", f"-F {CHAIN}", f"-X {CHAIN}", "COMMIT"]
    removed = [line for line in render_capture(build_capture(), Family.IPV4, HOSTILE).splitlines() if line[:2] == "-D"]
    assert removed == [f"-D OUTPUT -p tcp -j {CHAIN}"]
    assert render_restoration(HOSTILE, HOSTILE.replace(f"-A OUTPUT -p tcp -j {CHAIN}\n", "")).splitlines()[-2] == (
        f"-I OUTPUT 2 -p tcp -j {CHAIN}"
    )


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
        pytest.param(["--exclude-cidr", "0.0.0.0/0"], id="every IPv4 address"),
        pytest.param(["--exclude-cidr", "fd00::/0"], id="every IPv6 address, with host bits"),
        pytest.param(["--exclude-cidr", "10.0.0.0/8 -j ACCEPT\n-A OUTPUT"], id="rules smuggled into a network"),
    ],
)
def test_unusable_values_are_refused_before_anything_runs(options: list[str]) -> None:
    with pytest.raises(SettingsError):
        CliRunner().invoke(command, ["--apply", *options], catch_exceptions=False)


def test_excluding_everything_names_what_does_that_on_purpose() -> None:
    with pytest.raises(SettingsError, match=r"every IPv4 address: nothing.*--family ipv6"):
        build_capture(exclude_cidrs=["0.0.0.0/0"])
    with pytest.raises(SettingsError, match=r"every IPv6 address: nothing.*--family ipv4"):
        build_capture(exclude_cidrs=["::/0"])


@pytest.mark.parametrize(
    "modes",
    [["--print", "--apply"], ["--apply", "--undo"], ["--undo", "--print"], ["--print", "--apply", "--undo"]],
    ids=" ".join,
)
@pytest.mark.parametrize("is_reversed", [False, True])
def test_modes_that_contradict_each_other_are_refused_by_name(modes: list[str], is_reversed: bool) -> None:
    result = CliRunner().invoke(command, modes[::-1] if is_reversed else modes)

    assert (result.exit_code, result.stdout) == (2, "")
    assert all(mode in result.stderr for mode in modes)


@pytest.mark.parametrize(
    ("family", "network"), [("ipv4", "fd00::/8"), ("ipv6", "10.0.0.0/8")], ids=["IPv6 of IPv4", "IPv4 of IPv6"]
)
@pytest.mark.parametrize("mode", ["--print", "--apply"])
def test_an_exclusion_that_no_rule_would_mention_is_refused(family: str, network: str, mode: str) -> None:
    result = CliRunner().invoke(command, [mode, "--family", family, "--exclude-cidr", network])

    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--exclude-cidr {network} is of no use with --family {family}" in result.stderr


def test_an_exclusion_belongs_to_its_family() -> None:
    capture = build_capture(exclude_cidrs=["10.0.0.0/8", "fd00::/8"])

    assert find_foreign_networks(capture, Family) == ()
    assert [str(network) for network in find_foreign_networks(capture, [Family.IPV4])] == ["fd00::/8"]


SOCKETS = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: {}:3A99 00000000:0000 {} 00000000:00000000 00:00000000 00000000  1337        0 1 1 0 100 0 0 10 0
"""
LITTLE_ENDIAN = pytest.mark.skipif(sys.byteorder == "big", reason="the addresses are those of another kernel")
ZERO = "0" * 32
LOOPBACK_6 = "00000000000000000000000001000000"


@LITTLE_ENDIAN
@pytest.mark.parametrize(
    ("family", "address", "state", "expected"),
    [
        pytest.param(Family.IPV4, "0100007F", "0A", True, id="a listener on 127.0.0.1"),
        pytest.param(Family.IPV4, "00000000", "0A", True, id="a listener on every IPv4 address"),
        pytest.param(Family.IPV4, ZERO, "0A", True, id="a listener on every address of both families"),
        pytest.param(Family.IPV4, "0100007F", "01", False, id="an established connection from that port"),
        pytest.param(Family.IPV4, "0200000A", "0A", False, id="a listener on another address"),
        pytest.param(Family.IPV4, LOOPBACK_6, "0A", False, id="a listener of the other family"),
        pytest.param(Family.IPV6, LOOPBACK_6, "0A", True, id="a listener on ::1"),
        pytest.param(Family.IPV6, ZERO, "0A", True, id="a listener on every IPv6 address"),
        pytest.param(Family.IPV6, "00000000", "0A", False, id="a listener on every IPv4 address alone"),
    ],
)
def test_a_listener_is_found_where_redirected_connections_arrive(
    family: Family, address: str, state: str, expected: bool
) -> None:
    tables = {Family.IPV4: SOCKETS.format(address, state), Family.IPV6: "  sl  local_address\n\n"}

    assert find_listeners(tables, family, 15001) == (frozenset({1337}) if expected else frozenset())
    assert not find_listeners(tables, family, 15002)


def test_a_listener_of_this_machine_is_found() -> None:
    def find(port: int) -> frozenset[int]:
        return find_listeners({Family.IPV4: Path("/proc/net/tcp").read_text(encoding="ascii")}, Family.IPV4, port)

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert find(port) == {os.getuid()}
    assert not find(port)


def _without_sockets(monkeypatch: pytest.MonkeyPatch, directory: Path, table: str = "") -> None:
    """Put other files in place of /proc/net, and nothing in place of iptables."""
    (directory / "tcp").write_text(table, encoding="ascii")
    if not (directory / "tcp6").exists():
        (directory / "tcp6").write_text("  sl  local_address\n", encoding="ascii")
    tables = {Family.IPV4: directory / "tcp", Family.IPV6: directory / "tcp6"}
    monkeypatch.setattr("xds.cli.capture_wait.LISTENERS", tables)
    monkeypatch.setattr("xds.cli.capture.LISTENERS", tables)
    monkeypatch.setenv("PATH", "/nonexistent")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        pytest.param([], r"127\.0\.0\.1:15001 and \[::1\]:15001: every outgoing ipv4 and ipv6 TCP", id="both families"),
        pytest.param(["--family", "ipv6"], r"listens on \[::1\]:15001: every outgoing ipv6 TCP", id="one family"),
        pytest.param(["--to-port", "16001"], r"127\.0\.0\.1:16001", id="another port"),
    ],
)
def test_where_nothing_listens_nothing_is_captured_and_the_way_out_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str], words: str
) -> None:
    _without_sockets(monkeypatch, tmp_path)

    with pytest.raises(CaptureError, match=words) as raised:
        CliRunner().invoke(command, ["--apply", *options], catch_exceptions=False)

    assert "nothing was changed" in str(raised.value)
    assert "start Envoy first" in str(raised.value)
    assert "--force" in str(raised.value)


@LITTLE_ENDIAN
def test_questions_are_not_captured_where_nobody_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    answering = SOCKETS.format("0100007F", "0A") + SOCKETS.format(LOOPBACK_6, "0A")
    _without_sockets(monkeypatch, tmp_path, answering)
    answerers = {Family.IPV4: tmp_path / "udp", Family.IPV6: tmp_path / "udp6"}
    monkeypatch.setattr("xds.cli.capture_wait.ANSWERERS", answerers)
    answerers[Family.IPV4].write_text(SOCKETS.replace("3A99", "3ACD").format("0100007F", "07"), encoding="ascii")
    answerers[Family.IPV6].write_text("sl local rem st\n", encoding="ascii")

    with pytest.raises(CaptureError, match=r"questions of ipv6 on UDP 15053.*dns\.mode: capture"):
        CliRunner().invoke(command, ["--apply", "--dns"], catch_exceptions=False)
    with pytest.raises(CaptureError, match="is not installed"):
        CliRunner().invoke(command, ["--apply", "--dns", "--family", "ipv4"], catch_exceptions=False)


def test_where_envoy_has_no_ipv6_the_other_family_is_offered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _without_sockets(monkeypatch, tmp_path, SOCKETS.format("0100007F", "0A"))

    with pytest.raises(CaptureError, match=r"listens on \[::1\]:15001: .*--family ipv4"):
        CliRunner().invoke(command, ["--apply"], catch_exceptions=False)
    with pytest.raises(CaptureError, match="apt-get install iptables"):
        CliRunner().invoke(command, ["--apply", "--family", "ipv4"], catch_exceptions=False)


@pytest.mark.parametrize("options", [[], ["--exclude-cidr", "fd00::/8"]], ids=["alone", "with a network of IPv6"])
def test_where_the_kernel_knows_no_ipv6_the_other_family_is_captured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    _without_sockets(monkeypatch, tmp_path, SOCKETS.format("0100007F", "0A"))
    (tmp_path / "tcp6").unlink()
    for name in ("iptables-save", "iptables-restore"):
        _fake_program(tmp_path, name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))

    done = CliRunner().invoke(command, ["--apply", *options], catch_exceptions=False)
    assert done.stderr == "captured: ipv4, with iptables\n"


@pytest.mark.parametrize("time", ["", "0", "0s", "-1s", "1d", "soon", "1.5s", "9999999999s"])
def test_a_time_that_is_none_is_refused(time: str) -> None:
    with pytest.raises(SettingsError, match="such as 120s"):
        parse_wait(time)


@pytest.mark.parametrize(("time", "seconds"), [("120s", 120), ("2m", 120), ("500ms", 0.5), ("1h", 3600), ("7", 7)])
def test_a_time_to_wait_is_read(time: str, seconds: float) -> None:
    assert parse_wait(time) == seconds


@pytest.mark.parametrize("options", [["--wait"], ["--undo", "--wait"], ["--apply", "--force", "--wait"]], ids=" ".join)
def test_waiting_is_for_applying_without_force(options: list[str]) -> None:
    result = CliRunner().invoke(command, options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "--wait" in result.stderr


@LITTLE_ENDIAN
@pytest.mark.parametrize(
    "options", [["--exempt-uid", "101"], ["--exempt-uid", "0", "--exempt-uid", "101"]], ids=" ".join
)
def test_an_envoy_whose_own_connections_would_come_back_to_it_is_not_captured_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    _without_sockets(monkeypatch, tmp_path, SOCKETS.format("0100007F", "0A"))
    arguments = ["--apply", "--family", "ipv4", *options]

    with pytest.raises(CaptureError, match=r"as user 1337.*nothing was changed.*--exempt-uid 1337"):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


@LITTLE_ENDIAN
@pytest.mark.parametrize(
    "options",
    [
        ["--exempt-uid", "101", "--exempt-uid", "1337"],
        ["--exempt-mark", "7"],
        ["--exempt-uid", "1", "--exclude-uid", "1337"],
    ],
    ids=" ".join,
)
def test_an_envoy_whose_own_connections_pass_is_captured_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    _without_sockets(monkeypatch, tmp_path, SOCKETS.format("0100007F", "0A"))

    with pytest.raises(CaptureError, match="apt-get install iptables"):
        CliRunner().invoke(command, ["--apply", "--family", "ipv4", *options], catch_exceptions=False)


def test_sockets_that_can_not_be_read_are_no_licence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tcp6").mkdir()
    _without_sockets(monkeypatch, tmp_path)

    with pytest.raises(CaptureError, match=r"can't be read.*--force"):
        CliRunner().invoke(command, ["--apply"], catch_exceptions=False)


@pytest.mark.parametrize("options", [["--apply", "--force"], ["--undo"]], ids=" ".join)
def test_force_and_undo_do_not_ask_who_listens(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: list[str]
) -> None:
    _without_sockets(monkeypatch, tmp_path)

    with pytest.raises(CaptureError, match="apt-get install iptables"):
        CliRunner().invoke(command, options, catch_exceptions=False)


def test_undo_names_what_it_removed_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake_program(tmp_path, "iptables-save", f"printf '*nat\\n:{CHAIN} - [0:0]\\nCOMMIT\\n'")
    _fake_program(tmp_path, "ip6tables-save", "exit 0")
    _fake_program(tmp_path, "iptables-restore", "exit 0")
    _fake_program(tmp_path, "ip6tables-restore", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))

    assert CliRunner().invoke(command, ["--undo"]).stderr == "no longer captured: ipv4\n"
    assert CliRunner().invoke(command, ["--undo", "--family", "ipv6"]).stderr == "nothing was captured\n"


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
        ("iptables v1.8.9 (legacy): Cannot initialize: Permission denied (you must be root)", "CAP_NET_RAW"),
        ("Fatal: can not open lock file /run/xtables.lock: Read-only file system", "emptyDir"),
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
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaptureError, match=remedy):
        CliRunner().invoke(command, ["--apply", "--force", "--family", "ipv4"], catch_exceptions=False)


def test_who_waits_for_another_command_in_vain_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("iptables-save", "iptables-restore"):
        _fake_program(tmp_path, name, "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("xds.cli.capture_change.NETWORK_NAMESPACE", tmp_path / "iptables-save")
    monkeypatch.setattr("xds.cli.capture_change._TURN_WAIT", 0)

    with (tmp_path / "iptables-save").open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(CaptureError, match=r"another command.*lslocks"):
            CliRunner().invoke(command, ["--apply", "--force", "--family", "ipv4"], catch_exceptions=False)


def test_missing_iptables_is_named_with_the_way_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(CaptureError, match="apt-get install iptables"):
        CliRunner().invoke(command, ["--apply", "--force"], catch_exceptions=False)


def test_nothing_is_applied_if_one_family_would_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "applied"
    for name in ("iptables-save", "ip6tables-save"):
        _fake_program(tmp_path, name, "exit 0")
    _fake_program(tmp_path, "iptables-restore", f'echo "$*" >> {log}')
    _fake_program(tmp_path, "ip6tables-restore", "echo no >&2; exit 1")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CaptureError, match="ip6tables-restore"):
        CliRunner().invoke(command, ["--apply", "--force"], catch_exceptions=False)
    assert log.read_text(encoding="utf-8").splitlines() == ["--noflush --wait 10 --test"]
