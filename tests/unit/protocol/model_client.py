"""
A client as the xDS protocol describes one, in memory: it subscribes, applies or refuses, and reconnects.

It speaks real bytes in both directions, so that encoding and decoding are under test too, but over lists
instead of sockets: a test decides when a message arrives.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic

from google.protobuf.any_pb2 import Any as AnyMessage

from xds.gen import discovery_pb2 as pb
from xds.names import TypeUrl
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.sotw import Sotw, SotwRequest
from xds.protocol.stream import RequestT, Response, Stream
from xds.protocol.wire import decode_delta, decode_sotw, encode_delta, encode_sotw
from xds.resources import RESOURCE_TYPES, ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from xds.snapshot import Snapshot

NODE = pb.Node(id="web-1.shop")


@dataclass
class Interest:
    """What the client wants of one type; `was_named` is what ends the legacy reading of an empty list."""

    is_wildcard: bool = False
    names: set[str] = field(default_factory=set)

    def tracks(self, name: str) -> bool:
        return self.is_wildcard or name in self.names


@dataclass
class Update:
    """A response as the client decoded it: contents by name."""

    kind: ResourceType
    nonce: str
    version: str
    contents: dict[str, str]
    versions: dict[str, str]
    removed: tuple[str, ...] = ()


class ModelClient(ABC, Generic[RequestT]):
    """One client and, at the other end of two queues, the server's state of its stream."""

    def __init__(self) -> None:
        self.interests: dict[ResourceType, Interest] = {}
        self.contents: dict[ResourceType, dict[str, str]] = {kind: {} for kind in ResourceType}
        self.warming: set[str] = set()
        """Clusters that were changed and still wait for their endpoints."""
        self.requests: deque[bytes] = deque()
        self.responses: deque[bytes] = deque()
        self.stream: Stream[RequestT] = self.new_stream()
        self.asked: dict[ResourceType, Interest] = {}
        """Everything ever asked for on this stream."""
        self.received = 0
        self.has_refused = False

    @abstractmethod
    def new_stream(self) -> Stream[RequestT]: ...

    @abstractmethod
    def decode_request(self, body: bytes) -> RequestT: ...

    @abstractmethod
    def encode_response(self, response: Response) -> bytes: ...

    @abstractmethod
    def decode_response(self, body: bytes) -> Update: ...

    @abstractmethod
    def write_subscription(self, kind: ResourceType, old: Interest | None, new: Interest) -> None: ...

    @abstractmethod
    def write_answer(self, update: Update, error: str | None) -> None: ...

    @abstractmethod
    def apply(self, update: Update) -> None: ...

    @abstractmethod
    def forget_stream(self) -> None: ...

    @abstractmethod
    def forget_narrowed(self, kind: ResourceType, old: Interest | None, new: Interest) -> None: ...

    # What a test does with a client.

    def subscribe(self, kind: ResourceType, names: Iterable[str] = (), *, is_wildcard: bool = False) -> None:
        """Replace the client's interest in one type."""
        old, new = self.interests.get(kind), Interest(is_wildcard, set(names))
        self.interests[kind] = new
        everything = self.asked.setdefault(kind, Interest())
        everything.is_wildcard |= is_wildcard
        everything.names |= new.names
        mine = self.contents[kind]
        self.contents[kind] = {name: content for name, content in mine.items() if new.tracks(name)}
        self.forget_narrowed(kind, old, new)
        self.write_subscription(kind, old, new)

    def reconnect(self) -> None:
        """Lose the stream with all that is in the air, and open another."""
        self.requests.clear()
        self.responses.clear()
        self.warming.clear()
        self.stream = self.new_stream()
        self.forget_stream()
        for kind, interest in self.interests.items():
            self.asked[kind] = Interest(interest.is_wildcard, set(interest.names))
            if interest.is_wildcard or interest.names:
                self.write_subscription(kind, None, interest)

    def serve(self, snapshot: Snapshot | None, limit: int = 100) -> int:
        """Let the server read all requests and write what it owes, at most `limit` responses; return how many."""
        while self.requests:
            self.stream.receive(self.decode_request(self.requests.popleft()))
        for count in range(limit):
            response = self.stream.next_response(snapshot)
            if response is None:
                return count
            self.responses.append(self.encode_response(response))
        return limit

    def read(self, error: str | None = None) -> Update:
        """Take one response in; apply and ACK it, or NACK it with `error`."""
        update = self.decode_response(self.responses.popleft())
        self.received += 1
        self.check(update)
        self.has_refused = self.has_refused or error is not None
        if error is None:
            before = dict(self.contents[ResourceType.CLUSTER])
            self.apply(update)
            self._warm(update, before)
        self.write_answer(update, error)
        return update

    def settle(self, snapshot: Snapshot | None) -> None:
        """Exchange messages, all applied, until both ends are silent. A loop is a failure."""
        for _ in range(200):
            written = self.serve(snapshot)
            if not written and not self.responses:
                return
            while self.responses:
                self.read()
        raise AssertionError("client and server never fell silent")

    def check(self, update: Update) -> None:
        """Check what holds for every response: it was asked for, and names nothing twice."""
        asked = self.asked.get(update.kind)
        assert asked is not None, f"{update.kind} was never asked for"
        for name in (*update.contents, *update.removed):
            assert asked.tracks(name), f"{name} was never asked for"
        assert not set(update.contents) & set(update.removed), "a name is both sent and removed"

    def _warm(self, update: Update, before: dict[str, str]) -> None:
        """Follow "Resource warming": a changed cluster waits for a new endpoint response."""
        now = self.contents[ResourceType.CLUSTER]
        if update.kind is ResourceType.CLUSTER:
            self.warming |= {name for name, content in now.items() if before.get(name) != content}
            self.warming &= set(now)
        if update.kind is ResourceType.ENDPOINT:
            self.warming -= set(update.contents)


def _open(bodies: Iterable[bytes]) -> dict[str, str]:
    contents: dict[str, str] = {}
    for body in bodies:
        name, _, content = AnyMessage.FromString(body).value.decode().partition("=")
        assert name not in contents, f"{name} is sent twice in one response"
        contents[name] = content
    return contents


class SotwClient(ModelClient[SotwRequest]):
    """SotW: it repeats its whole list with the newest nonce and version of the type."""

    def __init__(self) -> None:
        super().__init__()
        self.nonces: dict[ResourceType, str] = {}
        self.versions: dict[ResourceType, str] = {}
        self.named: set[ResourceType] = set()

    def new_stream(self) -> Stream[SotwRequest]:
        return Stream(Sotw())

    def forget_stream(self) -> None:
        self.nonces.clear()
        self.named.clear()

    def forget_narrowed(self, kind: ResourceType, old: Interest | None, new: Interest) -> None:
        """Without its wildcard the client drops resources, and so no longer has quite the version that it had."""
        if old is not None and old.is_wildcard and not new.is_wildcard and kind in self.versions:
            self.versions[kind] += "-narrowed"

    def decode_request(self, body: bytes) -> SotwRequest:
        return decode_sotw(body)[1]

    def encode_response(self, response: Response) -> bytes:
        return encode_sotw(response)

    def decode_response(self, body: bytes) -> Update:
        message = pb.DiscoveryResponse.FromString(body)
        kind = RESOURCE_TYPES[TypeUrl(message.type_url)]
        return Update(kind, message.nonce, message.version_info, _open(message.resources), {})

    def write_subscription(self, kind: ResourceType, old: Interest | None, new: Interest) -> None:
        """A SotW request says all that is wanted now, whatever was wanted before."""
        del old, new
        self._write(kind, None)

    def write_answer(self, update: Update, error: str | None) -> None:
        self.nonces[update.kind] = update.nonce
        if error is None:
            self.versions[update.kind] = update.version
        self._write(update.kind, error)

    def write_stale(self, kind: ResourceType, names: Iterable[str]) -> None:
        """Write a request with the nonce of no response; it must be of no consequence once one was sent."""
        self.requests.append(
            pb.DiscoveryRequest(
                node=NODE, type_url=kind.type_url, resource_names=sorted(names), response_nonce="stale"
            ).SerializeToString()
        )

    def apply(self, update: Update) -> None:
        interest = self.interests[update.kind]
        wanted = {name: content for name, content in update.contents.items() if interest.tracks(name)}
        if update.kind.allows_wildcard:
            self.contents[update.kind] = wanted
        else:
            self.contents[update.kind].update(wanted)

    def _write(self, kind: ResourceType, error: str | None) -> None:
        interest = self.interests[kind]
        names = sorted(interest.names)
        if interest.is_wildcard and (names or kind in self.named):
            names = ["*", *names]
        if names:
            self.named.add(kind)
        self.requests.append(
            pb.DiscoveryRequest(
                node=NODE,
                type_url=kind.type_url,
                version_info=self.versions.get(kind, ""),
                resource_names=names,
                response_nonce=self.nonces.get(kind, ""),
                error_detail=None if error is None else pb.Status(code=13, message=error),
            ).SerializeToString()
        )


class DeltaClient(ModelClient[DeltaRequest]):
    """Delta: it says what it adds and takes away, and on a new stream what it has."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[ResourceType, dict[str, str]] = {kind: {} for kind in ResourceType}

    def new_stream(self) -> Stream[DeltaRequest]:
        return Stream(Delta())

    def forget_stream(self) -> None:
        """Nothing but the nonces ended with the stream, and delta keeps none."""

    def forget_narrowed(self, kind: ResourceType, old: Interest | None, new: Interest) -> None:
        """Versions are by name in delta; they go with the contents."""

    def decode_request(self, body: bytes) -> DeltaRequest:
        return decode_delta(body)[1]

    def encode_response(self, response: Response) -> bytes:
        return encode_delta(response)

    def decode_response(self, body: bytes) -> Update:
        message = pb.DeltaDiscoveryResponse.FromString(body)
        resources = [pb.Resource.FromString(item) for item in message.resources]
        contents = _open(item.resource for item in resources)
        assert sorted(contents) == sorted(item.name for item in resources)
        return Update(
            kind=RESOURCE_TYPES[TypeUrl(message.type_url)],
            nonce=message.nonce,
            version=message.system_version_info,
            contents=contents,
            versions={item.name: item.version for item in resources},
            removed=tuple(message.removed_resources),
        )

    def write_subscription(self, kind: ResourceType, old: Interest | None, new: Interest) -> None:
        known = self.known[kind]
        self.known[kind] = {name: version for name, version in known.items() if name in self.contents[kind]}
        before = old or Interest()
        added, dropped = new.names - before.names, before.names - new.names
        if new.is_wildcard and not before.is_wildcard and (old is not None or added):
            added |= {"*"}
        if before.is_wildcard and not new.is_wildcard:
            dropped |= {"*"}
        self._write(kind, sorted(added), sorted(dropped), initial=self.known[kind] if old is None else {})

    def write_answer(self, update: Update, error: str | None) -> None:
        status = None if error is None else pb.Status(code=13, message=error)
        self.requests.append(
            pb.DeltaDiscoveryRequest(
                type_url=update.kind.type_url, response_nonce=update.nonce, error_detail=status
            ).SerializeToString()
        )

    def ask_again(self, kind: ResourceType) -> None:
        """Forget everything of a type, and subscribe once more to what is subscribed already."""
        interest = self.interests[kind]
        self.contents[kind].clear()
        self.known[kind].clear()
        self._write(kind, sorted(interest.names | ({"*"} if interest.is_wildcard else set())), [], initial={})

    def apply(self, update: Update) -> None:
        interest, contents, known = self.interests[update.kind], self.contents[update.kind], self.known[update.kind]
        for name in update.contents:
            if interest.tracks(name):
                contents[name] = update.contents[name]
                known[name] = update.versions[name]
        for name in update.removed:
            contents.pop(name, None)
            known.pop(name, None)

    def _write(self, kind: ResourceType, added: list[str], dropped: list[str], *, initial: dict[str, str]) -> None:
        self.requests.append(
            pb.DeltaDiscoveryRequest(
                node=NODE,
                type_url=kind.type_url,
                resource_names_subscribe=added,
                resource_names_unsubscribe=dropped,
                initial_resource_versions=initial,
            ).SerializeToString()
        )
