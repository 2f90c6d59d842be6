"""Proxies: what a URL and a PEM text may hold, and that neither is ever shown."""

from __future__ import annotations

import base64
import json

import pytest

from tests.unit.policy.policy_texts import PEM, codes, good, long_form, only, parse
from xds.policy.hosts import Problem
from xds.policy.model import (
    Attempts,
    BasicLogin,
    ClientCertificate,
    Endpoint,
    HealthCheck,
    Outlier,
    PlainHttp,
    Proxy,
    ProxyProtocol,
    ProxyTls,
    TlsVersion,
)
from xds.policy.pem import parse_pem
from xds.policy.proxies import parse_endpoint
from xds.policy.proxy_options import parse_duration

SECRET = "hunter2"


def proxy_text(shape: str, more: str = "") -> str:
    return long_form(f"default: {{action: tunnel, proxy: p}}\nproxies:\n  p: {shape}\n{more}")


def read(shape: str) -> Proxy:
    return good(proxy_text(shape)).proxies[0]


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("http://proxy.corp.example:3128", Endpoint(host="proxy.corp.example", port=3128)),
        ("https://proxy.corp.example:3130", Endpoint(host="proxy.corp.example", port=3130, tls=True)),
        (" HTTP://Proxy.Corp.Example.:80/ ", Endpoint(host="proxy.corp.example", port=80)),
        ("http://squid:3128", Endpoint(host="squid", port=3128)),
        ("http://192.0.2.7:3128", Endpoint(host="192.0.2.7", port=3128)),
        ("http://[2001:DB8::1]:3128", Endpoint(host="2001:db8::1", port=3128)),
        ("http://[::ffff:192.0.2.7]:3128", Endpoint(host="192.0.2.7", port=3128)),
        ("http://bücher.example:1", Endpoint(host="xn--bcher-kva.example", port=1)),
    ],
)
def test_a_url_names_an_endpoint(url: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(url) == endpoint


@pytest.mark.parametrize(
    ("url", "code", "hint"),
    [
        ("", "EX301", "http://host:port"),
        ("proxy.corp.example:3128", "EX301", "http://host:port"),
        ("socks5://p.example:1080", "EX301", "HTTP proxy"),
        ("http://", "EX301", "http://host:port"),
        ("http://:3128", "EX301", "http://host:port"),
        ("http://p.example:3128/path", "EX301", "only"),
        ("http://p.example:3128//", "EX301", "only"),
        ("http://p.example:3128?a=b", "EX301", "only"),
        ("http://p.example:3128#a", "EX301", "only"),
        ("http://p.example", "EX303", "1080"),
        ("http://p.example/", "EX303", "1080"),
        ("http://p.example:", "EX301", "correct"),
        ("http://p.example:0", "EX301", "correct"),
        ("http://p.example:http", "EX301", "correct"),
        ("http://2001:db8::1:3128", "EX301", "brackets"),
        ("http://[2001:db8::1:3128", "EX301", "brackets"),
        ("http://[fe80::1%25eth0]:3128", "EX301", "%"),
        ("http://[a]:3128", "EX301", "2001:db8"),
        ("http://10.0.0.0.0:3128", "EX301", "192.0.2.7"),
        ("http://a b:3128", "EX301", "letters"),
        ("http://*.p.example:3128", "EX301", "letters"),
        ("http://[2001:db8::/32]:3128", "EX301", "only"),
        (f"http://user:{SECRET}@p.example:3128", "EX302", "before the `@`"),
        (f"http://user:{SECRET}%40p.example:3128", "EX302", "before the `@`"),
        (f"{SECRET}@p.example", "EX302", "before the `@`"),
        (f"http://user:{SECRET}/@p.example:3128", "EX302", "before the `@`"),
    ],
)
def test_a_url_that_says_less_or_more_is_refused(url: str, code: str, hint: str) -> None:
    problem = parse_endpoint(url)
    assert isinstance(problem, Problem)
    assert (problem.code, hint in problem.hint) == (code, True), problem
    assert SECRET not in f"{problem.message} {problem.hint}"


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"httpProxy: http://u:{SECRET}@p.example:1\nhttpsProxy: deny\n", id="in httpProxy"),
        pytest.param(f"httpProxy: http://u:{SECRET}/p.example:1\nhttpsProxy: deny\n", id="without an at sign"),
        pytest.param(f"httpProxy: deny\nhttpsProxy: deny\nnoProxy: 'http://u:{SECRET}@p.example'\n", id="in noProxy"),
        pytest.param(f"httpProxy: deny\nhttpsProxy: deny\nname: http://u:{SECRET}@p.example\n", id="as a name"),
        pytest.param(f"httpProxy: deny\nhttpsProxy: deny\nu:{SECRET}@p.example: x\n", id="as a key"),
        pytest.param(proxy_text(f"{{endpoints: [{{url: 'http://u:{SECRET}@p:1'}}]}}"), id="in an endpoint"),
        pytest.param(proxy_text(f"{{endpoints: [{{url: 'http://p:1'}}], auth: {{basic: {SECRET}}}}}"), id="as auth"),
        pytest.param(proxy_text(f"{{endpoints: [{{url: 'http://p:1'}}], plainHTTP: 'u:{SECRET}@p'}}"), id="as a word"),
        pytest.param(
            proxy_text("{endpoints: [{url: 'https://p:1'}], tls: {ca: '-----BEGIN PRIVATE KEY----- hunter2'}}"),
            id="a private key",
        ),
        pytest.param(f"httpProxy: deny\nhttpsProxy: deny\ntrustedCA: {SECRET}\n", id="as an authority"),
    ],
)
def test_no_finding_and_no_held_policy_shows_a_credential(text: str) -> None:
    result = parse(text)
    assert not result.is_good
    assert SECRET not in repr(result) + "".join(str(item) for item in result.diagnostics)


def test_endpoints_sort_by_priority_then_name() -> None:
    proxy = read(
        "{endpoints: [{url: 'http://b:1', priority: 1}, {url: 'http://c:1'}, {url: 'http://a:2'}, {url: 'http://a:1'}]}"
    )
    assert [(item.host, item.port, item.priority) for item in proxy.endpoints] == [
        ("a", 1, 0),
        ("a", 2, 0),
        ("c", 1, 0),
        ("b", 1, 1),
    ]


def test_an_endpoint_is_listed_once() -> None:
    found = only(parse(proxy_text("{endpoints: [{url: 'http://a:1'}, {url: 'http://A.:1', priority: 1}]}")))
    assert (found.code, found.where.key) == ("EX310", "spec.proxies.p.endpoints[1].url")


def test_every_key_of_a_proxy_is_read() -> None:
    proxy = read(
        "{endpoints: [{url: 'https://p:1'}], connectPorts: [443], plainHTTP: deny, connectTimeout: 500ms, "
        f"tls: {{ca: {json.dumps(PEM)}, serverName: Proxy.Corp.example}}}}"
    )
    assert (proxy.connect_ports, proxy.plain_http, proxy.connect_timeout) == ((443,), PlainHttp.DENY, 0.5)
    assert proxy.tls == ProxyTls(ca_pem=PEM, server_name="proxy.corp.example")


def test_every_demand_and_every_patience_of_a_proxy_is_read() -> None:
    proxy = read(
        "{endpoints: [{url: 'https://p:1'}], protocol: http2, plainHTTP: connect, auth: {basic: {file: /login}}, "
        "tls: {ca: {file: /ca.pem}, minimumVersion: '1.3', "
        "clientCertificate: {certificateFile: /own.pem, keyFile: /own.key}}, "
        "health: {interval: 5s, timeout: 1s, unhealthyAfter: 3, healthyAfter: 2}, "
        "outlier: {failures: 2, ejectionTime: 1m}, attempts: {count: 3, backoff: 50ms}, idleTimeout: 2h}"
    )
    assert (proxy.protocol, proxy.plain_http) == (ProxyProtocol.HTTP2, PlainHttp.CONNECT)
    assert proxy.login == BasicLogin(file="/login")
    assert proxy.tls == ProxyTls(
        ca_file="/ca.pem",
        minimum_version=TlsVersion.V1_3,
        client_certificate=ClientCertificate(certificate_file="/own.pem", key_file="/own.key"),
    )
    assert proxy.health == HealthCheck(interval=5.0, timeout=1.0, unhealthy_after=3, healthy_after=2)
    assert proxy.outlier == Outlier(failures=2, ejection_time=60.0)
    assert proxy.attempts == Attempts(count=3, backoff=0.05)
    assert proxy.idle_timeout == pytest.approx(7200)


def test_what_is_left_out_is_neither_probed_nor_left_out_nor_asked_twice() -> None:
    proxy = read("{endpoints: [{url: 'http://p:1'}]}")
    assert (proxy.login, proxy.health, proxy.outlier, proxy.attempts.count) == (None, None, None, 1)
    assert proxy.protocol is ProxyProtocol.HTTP1


@pytest.mark.parametrize("text", [SECRET, f"user:{SECRET}", f"/etc/../{SECRET}", f"/{SECRET}\n", f"~/{SECRET}"])
def test_a_secret_in_the_place_of_its_path_is_not_repeated(text: str) -> None:
    login = f"auth: {{basic: {{file: {json.dumps(text)}}}}}"
    found = only(parse(proxy_text(f"{{endpoints: [{{url: 'https://p:1'}}], {login}}}")))
    assert found.code == "EX313"
    assert SECRET not in str(found)


def test_a_login_in_clear_text_is_a_warning() -> None:
    login = "auth: {basic: {file: /login}}"
    assert codes(parse(proxy_text(f"{{endpoints: [{{url: 'http://p:1'}}], {login}}}"))) == ["EX314"]
    assert codes(parse(proxy_text(f"{{endpoints: [{{url: 'https://p:1'}}], {login}}}"))) == []


def test_an_authority_is_a_text_or_a_mapping() -> None:
    texts = (f"ca: {json.dumps(PEM)}", f"ca: {{pem: {json.dumps(PEM)}}}")
    one, two = (read(f"{{endpoints: [{{url: 'https://p:1'}}], tls: {{{text}}}}}").tls for text in texts)
    assert one == two == ProxyTls(ca_pem=PEM)


@pytest.mark.parametrize(
    ("tls", "code", "key"),
    [
        ("{ca: hello}", "EX307", "ca"),
        ("{ca: {pem: hello}}", "EX307", "ca.pem"),
        ("{ca: {}}", "EX307", "ca"),
        ("{ca: {file: /x, pem: hello}}", "EX307", "ca"),
        ("{ca: {file: x.pem}}", "EX313", "ca.file"),
        ("{ca: {secretRef: {name: x}}}", "EX318", "ca.secretRef"),
        ("{serverName: 'a b'}", "EX301", "serverName"),
        ("{serverName: 10.0.0.0/8}", "EX301", "serverName"),
        ("{clientCertificate: {}}", "EX317", "clientCertificate"),
        ("{clientCertificate: {certificateFile: /a}}", "EX317", "clientCertificate"),
        ("{clientCertificate: {certificateFile: /a, secretRef: {name: b}}}", "EX317", "clientCertificate"),
        ("{ca: {file: /x, secretRef: {name: b}}}", "EX307", "ca"),
        ("{clientCertificate: {certificateFile: /a, keyFile: ../b}}", "EX313", "clientCertificate.keyFile"),
        ("{clientCertificate: {secretRef: {name: a}}}", "EX318", "clientCertificate.secretRef"),
        ("{minimumVersion: '1.1'}", "EX109", "minimumVersion"),
    ],
)
def test_tls_settings_that_are_wrong_are_refused(tls: str, code: str, key: str) -> None:
    result = parse(proxy_text(f"{{endpoints: [{{url: 'https://p:1'}}], tls: {tls}}}"))
    assert (code, f"spec.proxies.p.tls.{key}") in [(item.code, item.where.key) for item in result.diagnostics]


def test_tls_settings_without_tls_are_a_warning() -> None:
    assert codes(parse(proxy_text("{endpoints: [{url: 'http://p:1'}], tls: {serverName: x}}"))) == ["EX309"]


def test_certificates_come_out_the_same_however_they_are_wrapped() -> None:
    body = PEM.splitlines()[1] + PEM.splitlines()[2]
    one_line = f"subject=whoever\r\n-----BEGIN CERTIFICATE-----\r\n{body}\r\n-----END CERTIFICATE-----\r\n"
    assert parse_pem(one_line) == PEM
    assert parse_pem(PEM + PEM) == PEM + PEM
    assert parse_pem(base64.encodebytes(PEM.encode()).decode()) == PEM


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "é",
        base64.b64encode(b"hello").decode(),
        PEM.replace("END", "BEGIN"),
        PEM.replace("-----END CERTIFICATE-----", ""),
        "-----END CERTIFICATE-----" + PEM,
        PEM.replace("CERTIFICATE", "PUBLIC KEY"),
        PEM + PEM.replace("CERTIFICATE", "PRIVATE KEY"),
        "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----",
        "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----",
        "-----BEGIN A-----" * 20_000,
    ],
)
def test_what_is_not_a_series_of_certificates_is_refused(text: str) -> None:
    problem = parse_pem(text)
    assert isinstance(problem, Problem)
    assert problem.code == "EX307"


@pytest.mark.parametrize(
    ("text", "seconds"), [("5s", 5.0), ("500ms", 0.5), ("1m", 60.0), (" 5m ", 300.0), ("1ms", 0.001)]
)
def test_a_duration_has_a_unit(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "5", "s", "0s", "-1s", "1.5s", "6m", "5 s", "1h", "1d", "9999999s"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    result = parse(proxy_text(f"{{endpoints: [{{url: 'http://p:1'}}], connectTimeout: '{text}'}}"))
    assert (only(result).code, only(result).where.key) == ("EX109", "spec.proxies.p.connectTimeout")


@pytest.mark.parametrize(
    ("shape", "code"),
    [
        ("{endpoints: []}", "EX109"),
        ("{}", "EX108"),
        ("{endpoints: [{}]}", "EX108"),
        ("{endpoints: [{url: 'http://p:1', priority: 128}]}", "EX109"),
        ("{endpoints: [{url: 'http://p:1', priority: -1}]}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], connectPorts: []}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], connectPorts: [0]}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], protocol: http3}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], health: {interval: 0s}}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], health: {unhealthyAfter: 0}}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}, {url: 'http://q:1'}], outlier: {ejectionTime: 1h}}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], attempts: {count: 11}}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], attempts: {backoff: x}}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], idleTimeout: 169h}", "EX109"),
        ("{endpoints: [{url: 'http://p:1'}], plainHTTP: other}", "EX109"),
    ],
)
def test_a_wrong_proxy_is_one_finding_and_those_who_use_it_are_not_blamed(shape: str, code: str) -> None:
    assert codes(parse(proxy_text(shape))) == [code]


def test_a_proxys_name_is_short_and_plain() -> None:
    text = long_form("default: {action: tunnel}\nproxies: {'a b': {endpoints: [{url: 'http://p:1'}]}}")
    assert codes(parse(text)) == ["EX401"]
