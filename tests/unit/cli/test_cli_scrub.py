"""What looks like a credential is taken out of texts, and what is known to be one out of everything."""

from __future__ import annotations

import json
import re
from base64 import b64encode, urlsafe_b64encode
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.bundles import leaks
from xds.cli.bundle import numbered
from xds.cli.scrub import Scrubber, redact_document, redact_policy, redact_values

if TYPE_CHECKING:
    from collections.abc import Callable

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
    pytest.param("client_secret: {}", id="a client's secret"),
    pytest.param("secretKey: {}", id="a key in camel case"),
    pytest.param("passphrase: {}", id="a passphrase"),
    pytest.param("X-Secret-Key: {}", id="a header of somebody's own"),
    pytest.param("pass: {}", id="a short key"),
    pytest.param("proxyPass: {}", id="a short key in camel case"),
    pytest.param("PROXY_PASS={}", id="a variable of a short name"),
    pytest.param("auth: {}", id="a text where a map belongs"),
    pytest.param("Proxy-Authorization: Digest {}", id="a scheme of authorization"),
    pytest.param("password: a,{}", id="a password with a comma"),
    pytest.param('password: "a\\"{}"', id="a password with a quote"),
    pytest.param('password: "a\n  {}"', id="a quoted password in two lines"),
    pytest.param("password:\n  {}\n", id="a password in the next line"),
    pytest.param("password:\r\n  {}\r\n", id="a password in the next line of another system"),
    pytest.param("tokens:\n- {}\n", id="a list of tokens"),
    pytest.param("password: |{}", id="a block that is none"),
    pytest.param("curl -U svc:{} -x proxy", id="an option"),
    pytest.param("curl -u 'svc:a {}'", id="a quoted option"),
    pytest.param("curl --proxy-user svc:{}", id="a long option"),
    pytest.param('["--proxy-user", "svc:{}"]', id="an option in JSON"),
    pytest.param("http://svc%3A{}%40old", id="a login that is escaped"),
    pytest.param("http://svc:{}%40old", id="half a login that is escaped"),
    pytest.param("http://svc:hunter2 {}@old", id="a password with a blank in a URL"),
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
    "auth:\n  basic:\n    secretRef:\n      name: corp-login\n",
]


@pytest.mark.parametrize("text", PLAIN, ids=[" ".join(text.split()[:3]) for text in PLAIN])
def test_what_a_policy_says_stays(text: str) -> None:
    assert redact_document(text) == text


@pytest.mark.parametrize("encode", [b64encode, urlsafe_b64encode])
def test_a_login_as_base64_is_left_out(encode: Callable[[bytes], bytes]) -> None:
    encoded = encode(f"svc:{CANARY}".encode()).decode()

    for text in (f"it is {encoded}", f"x={encoded.rstrip('=')};"):
        assert not leaks({"a": redact_document(text).encode()}, CANARY)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("a: b  # {}\n", id="after a value"),
        pytest.param("# {}\r\na: b\n", id="before all"),
        pytest.param("a: |  # {}\n  b\n# {}\n", id="beside a block of text"),
        pytest.param("a: [b, # {}\n c]\n...\n# {}", id="in a list and after all"),
        pytest.param("a: [b # {}\n", id="in what is no YAML"),
        pytest.param('a: "\\UFFFFFFFF" # {}\n', id="in what has no meaning"),
    ],
)
def test_no_comment_of_a_policy_is_handed_on(text: str) -> None:
    found = redact_policy(text.format(CANARY, CANARY))

    assert CANARY not in found
    assert found == re.sub(rf"# {CANARY}", "#", text.format(CANARY, CANARY)), "the lines keep their numbers"


@pytest.mark.parametrize("text", ["a: 'x # y'\n", "a: x#y\n", "a: |\n  # x\n  y\n", *PLAIN])
def test_what_only_looks_like_a_comment_of_a_policy_stays(text: str) -> None:
    assert redact_policy(text) == text


@pytest.mark.parametrize("text", TEXTS)
def test_a_policy_is_handed_on_without_credentials(text: str) -> None:
    assert CANARY not in redact_policy(text.format(CANARY, CANARY))


@pytest.mark.parametrize(
    "part", ["token", "token:", "token:\n", 'token: "', "token: |\n x\n", '-U "', "://", "a%3a", "%40", "@ ", "a\\"]
)
def test_hostile_text_is_redacted_in_a_time_that_grows_with_its_length_only(part: str) -> None:
    """A cost that is quadratic would take longer than the whole suite may."""
    assert redact_document(part * (200_000 // len(part)))


def test_names_of_members_are_short_and_plain() -> None:
    names = [f"/a/{CANARY}/é①.yaml", "x" * 300, "..", "", "a\n\u202eb"]

    assert [name for _, name in numbered(names)] == [
        f"001-_a_{CANARY}___.yaml",
        f"002-{'x' * 96}",
        "003-..",
        "004-_",
        "005-a__b",
    ]


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
