"""Rules of others: what takes connections away from ours is found, and what does not is left alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from xds.capture import CHAIN, Family, Others, build_capture, find_takers, has_foreign_tables, place_last
from xds.cli.capture import command
from xds.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Mapping

BOTH = tuple(Family)
CAPTURE = build_capture(exclude_cidrs=["10.0.0.0/8"], exclude_ports=[22])
NAMES = build_capture(dns=True)
OURS = f"-A OUTPUT -p tcp -j {CHAIN}"


def of_iptables(*nat: str, raw: str = "") -> Others:
    """Return rules of IPv4, those of the nat table before ours."""
    text = "\n".join(["*nat", ":OUTPUT ACCEPT [0:0]", f":{CHAIN} - [0:0]", *nat, OURS, "COMMIT", ""])
    table = f"*raw\n:OUTPUT ACCEPT [0:0]\n{raw}\nCOMMIT\n" if raw else ""
    return Others({Family.IPV4: text, Family.IPV6: ""}, {Family.IPV4: table, Family.IPV6: ""}, "", "")


def of_nft(*expr: object, family: str = "ip", kind: str = "nat", prio: object = -150, **more: object) -> Others:
    """Return a chain of nftables with one rule, and items by the names of their kinds."""
    place = {"family": family, "table": "foo"}
    items: list[Mapping[str, object]] = [
        {"chain": {**place, "name": "o", "type": kind, "hook": "output", "prio": prio}},
        {"rule": {**place, "chain": "o", "expr": list(expr)}},
        *({name: {**place, **item}} for name, item in more.items() if isinstance(item, dict)),
    ]
    nothing = {Family.IPV4: "", Family.IPV6: ""}
    return Others(nothing, nothing, "table ip foo\n", json.dumps({"nftables": items}))


def equals(key: str, right: object) -> object:
    return {"match": {"op": "==", "left": {"meta": {"key": key}}, "right": right}}


DNAT = {"dnat": {"addr": "10.9.9.3"}}
NOTRACK = {"notrack": None}
GO_ON = {"jump": {"target": "x"}}
FURTHER = {"chain": "x", "expr": [NOTRACK]}
MAP = {"name": "m", "type": "inet_proto", "map": "verdict", "elem": [["tcp", GO_ON]]}


@pytest.mark.parametrize(
    ("others", "words"),
    [
        pytest.param(of_iptables("-A OUTPUT -p tcp -j ACCEPT"), "decides before ours", id="it accepts TCP"),
        pytest.param(of_iptables("-A OUTPUT -j RETURN"), "decides before ours", id="it ends the chain"),
        pytest.param(of_iptables("-A OUTPUT ! -p udp -j ACCEPT"), "decides before ours", id="all but UDP"),
        pytest.param(of_iptables("-A OUTPUT ! -d 10.0.0.0/8 -j ACCEPT"), "decides", id="all but what is excluded"),
        pytest.param(
            of_iptables("-A OUTPUT -j A", "-A A -j B", "-A B -j A", "-A B -p tcp -j DNAT --to-destination 1.1.1.1"),
            "-p tcp -j DNAT", id="a chain of a chain",
        ),
        pytest.param(of_iptables(raw="-A OUTPUT -p tcp -j NOTRACK"), "out of tracking", id="raw does not track"),
        pytest.param(of_iptables(raw="-A OUTPUT -j A\n-A A -j CT --notrack"), "out of tracking", id="raw by a chain"),
        pytest.param(of_nft(DNAT), "table ip foo, chain o, priority -150", id="nftables translates"),
        pytest.param(of_nft({"redirect": {"port": 1}}, prio=-100), "with redirect", id="nftables redirects beside us"),
        pytest.param(of_nft(DNAT, family="inet"), "table inet foo", id="nftables for both families"),
        pytest.param(of_nft(DNAT, prio="odd"), "with dnat", id="a priority in words"),
        pytest.param(of_nft(NOTRACK, kind="filter", prio=-300), "out of tracking", id="nftables does not track"),
        pytest.param(of_nft(GO_ON, kind="filter", prio=-300, rule=FURTHER), "of tracking", id="nftables by a chain"),
        pytest.param(
            of_nft({"vmap": {"key": {"meta": {"key": "l4proto"}}, "data": "@m"}}, prio=-300, rule=FURTHER, map=MAP),
            "out of tracking", id="nftables by a map",
        ),
    ],
)  # fmt: skip
def test_who_takes_connections_away_is_found(others: Others, words: str) -> None:
    found = find_takers(others, CAPTURE, BOTH)
    assert len(found) == 1, found
    assert found[0].is_known
    assert words in found[0].text
    assert found[0].remedy


@pytest.mark.parametrize(
    "others",
    [
        pytest.param(of_iptables("-A OUTPUT -p udp -j ACCEPT"), id="another protocol"),
        pytest.param(of_iptables("-A OUTPUT ! -p tcp -j ACCEPT"), id="all but TCP"),
        pytest.param(of_iptables("-A OUTPUT -o lo -j ACCEPT"), id="the loopback interface"),
        pytest.param(
            of_iptables("-A OUTPUT -d 127.0.0.11/32 -j D", "-A D -p tcp -j DNAT --to-destination 127.0.0.11:1"),
            id="the name server of a container engine",
        ),
        pytest.param(of_iptables("-A OUTPUT -d 10.1.0.0/16 -j ACCEPT"), id="an excluded network"),
        pytest.param(of_iptables("-A OUTPUT -p tcp -m tcp --dport 22 -j ACCEPT"), id="an excluded port"),
        pytest.param(of_iptables("-A OUTPUT -m owner --uid-owner 1337 -j ACCEPT"), id="Envoy's own"),
        pytest.param(of_iptables('-A OUTPUT -m comment --comment "x -j ACCEPT" -j A'), id="words in a comment"),
        pytest.param(of_iptables(raw="-A PREROUTING -p tcp -j NOTRACK"), id="raw of what comes in"),
        pytest.param(of_iptables(raw="-A OUTPUT -p tcp -j CT --zone 1"), id="another zone"),
        pytest.param(of_nft({"accept": None}), id="nftables accepts, and the next chain is asked all the same"),
        pytest.param(of_nft(DNAT, prio=-99), id="nftables after us"),
        pytest.param(of_nft(equals("l4proto", "udp"), DNAT), id="nftables for another protocol"),
        pytest.param(of_nft(equals("l4proto", 17), DNAT), id="nftables for another protocol by its number"),
        pytest.param(of_nft(equals("oifname", "lo"), DNAT), id="nftables on the loopback interface"),
        pytest.param(of_nft(NOTRACK, kind="filter", prio=-150), id="nftables when tracking has begun"),
        pytest.param(of_nft(GO_ON, kind="filter", prio=-300), id="nftables without rules"),
        pytest.param(of_nft(NOTRACK, family="bridge", kind="filter", prio=-300), id="a family that is not asked for"),
    ],
)  # fmt: skip
def test_who_takes_none_is_left_alone(others: Others) -> None:
    assert find_takers(others, CAPTURE, BOTH) == ()


def test_where_names_are_captured_udp_counts() -> None:
    assert len(find_takers(of_iptables("-A OUTPUT -p udp -j ACCEPT"), NAMES, BOTH)) == 1
    assert len(find_takers(of_nft(equals("l4proto", "udp"), DNAT), NAMES, BOTH)) == 1


def test_what_can_not_be_read_is_unknown() -> None:
    nothing: dict[Family, str | None] = {Family.IPV4: "", Family.IPV6: ""}
    unreadable = [
        Others({**nothing, Family.IPV4: None}, nothing, "", ""),
        Others(nothing, {**nothing, Family.IPV6: None}, "", ""),
        Others(nothing, nothing, "", None),
        Others(nothing, nothing, "", "no JSON"),
        of_nft({"xt": {"type": "target", "name": "CT"}}, kind="filter", prio=-300),
    ]
    for others in unreadable:
        assert [taker.is_known for taker in find_takers(others, CAPTURE, BOTH)] == [False], others


def test_what_iptables_keeps_in_nftables_is_judged_by_its_own_words() -> None:
    place = {"family": "ip", "table": "raw"}
    items = [
        {"chain": {**place, "name": "OUTPUT", "type": "filter", "hook": "output", "prio": -300}},
        {"rule": {**place, "chain": "OUTPUT", "expr": [{"xt": {"type": "target", "name": "CT"}}]}},
    ]
    nothing: dict[Family, str | None] = {Family.IPV4: "", Family.IPV6: ""}
    for head, known in (("# by iptables-save v1.8.9 (nf_tables)", []), ("# by iptables-save v1.8.9 (legacy)", [False])):
        others = Others(nothing, {**nothing, Family.IPV4: f"{head}\n*raw\n"}, "", json.dumps({"nftables": items}))
        assert [taker.is_known for taker in find_takers(others, CAPTURE, BOTH)] == known


def test_applying_again_puts_ours_behind_what_has_come_since() -> None:
    late = of_iptables()
    text = (late.iptables[Family.IPV4] or "").replace("COMMIT", "-A OUTPUT -p tcp -j ACCEPT\nCOMMIT")
    others = Others({**late.iptables, Family.IPV4: text}, late.raw, "", "")
    assert find_takers(others, CAPTURE, BOTH) == ()
    assert len(find_takers(place_last(others), CAPTURE, BOTH)) == 1


def test_only_tables_of_others_are_foreign() -> None:
    assert not has_foreign_tables("table ip egress_xds\ntable ip6 egress_xds\n")
    assert has_foreign_tables("table ip egress_xds\ntable inet egress_xds\n")


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let the command see a rule before ours; return what it does."""
    done: list[str] = []

    def apply(*_: object) -> object:
        done.append("applied")
        return type("Used", (), {"value": "iptables"})

    others = of_iptables("-A OUTPUT -p tcp -j ACCEPT")
    monkeypatch.setattr("xds.cli.capture.look_at_others", lambda *_: others)
    monkeypatch.setattr("xds.cli.capture._find_envoy", lambda *_: None)
    monkeypatch.setattr("xds.cli.capture.apply_rules", apply)
    return done


def test_behind_a_rule_that_decides_nothing_is_put_in_force(applied: list[str]) -> None:
    with pytest.raises(CaptureError, match=r"decides before ours .*nothing was changed.*remove it.*--force"):
        CliRunner().invoke(command, ["--apply", "--family", "ipv4"], catch_exceptions=False, standalone_mode=False)
    assert applied == []


def test_forced_it_is_put_in_force_with_a_warning(applied: list[str]) -> None:
    arguments = ["--apply", "--force", "--family", "ipv4"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False, standalone_mode=False)
    assert applied == ["applied"]
    assert "warning: a rule of somebody else decides before ours (ipv4): -p tcp -j ACCEPT" in result.stderr
