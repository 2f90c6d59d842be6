"""
Typed messages to bytes, as betterproto2 writes them, without what it does besides.

`bytes(message)` checks again every message that was checked when it was built, makes a validator to do so, and asks
anew for the default of every field: nine tenths of what compiling would cost. Here each class is read once, and each
message that a tree holds in several places is written once. Nothing is kept between two calls but how the messages of
a class are written, so that a message may still be changed before it is.

Invariant: `encode(message) == bytes(message)`, for messages that were built and not parsed.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import fields
from functools import lru_cache, partial
from typing import TYPE_CHECKING, NamedTuple

import betterproto2
from betterproto2 import FieldMetadata, Message
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.message_pool import default_message_pool

from xds.resources import encode_varint

if TYPE_CHECKING:
    from collections.abc import Mapping

_VARINT, _EIGHT_BYTES, _SIZED = 0, 1, 2
"""Wire types (protobuf encoding guide, "Message Structure")."""
_WRAP = 1 << 64
"""What is added to a negative number: it is written as two's complement of 64 bits."""
_SHORT = tuple(map(encode_varint, range(128)))
"""The sizes that one byte holds, which nearly all are."""
_MOST_CLASSES = 1024
"""Classes that are remembered; all policies together need fewer than two hundred."""

_Done = dict[int, bytes]
"""The messages of one tree that are written already, by identity; the tree keeps them alive meanwhile."""
_Write = Callable[[object, _Done], bytes]


class _Field(NamedTuple):
    """How a field is written; `can_be_zero` if the message tells zero from nothing."""

    name: str
    write: _Write
    can_be_zero: bool


def encode(message: Message) -> bytes:
    """Write `message`."""
    return _encode(message, {})


def pack(message: Message) -> Any:
    """Wrap `message` as `Any.pack` does."""
    return Any(type_url=default_message_pool.type_to_url[type(message)], value=encode(message))


def _encode(message: Message, done: _Done) -> bytes:
    known = done.get(id(message))
    if known is not None:
        return known
    layout = _layout(type(message))
    done[id(message)] = body = bytes(message) if layout is None else _join(message, layout, done)
    return body


def _join(message: Message, layout: tuple[_Field, ...], done: _Done) -> bytes:
    values = vars(message)
    return b"".join(
        [
            write(value, done)
            for name, write, can_be_zero in layout
            if (value := values[name]) is not None and (can_be_zero or value)
        ]
    )


@lru_cache(maxsize=_MOST_CLASSES)
def _layout(kind: type[Message]) -> tuple[_Field, ...] | None:
    """Read a class; None if it has fields of a type that only the library can write."""
    layout = []
    for field in fields(kind):  # type: ignore[arg-type]  # each message is a dataclass, their base is not
        write = _writer(FieldMetadata.get(field))
        if write is None:
            return None
        absent: object = field.default_factory
        layout.append(_Field(field.name, write, can_be_zero=absent is type(None)))
    return tuple(layout)


def _writer(meta: FieldMetadata) -> _Write | None:
    if meta.map_meta is not None:
        key, value = map(_writer, meta.map_meta)
        return None if key is None or value is None else partial(_write_map, _tag(meta.number, _SIZED), key, value)
    if meta.proto_type not in _KINDS:
        return None
    wire_type, write = _KINDS[meta.proto_type]
    if meta.unwrap is not None:
        write = partial(_write_wrapped, meta.unwrap)
    if not meta.repeated:
        return partial(_write_one, _tag(meta.number, wire_type), write)
    if meta.proto_type in betterproto2.PACKED_TYPES:
        return partial(_write_packed, _tag(meta.number, _SIZED), write)
    return partial(_write_each, _tag(meta.number, wire_type), write)


def _tag(number: int, wire_type: int) -> bytes:
    return encode_varint(number << 3 | wire_type)


def _sized(body: bytes) -> bytes:
    size = len(body)
    return (_SHORT[size] if size < len(_SHORT) else encode_varint(size)) + body


def _write_one(tag: bytes, write: _Write, value: object, done: _Done) -> bytes:
    return tag + write(value, done)


def _write_each(tag: bytes, write: _Write, values: object, done: _Done) -> bytes:
    assert isinstance(values, list)
    return b"".join([tag + write(value, done) for value in values])


def _write_packed(tag: bytes, write: _Write, values: object, done: _Done) -> bytes:
    assert isinstance(values, list)
    return tag + _sized(b"".join([write(value, done) for value in values]))


def _write_map(tag: bytes, write_key: _Write, write_value: _Write, entries: object, done: _Done) -> bytes:
    assert isinstance(entries, dict)
    written = (write_key(key, done) + write_value(value, done) for key, value in entries.items())
    return b"".join([tag + _sized(entry) for entry in written])


def _write_message(value: object, done: _Done) -> bytes:
    assert isinstance(value, Message)
    return _sized(_encode(value, done))


def _write_wrapped(wrapper: Callable[[], type], value: object, _: _Done) -> bytes:
    """Write what stands for a message, such as a `timedelta`; that message lives no longer than this."""
    return _sized(encode(wrapper().from_wrapped(value)))  # type: ignore[attr-defined]  # all of them have it


def _write_text(value: object, _: _Done) -> bytes:
    assert isinstance(value, str)
    return _sized(value.encode())


def _write_bytes(value: object, _: _Done) -> bytes:
    assert isinstance(value, bytes)
    return _sized(value)


def _write_integer(value: object, _: _Done) -> bytes:
    assert isinstance(value, int)
    return encode_varint(value if value >= 0 else value + _WRAP)


def _write_double(value: object, _: _Done) -> bytes:
    assert isinstance(value, (int, float))
    return struct.pack("<d", value)


_KINDS: Mapping[str, tuple[int, _Write]] = {
    betterproto2.TYPE_MESSAGE: (_SIZED, _write_message),
    betterproto2.TYPE_STRING: (_SIZED, _write_text),
    betterproto2.TYPE_BYTES: (_SIZED, _write_bytes),
    betterproto2.TYPE_DOUBLE: (_EIGHT_BYTES, _write_double),
    betterproto2.TYPE_BOOL: (_VARINT, _write_integer),
    betterproto2.TYPE_ENUM: (_VARINT, _write_integer),
    betterproto2.TYPE_INT32: (_VARINT, _write_integer),
    betterproto2.TYPE_INT64: (_VARINT, _write_integer),
    betterproto2.TYPE_UINT32: (_VARINT, _write_integer),
    betterproto2.TYPE_UINT64: (_VARINT, _write_integer),
}
"""Wire type and how a value without its tag is written, by type. Others are too rare here to be worth it."""
