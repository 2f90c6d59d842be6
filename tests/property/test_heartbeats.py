"""
Whatever happens on the way, a client that has resources with a time to live keeps exactly these alive.

The story is that of `test_protocol_convergence`, for an incremental client that reads heartbeats as Envoy does: it
refuses a whole response if any of it names what the client does not have at that very version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import rule

from tests.property.test_protocol_convergence import KINDS, NAMES, Story
from tests.unit.protocol.model_client import DeltaClient, Update
from xds.gen import discovery_pb2 as pb
from xds.names import TypeUrl
from xds.protocol.wire import decode_delta, decode_perishable, encode_nonce, encode_perishable_body
from xds.resources import RESOURCE_TYPES, ResourceType

if TYPE_CHECKING:
    from xds.protocol.delta import DeltaRequest
    from xds.protocol.stream import Response

TTL = 30


class MortalClient(DeltaClient):
    """A client whose resources end unless heartbeats name them."""

    def __init__(self) -> None:
        super().__init__()
        self.renewed: dict[ResourceType, dict[str, str]] = {}
        self.strange = 0
        """Heartbeats that it refused."""

    def decode_request(self, body: bytes) -> DeltaRequest:
        return decode_perishable(decode_delta(body)[1])

    def encode_response(self, response: Response) -> bytes:
        return encode_perishable_body(response, "here", TTL) + encode_nonce(response.nonce)

    def reconnect(self) -> None:
        super().reconnect()
        while self.requests:
            self.stream.receive(self.decode_request(self.requests.popleft()))
        self.stream.renew()

    def read(self, error: str | None = None) -> Update:
        """Take a response in; a heartbeat is accepted or refused for its own sake, whatever the test would say."""
        message = pb.DeltaDiscoveryResponse.FromString(self.responses[0])
        resources = [pb.Resource.FromString(item) for item in message.resources]
        assert all(item.ttl.seconds == TTL for item in resources)
        named = {item.name: item.version for item in resources if not item.resource}
        if not named:
            return super().read(error)
        assert len(named) == len(resources), "heartbeats and contents do not come together"
        assert not message.removed_resources
        self.responses.popleft()
        self.received += 1
        kind = RESOURCE_TYPES[TypeUrl(message.type_url)]
        known = self.known[kind]
        is_strange = any(known.get(name) != version for name, version in named.items())
        self.strange += is_strange
        if not is_strange:
            self.renewed.setdefault(kind, {}).update(named)
        update = Update(kind, message.nonce, message.system_version_info, dict(self.contents[kind]), {})
        self.write_answer(update, "that is not here" if is_strange else None)
        return update

    def expire(self, kind: ResourceType, name: str) -> None:
        """Lose a resource without a word to anybody, as at the end of its time to live."""
        self.contents[kind].pop(name, None)
        self.known[kind].pop(name, None)


class MortalStory(Story):
    """The story, with heartbeats and ends of lives."""

    def __init__(self) -> None:
        super().__init__()
        self.mortal = self.delta = MortalClient()
        self.clients = (self.sotw, self.mortal)
        self.kept = {client: set() for client in self.clients}

    @rule()
    def beat(self) -> None:
        for client in self.clients:
            client.stream.renew()

    @rule(kind=KINDS, name=st.sampled_from(NAMES))
    def expire(self, kind: ResourceType, name: str) -> None:
        """What is lost is noticed when it is to be renewed, so that follows at once."""
        self.mortal.expire(kind, name)
        self.beat()

    @rule()
    def settle(self) -> None:
        """A client that is owed nothing has everything of which it hears that it has it, and nothing else."""
        self.mortal.settle(self.snapshot)
        self.mortal.stream.renew()
        super().settle()
        strange = self.mortal.strange
        self.mortal.renewed.clear()
        self.mortal.stream.renew()
        super().settle()
        assert self.mortal.strange == strange, "it hears of what it does not have"
        if self.world is not None and not self.mortal.has_refused:
            assert self.mortal.renewed == {kind: known for kind, known in self.mortal.known.items() if known}


MortalStory.TestCase.settings = settings(
    max_examples=max(120, settings().max_examples),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_a_mortal_client_is_kept_alive = MortalStory.TestCase
