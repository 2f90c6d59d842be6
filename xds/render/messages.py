"""
Serialised bytes become plain dicts.

What can't be unpacked is shown by its size instead of failing, because a dump must work on every resource that a server
may send, and its bytes may hold anything. The matcher messages of `xds.compile` unpack once their module is imported.
Nothing is redacted yet; only `xds.render` may call this.
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

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.resources import Resource

_TYPE_PREFIX = "type.googleapis.com/"
_PACKAGE = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
_MALFORMED = (
    struct.error, ValueError, LookupError, EOFError, ArithmeticError, AttributeError, TypeError, NotImplementedError,
)  # fmt: skip
"""What betterproto2 raises for bytes that are no message of the type; it has no exception of its own for them."""
_UNKNOWN = "[{size} bytes that are not known here]"


def unwrap(resource: Resource) -> tuple[str, bytes]:
    """Return the type URL and the bytes of what is inside: another server's listener may be another message."""
    content = _decode(ProtoAny, resource.any_body)
    if isinstance(content, ProtoAny) and content.type_url:
        return content.type_url, content.value
    return resource.kind.type_url, resource.body


def render_any(type_url: str, body: bytes) -> dict[str, object]:
    """Return what an `Any` holds."""
    message_type = _find_type(type_url)
    message = None if message_type is None else _decode(message_type, body)
    if message is None:
        return render_unknown(type_url, body)
    content = _render_message(message)
    if isinstance(content, dict) and not _has_json_form(message):
        return {"@type": type_url, **content}
    return {"@type": type_url, "value": content}


def render_unknown(type_url: str, body: bytes) -> dict[str, object]:
    """Return what stands for bytes that can't be unpacked."""
    return {"@type": type_url, "value": _UNKNOWN.format(size=len(body))}


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
        return render_any(message.type_url, message.value) if message.type_url else {}
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
