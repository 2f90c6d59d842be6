"""What `xds explain` says of a connection, to people and to programs, and how it ends."""

from __future__ import annotations

import json
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from click.shell_completion import ShellComplete

from tests.support.command_line import GOOD
from xds.catalogue import CATALOGUE
from xds.cli import explain
from xds.cli.explain import command
from xds.cli.targets import Target, parse_target

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.command_line import Outcome, Runner

CANARY = "Sw0rdfish"
LONG = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {name: corp}
spec:
  dialect: go
  proxies:
    corp:
      endpoints: [{url: "http://192.0.2.2:3128"}, {url: "https://second.example:3130", priority: 1}]
      auth: {basic: {file: LOGIN}}
    modern:
      endpoints: [{url: "https://modern.example:443"}]
      protocol: http2
      plainHTTP: connect
  rules:
    - name: inside
      to: {cidrs: [10.0.0.0/8]}
      action: direct
    - {name: new, to: {domains: [new.example]}, action: tunnel, proxy: modern}
    - {name: blocked, to: {domains: [ads.example]}, action: deny}
    - {name: db, to: {tcp: [{host: db.example, ports: [5432]}]}, action: tunnel, proxy: corp}
  default: {action: tunnel, proxy: corp}
  dns: {mode: capture, syntheticRange: [198.18.0.0/15, "fd00:18::/64"]}
  explicit: {port: 15002}
"""
SHORT = GOOD + 'noProxy: [".corp.example", "*.star.example"]\nnoProxyVerify: none\n'


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    login = tmp_path / "login"
    login.write_text(f"user:{CANARY}")
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "corp.yaml").write_text(LONG.replace("LOGIN", str(login)))
    return directory


def ask(xds: Runner, policies: Path, *words: str, pod: str = "web-0.shop") -> Outcome:
    return xds("explain", pod, *words, "-f", policies, "--no-resolve")


def describe(xds: Runner, policies: Path, *words: str) -> dict[str, object]:
    outcome = ask(xds, policies, *words, "-o", "json")
    assert outcome.code == 0
    (answer,) = json.loads(outcome.out)["answers"]
    assert isinstance(answer, dict)
    return answer


def test_the_decision_comes_first_and_then_why(xds: Runner, policies: Path) -> None:
    outcome = ask(xds, policies, "api.example.com:443")

    assert (outcome.code, outcome.err) == (0, "")
    lines = outcome.out.splitlines()
    assert lines[0] == "web-0.shop → api.example.com:443 (TLS, server name api.example.com)"
    assert lines[2] == 'tunnel through the proxy "corp"'
    assert f"no rule matches: the default, {policies}/corp.yaml:21 spec.default" in lines[3]
    assert "CONNECT api.example.com:443 HTTP/1.1" in lines[4]
    assert "http://192.0.2.2:3128; then, if none is usable, https://second.example:3130" in lines[5]
    assert f"Basic, of '{policies.parent}/login'" in lines[6]
    assert "chain tunnel-tls/corp → cluster proxy/corp" in lines[7]


def test_an_address_that_is_not_known_is_said_to_matter(xds: Runner, policies: Path) -> None:
    outcome = ask(xds, policies, "api.example.com:443")

    (line,) = (line for line in outcome.out.splitlines() if line.startswith("  10.0.0.0/8 "))
    assert "direct to port 443 of its address: rule inside" in line
    assert "(10.0.0.0/8)" in line


def test_an_address_that_is_given_decides(xds: Runner, policies: Path) -> None:
    outcome = ask(xds, policies, "api.example.com:443", "--address", "10.1.2.3")

    assert "\ndirect to 10.1.2.3:443\n" in outcome.out
    assert "leads to" not in outcome.out


def test_two_addresses_may_decide_differently(xds: Runner, policies: Path) -> None:
    found = describe(xds, policies, "api.example.com:443", "--address", "203.0.113.7", "--address", "10.1.2.3")

    assert (found["addresses"], found["action"]) == (["203.0.113.7"], "proxy")
    others = found["otherwise"]
    assert isinstance(others, list)
    (other,) = others
    assert (other["addresses"], other["action"], other["rule"]) == (["10.1.2.3"], "direct", "inside")


def test_a_name_is_looked_up_if_that_is_wanted(xds: Runner, policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(host: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, None, None, "", ("10.9.9.9" if host == "api.example.com" else "192.0.2.3", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    outcome = xds("explain", "web-0.shop", "api.example.com:443", policies, "--resolve")

    assert "\ndirect to 10.9.9.9:443\n" in outcome.out


def test_a_name_that_does_not_resolve_is_unreachable(
    xds: Runner, policies: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(*_: object, **__: object) -> list[tuple[object, ...]]:
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", look_up)

    outcome = xds("explain", "web-0.shop", "api.example.com:443", policies, "--resolve")

    assert outcome.code == 3
    assert "--address" in outcome.err


HEADLINES = [
    pytest.param(["https://ads.example/"], "refused: closed without a byte", id="a rule that denies"),
    pytest.param(["http://ads.example/"], "refused: answered with 403", id="plain HTTP that is denied"),
    pytest.param(["http://x.example/a?b#c"], "GET http://x.example/a?b HTTP/1.1", id="a path"),
    pytest.param(["new.example:443"], "CONNECT new.example:443 (HTTP/2)", id="another protocol with the proxy"),
    pytest.param(
        ["http://new.example/"],
        "chain http-synthetic → cluster http-tunnel/modern, then chain http-tunnel/modern → cluster proxy/modern",
        id="plain HTTP in a tunnel",
    ),
    pytest.param(["[2001:db8::7]:80"], "GET http://[2001:db8::7]:80/ HTTP/1.1", id="an IPv6 address"),
    pytest.param(["203.0.113.7:443"], "CONNECT 203.0.113.7:443 HTTP/1.1", id="an address"),
    pytest.param(["203.0.113.7:443", "--sni", "new.example"], "CONNECT new.example:443", id="a server name"),
    pytest.param(["203.0.113.7:80", "--http-host", "new.example"], "CONNECT new.example:80", id="a Host"),
    pytest.param(["x.example:22"], "CONNECT ADDRESS:22 HTTP/1.1", id="a server that speaks first"),
    pytest.param(["db.example:5432", "--protocol", "tcp"], "which stands for the name", id="a captured name"),
    pytest.param(["x.example:443", "--explicit"], "CONNECT to the explicit listener", id="explicit mode"),
    pytest.param(["http://x.example/", "--explicit"], "plain HTTP to the explicit listener", id="explicit plain HTTP"),
    pytest.param(["x.example:8080", "--protocol", "http"], "GET http://x.example:8080/ HTTP/1.1", id="a protocol"),
    pytest.param(["203.0.113.7:443", "--sni", ""], "TLS, no server name", id="no server name"),
]


@pytest.mark.parametrize(("words", "expected"), HEADLINES)
def test_what_is_asked_is_explained(xds: Runner, policies: Path, words: list[str], expected: str) -> None:
    outcome = ask(xds, policies, *words)

    assert outcome.code == 0
    assert expected in outcome.out


def test_on_other_ports_both_protocols_are_explained_if_they_differ(xds: Runner, policies: Path) -> None:
    outcome = ask(xds, policies, "x.example:8443")

    assert "CONNECT x.example:8443" in outcome.out
    assert "CONNECT ADDRESS:8443" in outcome.out
    assert ask(xds, policies, "10.0.0.1:8443").out.count("→ 10.0.0.1:8443") == 1


def test_what_clients_would_do_is_marked(xds: Runner, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(SHORT)

    outcome = xds("explain", "--policy", "short", "www.star.example:443", tmp_path, "--no-resolve")

    assert "with NO_PROXY='.corp.example,*.star.example' (noProxy)" in outcome.out
    lines = {line.split("  ")[1].strip(): line for line in outcome.out.splitlines() if line.startswith("  ✓ ")}
    assert any(line.startswith("  ✓ Go ") for line in lines.values())
    assert any(line.startswith("  ✗ curl ") for line in outcome.out.splitlines())
    refused = xds("explain", "--policy", "short", "a..example:443", tmp_path, "--no-resolve")
    assert refused.code == 2


def test_a_refusal_is_compared_with_no_client(xds: Runner, policies: Path) -> None:
    found = describe(xds, policies, "ads.example:443")

    assert found["action"] == "refused"
    assert found["noProxy"]["missing"]  # type: ignore[index]  # an object, as documented
    assert found["clients"] == []


def test_json_has_its_fields(xds: Runner, policies: Path) -> None:
    outcome = ask(xds, policies, "api.example.com:443", "-o", "json")

    described = json.loads(outcome.out)
    assert list(described) == ["pod", "policy", "remark", "answers"]
    assert described["pod"] == "web-0.shop"
    assert list(described["policy"]) == ["name", "namespace", "source", "line", "key"]
    (answer,) = described["answers"]
    decision = [
        *("addresses", "action", "fate", "target", "request", "proxy", "chain", "cluster", "hops"),
        *("rule", "builtIn", "reason", "source", "line", "key", "entry", "nearMisses"),
    ]
    assert list(answer) == [
        *("host", "port", "protocol", "shown", "explicit", "syntheticAddresses"),
        *decision,
        *("otherwise", "partial", "contradictions", "noProxy", "clients"),
    ]
    assert list(answer["otherwise"][0]) == decision
    assert answer["proxy"] == {
        "name": "corp",
        "protocol": "http1",
        "endpoints": [
            {"url": "http://192.0.2.2:3128", "priority": 0},
            {"url": "https://second.example:3130", "priority": 1},
        ],
        "login": {"file": str(policies.parent / "login")},
    }


@pytest.mark.parametrize("form", ["table", "json"])
@pytest.mark.parametrize("target", ["https://x.example/", "http://x.example/", "db.example:5432"])
@pytest.mark.parametrize("mode", [[], ["--explicit"]])
def test_no_login_is_ever_shown(xds: Runner, policies: Path, target: str, mode: list[str], form: str) -> None:
    outcome = ask(xds, policies, target, "-o", form, *mode)

    assert outcome.code == 0
    assert CANARY not in outcome.out + outcome.err
    assert "dXNlcj" not in outcome.out + outcome.err, "user: in base64"


def test_a_pod_without_a_policy_is_refused_and_that_is_a_finding(xds: Runner, policies: Path) -> None:
    text = (policies / "corp.yaml").read_text().replace("spec:\n", "spec:\n  selector: {namespaces: [bank]}\n", 1)
    (policies / "corp.yaml").write_text(text)

    outcome = ask(xds, policies, "api.example.com:443")

    assert outcome.code == 1
    assert "no policy selects this pod" in outcome.err
    assert "refused: closed without a byte" in outcome.out
    assert json.loads(ask(xds, policies, "api.example.com:443", "-o", "json").out)["policy"] is None


def test_labels_select_a_policy(xds: Runner, policies: Path) -> None:
    text = (policies / "corp.yaml").read_text()
    chosen = "spec:\n  selector: {podLabels: {matchLabels: {app: web}}, serviceAccounts: [web]}\n"
    (policies / "corp.yaml").write_text(text.replace("spec:\n", chosen, 1))

    named = ask(xds, policies, "api.example.com:443", "--label", "app=web", "--service-account", "web")

    assert named.code == 0
    assert ask(xds, policies, "api.example.com:443").code == 1


def test_a_document_that_cannot_be_used_leaves_its_pods_with_what_they_have(xds: Runner, policies: Path) -> None:
    (policies / "corp.yaml").write_text(LONG.replace("action: deny", "action: dent"))

    outcome = ask(xds, policies, "api.example.com:443")

    assert outcome.code == 1
    assert outcome.out == ""
    assert "error[EX" in outcome.err
    assert "it is told nothing new" in outcome.err


def test_a_pod_without_a_policy_has_the_built_in_one(xds: Runner, policies: Path) -> None:
    text = (policies / "corp.yaml").read_text().replace("spec:\n", "spec:\n  selector: {namespaces: [bank]}\n", 1)
    (policies / "corp.yaml").write_text(text)

    described = json.loads(ask(xds, policies, "api.example.com:443", "-o", "json").out)

    (answer,) = described["answers"]
    assert (answer["rule"], answer["builtIn"], answer["source"]) == ("default", True, "built-in policy refuse-all")
    shown = ask(xds, policies, "api.example.com:443").out
    assert "because      no rule matches: the default, built-in policy refuse-all\n" in shown


def test_what_does_not_apply_is_null(xds: Runner, policies: Path) -> None:
    outcome = ask(xds, policies, "ads.example:443", "-o", "json")

    described = json.loads(outcome.out)
    (answer,) = described["answers"]
    assert [name for name, value in described.items() if value is None] == ["remark"]
    nothing = [name for name, value in answer.items() if value is None]
    assert nothing == ["target", "request", "proxy", "cluster"]
    assert answer["noProxy"]["origin"] is None
    assert '""' not in outcome.out


def test_a_list_of_thousands_is_shown_in_part_and_told_whole(xds: Runner, tmp_path: Path) -> None:
    entries = [f".n{index}.example" for index in range(2000)]
    (tmp_path / "short.yaml").write_text(f"{GOOD}noProxy: {json.dumps(entries)}\n")

    words = ["explain", "--policy", "short", "x.example:443", tmp_path, "--no-resolve"]
    shown, told = xds(*words), xds(*words, "-o", "json")

    assert f"with NO_PROXY={','.join(entries[:8])} and 1,992 more (noProxy) clients" in shown.out
    assert max(map(len, shown.out.splitlines())) < 300
    (answer,) = json.loads(told.out)["answers"]
    assert answer["noProxy"]["value"] == ",".join(entries)


def test_an_address_that_only_the_application_knows_is_explained(xds: Runner, policies: Path) -> None:
    outcome = ask(xds, policies, "x.example:22")

    assert outcome.out.count("where ADDRESS is what the application dials") == 1
    assert "ADDRESS" not in ask(xds, policies, "203.0.113.7:22").out


WRONG = [
    pytest.param(["x.example"], "has no port", id="no port"),
    pytest.param(["x.example:99999"], "port", id="a port that is none"),
    pytest.param(["ftp://x.example/"], "another kind", id="another kind of URL"),
    pytest.param(["x.example:443/path"], "has a path but no scheme", id="a path without a scheme"),
    pytest.param(["2001:db8::1:443"], "brackets", id="an IPv6 address without brackets"),
    pytest.param(["[x.example]:443"], "brackets", id="a name in brackets"),
    pytest.param(["[fe80::1%eth0]:443"], "zone", id="a zone"),
    pytest.param(["bad_.-:443"], "host name", id="no name"),
    pytest.param(["x.example:443", "--address", "nonsense"], "no IP address", id="an address that is none"),
    pytest.param(["192.0.2.7:443", "--address", "192.0.2.8"], "is an address", id="an address of an address"),
    pytest.param(["x.example:443", "--address", "192.0.2.8", "--resolve"], "either", id="two ways to know it"),
    pytest.param(
        ["x.example:443", "--explicit", "--address", "192.0.2.8"], "by name", id="an address in explicit mode"
    ),
    pytest.param(["x.example:443", "--explicit", "--sni", "x"], "explicit mode", id="a server name in explicit mode"),
    pytest.param(["x.example:443", "--sni", "x", "--protocol", "http"], "--sni is for TLS", id="sni without TLS"),
    pytest.param(["x.example:443", "--http-host", "x", "--protocol", "tcp"], "plain HTTP", id="a Host without HTTP"),
    pytest.param(["x.example:8", "--http-host", "x", "--sni", "y"], "either", id="both"),
]


@pytest.mark.parametrize(("words", "expected"), WRONG)
def test_wrong_usage_is_said(xds: Runner, policies: Path, words: list[str], expected: str) -> None:
    outcome = xds("explain", "web-0.shop", *words, "-f", policies, *([] if "--resolve" in words else ["--no-resolve"]))

    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.err


def test_explicit_mode_must_be_there(xds: Runner, tmp_path: Path) -> None:
    (tmp_path / "short.yaml").write_text(GOOD)

    outcome = xds("explain", "--policy", "short", "x.example:443", tmp_path, "--explicit", "--no-resolve")

    assert outcome.code == 2
    assert "explicit: {port: 15002}" in outcome.err


USES = [
    pytest.param(
        ["explain", "x.example:443", "web-0.shop", "DIR"],
        "the pod comes first: xds explain web-0.shop x.example:443",
        id="a pod behind the destination",
    ),
    pytest.param(
        ["explain", "--policy", "corp", "web-0.shop", "x.example:443", "DIR"],
        "leave out web-0.shop",
        id="pod and policy",
    ),
    pytest.param(["explain", "--policy", "corp"], "say where the connection goes", id="no destination"),
    pytest.param(["explain", "--policy", "none", "x.example:443", "DIR"], "there are: corp", id="no such policy"),
    pytest.param(["explain", "--sni", "x"], "somebody's", id="a connection of nobody"),
    pytest.param(["explain", "a.b", "x.example:443"], "--kubernetes", id="no policies"),
    pytest.param(["explain", "a", "x.example:443", "DIR"], "<pod>.<namespace>", id="no pod"),
    pytest.param(
        ["explain", "--policy", "corp", "x.example:443", "DIR", "--label", "a=b"],
        "leave them out",
        id="labels of nobody",
    ),
]


@pytest.mark.parametrize(("words", "expected"), USES)
def test_what_is_missing_is_said(xds: Runner, policies: Path, words: list[str], expected: str) -> None:
    outcome = xds(*(str(policies) if word == "DIR" else word for word in words))

    assert (outcome.code, outcome.out) == (2, "")
    assert expected in outcome.err


SECRET_PLACES = [
    pytest.param(["a.b", "{}", "DIR"], id="a destination"),
    pytest.param(["{}", "x.example:443", "DIR"], id="a pod"),
    pytest.param(["a.b", "x.example:443", "DIR", "--address", "{}"], id="an address"),
    pytest.param(["a.b", "x.example:443", "DIR", "--sni", "{}"], id="a server name"),
    pytest.param(["a.b", "http://x.example", "DIR", "--http-host", "{}"], id="a Host"),
    pytest.param(["--policy", "{}", "x.example:443", "DIR"], id="a policy"),
]


@pytest.mark.parametrize("words", SECRET_PLACES)
@pytest.mark.parametrize("typed", [f"https://user:{CANARY}@x.example/", f"{CANARY}@x.example:443"])
def test_what_was_typed_before_an_at_sign_is_not_repeated(
    xds: Runner, policies: Path, words: list[str], typed: str
) -> None:
    arguments = [word.replace("DIR", str(policies)).replace("{}", typed) for word in words]

    outcome = xds("explain", *arguments, "--no-resolve")

    assert outcome.code == 2
    assert CANARY not in outcome.out + outcome.err


@pytest.mark.parametrize("typed", ["EX10", "ex10"])
def test_codes_are_completed(typed: str) -> None:
    offered = ShellComplete(command, {}, "xds explain", "_XDS_COMPLETE").get_completions([], typed)

    assert {item.value for item in offered} == {code for code in CATALOGUE if code.startswith("EX10")}
    assert {item.help for item in offered} == {CATALOGUE[item.value].title for item in offered}


def test_no_code_comes_behind_a_pod() -> None:
    assert ShellComplete(command, {}, "xds explain", "_XDS_COMPLETE").get_completions(["web-0.shop"], "EX") == []


def test_slow_imports_are_told_of_on_a_terminal(xds: Runner, policies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []

    @contextmanager
    def working(step: str) -> Iterator[None]:
        steps.append(step)
        yield

    monkeypatch.setattr(explain, "working", working)

    assert ask(xds, policies, "api.example.com:443").code == 0
    assert steps == ["getting ready", "looking at the resources"]


TARGETS = [
    pytest.param("x.example:443", Target("x.example", 443), id="a name"),
    pytest.param("X.Example.:443", Target("x.example", 443), id="a name as nobody writes it"),
    pytest.param("[2001:DB8::1]:443", Target("2001:db8::1", 443), id="an IPv6 address"),
    pytest.param("[::ffff:10.0.0.1]:80", Target("10.0.0.1", 80), id="an IPv4 address in IPv6"),
    pytest.param("https://x.example", Target("x.example", 443, "https"), id="a URL"),
    pytest.param("HTTP://x.example:8080/a/b#c", Target("x.example", 8080, "http", "/a/b"), id="a URL with all"),
    pytest.param("https://[2001:db8::1]/", Target("2001:db8::1", 443, "https"), id="a URL with an address"),
    pytest.param("bücher.example:443", Target("xn--bcher-kva.example", 443), id="an international name"),
]


@pytest.mark.parametrize(("text", "expected"), TARGETS)
def test_destinations_are_read(text: str, expected: Target) -> None:
    assert parse_target(text) == expected
