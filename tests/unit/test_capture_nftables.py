"""The nftables rules: what they say, and that they say the same as those of iptables."""

from __future__ import annotations

import json
import re
from ipaddress import ip_network

import pytest
from click.testing import CliRunner

from xds.capture import (
    Capture,
    Family,
    UdpRejection,
    build_capture,
    build_plan,
    describe_differences,
    find_nftables,
    find_unmapped_users,
    read_iptables,
    read_nftables,
    render_capture,
    render_nftables,
    render_nftables_removal,
)
from xds.cli.capture import command
from xds.errors import SettingsError

FULL = build_capture(
    to_port=16001,
    exempt_uids=[9],
    exempt_marks=[77],
    exclude_ports=[22, 9],
    exclude_cidrs=["10.1.2.3/8", "192.0.2.7", "fd00::5/8"],
    exclude_uids=[5],
    reject_udp=UdpRejection.ALL,
    dns=True,
)


def test_the_rules_for_a_pod_are_these() -> None:
    assert render_nftables(build_capture(), [Family.IPV4]) == (
        "add table ip egress_xds\n"
        "delete table ip egress_xds\n"
        "table ip egress_xds {\n"
        "\tchain redirect_output {\n"
        "\t\ttype nat hook output priority -100; policy accept;\n"
        "\t\tmeta skuid 1337 return\n"
        '\t\toifname "lo" return\n'
        "\t\tip daddr 127.0.0.0/8 return\n"
        "\t\tmeta l4proto tcp redirect to :15001\n"
        "\t}\n"
        "\tchain reject_output {\n"
        "\t\ttype filter hook output priority 0; policy accept;\n"
        "\t\tmeta skuid 1337 return\n"
        '\t\toifname "lo" return\n'
        "\t\tip daddr 127.0.0.0/8 return\n"
        "\t\tudp dport 443 reject with icmp port-unreachable\n"
        "\t}\n"
        "}\n"
    )


def test_the_rules_with_one_of_everything_are_these() -> None:
    exemptions = (
        "\t\tmeta mark 0x4d return\n"
        "\t\tmeta skuid 5 return\n"
        "\t\tmeta skuid 9 return\n"
        '\t\toifname "lo" return\n'
        "\t\tip6 daddr ::1/128 return\n"
        "\t\tip6 daddr @excluded_networks return\n"
    )
    assert render_nftables(FULL, [Family.IPV6]) == (
        "add table ip6 egress_xds\n"
        "delete table ip6 egress_xds\n"
        "table ip6 egress_xds {\n"
        "\tset excluded_networks {\n"
        "\t\ttype ipv6_addr\n"
        "\t\tflags interval\n"
        "\t\telements = { fd00::/8 }\n"
        "\t}\n"
        "\tchain redirect_output {\n"
        "\t\ttype nat hook output priority -100; policy accept;\n"
        f"{exemptions}"
        "\t\ttcp dport 9 return\n"
        "\t\ttcp dport 22 return\n"
        "\t\tudp dport 53 redirect to :15053\n"
        "\t\tmeta l4proto tcp redirect to :16001\n"
        "\t}\n"
        "\tchain reject_output {\n"
        "\t\ttype filter hook output priority 0; policy accept;\n"
        f"{exemptions}"
        "\t\tudp dport 9 return\n"
        "\t\tudp dport 22 return\n"
        "\t\tudp dport 53 return\n"
        "\t\tmeta l4proto udp reject with icmpv6 port-unreachable\n"
        "\t}\n"
        "}\n"
    )


def test_both_families_are_one_script() -> None:
    script = render_nftables(build_capture(), Family)
    assert re.findall(r"^table (\S+)", script, re.MULTILINE) == ["ip", "ip6"]
    assert render_nftables_removal(Family) == (
        "add table ip egress_xds\ndelete table ip egress_xds\nadd table ip6 egress_xds\ndelete table ip6 egress_xds\n"
    )


@pytest.mark.parametrize(
    ("capture", "words"),
    [
        pytest.param(build_capture(reject_udp=UdpRejection.NONE), "", id="asked not to"),
        pytest.param(build_capture(exclude_ports=[443]), "", id="TCP 443 passes by, too"),
        pytest.param(build_capture(exclude_ports=[444]), "udp dport 443 reject", id="another port is excluded"),
    ],
)
def test_quic_may_pass_by_as_with_iptables(capture: Capture, words: str) -> None:
    script = render_nftables(capture, [Family.IPV4])
    assert ("reject" in script) is bool(words)
    assert words in script
    assert ("REJECT" in render_capture(capture, Family.IPV4)) is bool(words)


def test_ten_thousand_networks_are_one_rule_and_neighbours_are_one_network() -> None:
    capture = build_capture(exclude_cidrs=[f"10.{number >> 7}.{number % 128 * 2}.0/24" for number in range(10_000)])
    script = render_nftables(capture, [Family.IPV4])
    assert script.count("/24") == 10_000
    assert script.count("\n") < 30

    joined = build_capture(exclude_cidrs=["10.0.0.0/9", "10.128.0.0/9", "10.1.0.0/16", "10.0.0.0/9"])
    assert joined.exclude_networks == (ip_network("10.0.0.0/8"),)


@pytest.mark.parametrize("halves", [["0.0.0.0/1", "128.0.0.0/1"], ["::/1", "8000::/1"]])
def test_every_address_is_refused_in_parts_too(halves: list[str]) -> None:
    with pytest.raises(SettingsError, match="nothing of that family would be captured"):
        build_capture(exclude_cidrs=halves)


def test_our_tables_are_told_from_others() -> None:
    assert find_nftables("table ip nat\ntable ip6 egress_xds\ntable inet egress_xds\n") == (Family.IPV6,)
    assert find_nftables("") == ()


def listed(*rules: object, elements: tuple[object, ...] = ()) -> str:
    """Return what `nft -j list table` prints of a table with rules that redirect."""
    items: list[object] = [{"metainfo": {}}, {"table": {"family": "ip", "name": "egress_xds"}}]
    items.append({"set": {"name": "excluded_networks", "elem": list(elements)}})
    items.extend({"rule": {"chain": "redirect_output", "expr": rule}} for rule in rules)
    return json.dumps({"nftables": items})


def match(left: object, right: object) -> dict[str, object]:
    return {"match": {"op": "==", "left": left, "right": right}}


PASSING: list[object] = [
    [match({"meta": {"key": "oifname"}}, "lo"), {"return": None}],
    [
        match({"payload": {"protocol": "ip", "field": "daddr"}}, {"prefix": {"addr": "127.0.0.0", "len": 8}}),
        {"return": None},
    ],
]
REDIRECT: list[object] = [match({"meta": {"key": "l4proto"}}, "tcp"), {"redirect": {"port": 15001}}]
NETWORKS: list[object] = [
    match({"payload": {"protocol": "ip", "field": "daddr"}}, "@excluded_networks"),
    {"return": None},
]


def test_networks_are_read_however_nft_writes_them() -> None:
    elements = ({"prefix": {"addr": "10.0.0.0", "len": 8}}, "192.0.2.7", {"range": ["198.51.100.0", "198.51.100.5"]})
    found = read_nftables(listed(*PASSING, NETWORKS, REDIRECT, elements=elements), Family.IPV4)
    assert found is not None
    assert sorted(map(str, found.plan.networks)) == [
        "10.0.0.0/8", "192.0.2.7/32", "198.51.100.0/30", "198.51.100.4/31",
    ]  # fmt: skip
    assert found.strange == ()


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        pytest.param(
            [*PASSING, [{"counter": None}, {"accept": None}], REDIRECT], "accept", id="a rule of another hand"
        ),
        pytest.param([*PASSING, REDIRECT, NETWORKS, PASSING[0]], "which no connection reaches", id="a rule too late"),
        pytest.param([REDIRECT], "within the pod", id="loopback is captured"),
    ],
)
def test_what_we_do_not_write_is_kept_in_words(rules: list[object], words: str) -> None:
    found = read_nftables(listed(*rules), Family.IPV4)
    assert found is not None
    assert any(words in strange for strange in found.strange), found.strange


@pytest.mark.parametrize("text", ["", "no JSON", "[]", '{"nftables": 7}'])
def test_what_is_no_list_of_nft_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        read_nftables(text, Family.IPV4)


def test_rules_of_iptables_are_read_as_what_they_were_made_of() -> None:
    for family in Family:
        script = render_capture(FULL, family)
        found = read_iptables(script, family)
        assert found is not None
        assert (found.plan, found.strange) == (build_plan(FULL, family), ())
    assert read_iptables("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n", Family.IPV4) is None


def test_a_rule_without_a_jump_to_it_captures_nothing() -> None:
    script = render_capture(build_capture(dns=True), Family.IPV4)
    found = read_iptables("\n".join(line for line in script.splitlines() if "-A OUTPUT" not in line), Family.IPV4)
    assert found is not None
    assert (found.plan.to_port, found.plan.dns_port) == (None, None)
    assert found.plan.reject_udp is UdpRejection.NONE


@pytest.mark.parametrize(
    ("found", "words"),
    [
        pytest.param(build_capture(to_port=9), ("TCP is sent to port 9 instead of port 15001",), id="another listener"),
        pytest.param(build_capture(dns=True), ("questions to name servers are captured",), id="names"),
        pytest.param(
            build_capture(reject_udp=UdpRejection.ALL), ("the UDP that is rejected is all instead of quic",), id="UDP"
        ),
        pytest.param(
            build_capture(exempt_uids=[7]), ("user 1337 does not pass by", "user 7 passes by"), id="another Envoy"
        ),
        pytest.param(build_capture(exclude_ports=[22]), ("port 22 passes by",), id="a port"),
        pytest.param(
            build_capture(exclude_cidrs=[f"10.0.{number}.0/24" for number in range(0, 16, 2)]),
            ("network 10.0.0.0/24, 10.0.10.0/24, 10.0.12.0/24, 10.0.14.0/24, 10.0.2.0/24 and 3 more passes by",),
            id="many networks",
        ),
        pytest.param(build_capture(), (), id="the same"),
    ],
)
def test_rules_that_differ_are_told_apart_in_words(found: Capture, words: tuple[str, ...]) -> None:
    asked = build_plan(build_capture(), Family.IPV4)
    assert describe_differences(asked, build_plan(found, Family.IPV4)) == words


@pytest.mark.parametrize(
    ("uid_map", "expected"),
    [
        pytest.param("         0          0 4294967295\n", (), id="no namespace of its own"),
        pytest.param("0 1000 1\n", (5, 9), id="root alone"),
        pytest.param("0 1000 1\n5 200005 1\n", (9,), id="one of two"),
    ],
)
def test_users_that_a_user_namespace_lacks_are_found(uid_map: str, expected: tuple[int, ...]) -> None:
    assert find_unmapped_users(FULL, uid_map) == expected


def test_the_script_of_the_backend_is_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr("xds.cli.capture_programs.SYSTEM_PATH", "/nonexistent")

    printed = CliRunner().invoke(command, ["--backend", "nftables", "--family", "ipv6"], catch_exceptions=False)
    assert printed.stdout == f"# nft -f -\n{render_nftables(build_capture(), [Family.IPV6])}"
    printed = CliRunner().invoke(command, ["--backend", "iptables", "--family", "ipv6"], catch_exceptions=False)
    assert printed.stdout == f"# ip6tables-restore --noflush\n{render_capture(build_capture(), Family.IPV6)}"


def test_protocols_are_known_by_their_numbers_too() -> None:
    """As nft prints them where there is no /etc/protocols."""

    def listed(tcp: object, udp: object) -> str:
        def rule(chain: str, protocol: object, verdict: object) -> object:
            match = {"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": protocol}}
            return {"rule": {"chain": chain, "expr": [match, verdict]}}

        redirect = rule("redirect_output", tcp, {"redirect": {"port": 15001}})
        return json.dumps(
            {"nftables": [{"table": {}}, redirect, rule("reject_output", udp, {"reject": {"type": "icmp"}})]}
        )

    found = read_nftables(listed(6, 17), Family.IPV4)
    assert found == read_nftables(listed("tcp", "udp"), Family.IPV4)
    assert found is not None
    assert (found.plan.to_port, found.plan.reject_udp) == (15001, UdpRejection.ALL)
