"""What is delivered is, to the last byte, what the library would have written."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from betterproto2 import Message
from envoy_data_plane.google.protobuf import Any
from hypothesis import HealthCheck, given, settings

from tests.support import strategies
from tests.support.policies import compile_good
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from xds.facts import Facts
    from xds.policy.model import Policy

EXAMPLES = settings().max_examples // 5


@settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
@given(policy=strategies.policies(), facts=strategies.facts())
def test_every_message_is_written_as_the_library_writes_it(policy: Policy, facts: Facts) -> None:
    """Read back by the library and written by it, at every depth."""
    snapshot = compile_good(policy, facts)
    delivered = [item.any_body for kind in ResourceType for item in snapshot.of(kind).values()]

    assert delivered
    for body in delivered:
        packed = Any.parse(body)
        assert bytes(packed) == body
        assert_written_by_the_library(packed)


def assert_written_by_the_library(packed: Any) -> None:
    message = packed.unpack()
    assert message is not None
    assert bytes(message) == packed.value
    for inner in packed_in(message):
        assert_written_by_the_library(inner)


def packed_in(value: object) -> Iterator[Any]:
    """Find what is packed somewhere in a message."""
    match value:
        case Any():
            yield value
        case Message():
            for field in fields(value):  # type: ignore[arg-type]  # each message is a dataclass, their base is not
                yield from packed_in(getattr(value, field.name))
        case list():
            for item in value:
                yield from packed_in(item)
        case dict():
            for item in value.values():
                yield from packed_in(item)
        case _:
            pass
