"""The self-check of the capture: each thing that may be missing or wrong is found, in words, with its remedy."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import click
import pytest
from click.testing import CliRunner

from xds.capture import Check, Family, Seen, State, build_capture, check_capture, render_capture
from xds.cli.capture import command
from xds.cli.capture_check import report_check

if TYPE_CHECKING:
    from pathlib import Path

BOTH = tuple(Family)
ROOT = "Name:\txds\nCapEff:\t000001ffffffffff\n"
EVERYBODY = "         0          0 4294967295\n"
HEAD = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
ROW = "   0: {}:{:04X} 00000000:0000 {} 00000000:00000000 00:00000000 00000000 {:5} 0 1 1 0 100 0 0 10 0\n"
LOOPBACK_6 = "00000000000000000000000001000000"


def sockets(port: int, state: str, uid: int = 1337) -> dict[Family, str]:
    """Return the kernel's tables where somebody listens on loopback, on little-endian and on big-endian machines."""
    rows = {Family.IPV4: ("0100007F", "7F000001"), Family.IPV6: (LOOPBACK_6, "0" * 31 + "1")}
    return {
        family: HEAD + "".join(ROW.format(host, port, state, uid) for host in hosts) for family, hosts in rows.items()
    }


def saved(*options: str, **values: object) -> dict[Family, str | None]:
    """Return what iptables shows of a capture, with the lines of `options` before the rules of its nat table."""
    capture = build_capture(**values)  # type: ignore[arg-type]  # each test names the values that it means
    first = "".join(f"{line}\n" for line in options)
    return {family: render_capture(capture, family).replace("*nat\n", f"*nat\n{first}", 1) for family in Family}


CAPTURE = build_capture(dns=True)
GOOD = Seen(
    status=ROOT,
    uid_map=EVERYBODY,
    missing={"iptables": "", "nftables": ""},
    sockets=sockets(15001, "0A"),
    answerers=sockets(15053, "07"),
    iptables=saved(dns=True),
    raw={Family.IPV4: "", Family.IPV6: ""},
    nft_tables="table ip nat\n",
    ruleset='{"nftables": []}',
    nftables={Family.IPV4: "", Family.IPV6: ""},
    addresses="20010db8000000000000000000000001 02 40 00 80     eth0\n"
    "00000000000000000000000000000001 01 80 10 80       lo\n",
    trials={"iptables": "", "nftables": ""},
)
NONE: dict[Family, str | None] = {Family.IPV4: "", Family.IPV6: ""}
HIDDEN: dict[Family, str | None] = {Family.IPV4: None, Family.IPV6: None}
NFT = json.dumps({
    "nftables": [
        {"table": {"family": "ip", "name": "egress_xds"}},
        {"rule": {"chain": "redirect_output", "expr": [{"counter": None}]}},
    ]
})  # fmt: skip


def bad(seen: Seen, *families: Family) -> list[Check]:
    """Return what is not good."""
    return [check for check in check_capture(seen, CAPTURE, families or BOTH) if check.state is not State.GOOD]


def test_where_everything_is_as_asked_for_nothing_is_found() -> None:
    checks = check_capture(GOOD, CAPTURE, BOTH)
    assert [check.state for check in checks] == [State.GOOD] * len(checks)
    assert [check.subject for check in checks] == [
        "rights", "users", "programs", "kernel", "Envoy", "names", "IPv4 rules", "IPv6 rules", "others' rules",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "subject", "words", "remedy"),
    [
        pytest.param(replace(GOOD, status="CapEff:\t000000\n"), "rights", "CAP_NET_ADMIN", "NET_ADMIN]", id="no right"),
        pytest.param(replace(GOOD, status=""), "rights", "CAP_NET_ADMIN", "as root", id="rights that nobody tells"),
        pytest.param(
            replace(GOOD, refusals=("nft: no",)), "rights", "nft: no", "user namespace", id="another's namespace"
        ),
        pytest.param(replace(GOOD, uid_map="0 1000 1\n"), "users", "no user 1337", "--exempt-mark", id="no such user"),
        pytest.param(
            replace(GOOD, missing={"iptables": "iptables-save", "nftables": "nft"}),
            "programs", "iptables-save and nft", "apt-get install", id="no program",
        ),
        pytest.param(
            replace(GOOD, iptables=NONE, trials={"iptables": "no nat", "nftables": "no redirect"}),
            "kernel", "iptables: no nat; nftables: no redirect", "xt_owner", id="a kernel that lacks something",
        ),
        pytest.param(
            replace(GOOD, sockets={**sockets(15001, "0A"), Family.IPV6: HEAD}),
            "Envoy", "nothing listens on [::1]:15001", "--family ipv4", id="Envoy without IPv6",
        ),
        pytest.param(
            replace(GOOD, sockets=sockets(15001, "01")),
            "Envoy", "127.0.0.1:15001 and [::1]:15001", "start Envoy", id="no Envoy",
        ),
        pytest.param(
            replace(GOOD, sockets=sockets(15001, "0A", 101)),
            "Envoy", "as user 101", "--exempt-uid 101", id="Envoy is not exempt",
        ),
        pytest.param(
            replace(GOOD, answerers={Family.IPV4: HEAD, Family.IPV6: HEAD}),
            "names", "nothing answers", "dns.mode: capture", id="nobody answers questions",
        ),
        pytest.param(replace(GOOD, iptables=NONE), "IPv6 rules", "nothing is captured", "--apply", id="no rules"),
        pytest.param(
            replace(GOOD, iptables=saved(dns=True, exclude_ports=[22])),
            "IPv4 rules", "not those asked for: port 22 passes by", "apply", id="other rules",
        ),
        pytest.param(
            replace(GOOD, iptables=saved("-A EGRESS_XDS_OUTPUT -p tcp -j ACCEPT", dns=True)),
            "IPv4 rules", "a strange rule: -p tcp -j ACCEPT", "apply", id="a rule that is not ours in our chain",
        ),
        pytest.param(
            replace(GOOD, nftables={Family.IPV4: NFT, Family.IPV6: ""}),
            "IPv4 rules", "of iptables and of nftables are both", "--undo", id="rules of both backends",
        ),
        pytest.param(
            replace(GOOD, iptables=saved("-A OUTPUT -p tcp -j ISTIO_OUTPUT", dns=True)),
            "others' rules", "Istio captures before us (ISTIO_OUTPUT, ipv4)", "explicit", id="Istio before us",
        ),
        pytest.param(
            replace(GOOD, iptables=saved("-A OUTPUT -j PROXY_INIT_OUTPUT", dns=True)),
            "others' rules", "Linkerd captures before us", "explicit", id="Linkerd before us",
        ),
        pytest.param(
            replace(GOOD, nft_tables="table ip nat\ntable inet istio-proxy-nat\n"),
            "others' rules", "Istio captures, too, with nftables (table inet istio-proxy-nat)", "explicit",
            id="Istio with nftables",
        ),
        pytest.param(
            replace(GOOD, iptables=saved("-A OUTPUT -d 10.0.0.0/8 -j DNAT --to-destination 10.1.1.1", dns=True)),
            "others' rules", "decides before ours (ipv4): -d 10.0.0.0/8", "follow ours", id="a rule by hand before us",
        ),
    ],
)  # fmt: skip
def test_each_thing_that_is_wrong_is_found_with_its_remedy(seen: Seen, subject: str, words: str, remedy: str) -> None:
    found = [check for check in bad(seen) if check.subject == subject]
    assert found, bad(seen)
    assert all(check.state is State.FINDING for check in found)
    assert any(words in check.message and remedy in check.remedy for check in found), found


def test_a_mesh_behind_ours_gets_nothing_and_that_is_found() -> None:
    text = {
        family: (GOOD.iptables[family] or "").replace("COMMIT", "-A OUTPUT -p tcp -j ISTIO_OUTPUT\nCOMMIT", 1)
        for family in Family
    }
    found = bad(replace(GOOD, iptables=text))
    assert ["never reaches it" in check.message for check in found] == [True, True]


def test_ipv6_that_slips_through_is_found_and_is_not_where_there_is_none() -> None:
    only_4 = replace(GOOD, iptables={Family.IPV4: GOOD.iptables[Family.IPV4], Family.IPV6: ""})
    assert [(check.subject, "2001:db8::1" in check.message) for check in bad(only_4, Family.IPV4)] == [
        ("IPv6 rules", True)
    ]
    link_local = "fe800000000000000000000000000001 02 40 20 80     eth0\n"
    assert bad(replace(only_4, addresses=link_local), Family.IPV4) == []
    assert bad(replace(only_4, addresses=""), Family.IPV4) == []


def test_what_could_not_be_looked_at_is_unknown_and_never_good() -> None:
    blind = replace(
        GOOD, status="", sockets=None, answerers=None, iptables=HIDDEN, raw=HIDDEN, nft_tables=None, ruleset=None,
        nftables=HIDDEN, trials={"iptables": None, "nftables": None},
    )  # fmt: skip
    states = {check.subject: check.state for check in check_capture(blind, CAPTURE, BOTH)}
    assert states == {
        "rights": State.FINDING, "users": State.GOOD, "programs": State.GOOD, "kernel": State.UNKNOWN,
        "Envoy": State.UNKNOWN, "names": State.UNKNOWN, "IPv4 rules": State.UNKNOWN, "IPv6 rules": State.UNKNOWN,
        "others' rules": State.UNKNOWN,
    }  # fmt: skip
    garbled = replace(GOOD, iptables=NONE, nftables={Family.IPV4: "JSON support not compiled-in", Family.IPV6: ""})
    assert [check.state for check in bad(garbled) if check.subject == "IPv4 rules"] == [State.UNKNOWN]


def test_one_backend_hidden_is_not_taken_for_no_rules() -> None:
    hidden = replace(GOOD, iptables=NONE, nft_tables=None, nftables=HIDDEN)
    assert {check.state for check in bad(hidden) if "rules" in check.subject} == {State.UNKNOWN}


@pytest.fixture
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the command see nothing of this machine, and no program that changes it."""
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("xds.cli.capture_programs.SYSTEM_PATH", "/nonexistent")
    empty = {family: tmp_path / family.value for family in Family}
    for path in empty.values():
        path.write_text(HEAD, encoding="ascii")
    monkeypatch.setattr("xds.cli.capture_wait.LISTENERS", empty)
    monkeypatch.setattr("xds.cli.capture_check.LISTENERS", empty)


@pytest.mark.usefixtures("_bare")
def test_the_command_says_what_it_found_and_exits_with_1() -> None:
    result = CliRunner().invoke(command, ["--check"], catch_exceptions=False, standalone_mode=False)
    assert result.return_value == 1
    assert "✗ programs" in result.stdout
    assert "→ on Debian: apt-get install iptables" in result.stdout
    assert "unknown" in result.stdout.splitlines()[-1]


@pytest.mark.usefixtures("_bare")
def test_the_command_tells_machines_in_json() -> None:
    result = CliRunner().invoke(command, ["--check", "-o", "json"], catch_exceptions=False, standalone_mode=False)
    told = json.loads(result.stdout)
    assert set(told) == {"checks", "findings", "unknown"}
    assert {tuple(check) for check in told["checks"]} == {("subject", "state", "message", "remedy")}
    assert told["findings"] == sum(check["state"] == "finding" for check in told["checks"])


def test_where_all_is_good_the_exit_code_is_0(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("xds.cli.capture_check._look", lambda *_: GOOD)
    assert report_check(None, CAPTURE, BOTH, is_json=False) == 0
    assert click.unstyle(capsys.readouterr().out).endswith("0 findings, 0 unknown\n")


@pytest.mark.parametrize("other", ["--apply", "--undo", "--print", "--wait"])
def test_checking_and_changing_are_not_asked_for_at_once(other: str) -> None:
    assert CliRunner().invoke(command, ["--check", other]).exit_code == 2
