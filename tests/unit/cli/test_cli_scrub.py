"""What looks like a credential is taken out of texts, and what is known to be one out of everything."""

from __future__ import annotations

import json
from base64 import b64encode, urlsafe_b64encode
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import leaks
from xds.cli.scrub import Scrubber, redact_document, redact_values

CANARY = "canary-4711-Zz"
KEY = f"-----BEGIN PRIVATE KEY-----\n{b64encode(CANARY.encode() * 9).decode()}\n-----END PRIVATE KEY-----\n"

TEXTS = [
    pytest.param("httpProxy: http://user:{}@proxy:3128", id="a login in a URL"),
    pytest.param("auth: {{basic: {{username: a, password: {}}}}}", id="a password in flow style"),
    pytest.param("      password: {}\n", id="a password in block style"),
    pytest.param("'password': '{} with, commas}}'\n", id="a quoted password"),
    pytest.param('{{"clientToken": "{}"}}', id="a token in JSON"),
    pytest.param("PROXY_PASSWORD={}", id="a variable"),
    pytest.param("api-key: {}", id="a key of an API"),
    pytest.param("secret: {}", id="a secret"),
    pytest.param("password: |\n  {}\n\n  {}\nname: x\n", id="a block of text"),
    pytest.param("  - token: >-\n      {}\n", id="a folded block in a list"),
    pytest.param("Proxy-Authorization: Basic {}", id="a header"),
    pytest.param("it said: bearer {}", id="a bearer token"),
]


@pytest.mark.parametrize("text", TEXTS)
def test_what_looks_like_a_credential_is_left_out(text: str) -> None:
    found = redact_document(text.format(CANARY, CANARY))

    assert CANARY not in found
    assert "[redacted]" in found


@pytest.mark.parametrize(
    "text",
    [KEY, f"key: |\n{KEY}", KEY.replace("-----END PRIVATE KEY-----\n", ""), f"ca: {b64encode(KEY.encode()).decode()}"],
    ids=["a key", "a key in YAML", "half a key", "a key as base64"],
)
def test_private_keys_are_left_out(text: str) -> None:
    found = redact_document(text)

    assert "BEGIN" not in found
    assert not leaks({"a": found.encode()}, CANARY)


def test_base64_of_a_key_on_several_lines_is_left_out() -> None:
    encoded = b64encode(KEY.encode()).decode()
    lines = "\n".join(encoded[start : start + 76] for start in range(0, len(encoded), 76))

    assert not leaks({"a": redact_document(lines).encode()}, CANARY)


PLAIN = [
    "auth: {basic: {secretRef: {name: corp-login}}}",
    "auth: {basic: {file: /run/secrets/login}}",
    "clientCertificate: {certificateFile: /a.pem, keyFile: /a.key}",
    "accessLog: {path: stdout}",
    "trustedCA: |\n  -----BEGIN CERTIFICATE-----\n  MIIB\n  -----END CERTIFICATE-----\n",
    "selector: {serviceAccounts: [token-reader]}",
]


@pytest.mark.parametrize("text", PLAIN, ids=[" ".join(text.split()[:3]) for text in PLAIN])
def test_what_a_policy_says_stays(text: str) -> None:
    assert redact_document(text) == text


def test_values_are_redacted_one_by_one_so_that_json_stays_json() -> None:
    assert redact_values({"a": [f"password: {CANARY}", 1, None], "b": f"x://u:{CANARY}@h"}) == {
        "a": ["password: [redacted]", 1, None],
        "b": "[redacted]@h",
    }


@given(
    password=st.text(
        st.characters(codec="utf-8", exclude_characters=":\n", categories=("L", "N", "P", "S")), min_size=6
    ),
    before=st.binary(max_size=5),
    after=st.binary(max_size=5),
)
def test_a_known_secret_leaves_in_no_form(password: str, before: bytes, after: bytes) -> None:
    scrubber = Scrubber()
    scrubber.learn_login(f"user:{password}\n")
    plain = password.encode()
    forms = {
        "plain": before + plain + after,
        "login": b"user:" + plain,
        "base64": b64encode(before + plain + after),
        "urlsafe": urlsafe_b64encode(before + plain + after),
        "json": json.dumps({"text": f"<{password}>"}).encode(),
        "url": quote(password, safe="").encode(),
    }

    scrubbed = {name: scrubber.scrub(form) for name, form in forms.items()}

    for name, content in scrubbed.items():
        assert content != forms[name]
        assert plain not in content
    assert password not in str(json.loads(scrubbed["json"]))


def test_every_line_of_a_known_key_is_left_out() -> None:
    scrubber = Scrubber()
    scrubber.learn_key(KEY)

    assert scrubber.scrub(KEY.encode()) == b"-----BEGIN PRIVATE KEY-----\n[redacted]\n-----END PRIVATE KEY-----\n"


def test_passwords_that_stand_everywhere_are_looked_for_in_their_login_only() -> None:
    scrubber = Scrubber()
    scrubber.learn_login("user:a")

    assert scrubber.scrub(b"a banana of user:a") == b"a banana of [redacted]"
