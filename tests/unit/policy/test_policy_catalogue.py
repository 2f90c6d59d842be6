"""The catalogue: each code of the policy room is produced by a document, and is explained to people."""

from __future__ import annotations

import base64
import re

import pytest

from tests.unit.policy.policy_texts import PEM, PROXY, codes, long_form, parse, rules, to_rule
from xds.catalogue import CATALOGUE, RETIRED, Severity
from xds.diagnostics import Diagnostic, Where

SHORT = "httpProxy: deny\nhttpsProxy: deny\n"
OF_OTHER_ROOMS = ("EX32", "EX5", "EX9")
NOT_OF_ONE_TEXT = ("EX319", "EX408", "EX409")
"""Inside Kubernetes only, and of several documents only: these have tests of their own."""
ONE_PROXY = f"default: {{action: tunnel}}\nproxies: {{p: {PROXY[:-1]}"

EXAMPLES = {
    "EX101": "a: [",
    "EX102": "httpProxy: deny\nhttpsProxy: deny\nhttpProxy: deny",
    "EX103": "[" * 99,
    "EX104": "hello",
    "EX105": "apiVersion: v1\nkind: Pod",
    "EX106": SHORT + "noproxy: []",
    "EX107": SHORT + "noProxy: 5",
    "EX108": long_form("priority: 1"),
    "EX109": long_form("default: {action: allow}"),
    "EX110": SHORT + "proxyAuth: {}",
    "EX111": SHORT + "spec: {}",
    "EX112": "# nothing yet",
    "EX113": rules(*(f"{{to: {{domains: [a{n}.example]}}, action: direct}}" for n in range(1001))),
    "EX201": SHORT + "noProxy: ['-a']",
    "EX202": SHORT + "noProxy: a.example;b.example",
    "EX203": SHORT + "noProxy: '*'",
    "EX204": SHORT + "noProxy: 'a*.example'",
    "EX205": SHORT + "noProxy: 10.0.0.0/33",
    "EX206": SHORT + "noProxy: 'a.example:x'",
    "EX207": to_rule("{domains: [10.0.0.1]}"),
    "EX208": SHORT + "noProxy: '*.a.example'\ndialect: curl",
    "EX209": to_rule("{}"),
    "EX220": SHORT + "noProxy: .a.example",
    "EX221": SHORT + "noProxy: localhost",
    "EX222": SHORT + "noProxy: 10.0.0.1,10.0.0.1",
    "EX223": to_rule("{domains: ['a.example:22']}"),
    "EX224": long_form(f"{ONE_PROXY}, connectPorts: [443]}}}}\nrules: [{{to: {{ports: [1]}}, action: tunnel}}]"),
    "EX225": long_form("default: {action: deny, onUnknownName: deny}"),
    "EX234": long_form("default: {action: deny}\ndns: {mode: capture, syntheticRange: 198.18.0.0/15}"),
    "EX228": rules("{to: {ports: [80]}, action: deny}", "{to: {ports: [80]}, action: tunnel}"),
    "EX229": rules("{to: {ports: [80]}, action: deny}", "{to: {domains: ['a.example:80', b.example]}, action: tunnel}"),
    "EX230": long_form("default: {action: deny}\ndns: {mode: capture}"),
    "EX231": long_form("default: {action: deny}\ndns: {syntheticRange: [198.18.0.0/15, 198.18.0.0/24]}"),
    "EX232": to_rule("{tcp: [{host: db.example, ports: [5432]}]}", "tunnel"),
    "EX233": to_rule(
        "{tcp: [{host: db.example}]}", extra="dns: {mode: capture, syntheticRange: [198.18.0.0/15, 'fd00:18::/64']}"
    ),
    "EX226": rules("{name: a, to: {ports: [1]}, action: direct, verify: 10.0.0.0/8}"),
    "EX227": SHORT + "noProxy: .a.example",
    "EX301": "httpProxy: p\nhttpsProxy: deny",
    "EX302": "httpProxy: http://u:p@p.example:1\nhttpsProxy: deny",
    "EX303": "httpProxy: http://p.example\nhttpsProxy: deny",
    "EX304": long_form("default: {action: tunnel, proxy: p}"),
    "EX305": long_form("default: {action: tunnel}"),
    "EX306": "httpProxy: deny",
    "EX307": SHORT + "trustedCA: hello",
    "EX308": long_form(f"default: {{action: deny}}\nproxies: {{p: {PROXY}}}"),
    "EX309": long_form(f"{ONE_PROXY}, tls: {{serverName: p}}}}}}"),
    "EX310": long_form(
        "default: {action: tunnel}\nproxies: {p: {endpoints: [{url: 'http://a:1'}, {url: 'http://a:1'}]}}"
    ),
    "EX311": long_form("default: {action: deny, proxy: p}"),
    "EX312": long_form(
        "default: {action: tunnel}\nproxies: {p: {endpoints: [{url: 'http://198.18.0.9:1'}]}}\n"
        "dns: {syntheticRange: 198.18.0.0/15}"
    ),
    "EX313": long_form(f"{ONE_PROXY}, auth: {{basic: {{file: 'user:password'}}}}}}}}"),
    "EX314": long_form(f"{ONE_PROXY}, auth: {{basic: {{file: /login}}}}}}}}"),
    "EX317": long_form(f"{ONE_PROXY}, auth: {{basic: {{}}}}}}}}"),
    "EX318": long_form(f"{ONE_PROXY}, auth: {{basic: {{secretRef: {{name: login}}}}}}}}}}"),
    "EX330": long_form(f"{ONE_PROXY}, protocol: http2}}}}"),
    "EX331": long_form(f"default: {{action: deny}}\ntrustedCA: {base64.b64encode(PEM.encode() * 700).decode()}"),
    "EX315": long_form("default: {action: deny, http: {action: deny, originateTLS: {}}}"),
    "EX316": "httpProxy: http://127.0.0.1:15001\nhttpsProxy: deny",
    "EX340": long_form(f"{ONE_PROXY}, health: {{interval: 1s, timeout: 2s}}}}}}"),
    "EX341": long_form(f"{ONE_PROXY}, outlier: {{}}}}}}"),
    "EX401": SHORT + "name: A",
    "EX402": long_form("default: {action: deny}\nselector: {podLabels: {matchLabels: {a: 'b c'}}}"),
    "EX407": long_form("default: {action: deny}\nselector: {namespaceLabels: {matchLabels: {a: b}}}"),
    "EX403": rules("{name: a, to: {ports: [1]}, action: deny}", "{name: a, to: {ports: [2]}, action: deny}"),
    "EX404": SHORT + "namespace: other",
    "EX405": f"{SHORT}---\n{SHORT}",
    "EX406": long_form("default: {action: deny}\nselector: {namespaces: [other]}"),
}


def test_every_code_has_an_example() -> None:
    assert set(EXAMPLES) == {code for code in CATALOGUE if not code.startswith(OF_OTHER_ROOMS + NOT_OF_ONE_TEXT)}


@pytest.mark.parametrize("code", EXAMPLES)
def test_the_example_of_a_code_produces_it(code: str) -> None:
    result = parse(EXAMPLES[code], namespace="team-a")
    assert code in codes(result)
    assert result.is_good is (CATALOGUE[code].severity is Severity.WARNING)


@pytest.mark.parametrize("code", CATALOGUE)
def test_a_code_is_explained_in_a_few_sentences(code: str) -> None:
    entry = CATALOGUE[code]
    sentences = re.findall(r"[.:](?= [A-Z`]|$)", entry.explanation)
    assert 2 <= len(sentences) <= 5
    assert entry.code == code
    assert entry.title
    assert not entry.title.endswith(".")
    assert re.fullmatch(r"EX[1-9][0-9]{2}", code)


def test_a_retired_code_is_never_used_again() -> None:
    assert not RETIRED & set(CATALOGUE)


def test_a_diagnostic_is_one_line_with_place_severity_code_and_remedy() -> None:
    found = Diagnostic("EX108", Where("a.yaml", "spec.default", 3), "it is missing", "add it")
    assert str(found) == "a.yaml:3 spec.default: error[EX108]: it is missing; add it"
    assert str(Where("a.yaml")) == "a.yaml"
    assert (found.severity, found.is_error) == (Severity.ERROR, True)


@pytest.mark.parametrize("code", EXAMPLES)
def test_a_diagnostic_of_a_document_is_one_line_with_a_line_number(code: str) -> None:
    for found in parse(EXAMPLES[code], namespace="team-a").diagnostics:
        assert "\n" not in str(found)
        assert found.where.line is not None
        assert found.where.source == "corp.yaml"
        assert found.message
        assert found.hint
