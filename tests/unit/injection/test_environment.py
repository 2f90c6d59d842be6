"""The variables of a policy: what they say, what is refused because they can't say it, and what is told as lost."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_network

import pytest

from tests.support.policies import CORP, default, endpoint, policy, proxy, rule, to
from tests.unit.policy.policy_texts import good
from xds.dialects.clients import CLIENTS, decide
from xds.facts import Facts
from xds.injection.environment import (
    MAX_NO_PROXY,
    CannotDeliverError,
    Variables,
    check_env_mode,
    render_env_mode,
    render_explicit_mode,
)
from xds.judge import Judge, SourceRead
from xds.policy.model import (
    AlwaysDirect,
    BasicLogin,
    ClientCertificate,
    Deny,
    Direct,
    Mode,
    PlainHttp,
    Policy,
    ProxyProtocol,
    ProxyTls,
    TlsOrigination,
    Tunnel,
    UnknownName,
)
from xds.policy.parse import Document

CLUSTER = (ip_network("10.96.0.0/12"), ip_network("10.0.0.1/32"))
SHORT = "httpProxy: http://proxy.corp.example:3128\nhttpsProxy: http://proxy.corp.example:3129\n"
NOTHING_KEPT = AlwaysDirect(loopback=False, link_local=False, cluster_local=False, cluster_networks=False)


def entries(variables: Variables) -> list[str]:
    return variables.no_proxy.split(",")


def test_each_variable_names_the_proxy_of_its_scheme_in_both_cases() -> None:
    found = dict(render_env_mode(good(SHORT + "noProxy: [.corp.example, 192.0.2.0/24]\n"), ()).items())

    assert found["HTTP_PROXY"] == found["http_proxy"] == "http://proxy.corp.example:3128"
    assert found["HTTPS_PROXY"] == found["https_proxy"] == "http://proxy.corp.example:3129"
    assert found["NO_PROXY"] == found["no_proxy"]
    assert found["NO_PROXY"].endswith(",.corp.example,192.0.2.0/24")
    assert len(found) == 6


@pytest.mark.parametrize("client", [client.name for client in CLIENTS.values() if client.reads_environment])
def test_every_client_goes_direct_to_what_never_leaves_the_cluster(client: str) -> None:
    no_proxy = render_env_mode(good(SHORT), CLUSTER).no_proxy

    for host in ("localhost", "127.0.0.1", "::1", "169.254.169.254", "web.shop.svc", "a.svc.cluster.local", "10.0.0.1"):
        assert decide(client, no_proxy, host, 80, scheme="http").goes_direct, host
    assert not decide(client, no_proxy, "api.example.com", 443).goes_direct


def test_the_api_server_is_where_the_kubelet_says() -> None:
    assert "$(KUBERNETES_SERVICE_HOST)" in entries(render_env_mode(good(SHORT), ()))
    assert "$(KUBERNETES_SERVICE_HOST)" in entries(render_explicit_mode(good(SHORT + "mode: explicit\n"), ()))


def test_what_a_policy_does_not_keep_direct_is_not_listed() -> None:
    bare = policy(always_direct=NOTHING_KEPT)

    assert entries(render_env_mode(bare, CLUSTER)) == ["$(KUBERNETES_SERVICE_HOST)"]


def test_the_networks_of_the_cluster_are_listed_and_its_single_addresses_without_a_length() -> None:
    assert {"10.96.0.0/12", "10.0.0.1"} <= set(entries(render_env_mode(good(SHORT), CLUSTER)))


def test_entries_as_they_are_written_are_kept() -> None:
    written = good(SHORT + "noProxy: [Foo.example]\n")

    assert {"Foo.example", "foo.example", ".foo.example"} <= set(
        entries(render_env_mode(written, (), ("Foo.example",)))
    )


def test_a_name_alone_is_delivered_where_the_entry_for_it_is_known() -> None:
    written = good(SHORT + "noProxy: [foo.example]\ndialect: dotnet\n")

    with pytest.raises(CannotDeliverError, match="lists what no entry"):
        render_env_mode(written, ())
    found = render_env_mode(written, (), ("foo.example",))
    assert "foo.example" in entries(found)
    assert any("as they are written" in loss for loss in found.losses)


@pytest.mark.parametrize(
    ("http", "https"), [("direct", "http://p.example:1"), ("http://p.example:1", "direct"), ("direct", "direct")]
)
def test_what_goes_direct_by_default_has_no_proxy(http: str, https: str) -> None:
    found = render_env_mode(good(f"httpProxy: {http}\nhttpsProxy: {https}\nnoProxy: 192.0.2.7\n"), ())

    assert (found.http_proxy, found.https_proxy) == (http.replace("direct", ""), https.replace("direct", ""))
    assert ("192.0.2.7" in found.no_proxy) is (http != https)


SAFE = replace(proxy(), endpoints=(endpoint("proxy.example", tls=True),))
REFUSED = [
    pytest.param(policy(otherwise=default(Deny())), "by default it refuses", id="a default that refuses"),
    pytest.param(policy(otherwise=default(CORP, Deny())), "by default it refuses", id="plain HTTP that is refused"),
    pytest.param(
        policy(otherwise=default(unknown=UnknownName.DENY)), "without a name", id="hosts without a name are refused"
    ),
    pytest.param(policy(rule(Deny(), "x.example")), "rule refuses connections", id="a rule that refuses"),
    pytest.param(
        policy(rule(CORP, "x.example"), proxies=(), otherwise=default(Direct())),
        "otherwise than the default",
        id="a tunnel where all else is direct",
    ),
    pytest.param(
        policy(rule(Tunnel("lab"), "x.example"), proxies=(proxy(), proxy("lab"))),
        "which proxy is used",
        id="another proxy for some",
    ),
    pytest.param(
        policy(rule(CORP, "x.example", http=Tunnel("corp", TlsOrigination()))), "which proxy", id="HTTPS of plain HTTP"
    ),
    pytest.param(policy(rule(CORP, "a.x.example"), rule(Direct(), "x.example")), "order", id="an order of rules"),
    pytest.param(policy(rule(Direct(), to("10.0.0.0/8", 22))), "no entry", id="a port of a network"),
    pytest.param(
        policy(rule(Direct(), ".x.example"), rule(CORP, "=x.example")), "to most clients", id="a name beside `.name`"
    ),
    pytest.param(
        policy(replace(rule(Direct(), "x.example"), verify=(ip_network("10.0.0.0/8"),))),
        "verify: none",
        id="names whose address is looked at",
    ),
    pytest.param(policy(proxies=(replace(proxy(), login=BasicLogin(file="/login")),)), "login", id="a login"),
    pytest.param(
        policy(
            proxies=(
                replace(
                    SAFE, tls=ProxyTls(client_certificate=ClientCertificate(certificate_file="/crt", key_file="/key"))
                ),
            )
        ),
        "client certificate",
        id="a client certificate",
    ),
    pytest.param(
        policy(proxies=(replace(SAFE, tls=ProxyTls(server_name="other.example")),)), "another name", id="another name"
    ),
    pytest.param(
        policy(proxies=(replace(proxy(), protocol=ProxyProtocol.HTTP2, plain_http=PlainHttp.CONNECT),)),
        "HTTP/2",
        id="HTTP/2",
    ),
    pytest.param(policy(proxies=(proxy(plain_http=PlainHttp.CONNECT),)), "absolute form", id="tunnels for plain HTTP"),
    pytest.param(policy(proxies=(proxy(plain_http=PlainHttp.DENY),)), "absolute form", id="no plain HTTP"),
    pytest.param(
        policy(rule(Direct(), *(f"host-{number}.example" for number in range(5000)))), "characters", id="a long list"
    ),
]


@pytest.mark.parametrize(("written", "words"), REFUSED)
def test_what_variables_cannot_say_is_refused_with_the_reason_and_a_remedy(written: Policy, words: str) -> None:
    with pytest.raises(CannotDeliverError) as refusal:
        render_env_mode(written, ())

    assert words in str(refusal.value)
    assert "the policy test" in refusal.value.reason
    assert "mode" in refusal.value.remedy


@pytest.mark.parametrize(("written", "words"), REFUSED)
def test_a_policy_that_is_to_reach_pods_so_and_can_not_is_reported(written: Policy, words: str) -> None:
    (found,) = check_env_mode(replace(written, mode=Mode.ENV))

    assert (found.code, found.where) == ("EX507", written.where)
    assert words in f"{found.message}; {found.hint}"
    assert check_env_mode(written) == ()


def test_a_policy_that_variables_can_say_is_not_reported() -> None:
    assert check_env_mode(good(SHORT + "mode: env\nnoProxy: .corp.example\n")) == ()


def test_a_policy_for_variables_is_judged_by_what_they_can_say() -> None:
    text = SHORT.replace("http://proxy.corp.example:3128", "deny") + "mode: env\ndialect: go\n"
    judge = Judge()
    judged = judge.judge(judge.parse(SourceRead((Document("a.yaml", text),))), Facts())

    assert [(item.code, item.where.source, item.is_error) for item in judged.diagnostics] == [
        ("EX507", "a.yaml", False)
    ]


LOSSES = [
    pytest.param(policy(), (), id="nothing is lost of a plain proxy"),
    pytest.param(policy(rule(Direct(), "x.example")), (), id="nothing of a name with all below it"),
    pytest.param(
        policy(rule(Direct(), "10.0.0.0/8", "10.1.0.0/16")),
        ("Python urllib, .NET, .* and axios use the proxy for .* `10.0.0.0/8`, `10.1.0.0/16` means",),
        id="networks",
    ),
    pytest.param(policy(rule(Direct(), ".x.example")), ("curl, .* take `.x.example` for the name itself",), id="`.x`"),
    pytest.param(
        policy(proxies=(proxy("corp", endpoint(), endpoint("192.0.2.2"), endpoint("192.0.2.3")),)),
        ("only 192.0.2.1 is named: .* 2 more",),
        id="several endpoints",
    ),
    pytest.param(
        policy(proxies=(replace(SAFE, tls=ProxyTls(ca_pem="PEM")),)),
        ("reached by TLS", "must trust the authorities"),
        id="TLS to the proxy",
    ),
    pytest.param(policy(otherwise=default(unknown=UnknownName.DIRECT)), ("without a name",), id="unknown names"),
]


@pytest.mark.parametrize(("written", "patterns"), LOSSES)
def test_what_clients_do_otherwise_is_told(written: Policy, patterns: tuple[str, ...]) -> None:
    losses = render_env_mode(written, ()).losses

    assert len(losses) == len(patterns)
    for loss, pattern in zip(losses, patterns, strict=True):
        assert re.search(pattern, loss)


def test_of_many_destinations_a_loss_shows_three() -> None:
    many = policy(rule(Direct(), *(f"10.{number}.0.0/16" for number in range(9))))

    (loss,) = render_env_mode(many, ()).losses
    assert "`10.2.0.0/16` and 6 more" in loss


def test_in_explicit_mode_the_sidecar_is_the_proxy_and_decides_by_the_rules() -> None:
    written = good(SHORT + "noProxy: .corp.example\nmode: explicit\n")
    found = render_explicit_mode(written, CLUSTER)

    assert found.http_proxy == found.https_proxy == "http://127.0.0.1:15002"
    assert ".svc" in entries(found)
    assert "10.96.0.0/12" in entries(found)
    assert ".corp.example" not in entries(found)
    assert found.losses == ()


def test_a_policy_without_a_port_for_explicit_mode_says_what_to_write() -> None:
    assert good(SHORT).mode is Mode.TRANSPARENT
    with pytest.raises(CannotDeliverError, match=r"corp has no port.*`mode: explicit`"):
        render_explicit_mode(good(SHORT), ())


def test_no_list_is_longer_than_a_variable_may_be() -> None:
    networks = [ip_network(f"10.{high}.{low}.0/24") for high in range(0, 256, 2) for low in range(0, 256, 2)]

    with pytest.raises(CannotDeliverError, match=str(MAX_NO_PROXY)):
        render_env_mode(good(SHORT), networks)
