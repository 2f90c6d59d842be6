"""Key sets and claims: what is no public key is none, and what is no claim opens nothing."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from tests.support.tokens import AUDIENCE, Issuer, claims, key_set
from xds.policy.model import Workload
from xds.server.identity import Caller, ExpiredError, IdentityError, parse_claims, parse_spiffe_id
from xds.server.tokens import KeySetError, TokenVerifier
from xds.workloads import Pod

if TYPE_CHECKING:
    from collections.abc import Callable

ISSUER = Issuer()
SMALL = RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key(), as_dict=True)  # noqa: S505 - what is refused
PRIVATE = ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()), as_dict=True)
DEEP = '{"keys":[' + '{"a":[' * 100_000


def verifier() -> TokenVerifier:
    """Believe the issuer."""
    made = TokenVerifier([AUDIENCE])
    made.replace_keys(key_set(ISSUER))
    return made


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("[]", id="a list"),
        pytest.param('{"keys": []}', id="no keys"),
        pytest.param('{"keys": [7]}', id="a number"),
        pytest.param("[" * 200_000, id="deep nesting"),
        pytest.param(DEEP, id="deep nesting in a key"),
        pytest.param(json.dumps({"keys": [{**ISSUER.jwk, "alg": "none"}]}), id="no algorithm"),
        pytest.param(json.dumps({"keys": [{**ISSUER.jwk, "alg": "HS256"}]}), id="an HMAC"),
        pytest.param(json.dumps({"keys": [{**ISSUER.jwk, "alg": "ES512"}]}), id="another curve's algorithm"),
        pytest.param(json.dumps({"keys": [{**ISSUER.jwk, "use": "enc"}]}), id="a key for encryption"),
        pytest.param(json.dumps({"keys": [SMALL]}), id="a small key"),
        pytest.param(json.dumps({"keys": [{"kty": "oct", "k": "c2VjcmV0"}, ISSUER.jwk]}), id="a symmetric key"),
        pytest.param(json.dumps({"keys": [PRIVATE, ISSUER.jwk]}), id="a private key"),
        pytest.param(json.dumps({"keys": [{"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}]}), id="half a key"),
    ],
)
def test_what_is_no_set_of_public_keys_changes_nothing(text: str) -> None:
    believing = verifier()

    with pytest.raises(KeySetError):
        believing.replace_keys(text)

    assert believing.verify(ISSUER.sign(claims())).namespace == "shop"


def test_members_that_can_not_be_used_are_counted_and_the_others_are_in_force() -> None:
    believing = TokenVerifier([AUDIENCE])

    assert believing.replace_keys(json.dumps({"keys": [SMALL, ISSUER.jwk, {"kty": "EC", "crv": "P-256"}]})) == 2
    assert believing.verify(ISSUER.sign(claims())).pod == "web-0"


CLAIMS: dict[str, Callable[[], dict[str, Any]]] = {
    "an end that is a text": lambda: {"exp": "9999999999"},
    "an end that is no number": lambda: {"exp": float("nan")},
    "an end beyond all time": lambda: {"exp": 10**400},
    "an end that is a truth": lambda: {"exp": True},
    "no namespace": lambda: {"kubernetes.io": {"namespace": "", "serviceaccount": {"name": "web"}}},
    "a namespace that is no name": lambda: {"kubernetes.io": {"namespace": "a b", "serviceaccount": {"name": "web"}}},
    "no account": lambda: {"kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": ""}}},
    **{
        f"a pod that is {json.dumps(pod)}": lambda pod=pod: {  # type: ignore[misc]  # binds now
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": pod}
        }
        for pod in ("web-0", {"name": 7}, {"name": ""}, {}, None, {"uid": "2"}, {"name": "web-0", "uid": ""})
    },
    "claims of Kubernetes that are a text": lambda: {"kubernetes.io": "shop"},
}


@pytest.mark.parametrize("change", CLAIMS.values(), ids=CLAIMS)
def test_a_signed_claim_that_is_none_opens_nothing(change: Callable[[], dict[str, Any]]) -> None:
    token = ISSUER.sign({**claims(), **change()})

    with pytest.raises(IdentityError):
        verifier().verify(token)


@pytest.mark.parametrize("subject", ["system:serviceaccount:shop:web\n", "system:serviceaccount::web", "jane", ""])
def test_a_subject_that_is_no_service_account_is_nobody(subject: str) -> None:
    with pytest.raises(IdentityError):
        parse_claims({"sub": subject, "exp": time.time() + 60})


@pytest.mark.parametrize(
    "text",
    [
        "spiffe://corp.example/ns/shop\0",
        "spiffe://corp.example/ns//sa/web",
        "spiffe://corp.example/ns/shop/",
        "spiffe://corp.example/ns/SHOP",
        "spiffe://corp.example/ns/sh%6fp",
        "SPIFFE://corp.example/ns/shop",
    ],
)
def test_a_spiffe_id_is_taken_letter_by_letter(text: str) -> None:
    with pytest.raises(IdentityError):
        parse_spiffe_id(text)


def test_a_proof_that_has_ended_binds_nobody() -> None:
    caller, workload = Caller(namespace="shop", expires=100.0), Workload(pod="web-0", namespace="shop")

    assert caller.bind(workload, now=99.9) == workload
    with pytest.raises(ExpiredError):
        caller.bind(workload, now=100.0)


def test_the_claims_of_a_real_api_server_tell_a_pod_by_its_uid() -> None:
    recorded = json.loads(Path("tests/data/kubernetes-1.36/token-claims.json").read_text())["claims"]

    assert parse_claims(recorded) == Caller(
        namespace="payments",
        service_account="checkout",
        pod="checkout-0",
        pod_uid="2f56dddd-df78-42c8-942f-ee249e5f6bf8",
        expires=recorded["exp"],
    )


def test_a_pod_without_a_uid_is_that_of_another_issuer_than_kubernetes() -> None:
    bound = {"namespace": "shop", "serviceaccount": {"name": "web"}, "pod": {"name": "web-0"}}
    caller = parse_claims({"exp": time.time() + 60, "kubernetes.io": bound})

    assert (caller.pod, caller.pod_uid) == ("web-0", "")


KNOWN = Pod(Workload(pod="web-0", namespace="shop", service_account="web"), "uid-1")
CALLERS = {
    "all of it": (Caller(namespace="shop", service_account="web", pod="web-0", pod_uid="uid-1"), True),
    "its namespace": (Caller(namespace="shop"), True),
    "another namespace": (Caller(namespace="bank"), False),
    "another account": (Caller(namespace="shop", service_account="admin"), False),
    "another pod": (Caller(namespace="shop", pod="web-1"), False),
    "an earlier pod of the same name": (Caller(namespace="shop", pod="web-0", pod_uid="uid-0"), False),
    "what has ended": (Caller(namespace="shop", expires=100.0), False),
}


@pytest.mark.parametrize(("caller", "fits"), CALLERS.values(), ids=CALLERS)
def test_a_proof_fits_the_pod_that_is_known_in_all_that_it_tells(caller: Caller, *, fits: bool) -> None:
    if fits:
        caller.confirm(KNOWN, now=100.0)
        return
    with pytest.raises(IdentityError):
        caller.confirm(KNOWN, now=100.0)
