"""A server's certificate: what gRPC or an Envoy could not use never takes the place of a good one."""

from __future__ import annotations

import time
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tests.support.certificates import DAY, Authority, Issued
from xds.server.credentials import MaterialError, TlsIdentity, identify_peer
from xds.server.identity import IdentityError

AUTHORITY = Authority()
GOOD = AUTHORITY.issue("xds.example")
NOW = time.time()
LONG_AGO = datetime.now(UTC) - 30 * DAY


@pytest.mark.parametrize(
    ("issued", "words"),
    [
        (AUTHORITY.issue("xds.example", key=ec.generate_private_key(ec.SECP224R1())), "P-256"),
        (AUTHORITY.issue("xds.example", key=rsa.generate_private_key(65537, 1024)), "2048"),  # noqa: S505 - what is refused
        (AUTHORITY.issue("xds.example", start=LONG_AGO, lifetime=10 * DAY), "ended"),
        (Issued(GOOD.certificate, AUTHORITY.issue("xds.example").key), "belong"),
        (Issued("no certificate", GOOD.key), "PEM"),
        (Issued(GOOD.certificate, "no key"), "PEM"),
    ],
    ids=["a curve that TLS does not take", "a small key", "one that has ended", "another's key", "no PEM", "no key"],
)
def test_what_can_not_be_used_does_not_replace_what_can(issued: Issued, words: str) -> None:
    identity = TlsIdentity(GOOD.certificate, GOOD.key, now=NOW)

    with pytest.raises(MaterialError, match=words):
        identity.replace(issued.certificate, issued.key, None, now=NOW)
    assert not identity.replace(GOOD.certificate, GOOD.key, None, now=NOW), "the good one was in force all the while"


def test_an_authority_that_has_ended_believes_nobody() -> None:
    ended = Authority(start=LONG_AGO, lifetime=10 * DAY).certificate

    with pytest.raises(MaterialError, match="authority"):
        TlsIdentity(GOOD.certificate, GOOD.key, ended, now=NOW)


def test_a_peer_whose_certificate_can_not_be_read_is_nobody() -> None:
    with pytest.raises(IdentityError):
        identify_peer({"peer_spiffe_id": (b"spiffe://corp.example/ns/shop",)})


def test_a_peer_ends_with_the_first_certificate_of_its_chain() -> None:
    leaf = AUTHORITY.issue("spiffe://corp.example/ns/shop", lifetime=20 * DAY).certificate.encode()
    intermediate = Authority(lifetime=5 * DAY).certificate.encode()

    alone = identify_peer({"x509_pem_cert": (leaf,)})
    chained = identify_peer({"x509_pem_cert": (leaf,), "x509_pem_cert_chain": (leaf, intermediate)})

    assert alone.expires is not None
    assert chained.expires is not None
    assert chained.expires < alone.expires
