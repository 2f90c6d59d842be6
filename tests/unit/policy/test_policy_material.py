"""Where secrets may be: in Secrets of the policy's own namespace inside Kubernetes, in files outside, nowhere else."""

from __future__ import annotations

import json

import pytest

from tests.unit.policy.policy_texts import codes, good, long_form, only, parse
from xds.policy.files import files_of
from xds.policy.model import BasicLogin, ClientCertificate, Proxy, ProxyTls
from xds.policy.proxies import MAX_ENDPOINTS
from xds.policy.secrets import SecretPart, describe_path, read_secret_path

HOME = "egress-system"
SECRET = "hunter2"


def proxy_text(keys: str) -> str:
    """Return a policy whose one proxy has these keys."""
    return long_form(
        f"default: {{action: tunnel}}\nproxies: {{p: {{endpoints: [{{url: 'https://p.example:1'}}], {keys}}}}}"
    )


def login(ref: str) -> str:
    return proxy_text(f"auth: {{basic: {ref}}}")


def read(keys: str, namespace: str | None = None) -> Proxy:
    (proxy,) = good(proxy_text(keys), namespace=namespace, secrets=namespace or HOME).proxies
    return proxy


def test_a_login_is_in_a_secret() -> None:
    assert read("auth: {basic: {secretRef: {name: corp-login}}}").login == BasicLogin(
        file="secret:egress-system/corp-login/login"
    )


def test_authorities_and_a_certificate_are_in_secrets() -> None:
    tls = read("tls: {ca: {secretRef: {name: corp-ca}}, clientCertificate: {secretRef: {name: own.cert}}}").tls

    assert tls == ProxyTls(
        ca_file="secret:egress-system/corp-ca/ca.crt",
        client_certificate=ClientCertificate(
            certificate_file="secret:egress-system/own.cert/tls.crt", key_file="secret:egress-system/own.cert/tls.key"
        ),
    )


def test_authorities_may_be_under_another_key() -> None:
    tls = read("tls: {ca: {secretRef: {name: corp-ca, key: Bundle_1.pem}}}").tls

    assert tls.ca_file == "secret:egress-system/corp-ca/Bundle_1.pem"


def test_a_secret_is_looked_for_in_the_namespace_that_the_policy_stands_in() -> None:
    assert read("auth: {basic: {secretRef: {name: a}}}", "team-a").login == BasicLogin(file="secret:team-a/a/login")


def test_a_cluster_wide_policy_for_one_namespace_names_secrets_of_its_own() -> None:
    text = login("{secretRef: {name: a}}").replace("{name: default}", "{name: default, namespace: team-a}")

    assert files_of(good(text, secrets=HOME)) == {"secret:egress-system/a/login"}


ESCAPES = [
    "team-b/login",
    "../team-b/login",
    "..",
    ".",
    "",
    "/",
    "login/",
    "/etc/shadow",
    "secret:team-b/login/login",
    "Login",
    "log in",
    "login\n",
    "login\x00",
    "lógin",
    "login%2f..",
    "-login",
    "a..b",
    "a" * 254,
    f"user:{SECRET}",
]


@pytest.mark.parametrize("name", ESCAPES)
@pytest.mark.parametrize(
    "keys",
    [
        "auth: {{basic: {{secretRef: {{name: {}}}}}}}",
        "tls: {{ca: {{secretRef: {{name: {}}}}}}}",
        "tls: {{clientCertificate: {{secretRef: {{name: {}}}}}}}",
    ],
)
def test_no_name_reaches_beyond_the_namespace(name: str, keys: str) -> None:
    result = parse(proxy_text(keys.format(json.dumps(name))), namespace="team-a", secrets="team-a")

    assert not result.is_good
    assert set(codes(result)) <= {"EX319", "EX101"}
    assert SECRET not in str(result.diagnostics)


@pytest.mark.parametrize(
    "key", ["", "..", ".", "../x", "a/b", "/etc/shadow", "a b", "login", "ca.crt\n", "x" * 254, SECRET + "!"]
)
def test_no_key_reaches_beyond_the_secret(key: str) -> None:
    result = parse(proxy_text(f"tls: {{ca: {{secretRef: {{name: a, key: {json.dumps(key)}}}}}}}"), secrets=HOME)

    assert codes(result) == ["EX319"]
    assert SECRET not in str(result.diagnostics)


@pytest.mark.parametrize(
    "keys",
    [
        "auth: {basic: {secretRef: {name: a, namespace: team-b}}}",
        "auth: {basic: {secretRef: {name: a, key: b}}}",
        "tls: {ca: {secretRef: {name: a, namespace: team-b}}}",
        "tls: {clientCertificate: {secretRef: {name: a, namespace: team-b}}}",
        "tls: {clientCertificate: {secretRef: {name: a, key: b}}}",
    ],
)
def test_a_reference_has_no_namespace_and_no_needless_key(keys: str) -> None:
    assert codes(parse(proxy_text(keys), namespace="team-a", secrets="team-a")) == ["EX106"]


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ("auth: {basic: {file: /etc/shadow}}", "auth.basic.file"),
        ("tls: {ca: {file: /ca.pem}}", "tls.ca.file"),
        ("tls: {clientCertificate: {certificateFile: /a, keyFile: /b}}", "tls.clientCertificate.certificateFile"),
    ],
)
def test_in_kubernetes_no_file_is_named(keys: str, place: str) -> None:
    """Its author is not who runs the control plane, whose files these would be."""
    result = parse(proxy_text(keys), secrets=HOME)

    assert set(codes(result)) == {"EX318"}
    assert result.diagnostics[0].where.key == f"spec.proxies.p.{place}"
    assert "secretRef" in result.diagnostics[0].hint


@pytest.mark.parametrize(
    ("keys", "place"),
    [
        ("auth: {basic: {secretRef: {name: a}}}", "auth.basic.secretRef"),
        ("tls: {ca: {secretRef: {name: a}}}", "tls.ca.secretRef"),
        ("tls: {clientCertificate: {secretRef: {name: a}}}", "tls.clientCertificate.secretRef"),
    ],
)
def test_outside_kubernetes_no_secret_is_named(keys: str, place: str) -> None:
    found = only(parse(proxy_text(keys)))

    assert (found.code, found.where.key) == ("EX318", f"spec.proxies.p.{place}")
    assert "`file`" in found.hint


@pytest.mark.parametrize("secrets", [None, HOME])
@pytest.mark.parametrize("ref", ["{}", "{file: /x, secretRef: {name: a}}"])
def test_a_login_is_in_exactly_one_place(ref: str, secrets: str | None) -> None:
    found = only(parse(login(ref), secrets=secrets))

    assert (found.code, found.where.key) == ("EX317", "spec.proxies.p.auth.basic")
    assert ("secretRef" in found.hint) is (secrets is not None)


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        pytest.param("auth: {basic: {file: 5}}", "EX107", id="a number as a file"),
        pytest.param("auth: {basic: {secretRef: {}}}", "EX108", id="a Secret without a name"),
        pytest.param("auth: {basic: {secretRef: a}}", "EX107", id="a text as a reference"),
        pytest.param("tls: {ca: {file: 5}}", "EX107", id="a number as a file of authorities"),
        pytest.param("tls: {clientCertificate: {keyFile: 5}}", "EX107", id="a number as a file of a key"),
    ],
)
def test_what_is_wrong_in_structure_is_said_once(keys: str, code: str) -> None:
    assert codes(parse(proxy_text(keys))) == [code]


def test_a_login_of_a_secret_in_clear_text_is_a_warning_too() -> None:
    text = login("{secretRef: {name: a}}").replace("https://", "http://")

    assert codes(parse(text, secrets=HOME)) == ["EX314"]


def test_a_policy_names_no_more_endpoints_than_are_bearable_for_others() -> None:
    """Each is looked up, and each proxy may want Secrets to be watched."""
    proxies = ", ".join(f"p{n}: {{endpoints: [{{url: 'http://p{n}.example:1'}}]}}" for n in range(MAX_ENDPOINTS + 1))
    result = parse(long_form(f"default: {{action: deny}}\nproxies: {{{proxies}}}"))

    assert [item for item in codes(result) if item != "EX308"] == ["EX103"]


@pytest.mark.parametrize(
    ("path", "part", "words"),
    [
        ("/run/login", None, "'/run/login'"),
        ("secret:a/b/login", SecretPart("a", "b", "login"), "the Secret a/b"),
        ("secret:a/b.c/tls.crt", SecretPart("a", "b.c", "tls.crt"), "the Secret a/b.c under 'tls.crt'"),
    ],
)
def test_a_path_says_what_it_stands_for(path: str, part: SecretPart | None, words: str) -> None:
    assert read_secret_path(path) == part
    assert part is None or part.path == path
    assert describe_path(path) == words
