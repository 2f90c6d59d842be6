"""AKS, OpenShift and the proxy variables become policies that decide as these did, and tell what differs."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.certificates import Authority
from tests.support.imported import DENY, DIRECT, decide, messages, read_policy
from xds.errors import SourceError
from xds.importers.aks import import_aks, is_aks
from xds.importers.environment import import_text, import_workload, is_environment, is_workload
from xds.importers.imported import Home, Imported, Weight, Wish
from xds.importers.openshift import import_openshift, is_openshift

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

PROXY = "http://proxy.corp.example:3128"
CANARY = "c4n4ry"
WISH = Wish(source="input", name="corp")
IN_CLUSTER = Wish(source="input", name="corp", home=Home.CLUSTER)

# The example of AKS' documentation has these keys and this kind of entries.
AKS = {
    "httpProxy": f"{PROXY}/",
    "httpsProxy": f"{PROXY}/",
    "noProxy": ["localhost", "127.0.0.1", "docker.io", ".corp.example", "10.0.0.0/8"],
    "trustedCa": "",
}

OPENSHIFT = {
    "apiVersion": "config.openshift.io/v1",
    "kind": "Proxy",
    "metadata": {"name": "cluster", "uid": "1"},
    "spec": {
        "httpProxy": PROXY,
        "httpsProxy": PROXY,
        "noProxy": "git.corp.example,.intra.example,10.20.0.0/16",
        "readinessEndpoints": ["http://www.example.com"],
        "trustedCA": {"name": ""},
    },
    "status": {
        "httpProxy": PROXY,
        "httpsProxy": PROXY,
        "noProxy": ".cluster.local,.svc,10.0.0.0/16,10.128.0.0/14,10.20.0.0/16,127.0.0.1,169.254.169.254,172.30.0.0/16,"
        "api-int.cluster.corp.example,git.corp.example,.intra.example,localhost",
    },
}

DEPLOYMENT = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "shop", "namespace": "payments"},
    "spec": {
        "selector": {"matchLabels": {"app": "shop"}},
        "template": {
            "metadata": {"labels": {"app": "shop", "tier": "web"}},
            "spec": {
                "containers": [
                    {
                        "name": "shop",
                        "env": [
                            {"name": "HTTPS_PROXY", "value": PROXY},
                            {"name": "http_proxy", "value": PROXY},
                            {"name": "NO_PROXY", "value": "10.0.0.0/8,.corp.example"},
                        ],
                    }
                ]
            },
        },
    },
}


def told(imported: Imported, fragment: str) -> Weight:
    """Return the weight of the only change that says `fragment`."""
    found = {change.weight for change in imported.changes if fragment in f"{change.where.key}: {change.message}"}
    assert len(found) == 1, messages(imported)
    return found.pop()


def without(document: Mapping[str, object], key: str) -> dict[str, object]:
    return {name: value for name, value in document.items() if name != key}


@pytest.mark.parametrize(
    ("scheme", "host", "address", "expected"),
    [
        ("https", "docker.io", "192.0.2.7", DIRECT),
        ("https", "registry.docker.io", "192.0.2.7", DIRECT),
        ("https", "a.corp.example", "192.0.2.7", DIRECT),
        ("https", "corp.example", "192.0.2.7", PROXY),
        ("http", "example.com", "10.1.1.1", DIRECT),
        ("http", "example.com", "192.0.2.7", PROXY),
        ("https", "example.com", "192.0.2.7", PROXY),
    ],
)
def test_an_aks_configuration_decides_as_go_programs_did(scheme: str, host: str, address: str, expected: str) -> None:
    assert decide(read_policy(import_aks(AKS, WISH)), scheme, host, 443, address) == expected


def test_the_short_form_is_written_where_it_says_everything() -> None:
    assert dict(import_aks(AKS, WISH).policy) == {
        "name": "corp",
        "httpProxy": PROXY,
        "httpsProxy": PROXY,
        "noProxy": ["docker.io", ".corp.example", "10.0.0.0/8"],
        "dialect": "go",
    }


def test_aks_takes_the_http_proxy_for_a_missing_https_proxy() -> None:
    imported = import_aks(without(AKS, "httpsProxy"), WISH)

    assert decide(read_policy(imported), "https", "example.com", 443) == PROXY
    assert told(imported, "httpsProxy: is missing") is Weight.NOTE


def test_plain_http_stays_direct_where_aks_had_no_proxy_for_it() -> None:
    imported = import_aks(without(AKS, "httpProxy"), WISH)

    assert decide(read_policy(imported), "http", "example.com", 80) == DIRECT
    assert told(imported, "httpProxy: is missing") is Weight.CHANGED


@pytest.mark.parametrize(
    "document",
    [{"httpProxyConfig": AKS}, {"properties": {"httpProxyConfig": AKS}}],
    ids=["az aks show", "a resource"],
)
def test_a_whole_aks_cluster_is_searched_for_its_configuration(document: dict[str, object]) -> None:
    assert is_aks(document)
    assert import_aks(document, WISH).policy == import_aks(AKS, WISH).policy


def test_what_verifies_an_https_proxy_becomes_its_authorities_and_the_rest_is_told() -> None:
    encoded = base64.b64encode(Authority().certificate.encode()).decode()
    document = {**AKS, "httpsProxy": "https://proxy.corp.example:3129", "trustedCa": encoded}

    imported = import_aks(document, WISH)

    assert [proxy.tls.ca_pem is not None for proxy in read_policy(imported).proxies] == [False, True]
    assert told(imported, "trustedCa: verifies the proxy's own certificate") is Weight.CHANGED
    assert read_policy(imported).trusted_ca is not None
    without = import_aks({**AKS, "trustedCa": encoded}, WISH)
    assert told(without, "trustedCa: applications get it where pods ask for it") is Weight.CHANGED
    assert read_policy(without).trusted_ca == read_policy(imported).trusted_ca
    assert (
        told(import_aks({**AKS, "trustedCa": "%%%"}, WISH), "trustedCa: left out: this is neither PEM") is Weight.LOST
    )


def test_what_aks_does_not_support_or_policies_do_not_have_is_told() -> None:
    document = {**AKS, "noProxy": ["*.x.example", "*"], "effectiveNoProxy": ["10.0.0.0/16"], "enabled": False, "odd": 1}

    imported = import_aks(document, WISH)

    assert told(imported, "AKS supports no `*`") is Weight.CHANGED
    assert told(imported, "`*` sends everything past the proxy") is Weight.LOST
    assert told(imported, "effectiveNoProxy") is Weight.NOTE
    assert told(imported, "enabled") is Weight.CHANGED
    assert told(imported, "`odd` is not understood") is Weight.LOST
    assert decide(read_policy(imported), "https", "example.com", 443) == PROXY


def test_an_openshift_proxy_keeps_what_administrators_wrote_and_leaves_out_the_networks_of_the_cluster() -> None:
    imported = import_openshift(OPENSHIFT, WISH)

    assert imported.policy["noProxy"] == [
        "git.corp.example",
        ".intra.example",
        "10.20.0.0/16",
        "api-int.cluster.corp.example",
    ]
    assert told(imported, "`10.0.0.0/16` and 2 more: left out") is Weight.CHANGED
    assert told(imported, "`.cluster.local` and 4 more: always direct") is Weight.NOTE
    assert told(imported, "spec.readinessEndpoints") is Weight.NOTE


@pytest.mark.parametrize(
    ("host", "address", "expected"),
    [
        ("git.corp.example", "192.0.2.7", DIRECT),
        ("a.intra.example", "192.0.2.7", DIRECT),
        ("intra.example", "192.0.2.7", PROXY),
        ("example.com", "10.20.1.1", DIRECT),
        ("kubernetes.default.svc", "172.30.0.1", DIRECT),
        ("example.com", "192.0.2.7", PROXY),
    ],
)
def test_an_openshift_proxy_decides_as_it_did(host: str, address: str, expected: str) -> None:
    assert decide(read_policy(import_openshift(OPENSHIFT, WISH)), "https", host, 443, address) == expected


def test_the_authorities_of_openshift_are_referred_to_where_policies_can_have_them() -> None:
    spec = {"httpProxy": PROXY, "httpsProxy": "https://proxy.corp.example:3129", "trustedCA": {"name": "user-ca"}}
    document = {**OPENSHIFT, "spec": spec, "status": {}}

    in_cluster, in_files = import_openshift(document, IN_CLUSTER), import_openshift(document, WISH)

    assert '"secretRef": {"name": "user-ca", "key": "ca-bundle.crt"}' in json.dumps(in_cluster.policy)
    assert '"file": "/etc/egress-xds/ca-bundle.crt"' in json.dumps(in_files.policy)
    assert told(in_cluster, "spec.trustedCA.name") is Weight.CHANGED
    read_policy(in_cluster, secrets="egress-system")
    read_policy(in_files)


def test_what_openshift_still_uses_but_no_longer_says_is_told() -> None:
    imported = import_openshift({**OPENSHIFT, "spec": {}}, WISH)

    assert told(imported, "status.httpProxy: stands in `status` only") is Weight.CHANGED


@pytest.mark.parametrize(
    ("text", "http", "https"),
    [
        ("http_proxy=P\nhttps_proxy=P", PROXY, PROXY),
        ("HTTP_PROXY=P\nHTTPS_PROXY=P\n", PROXY, PROXY),
        ("export HTTPS_PROXY='P'\nHTTP_PROXY=\n", DIRECT, PROXY),
        ("http_proxy=P", PROXY, DIRECT),
        ("all_proxy=P", PROXY, PROXY),
        ("https_proxy=P\0http_proxy=P\0PATH=/bin\0", PROXY, PROXY),
        ("https_proxy=P\nALL_PROXY=socks5://192.0.2.9:1080", DENY, PROXY),
        ("https_proxy=P\nhttp_proxy=proxy.corp.example:3128", PROXY, PROXY),
    ],
    ids=["lower", "upper", "quoted", "http only", "all", "environ", "SOCKS is refused", "without a scheme"],
)
def test_variables_decide_as_programs_that_look_at_them(text: str, http: str, https: str) -> None:
    policy = read_policy(import_text(text.replace("=P", f"={PROXY}").replace("'P'", f"'{PROXY}'"), WISH))

    assert decide(policy, "http", "example.com", 80) == http
    assert decide(policy, "https", "example.com", 443) == https


@pytest.mark.parametrize(("dialect", "expected"), [("go", "http://192.0.2.1:1"), ("curl", "http://192.0.2.2:2")])
def test_the_dialect_chooses_between_spellings_that_differ(dialect: str, expected: str) -> None:
    text = "HTTPS_PROXY=http://192.0.2.1:1\nhttps_proxy=http://192.0.2.2:2\nhttp_proxy=http://192.0.2.3:3\n"

    imported = import_text(text, Wish(source="env", name="corp", dialect=dialect))

    assert decide(read_policy(imported), "https", "example.com", 443) == expected
    assert told(imported, "HTTPS_PROXY and https_proxy differ") is Weight.CHANGED


@pytest.mark.parametrize(
    ("dialect", "entry", "host", "expected"),
    [
        ("go", "x.example", "a.x.example", DIRECT),
        ("dotnet", "x.example", "a.x.example", PROXY),
        ("dotnet", "x.example", "x.example", DIRECT),
        ("curl", ".x.example", "x.example", DIRECT),
        ("go", ".x.example", "x.example", PROXY),
        ("python", "*.x.example", "a.x.example", PROXY),
        ("node", "*.x.example", "a.x.example", DIRECT),
    ],
)
def test_the_dialect_chooses_how_entries_are_read(dialect: str, entry: str, host: str, expected: str) -> None:
    text = f"http_proxy={PROXY}\nhttps_proxy={PROXY}\nno_proxy={entry}\n"

    policy = read_policy(import_text(text, Wish(source="env", name="corp", dialect=dialect)))

    assert decide(policy, "https", host, 443) == expected


@pytest.mark.parametrize(
    ("line", "fragment", "weight"),
    [
        ("no_proxy=x.example", "by .NET, Node.js http and axios as the name alone", Weight.CHANGED),
        ("no_proxy=10.0.0.0/8", "curl, Go and Python requests match it with addresses in URLs", Weight.CHANGED),
        ("no_proxy=10.0.0.0/8:443", "Go, Python urllib, Python requests, .NET", Weight.CHANGED),
        ("no_proxy=x.example:22", "read with the port, but by curl", Weight.CHANGED),
        ("no_proxy=wiki", "a name without a dot", Weight.CHANGED),
        ("no_proxy=localhost,::1,.svc", "`localhost` and 2 more: always direct here", Weight.NOTE),
        ("no_proxy=x.example:99999", "`x.example:99999` is left out", Weight.LOST),
        ("no_proxy=10.*", "`10.*` is left out", Weight.LOST),
        ("no_proxy=a.example|b.example", "is left out: `;` and `|`", Weight.LOST),
        ("no_proxy=<local>", "`<local>` is left out", Weight.LOST),
        ("no_proxy=0.0.0.0/0", "sends everything past the proxy", Weight.LOST),
        ("HTTP_PROXY=http://192.0.2.1:1", "http_proxy differ", Weight.CHANGED),
        ("ALL_PROXY=http://192.0.2.1:1", "ALL_PROXY is left out", Weight.NOTE),
        ("ftp_proxy=http://192.0.2.1:1", "ftp_proxy is left out", Weight.LOST),
        ("JAVA_TOOL_OPTIONS=-Dhttp.proxyHost=x", "proxy settings of Java", Weight.LOST),
    ],
)
def test_what_changes_in_meaning_is_told(line: str, fragment: str, weight: Weight) -> None:
    imported = import_text(f"http_proxy={PROXY}\nhttps_proxy={PROXY}\n{line}\n", WISH)

    assert told(imported, fragment) is weight
    read_policy(imported)


def test_an_entry_that_can_not_be_kept_sends_its_hosts_to_the_proxy() -> None:
    policy = read_policy(import_text(f"http_proxy={PROXY}\nhttps_proxy={PROXY}\nno_proxy=*,x.example:0,10.*\n", WISH))

    assert decide(policy, "https", "x.example", 443, "10.1.1.1") == PROXY


def test_a_configuration_that_means_the_same_here_says_so() -> None:
    assert import_text(f"http_proxy={PROXY}\nhttps_proxy={PROXY}\n", WISH).is_same
    assert not import_text(f"http_proxy={PROXY}\nhttps_proxy={PROXY}\nno_proxy=x.example\n", WISH).is_same


def test_the_variables_of_a_deployment_become_a_policy_for_its_pods() -> None:
    imported = import_workload(DEPLOYMENT, WISH)
    policy = read_policy(imported)

    assert is_workload(DEPLOYMENT)
    assert (policy.namespace, [(item.key, item.values) for item in policy.selector.labels]) == (
        "payments",
        [("app", ("shop",))],
    )
    assert decide(policy, "https", "a.corp.example", 443) == DIRECT
    assert decide(policy, "https", "example.com", 443) == PROXY


def test_a_variable_whose_value_is_elsewhere_makes_nothing_direct() -> None:
    pod = {
        "kind": "Pod",
        "metadata": {"name": "p", "labels": {"app": "a", "pod-template-hash": "1"}},
        "spec": {
            "containers": [
                {
                    "name": "a",
                    "env": [
                        {"name": "https_proxy", "value": PROXY},
                        {"name": "http_proxy", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                        {"name": "no_proxy", "valueFrom": {"configMapKeyRef": {"name": "s", "key": "k"}}},
                    ],
                    "envFrom": [{"configMapRef": {"name": "m"}}],
                }
            ]
        },
    }

    imported = import_workload(pod, WISH)
    policy = read_policy(imported)

    assert decide(policy, "http", "example.com", 80) == DENY
    assert decide(policy, "https", "example.com", 443) == PROXY
    assert [item.key for item in policy.selector.labels] == ["app"]
    assert told(imported, "what it decides is refused") is Weight.LOST
    assert told(imported, "envFrom") is Weight.LOST


def test_a_container_with_other_settings_is_told_and_can_be_chosen() -> None:
    env = [{"name": "HTTPS_PROXY", "value": "http://192.0.2.9:9"}, {"name": "http_proxy", "value": PROXY}]
    spec = {"containers": [DEPLOYMENT["spec"]["template"]["spec"]["containers"][0], {"name": "side", "env": env}]}  # type: ignore[index]  # a literal above
    pod = {"kind": "Pod", "metadata": {"name": "p"}, "spec": spec}

    first, second = import_workload(pod, WISH), import_workload(pod, WISH, "side")

    assert told(first, "the container `side` has other proxy settings than `shop`") is Weight.LOST
    assert told(first, "the pods have no labels") is Weight.CHANGED
    assert decide(read_policy(first), "https", "example.com", 443) == PROXY
    assert decide(read_policy(second), "https", "example.com", 443) == "http://192.0.2.9:9"
    with pytest.raises(SourceError, match="has no container `none`; it has: `shop`, `side`"):
        import_workload(pod, WISH, "none")


@pytest.mark.parametrize("wish", [WISH, IN_CLUSTER], ids=["files", "cluster"])
@pytest.mark.parametrize(
    "url",
    [
        f"http://user:{CANARY}@proxy.corp.example:3128",
        f"http://{CANARY}@proxy.corp.example",
        f"user:{CANARY}@proxy.corp.example:3128/path",
        f"http://user:{CANARY}@pw@proxy.corp.example:3128",
        f"http://user:{CANARY}/x@proxy.corp.example:3128",
        f"http://user:{CANARY}%40proxy.corp.example:3128",
        f"socks5://user:{CANARY}@proxy.corp.example:1080",
        f"http://user:{CANARY}@",
        f"http://user:{CANARY}@proxy.corp.example:port",
    ],
)
def test_a_login_in_a_url_is_referred_to_and_never_shown(url: str, wish: Wish) -> None:
    def show(imported: Imported) -> str:
        return f"{json.dumps(imported.policy)} {imported!r} {[str(change) for change in imported.changes]}"

    other = {"apiVersion": "config.openshift.io/v1", "kind": "Proxy"}
    shown = [
        show(import_aks({"httpProxy": url, "httpsProxy": PROXY}, wish)),
        show(import_openshift({**other, "spec": {"httpProxy": PROXY, "httpsProxy": url}}, wish)),
        show(import_text(f"http_proxy={url}\nHTTPS_PROXY={PROXY}\nALL_PROXY={url}\nno_proxy={url}", wish)),
    ]

    assert [text for text in shown if CANARY in text] == []


def test_a_login_becomes_a_reference_to_a_file_or_a_secret() -> None:
    document = {"httpProxy": PROXY, "httpsProxy": f"http://user:{CANARY}@proxy.corp.example:3128"}

    in_files, in_cluster = import_aks(document, WISH), import_aks(document, IN_CLUSTER)

    logins = [
        [proxy.login.file for proxy in policy.proxies if proxy.login is not None]
        for policy in (read_policy(in_files), read_policy(in_cluster, secrets="egress-system"))
    ]
    assert logins[0] == ["/etc/egress-xds/proxy-login-https-proxy"]
    assert "corp-https-proxy-login" in logins[1][0]
    assert "kubectl create secret generic corp-https-proxy-login" in "".join(item.hint for item in in_cluster.changes)


def test_two_logins_at_one_address_are_two_proxies() -> None:
    document = {"httpProxy": "http://a:1@192.0.2.1:3128", "httpsProxy": "http://b:2@192.0.2.1:3128"}

    assert len(read_policy(import_aks(document, WISH)).proxies) == 2


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "input names no HTTP proxy"),
        ([], "names no HTTP proxy"),
        ({"httpProxy": "socks5://192.0.2.1:1"}, "this is a socks5 proxy, which no policy can name"),
        ({"httpProxy": 7}, "httpProxy: this is not text"),
    ],
)
def test_input_without_a_proxy_is_refused_with_what_is_wrong(document: object, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        import_aks(document, WISH)


def test_another_object_is_no_openshift_proxy() -> None:
    with pytest.raises(SourceError, match="oc get proxy cluster -o yaml"):
        import_openshift({"kind": "Proxy", "apiVersion": "example.com/v1"}, WISH)


def test_another_object_has_no_containers() -> None:
    with pytest.raises(SourceError, match="has no containers"):
        import_workload({"kind": "ConfigMap"}, WISH)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-1, 70000) | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)
URLS = (
    st.sampled_from([PROXY, "proxy:1", "https://[::1]:443", "http://a:b@x:1/", "x://y", "", "@", "http://[:1"]) | JSON
)
LISTS = JSON | st.lists(st.sampled_from(["x.example", "*", "::/0", "10.0.0.0/8", "a|b", "[::1]:22", "\ud800"]) | JSON)


@given(
    document=st.fixed_dictionaries(
        {},
        optional={
            "httpProxy": URLS,
            "httpsProxy": URLS,
            "noProxy": LISTS,
            "trustedCa": JSON,
            "enabled": JSON,
            "z": JSON,
        },
    )
    | JSON,
    dialect=st.sampled_from(["go", "curl", "python", "dotnet", "node"]),
)
def test_any_json_becomes_a_good_policy_or_a_clear_error(document: object, dialect: str) -> None:
    wish = Wish(source="input", name="corp", dialect=dialect)
    in_openshift = {"kind": "Proxy", "apiVersion": "config.openshift.io/v1", "spec": document, "status": document}
    is_aks(document)
    is_openshift(document)
    is_workload(document)
    runs: list[tuple[Callable[[object, Wish], Imported], object]] = [
        (import_aks, document),
        (import_openshift, in_openshift),
        (import_workload, {"kind": "Pod", "spec": document, "metadata": document}),
        (import_workload, {"kind": "Pod", "spec": {"containers": [document, {"env": document}]}}),
    ]
    for run, given_document in runs:
        with suppress(SourceError):
            read_policy(run(given_document, wish))


@given(
    text=st.text()
    | st.lists(st.sampled_from(["http_proxy=", "NO_PROXY=", PROXY, "\0", "\n", "*", ",", "a:b@"])).map("".join)
)
def test_any_text_becomes_a_good_policy_or_a_clear_error(text: str) -> None:
    is_environment(text)
    with suppress(SourceError):
        read_policy(import_text(text, WISH))
