"""What applications are to trust: what is kept of the system's authorities, what is added, and what is refused."""

from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.hazmat.primitives.serialization.pkcs12 import load_pkcs12

from tests.support.certificates import Authority
from xds.errors import SettingsError
from xds.trust import (
    BUNDLE,
    COMPANY,
    TRUSTSTORE,
    TRUSTSTORE_PASSWORD,
    Trust,
    build_trust,
    parse_authorities,
    render_variables,
)

SYSTEM = [Authority(f"public {number}").certificate for number in range(3)]
CORP = Authority("Corp Root").certificate
OTHER = Authority("Corp Root").certificate
"""Of the same name, as after a renewal."""
ORIGIN = "EGRESS_XDS_TRUSTED_CA"


def build(system: str, company: str) -> Trust:
    return build_trust(system.encode(), parse_authorities(company, ORIGIN))


def certificates(pem: bytes) -> list[x509.Certificate]:
    return x509.load_pem_x509_certificates(pem)


def in_truststore(trust: Trust) -> dict[str, x509.Certificate]:
    loaded = load_pkcs12(trust.files[TRUSTSTORE], TRUSTSTORE_PASSWORD.encode())
    assert loaded.key is None
    return {(found.friendly_name or b"").decode(): found.certificate for found in loaded.additional_certs}


def test_the_bundle_is_the_systems_as_it_is_and_then_the_companys() -> None:
    """A comment of the system's stays, too, whatever its encoding."""
    system = "# Autorité\n" + "".join(SYSTEM)

    trust = build(system, CORP + OTHER)

    assert trust.files[BUNDLE] == (system + CORP + OTHER).encode()
    assert trust.files[COMPANY] == (CORP + OTHER).encode()
    assert (trust.kept, trust.added, trust.unread) == (3, 2, ())


def test_a_bundle_without_a_last_line_break_is_not_run_into() -> None:
    trust = build("".join(SYSTEM).rstrip(), CORP)

    assert len(certificates(trust.files[BUNDLE])) == 4


def test_the_truststore_holds_what_the_bundle_holds_each_under_a_name_of_its_own() -> None:
    trust = build("".join(SYSTEM), CORP + OTHER)

    found = in_truststore(trust)

    assert set(found) == {"system-001", "system-002", "system-003", "company-001", "company-002"}
    assert {*found.values()} == {*certificates(trust.files[BUNDLE])}


def test_an_authority_that_is_there_already_is_not_added_again() -> None:
    trust = build("".join(SYSTEM), SYSTEM[1] + CORP + CORP)

    assert trust.files[BUNDLE].decode() == "".join(SYSTEM) + CORP
    assert trust.files[COMPANY].decode() == SYSTEM[1] + CORP
    assert len(in_truststore(trust)) == 4
    assert trust.added == 1


def test_what_stands_around_the_companys_certificates_is_left_out() -> None:
    """Exports of some programs name subject and issuer before each certificate, with Windows' line breaks."""
    pem = f"Bag Attributes: x\r\nsubject=CN = Corp\r\n{CORP}\r\n".replace("\n", "\r\n").replace("\r\r", "\r")

    assert build(SYSTEM[0], pem).files[COMPANY].decode() == CORP


def test_a_certificate_of_the_system_that_nobody_can_read_stays_in_the_bundle_and_is_named() -> None:
    odd = f"-----BEGIN CERTIFICATE-----\n{base64.b64encode(b'no certificate').decode()}\n-----END CERTIFICATE-----\n"

    trust = build(SYSTEM[0] + odd, CORP)

    assert odd.encode() in trust.files[BUNDLE]
    assert trust.unread == ("block 2 of the system's bundle",)
    assert set(in_truststore(trust)) == {"system-001", "company-001"}


def test_a_system_without_authorities_is_refused() -> None:
    with pytest.raises(SettingsError, match="install ca-certificates"):
        build("", CORP)


def test_an_authority_that_has_ended_is_still_delivered() -> None:
    """Whether it is believed is the application's to say, and the others are needed all the same."""
    ended = Authority("old", start=datetime(2020, 1, 1, tzinfo=UTC), lifetime=timedelta(days=1)).certificate

    assert build(SYSTEM[0], ended + CORP).files[COMPANY].decode() == ended + CORP


SECRET = "bm90IGEgc2VjcmV0"
BROKEN = re.sub(r"(?<=-----\n).{20}", "A" * 20, CORP)


@pytest.mark.parametrize(
    ("pem", "complaint"),
    [
        pytest.param("", "holds no certificate", id="nothing"),
        pytest.param("CN=Corp Root", "holds no certificate", id="words"),
        pytest.param(base64.b64encode(CORP.encode()).decode(), "holds no certificate", id="base64 of PEM"),
        pytest.param(CORP + BROKEN, "block 2 is no certificate", id="a second block that is no certificate"),
        pytest.param(CORP + CORP[:100], "block 2 or one before it is no whole", id="a block that is cut off"),
        pytest.param(CORP[40:], "block 1 or one before it is no whole", id="an end without a beginning"),
        pytest.param(CORP.replace("\nM", "\n!", 1), "block 1 is no certificate", id="letters that are not base64"),
        pytest.param(
            CORP.replace("CERTIFICATE", "CERTIFICATE REQUEST"), "block 1 is no certificate", id="a request for one"
        ),
        pytest.param(
            f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----\n{CORP}",
            "holds a private key; remove it",
            id="a private key",
        ),
        pytest.param(f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{SECRET}", "holds a private key", id="half of a key"),
    ],
)
def test_what_is_no_series_of_certificates_is_refused_with_its_place_and_without_its_text(
    pem: str, complaint: str
) -> None:
    with pytest.raises(SettingsError, match=complaint) as caught:
        parse_authorities(pem, ORIGIN)

    message = str(caught.value)
    assert message.startswith(ORIGIN)
    assert "\n" not in message
    assert SECRET not in message


def test_certificates_are_told_apart_by_all_that_they_say() -> None:
    found = parse_authorities(CORP + OTHER + CORP, ORIGIN)

    assert [certificate.public_bytes(Encoding.PEM).decode() for certificate in found] == [CORP, OTHER]


def test_every_runtime_is_told_where_to_look() -> None:
    bundle = "/etc/egress-xds/trust/ca-bundle.crt"

    assert render_variables("/etc/egress-xds/trust/") == {
        "SSL_CERT_FILE": bundle,
        "REQUESTS_CA_BUNDLE": bundle,
        "CURL_CA_BUNDLE": bundle,
        "AWS_CA_BUNDLE": bundle,
        "NODE_EXTRA_CA_CERTS": "/etc/egress-xds/trust/ca.crt",
        "JAVA_TOOL_OPTIONS": "-Djavax.net.ssl.trustStore=/etc/egress-xds/trust/truststore.p12 "
        "-Djavax.net.ssl.trustStoreType=PKCS12 -Djavax.net.ssl.trustStorePassword=changeit",
    }


def test_what_java_is_told_already_stays() -> None:
    given = "-Xmx512m  -javaagent:/a.jar"

    said = render_variables("/t", given)["JAVA_TOOL_OPTIONS"]

    assert said.startswith(f"{given} -Djavax.net.ssl.trustStore=/t/truststore.p12 ")


@pytest.mark.parametrize("empty", ["", None])
def test_no_options_of_java_are_none(empty: str | None) -> None:
    assert render_variables("/t", empty)["JAVA_TOOL_OPTIONS"].startswith("-Djavax")


def test_a_truststore_of_the_applications_own_stays_in_force() -> None:
    """Of two options the JVM takes the last."""
    given = "-Djavax.net.ssl.trustStore=/app/own.jks -Djavax.net.ssl.trustStorePassword=x"

    assert render_variables("/t", given)["JAVA_TOOL_OPTIONS"] == given


@pytest.mark.parametrize("directory", ["", "trust", "/a b", "/a/../b", "/a'", "/a\n", "/ä", "/a$HOME"])
def test_a_directory_that_a_variable_can_not_carry_is_refused(directory: str) -> None:
    with pytest.raises(SettingsError, match="no absolute path of letters"):
        render_variables(directory)
