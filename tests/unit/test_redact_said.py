"""What programs say is repeated without credentials, and what is none stays."""

from __future__ import annotations

import pytest

from xds.render.said import redact_said

CANARY = "s3cr3t-canary"


@pytest.mark.parametrize(
    "text",
    [
        f"no: http://me:{CANARY}@proxy:3128 refused",
        f"Authorization: Basic {CANARY}",
        f"authorization: bearer {CANARY}",
        f"proxy-authorization: {CANARY}",
        f'{{"Authorization": "Token {CANARY}"}}',
        f"header Bearer {CANARY} is too long",
        f"password={CANARY}&x=1",
        f"db_password: '{CANARY} and more {CANARY}'",
        f'"passwd":"{CANARY}"',
        f"access_token={CANARY}",
        f"-----BEGIN PRIVATE KEY-----\n{CANARY}",
    ],
)
def test_what_looks_like_a_credential_is_left_out(text: str) -> None:
    said = redact_said(text)

    assert CANARY not in said
    assert "[redacted]" in said


@pytest.mark.parametrize(
    "text",
    [
        "basic authentication failed",
        "unknown secret: corp",
        "Proto constraint validation failed (field: token: value is required)",
        "gRPC config for type.googleapis.com/envoy.config.listener.v3.Listener rejected: no such cluster 'a'",
    ],
)
def test_what_is_no_credential_stays(text: str) -> None:
    assert redact_said(text) == text


@pytest.mark.parametrize("text", ["password", "authorization ", "a-", "basic ", "Bearer aaaa", 'token="', "x:@"])
def test_it_costs_no_more_than_the_text_is_long(text: str) -> None:
    long = text * (300_000 // len(text))

    assert redact_said(long)
