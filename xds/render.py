"""
Resources for people: serialised bytes become plain dicts that JSON and YAML can hold.

Fields have their proto names, as in Envoy's own `config_dump`; enums are names, durations `5s`, bytes
base64, and a nested `Any` is unpacked with its `@type`. Of what can't be unpacked the size is shown
instead of failing, because a dump must work on every resource that a server may send, and its bytes may hold
anything. The matcher messages of `xds.compile` unpack once that package is imported. Invariant: nothing that may be a
credential leaves this module, whoever wrote the resource; it is replaced by `REDACTED`.
"""

from __future__ import annotations

import dataclasses
import importlib
import re
import struct
import warnings
from base64 import b64encode
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import betterproto2
from envoy_data_plane.google.protobuf import Any as ProtoAny
from envoy_data_plane.message_pool import default_message_pool

from xds.resources import Resource

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.names import TypeUrl

REDACTED = "[redacted]"
"""What stands where a credential was, in the words of Envoy's `config_dump`."""

_TYPE_PREFIX = "type.googleapis.com/"
_PACKAGE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_MALFORMED = (
    struct.error, ValueError, LookupError, EOFError, ArithmeticError, AttributeError, TypeError, NotImplementedError,
)  # fmt: skip
"""What betterproto2 raises for bytes that are no message of the type; it has no exception of its own for them."""
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
_UNKNOWN = "[{size} bytes that are not known here]"


def render_resource(resource: Resource | tuple[TypeUrl, bytes]) -> dict[str, object]:
    """
    Return a resource, or the body of one with its type URL, as a dict of plain values without credentials.

    Bytes that are no message of their type give `{"@type": …, "value": "[7 bytes that are not known here]"}`.
    """
    type_url, body = _unwrap(resource) if isinstance(resource, Resource) else resource
    return redact_content(_render_any(type_url, body))


def _unwrap(resource: Resource) -> tuple[str, bytes]:
    """Find what is inside: what another server sends as a listener, say, may be a message of another type."""
    content = _decode(ProtoAny, resource.any_body)
    if isinstance(content, ProtoAny) and content.type_url:
        return content.type_url, content.value
    return resource.kind.type_url, resource.body


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


def _render_any(type_url: str, body: bytes) -> dict[str, object]:
    message_type = _find_type(type_url)
    message = None if message_type is None else _decode(message_type, body)
    if message is None:
        return {"@type": type_url, "value": _UNKNOWN.format(size=len(body))}
    content = _render_message(message)
    if isinstance(content, dict) and not _has_json_form(message):
        return {"@type": type_url, **content}
    return {"@type": type_url, "value": content}


def _find_type(type_url: str) -> type[betterproto2.Message] | None:
    """Find the class of a message; each package registers its messages when it is imported."""
    name = type_url.removeprefix(_TYPE_PREFIX)
    package = name.rpartition(".")[0]
    if type_url not in default_message_pool.url_to_type and _PACKAGE.fullmatch(package):
        try:
            importlib.import_module(f"envoy_data_plane.{package}")
        except ModuleNotFoundError:
            return None
    return default_message_pool.url_to_type.get(type_url)


def _decode(message_type: type[betterproto2.Message], body: bytes) -> betterproto2.Message | None:
    try:
        with warnings.catch_warnings():
            # Another server may well use fields that are deprecated; that is not for whoever looks to know.
            warnings.simplefilter("ignore", DeprecationWarning)
            return message_type.parse(body)
    except _MALFORMED:
        return None


def _render_message(message: betterproto2.Message) -> object:
    if isinstance(message, ProtoAny):
        return _render_any(message.type_url, message.value) if message.type_url else {}
    if _has_json_form(message):
        return _render_json_form(message)
    fields = {field.name.rstrip("_"): getattr(message, field.name) for field in _set_fields(message)}
    return {name: _render_value(value) for name, value in fields.items()}


def _has_json_form(message: betterproto2.Message) -> bool:
    """Whether this is one of the well-known types that JSON writes in a way of their own (protobuf, ProtoJSON)."""
    return type(message).to_dict is not betterproto2.Message.to_dict


def _render_json_form(message: betterproto2.Message) -> object:
    try:
        return message.to_dict()
    except _MALFORMED:  # e.g. a Value without a kind, which has no JSON form
        return None


def _set_fields(message: betterproto2.Message) -> Iterable[dataclasses.Field[object]]:
    """Yield the fields that hold something; one with presence (default None) may hold its type's zero."""
    for field in dataclasses.fields(message):  # type: ignore[arg-type]  # each message is a dataclass, their base is not
        value = getattr(message, field.name)
        if value is not None and (bool(value) or _has_presence(field) or isinstance(value, betterproto2.Message)):
            yield field


def _has_presence(field: dataclasses.Field[object]) -> bool:
    return field.default is None or (
        field.default_factory is not dataclasses.MISSING and field.default_factory() is None
    )


def _hide(value: object) -> object:
    match value:
        case dict():
            return {key: item if key in _REFERENCES else _hide(item) for key, item in value.items()}
        case list():
            return [_hide(item) for item in value]
        case _:
            return REDACTED


def _render_value(value: object) -> object:
    match value:
        case betterproto2.Message():
            return _render_message(value)
        case betterproto2.Enum():
            return (value.proto_name or value.name) if value.name else value.value
        case list():
            return [_render_value(item) for item in value]
        case dict():
            return {str(key): _render_value(item) for key, item in value.items()}
        case bytes():
            return b64encode(value).decode()
        case timedelta():
            return _render_duration(value)
        case datetime():
            return value.isoformat()
        case _:
            return value


def _render_duration(value: timedelta) -> str:
    seconds = value.total_seconds()
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{seconds:.6f}".rstrip("0") + "s"
