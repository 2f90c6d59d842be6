"""The files of a proxy: what good ones become, and that each kind of nonsense is found before an Envoy gets it."""

from __future__ import annotations

import dataclasses
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from tests.support.certificates import DAY, Authority, render_key
from tests.support.policies import compile_good, endpoint, policy, proxy
from xds.catalogue import CATALOGUE, Severity
from xds.compile import compile_snapshot, narrow_moment
from xds.compile.proxy_files import read_material
from xds.diagnostics import Where
from xds.facts import Facts, File, FileContent, FileProblem
from xds.policy.model import BasicLogin, ClientCertificate, Policy, Proxy, ProxyTls
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.diagnostics import Diagnostic

HERE = Where("file.yaml", "spec.proxies.corp", 7)
NOW = datetime(2030, 1, 1, tzinfo=UTC)
CA = Authority(start=NOW - DAY)
OWN = CA.issue("web.example", start=NOW - DAY)
CANARY = "canary-secret"
LOGIN, AUTHORITIES, CERTIFICATE, KEY = "/login", "/ca", "/own.pem", "/own.key"
PASSPHRASE = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
GOOD = {LOGIN: "user:password\n", AUTHORITIES: CA.certificate, CERTIFICATE: OWN.certificate, KEY: OWN.key}


def demanding(**changes: object) -> Proxy:
    """Return a proxy that demands everything, with changes to its TLS."""
    tls = {"ca_file": AUTHORITIES, "client_certificate": ClientCertificate(certificate_file=CERTIFICATE, key_file=KEY)}
    return dataclasses.replace(
        proxy("corp", endpoint("proxy.example", tls=True)),
        login=BasicLogin(file=LOGIN),
        tls=ProxyTls(**{**tls, **changes}),  # type: ignore[arg-type]  # the fields have various types
        where=HERE,
    )


def facts(files: Mapping[str, str | File], now: datetime = NOW) -> Facts:
    known = {path: FileContent(file) if isinstance(file, str) else file for path, file in files.items()}
    return Facts(files=known, now=now.timestamp())


def findings(changed: Mapping[str, str | File] | None = None, *, now: datetime = NOW) -> list[Diagnostic]:
    """Read the demanding proxy with good files but for those in `changed`, named as in the table below."""
    paths = {"login": LOGIN, "authorities": AUTHORITIES, "certificate": CERTIFICATE, "key": KEY}
    files = {**GOOD, **{paths[name]: file for name, file in (changed or {}).items()}}
    return list(read_material(demanding(), facts(files, now))[1])


def test_good_files_are_complete_and_say_nothing() -> None:
    material, found = read_material(demanding(), facts(GOOD))

    assert found == ()
    assert material.login == "Basic " + b64encode(b"user:password").decode()
    assert (material.authorities, material.certificates, material.key) == (CA.certificate, OWN.certificate, OWN.key)


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        pytest.param("user:pass", "user:pass", id="as it is"),
        pytest.param("user:pass\n", "user:pass", id="a line break at the end"),
        pytest.param("user:pass\r\n", "user:pass", id="a line break of Windows"),
        pytest.param("user:a:b", "user:a:b", id="a colon in the password"),
        pytest.param("user: a b ", "user: a b ", id="spaces in the password"),
        pytest.param("user:", "user:", id="no password"),
        pytest.param("üser:pässword", "üser:pässword", id="UTF-8 (RFC 7617, section 2.1)"),
    ],
)
def test_a_login_is_taken_as_it_is(text: str, plain: str) -> None:
    material, found = read_material(demanding(), facts({**GOOD, LOGIN: text}))

    assert found == ()
    assert material.login == "Basic " + b64encode(plain.encode()).decode()


def _pem(key: object) -> str:
    return render_key(key)  # type: ignore[arg-type]  # every kind of private key


@pytest.mark.parametrize(
    ("changed", "code"),
    [
        pytest.param(
            {"login": FileProblem("it does not exist", "put it there")}, "EX320", id="a login that is missing"
        ),
        pytest.param({"key": FileProblem("it can't be read", "chmod")}, "EX320", id="a key that can't be read"),
        pytest.param({"login": ""}, "EX321", id="an empty login"),
        pytest.param({"login": "\n"}, "EX321", id="a login of white space"),
        pytest.param({"authorities": " "}, "EX321", id="an empty authority"),
        pytest.param({"login": CANARY}, "EX322", id="a login without a colon"),
        pytest.param({"login": f":{CANARY}"}, "EX322", id="a login without a user"),
        pytest.param({"login": f"user:{CANARY}\n\n"}, "EX322", id="a login of two lines"),
        pytest.param({"login": f"user:{CANARY}\r\nX-Other: y"}, "EX322", id="a login with a header in it"),
        pytest.param({"login": f"user:{CANARY}\x00"}, "EX322", id="a login with a null in it"),
        pytest.param({"login": f"user:{CANARY}\x85"}, "EX322", id="a login with an odd line break in it"),
        pytest.param({"authorities": CANARY}, "EX323", id="an authority that is no PEM"),
        pytest.param({"certificate": CANARY}, "EX323", id="a certificate that is no PEM"),
        pytest.param({"certificate": OWN.key}, "EX323", id="a key in the place of a certificate"),
        pytest.param({"authorities": OWN.certificate}, "EX328", id="an authority that is none"),
        pytest.param({"key": CANARY}, "EX326", id="a key that is no PEM"),
        pytest.param({"key": PASSPHRASE}, "EX326", id="a key under a passphrase"),
        pytest.param({"key": _pem(ed25519.Ed25519PrivateKey.generate())}, "EX326", id="a key that Envoy does not know"),
        pytest.param({"key": _pem(ec.generate_private_key(ec.SECP256K1()))}, "EX326", id="a curve it does not know"),
        pytest.param({"key": _pem(rsa.generate_private_key(65537, 1024))}, "EX326", id="too short a key"),  # noqa: S505  # on purpose
        pytest.param({"key": _pem(ec.generate_private_key(ec.SECP256R1()))}, "EX327", id="somebody else's key"),
        pytest.param({"certificate": CA.certificate + OWN.certificate}, "EX327", id="a chain that begins with its end"),
    ],
)
def test_nonsense_is_an_error_with_place_and_remedy(changed: dict[str, str | File], code: str) -> None:
    (found,) = findings(changed)

    assert (found.code, found.is_error) == (code, True)
    assert found.where.key.startswith("spec.proxies.corp.")
    assert (found.where.source, found.where.line) == (HERE.source, HERE.line)
    assert found.hint
    assert CANARY not in str(found)


def test_a_file_that_nobody_read_is_an_error() -> None:
    found = read_material(demanding(), Facts())[1]

    assert [item.code for item in found] == ["EX320"] * 4


def test_where_no_files_are_read_nothing_is_said_of_them() -> None:
    compilation = compile_snapshot(policy(proxies=(demanding(),)), Facts(reads_files=False))

    assert compilation.diagnostics == ()
    assert compilation.snapshot is not None


@pytest.mark.parametrize(
    ("after", "code"),
    [
        pytest.param(timedelta(0), None, id="long before"),
        pytest.param(89 * DAY - 15 * DAY, None, id="fifteen days before"),
        pytest.param(89 * DAY - 13 * DAY, "EX325", id="thirteen days before"),
        pytest.param(89 * DAY, "EX324", id="at its end"),
        pytest.param(200 * DAY, "EX324", id="long after"),
    ],
)
def test_the_end_of_our_certificate_is_a_warning_before_and_an_error_after(after: timedelta, code: str | None) -> None:
    found = findings(now=NOW + after)

    assert [item.code for item in found] == ([] if code is None else [code])
    assert all("2030-03-31" in item.message for item in found)


def test_a_certificate_that_lives_briefly_is_not_warned_of_all_its_life() -> None:
    brief = CA.issue("web.example", start=NOW, lifetime=DAY)
    files = {"certificate": brief.certificate, "key": brief.key}

    assert findings(files, now=NOW + DAY / 2) == []
    assert [item.code for item in findings(files, now=NOW + 0.7 * DAY)] == ["EX325"]


def test_an_authority_in_the_policy_ends_like_one_in_a_file() -> None:
    written = demanding(ca_file=None, ca_pem=Authority(start=NOW - 2 * DAY, lifetime=DAY).certificate)
    (found,) = read_material(written, facts(GOOD))[1]

    assert (found.code, found.where) == ("EX324", HERE)


def test_of_several_authorities_one_that_lasts_is_enough() -> None:
    ended = Authority(start=NOW - 2 * DAY, lifetime=DAY).certificate
    (found,) = findings({"authorities": ended + CA.certificate})

    assert (found.code, found.is_error) == ("EX329", False)
    assert "1 of 2" in found.message


def test_what_signs_nothing_in_a_bundle_is_left_out() -> None:
    material, found = read_material(demanding(), facts({**GOOD, AUTHORITIES: OWN.certificate + CA.certificate}))

    assert found == ()
    assert material.authorities == CA.certificate


def test_words_around_certificates_change_nothing() -> None:
    around = {**GOOD, AUTHORITIES: f"# Corp CA\n{CA.certificate}\nend", CERTIFICATE: f"subject=web\n{OWN.certificate}"}

    assert compile_good(given(), facts(around)) == compile_good(given(), facts(GOOD))


def test_a_certificate_and_its_key_may_stand_in_one_file() -> None:
    both = f"{OWN.certificate}{OWN.key}"
    material, found = read_material(demanding(), facts({**GOOD, CERTIFICATE: both, KEY: both}))

    assert found == ()
    assert (material.certificates, material.key) == (OWN.certificate, OWN.key)


def given() -> Policy:
    return policy(proxies=(demanding(),))


def test_time_passes_for_a_policy_only_when_a_certificate_changes_its_state() -> None:
    """The moment that it is given is the last at which something happened, and leads to the same findings."""
    moments = [NOW + step * DAY / 4 for step in range(4 * 400)]
    settled = [narrow_moment(given(), facts(GOOD, now)) for now in moments]

    assert len(set(settled)) == 5
    for now, moment in zip(moments, settled, strict=True):
        narrowed = dataclasses.replace(facts(GOOD), now=moment)
        assert read_material(demanding(), narrowed) == read_material(demanding(), facts(GOOD, now))


IN_SECRETS = dataclasses.replace(
    demanding(
        ca_file="secret:team-a/corp-ca/ca.crt",
        client_certificate=ClientCertificate(
            certificate_file="secret:team-a/own/tls.crt", key_file="secret:team-a/own/tls.key"
        ),
    ),
    login=BasicLogin(file="secret:team-a/corp-login/login"),
)
SECRETS = {
    "secret:team-a/corp-login/login": "user:password",
    "secret:team-a/corp-ca/ca.crt": CA.certificate,
    "secret:team-a/own/tls.crt": OWN.certificate,
    "secret:team-a/own/tls.key": OWN.key,
}


def test_what_is_in_secrets_is_what_it_would_be_in_files() -> None:
    assert read_material(IN_SECRETS, facts(SECRETS)) == read_material(
        demanding(), facts({**GOOD, LOGIN: "user:password"})
    )
    times = [NOW + step * DAY for step in range(0, 100, 10)]
    for now in times:
        of_files = narrow_moment(given(), facts(GOOD, now))
        assert narrow_moment(policy(proxies=(IN_SECRETS,)), facts(SECRETS, now)) == of_files


@pytest.mark.parametrize(
    ("path", "content", "code", "place", "words"),
    [
        pytest.param(
            "corp-login/login", FileProblem("it does not exist", "create it"), "EX320", "auth.basic.secretRef",
            "the Secret team-a/corp-login: it does not exist", id="no Secret with a login",
        ),
        pytest.param(
            "corp-login/login", CANARY, "EX322", "auth.basic.secretRef",
            "the login in the Secret team-a/corp-login has no colon between user and password", id="no login",
        ),
        pytest.param(
            "corp-ca/ca.crt", " ", "EX321", "tls.ca.secretRef",
            "the Secret team-a/corp-ca under 'ca.crt' is empty", id="an empty authority",
        ),
        pytest.param(
            "corp-ca/ca.crt", CANARY, "EX323", "tls.ca.secretRef",
            "the authority in the Secret team-a/corp-ca under 'ca.crt' is no PEM certificate", id="no authority",
        ),
        pytest.param(
            "own/tls.crt", CANARY, "EX323", "tls.clientCertificate.secretRef",
            "the certificate in the Secret team-a/own under 'tls.crt' is no PEM certificate", id="no certificate",
        ),
        pytest.param(
            "own/tls.key", CANARY, "EX326", "tls.clientCertificate.secretRef",
            "the Secret team-a/own under 'tls.key': no private key that can be read", id="no key",
        ),
    ],
)  # fmt: skip
def test_nonsense_in_a_secret_is_told_in_words_that_people_know(
    path: str, content: str | File, code: str, place: str, words: str
) -> None:
    (found,) = read_material(IN_SECRETS, facts({**SECRETS, f"secret:team-a/{path}": content}))[1]

    assert (found.code, found.where.key) == (code, f"spec.proxies.corp.{place}")
    assert words in found.message
    assert "secret:" not in str(found)
    assert CANARY not in str(found)


def test_a_secret_that_is_missing_is_told_once_though_two_parts_of_it_are_wanted() -> None:
    missing = FileProblem("it does not exist", "create it")
    files: dict[str, str | File] = {
        **SECRETS,
        "secret:team-a/own/tls.crt": missing,
        "secret:team-a/own/tls.key": missing,
    }
    (found,) = read_material(IN_SECRETS, facts(files))[1]

    assert "the Secret team-a/own: it does not exist" in found.message


def test_envoy_does_not_learn_what_a_secret_is_called() -> None:
    compiled = compile_good(policy(proxies=(IN_SECRETS,)), facts(SECRETS))

    resources = [resource for kind in ResourceType for resource in compiled.of(kind).values()]
    shown = b" ".join(resource.name.encode() + resource.body for resource in resources)
    for word in (b"team-a", b"corp-login", b"corp-ca", b"secret:"):
        assert word not in shown
    elsewhere = {path.replace("team-a", "team-b"): content for path, content in SECRETS.items()}
    moved = dataclasses.replace(IN_SECRETS, login=BasicLogin(file="secret:team-b/corp-login/login"))
    names = [
        {name for name in snapshot.of(ResourceType.SECRET) if name.startswith("proxy-login")}
        for snapshot in (compiled, compile_good(policy(proxies=(moved,)), facts({**SECRETS, **elsewhere})))
    ]
    assert names[0]
    assert not names[0] & names[1]


def test_time_does_not_pass_for_a_policy_without_certificates() -> None:
    assert narrow_moment(policy(), facts(GOOD)) is None


def test_nothing_that_holds_a_secret_shows_it() -> None:
    files = facts({**GOOD, LOGIN: f"user:{CANARY}"})
    material, _ = read_material(demanding(), files)
    compilation = compile_snapshot(given(), files)
    shown = " ".join([repr(files), repr(material), repr(compilation), str(files), str(material)])

    assert b64encode(f"user:{CANARY}".encode()).decode()[:20] not in shown
    assert CANARY not in shown
    assert OWN.key.splitlines()[1] not in shown


def test_every_code_about_files_is_an_error_but_those_about_time() -> None:
    warnings = {
        code for code, entry in CATALOGUE.items() if "EX320" <= code < "EX330" and entry.severity is Severity.WARNING
    }

    assert warnings == {"EX325", "EX329"}
