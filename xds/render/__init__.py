"""
Resources for people: plain dicts that JSON and YAML can hold, without credentials.

What is rendered here has fields with their proto names, as in Envoy's own `config_dump`; enums are names, durations
`5s`, bytes base64, and a nested `Any` is unpacked with its `@type`. What somebody else rendered in that form is
redacted by the same rules. Invariant: nothing that may be a credential leaves this package, whoever wrote the resource;
it is replaced by `REDACTED`.

What knows Envoy's messages is imported when the first resource is rendered: `envoy-data-plane` takes long to import,
and to redact is possible without it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xds.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.names import TypeUrl

REDACTED = "[redacted]"
"""What stands where a credential was, in the words of Envoy's `config_dump`."""

_SEALED = ".Secret"
"""Ends the type URL of a secret in every version of the API."""
_PUBLIC_PARTS_OF_SECRET = frozenset({"@type", "name"})
_REFERENCES = frozenset({"@type", "name", "filename", "environment_variable", "watched_directory", "sds_config"})
"""Fields inside a private one that say where the credential is, not what it is."""
_PRIVATE_FIELDS = frozenset({
    "private_key", "private_key_provider", "password", "session_ticket_keys", "credential", "secret", "token_secret",
    "hmac_secret", "generic_secret", "pkcs12", "initial_metadata", "auth_password", "auth_passwords",
    "downstream_auth_password", "downstream_auth_passwords", "users", "credentials", "access_token", "refresh_token",
    "session_token", "secret_access_key", "json_key", "google_refresh_token", "secret_data", "client_secret",
})  # fmt: skip
"""What Envoy's API calls sensitive (`udpa.annotations.sensitive`), and what is so in its older filters."""
_PRIVATE_HEADER = re.compile(r"authori[sz]ation|cookie|token|secret|password|api-?key|credential", re.IGNORECASE)
_HEADER_FIELDS = frozenset({"value", "raw_value"})
_PRIVATE_KEY = re.compile(
    r"(?:.*[-_.])?(?:authori[sz]ation|passw(?:or)?d|passphrase|token|secret|api[-_]?key|cookie)", re.IGNORECASE
)
"""Keys of free-form content (`Struct`, maps) whose text is a credential."""
_LOGIN_IN_URL = re.compile(r"(://)[^\s/?#@]+@")
_VALUE_OF_HEADER = re.compile(r"\b(Basic|Bearer|Negotiate)( +)(?=[^\s%]*[A-Z0-9=+/])[^\s%,;]{4,}")
_KEY_BLOCK = "PRIVATE KEY-----"


def render_resource(resource: Resource | tuple[TypeUrl, bytes]) -> dict[str, object]:
    """
    Return a resource, or the body of one with its type URL, as a dict of plain values without credentials.

    Bytes that are no message of their type give `{"@type": …, "value": "[7 bytes that are not known here]"}`.
    """
    from xds.render import messages  # noqa: PLC0415  # see above

    type_url, body = messages.unwrap(resource) if isinstance(resource, Resource) else resource
    try:
        return redact_content(messages.render_any(type_url, body))
    except RecursionError:  # a message in a message, and so on; no Envoy takes that either
        return messages.render_unknown(type_url, body)


def redact_content(content: Mapping[str, object]) -> dict[str, object]:
    """
    Return a rendered message without credentials. Its fields have their proto names.

    It is applied to what was rendered here, and may be to what somebody else rendered, such as an Envoy.
    """
    if str(content.get("@type", "")).endswith(_SEALED):
        return {key: value if key in _PUBLIC_PARTS_OF_SECRET else REDACTED for key, value in content.items()}
    hides_value = isinstance(key := content.get("key"), str) and bool(_PRIVATE_HEADER.search(key))
    return {
        name: REDACTED if hides_value and name in _HEADER_FIELDS else _redact_field(name, value)
        for name, value in content.items()
    }


def redact_text(text: str) -> str:
    """Return a text of somebody else without the logins of its URLs, without what follows `Basic`, and without keys."""
    if _KEY_BLOCK in text:
        return REDACTED
    if "://" in text:
        text = _LOGIN_IN_URL.sub(rf"\1{REDACTED}@", text)
    return _VALUE_OF_HEADER.sub(rf"\1\2{REDACTED}", text)


def _redact_field(name: str, value: object) -> object:
    if name in _PRIVATE_FIELDS:
        return _hide(value)
    if isinstance(value, str) and value and _PRIVATE_KEY.fullmatch(name):
        return REDACTED
    return _redact_value(value)


def _redact_value(value: object) -> object:
    match value:
        case str():
            return redact_text(value)
        case dict():
            return redact_content(value)
        case list():
            return [_redact_value(item) for item in value]
        case _:
            return value


def _hide(value: object) -> object:
    match value:
        case dict():
            return {key: item if key in _REFERENCES else _hide(item) for key, item in value.items()}
        case list():
            return [_hide(item) for item in value]
        case _:
            return REDACTED
