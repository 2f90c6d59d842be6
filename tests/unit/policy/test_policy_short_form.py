"""The short form is a way to write the long one: equal values, and errors where clients would disagree."""

from __future__ import annotations

import base64
import json

import pytest

from tests.unit.policy.policy_texts import PEM, codes, good, long_form, only, parse, without_places
from xds.policy.model import EXPLICIT_PORT, Deny, Direct, Mode, PlainHttp, Policy, Tunnel

BOTH = "httpProxy: http://proxy.corp.example:3128\nhttpsProxy: http://proxy.corp.example:3128\n"
QUOTED_PEM = json.dumps(PEM)


def same(short: str, long: str) -> tuple[Policy, Policy]:
    return without_places(good(short)), without_places(good(long))


def test_one_proxy_for_both_is_called_proxy() -> None:
    short, long = same(
        BOTH + "noProxy: [.corp.example, 10.0.0.0/8, 'git.partner.example:22', Foo.example., '*.bar.example']\n",
        long_form(
            """
            proxies:
              proxy: {endpoints: [{url: "http://proxy.corp.example:3128"}]}
            rules:
              - name: no-proxy
                to:
                  domains: [.corp.example, "git.partner.example:22", foo.example, "*.bar.example"]
                  cidrs: [10.0.0.0/8]
                action: direct
            default: {action: tunnel, proxy: proxy}
            """,
            "{name: corp}",
        ),
    )
    assert short == long


def test_two_proxies_are_chosen_by_the_protocol_that_is_seen() -> None:
    short, long = same(
        f"httpProxy: http://a.example:3128\nhttpsProxy: https://b.example:3130\ntrustedCA: {QUOTED_PEM}\nname: two\n",
        long_form(
            f"""
            proxies:
              http-proxy: {{endpoints: [{{url: "http://a.example:3128"}}]}}
              https-proxy: {{endpoints: [{{url: "https://b.example:3130"}}], tls: {{ca: {{pem: {QUOTED_PEM}}}}}}}
            default: {{action: tunnel, proxy: https-proxy, http: {{action: tunnel, proxy: http-proxy}}}}
            trustedCA: {QUOTED_PEM}
            """,
            "{name: two}",
        ),
    )
    assert short == long


@pytest.mark.parametrize(
    ("http", "https", "default"),
    [
        ("http://p.example:1", "direct", "{action: direct, http: {action: tunnel, proxy: http-proxy}}"),
        ("deny", "http://p.example:1", "{action: tunnel, proxy: https-proxy, http: {action: deny}}"),
        ("deny", "direct", "{action: direct, http: {action: deny}}"),
    ],
)
def test_either_may_be_direct_or_deny_on_purpose(http: str, https: str, default: str) -> None:
    used = "http-proxy" if "http-proxy" in default else "https-proxy"
    proxies = f"proxies: {{{used}: {{endpoints: [{{url: 'http://p.example:1'}}]}}}}\n" if "proxy" in default else ""
    short, long = same(
        f"httpProxy: {http}\nhttpsProxy: {https}\n", long_form(f"{proxies}default: {default}", "{name: corp}")
    )
    assert short == long


def test_one_spelling_of_a_url_is_as_good_as_another() -> None:
    policy = good("httpProxy: HTTP://Proxy.Corp.example.:3128/\nhttpsProxy: ' http://proxy.corp.example:3128'\n")
    assert [proxy.name for proxy in policy.proxies] == ["proxy"]
    assert policy.default.action == policy.default.http_action == Tunnel("proxy")


@pytest.mark.parametrize(
    "written",
    [
        "[a.example, .b.example]",
        "a.example,.b.example",
        "'a.example .b.example'",
        "' a.example ,, .b.example '",
        "['a.example,.b.example']",
        "\n- A.example.\n- '*.b.example'",
    ],
)
def test_no_proxy_is_a_list_or_one_text(written: str) -> None:
    policy = good(f"{BOTH}noProxy: {written}\n")
    expected = good(f"{BOTH}noProxy: [a.example, .b.example]\n")
    assert without_places(policy) == without_places(expected)


@pytest.mark.parametrize("written", ["[]", "''", "' , '", "[localhost]"])
def test_no_proxy_that_names_nothing_makes_no_rule(written: str) -> None:
    assert good(f"{BOTH}noProxy: {written}\n").rules == ()


def test_no_proxy_bypasses_with_either_protocol() -> None:
    (rule,) = good(f"{BOTH}noProxy: a.example\n").rules
    assert (rule.name, rule.action, rule.http_action) == ("no-proxy", Direct(), Direct())


@pytest.mark.parametrize("present", ["httpProxy", "httpsProxy"])
def test_one_proxy_never_stands_in_for_the_other(present: str) -> None:
    found = only(parse(f"{present}: http://p.example:3128\n"))
    missing = {"httpProxy": "httpsProxy", "httpsProxy": "httpProxy"}[present]
    assert (found.code, found.where.key) == ("EX306", missing)
    assert f"write `{missing}:`" in found.hint


def test_no_proxy_alone_is_no_policy() -> None:
    assert codes(parse("noProxy: [a.example]\nnoProxyVerify: none\ndialect: go\n")) == ["EX306", "EX306"]


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("/etc/policies/corp.yaml", "corp"),
        ("corp.example.yml", "corp.example"),
        ("/etc/policies/My Policy.yaml", "my-policy"),
        ("configmap/team-a/egress/default.yaml", "egress.default"),
        ("configmap/team-a/egress/policy.yaml", "egress"),
        ("configmap/team-a/egress/egress.yaml", "egress"),
        ("configmap/team-a/egress/--_x.yaml", "egress.x"),
        ("-", ""),
    ],
)
def test_a_policy_without_a_name_is_called_after_its_file(source: str, name: str) -> None:
    result = parse(BOTH, source)
    if name:
        assert [policy.name for policy in result.policies] == [name]
    else:
        assert codes(result) == ["EX401"]


def test_the_name_and_namespace_that_are_written_count() -> None:
    policy = good(BOTH + "name: other\nnamespace: team-a\n")
    assert (policy.name, policy.namespace) == ("other", "team-a")


@pytest.mark.parametrize("line", ["name: Other", "name: ''", "namespace: a.b", "namespace: ''"])
def test_names_are_those_of_kubernetes(line: str) -> None:
    assert codes(parse(f"{BOTH}{line}\n")) == ["EX401"]


def test_trusted_authorities_are_pem_or_its_base64() -> None:
    text = "httpProxy: https://p.example:1\nhttpsProxy: https://p.example:1\ntrustedCA: "
    plain, encoded = good(text + QUOTED_PEM), good(text + base64.b64encode(PEM.encode()).decode())
    assert plain.proxies == encoded.proxies
    assert plain.proxies[0].tls.ca_pem == PEM


def test_trusted_authorities_are_for_applications_too_and_for_a_proxy_only_if_it_speaks_tls() -> None:
    policy = good(f"{BOTH}trustedCA: {QUOTED_PEM}\n")
    assert policy.trusted_ca == PEM
    assert policy.proxies[0].tls.ca_pem is None


def test_trusted_authorities_that_are_none_are_an_error() -> None:
    assert codes(parse(BOTH.replace("http:", "https:") + "trustedCA: hello\n")) == ["EX307"]


def test_explicit_mode_opens_the_port_that_no_proxy_may_be_on() -> None:
    policy = good(f"{BOTH}mode: explicit\n")
    assert (policy.mode, policy.explicit_port) == (Mode.EXPLICIT, EXPLICIT_PORT)
    found = parse(f"httpProxy: http://127.0.0.1:{EXPLICIT_PORT}\nhttpsProxy: deny\nmode: explicit\n")
    assert codes(found) == ["EX316"]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        pytest.param("", None, id="left out"),
        pytest.param("explicit: {port: 15002}", 15002, id="for those that ask for it by annotation"),
        pytest.param("explicit: {}", EXPLICIT_PORT, id="on the usual port"),
        pytest.param("mode: explicit\nexplicit: {port: 3128}", 3128, id="on another than the mode's own"),
    ],
)
def test_the_port_of_explicit_mode_is_opened_as_in_the_long_form(extra: str, expected: int | None) -> None:
    assert good(f"{BOTH}{extra}\n").explicit_port == expected


def test_a_port_that_is_taken_is_no_port_of_explicit_mode() -> None:
    found = only(parse(f"{BOTH}explicit: {{port: 15001}}\n"))
    assert (found.code, found.where.key) == ("EX109", "explicit.port")


def test_two_short_forms_in_one_file_need_names() -> None:
    found = only(parse(f"{BOTH}---\n{BOTH}"))
    assert (found.code, found.where.line) == ("EX405", 4)
    assert parse(f"{BOTH}---\n{BOTH}name: other\n").is_good


def test_a_dialect_may_be_given() -> None:
    policy = good(BOTH + "noProxy: .a.example\ndialect: curl\n")
    assert policy.dialect.value == "curl"
    assert policy.rules[0].destinations[0].host == good(BOTH + "noProxy: a.example\n").rules[0].destinations[0].host


def test_what_is_not_said_has_the_long_forms_defaults() -> None:
    policy = good(BOTH)
    assert (policy.priority, policy.selector, policy.synthetic_ranges) == (0, type(policy.selector)(), ())
    assert policy.proxies[0].plain_http is PlainHttp.ABSOLUTE_FORM
    assert policy.default.action != Deny()


@pytest.mark.parametrize("entry", ["'*'", "0.0.0.0/0", "'::/0'", "'*:8080'"])
def test_the_remedy_for_a_bypass_of_everything_is_in_the_words_of_the_short_form(entry: str) -> None:
    found = only(parse(f"{BOTH}dialect: go\nnoProxy: [{entry}]\n"))
    assert found.code == "EX203"
    assert "`httpProxy: direct` and `httpsProxy: direct`" in found.hint
    assert "default" not in found.hint
    assert good("httpProxy: direct\nhttpsProxy: direct\n").default.action == Direct()


def test_the_remedy_for_a_name_where_the_server_speaks_first_names_no_key_of_the_long_form() -> None:
    found = only(parse(f"{BOTH}dialect: go\nnoProxy: ['git.partner.example:22']\nnoProxyVerify: none\n"))
    assert found.code == "EX223"
    assert "give the addresses" in found.hint
    assert not any(key in found.hint for key in ("to.", "serverFirstPorts"))
