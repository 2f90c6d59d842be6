"""
Resources for people: plain dicts that JSON and YAML can hold, without credentials.

What is rendered here has fields with their proto names, as in Envoy's own `config_dump`; enums are names, durations
`5s`, bytes base64, and a nested `Any` is unpacked with its `@type`. What somebody else rendered is redacted by the same
rules, whether its fields have their proto or their JSON names. Invariant: nothing that may be a credential leaves this
package, whoever wrote the resource; it is replaced by `REDACTED`.

What knows Envoy's messages is imported when the first resource is rendered: `envoy-data-plane` takes long to import,
and to redact is possible without it.
"""

from __future__ import annotations

import re
from functools import lru_cache
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
_FREE_FORM_REFERENCES = _REFERENCES - {"name"}
"""The same in free-form content, where `name` may be a key as any other."""
_PRIVATE_FIELDS = frozenset({
    "private_key", "private_key_provider", "password", "session_ticket_keys", "credential", "secret", "token_secret",
    "hmac_secret", "generic_secret", "pkcs12", "initial_metadata", "auth_password", "auth_passwords",
    "downstream_auth_password", "downstream_auth_passwords", "users", "credentials", "access_token", "refresh_token",
    "session_token", "secret_access_key", "json_key", "google_refresh_token", "secret_data", "client_secret",
})  # fmt: skip
"""What Envoy's API calls sensitive (`udpa.annotations.sensitive`), and what is so in its older filters."""
_PRIVATE_HEADER = re.compile(
    r"auth(?!or(?!i[sz]))|cookie|token|secret|passw|passphrase|credential|(?:api|access)[-_]?key"
    r"|(?<![a-z])(?:pass|pwd|jwt)(?![a-z])",
    re.IGNORECASE,
)
"""Names of headers whose values are credentials. `:authority` is none of them."""
_HEADER_NAMES = ("key", "header_name", "header", "name")
_HEADER_FIELDS = frozenset({
    "value", "raw_value", "string_value", "string_match", "exact_match", "prefix_match", "suffix_match",
    "contains_match", "safe_regex_match",
})  # fmt: skip
"""What stands beside the name of a header, and is its value or tells it."""
_NAMES_OF_TEXT = r"(?:.*_)?(?:pass|pwd|auth|jwt|cookie)s?"
_NAMES_OF_ANYTHING = (
    r"(?:.*_)?(?:authori[sz]ation|passw(?:or)?d|passphrase|token|secret|credential"
    r"|(?:api|access|private|secret)_?key)s?"
)
_ENDS = r"(?:_(?:list|map|value|string|text|bytes))?"
_PRIVATE_KEY = re.compile(rf"(?:{_NAMES_OF_TEXT}|{_NAMES_OF_ANYTHING}){_ENDS}", re.DOTALL)
"""Keys of free-form content (`Struct`, maps) whose text is a credential, or a list of them."""
_PRIVATE_TREE = re.compile(rf"{_NAMES_OF_ANYTHING}{_ENDS}", re.DOTALL)
"""Those among them below which all text is; a `cookie` has fields that are none, such as its path."""
_CAPITAL = re.compile(r"(?<=[a-z0-9])([A-Z])")
_SEPARATORS = str.maketrans("-. ", "___")
_LOGIN_IN_URL = re.compile(r"(://)[^/\r\n]+@")
"""It may have blanks in it by mistake. No two matches begin in one stretch, so this is linear."""
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
    Return a rendered message without credentials. Names of fields stay as they are, proto or JSON.

    It is applied to what was rendered here, and may be to what somebody else rendered, such as an Envoy.
    """
    if str(content.get("@type", "")).endswith(_SEALED):
        return {key: value if key in _PUBLIC_PARTS_OF_SECRET else REDACTED for key, value in content.items()}
    fields = {name: proto_name(name) for name in content}
    hides_value = any(
        field in _HEADER_NAMES and isinstance(header := content[name], str) and _PRIVATE_HEADER.search(header)
        for name, field in fields.items()
    )
    return {
        name: _hide_text(value)
        if hides_value and fields[name] in _HEADER_FIELDS
        else _redact_field(fields[name], value)
        for name, value in content.items()
    }


@lru_cache(maxsize=4096)
def proto_name(key: str) -> str:
    """Return the proto name of a field by its JSON name, as in `clientSecret`; of other keys, their words with `_`."""
    return _CAPITAL.sub(r"_\1", key).lower().translate(_SEPARATORS)


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
    if isinstance(value, (str, list)) and _PRIVATE_KEY.fullmatch(name):
        return _hide_text(value)
    if isinstance(value, dict) and _PRIVATE_TREE.fullmatch(name):
        return _hide_text(value)
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
            return {
                key: _redact_value(item) if proto_name(key) in _REFERENCES else _hide(item)
                for key, item in value.items()
            }
        case list():
            return [_hide(item) for item in value]
        case _:
            return REDACTED


def _hide_text(value: object) -> object:
    """Hide what may be text of a credential: numbers under such names are limits and times."""
    match value:
        case dict():
            return {
                key: _redact_value(item) if proto_name(key) in _FREE_FORM_REFERENCES else _hide_text(item)
                for key, item in value.items()
            }
        case list():
            return [_hide_text(item) for item in value]
        case str() if value:
            return REDACTED
        case _:
            return value
