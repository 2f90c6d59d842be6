"""
Whatever a client sends, its stream ends well or with a status that is meant for it, and nobody else notices.

A conversation is played, not replayed: nonces and versions are those that the stream really told, or stale ones, or
invented. It begins well-formed, in the stream's own variant, and ends with bytes that were damaged on the way. Beside
it a well-behaved client, whose stream shares all that streams share, must end up with exactly what is published, be
there canaries or not.

Longer: run it again and again with `--hypothesis-profile=thorough`; each run draws other conversations.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Any, assert_never

import grpc
import hypothesis.strategies as st
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings
from structlog.testing import capture_logs

from tests.feature.ads_peer import decode, request
from tests.support.control_plane import PATIENCE
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource, snapshot
from xds.cache import SnapshotCache, World
from xds.canary import Canary
from xds.clients import Clients
from xds.gen import discovery_pb2 as pb
from xds.policy.parse import Document, parse_document
from xds.server.services import SERVICES, restrict
from xds.server.session import DELTA, SOTW, Common, Guard, Method, RequestError, Session
from xds.staging import StagedCache

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.feature.ads_peer import Told
    from xds.resources import ResourceType

KINDS = (CDS, EDS, LDS, RDS, SDS)
NODE, OTHER_NODE = "web-0.shop", "web-1.shop"
INTENDED = {grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.RESOURCE_EXHAUSTED}
METHODS: dict[str, Method[Any]] = {
    "sotw": SOTW,
    "delta": DELTA,
    **{f"sotw {service.noun}": restrict(SOTW, service.kind) for service in SERVICES},
    **{f"delta {service.noun}": restrict(DELTA, service.kind) for service in SERVICES},
}
_URL = "http://192.0.2.2:3128"
_TEXT = f"httpProxy: {_URL}\nhttpsProxy: {_URL}\ndialect: go\n"
(POLICY,) = parse_document(Document("default.yaml", _TEXT)).policies
_TURNS = 400
"""Turns of the loop in which two clients of one process must come to rest."""


def build_world(contents: dict[str, str]) -> World:
    """Return a world in which each type has these resources; a cluster refers to the endpoints of its name."""
    served = snapshot(
        *(
            resource(kind, name, content, endpoint=name if kind is CDS else None)
            for kind in KINDS
            for name, content in contents.items()
        )
    )
    return World(candidates=(POLICY,), snapshots={(POLICY.namespace, POLICY.name): served}, refuse_all=snapshot())


WORLDS = tuple(map(build_world, ({"a": "1", "b": "1"}, {"a": "2", "b": "1", "c": "1"}, {"b": "2"}, {})))
LAST = {"a": "9", "c": "9"}


class Answer(Enum):
    """Which nonce, and with it which version, a request names."""

    RIGHT = "the last of its type"
    STALE = "an earlier one of its type"
    FOREIGN = "the last of any type"
    NONE = "none"
    INVENTED = "none that was ever told"


class Loss(Enum):
    """What becomes of the connection."""

    NONE = "the client says goodbye"
    CUT = "the stream is cancelled from outside"
    BROKEN = "a write fails"


@dataclass(frozen=True, slots=True)
class Damage:
    """One change to the bytes of a request; `at` counts from the start again and again."""

    way: str
    at: int
    value: int

    def apply(self, body: bytes) -> bytes:
        at = self.at % (len(body) + 1)
        match self.way:
            case "set":
                return body[:at] + bytes([self.value]) + body[at + 1 :]
            case "insert":
                return body[:at] + bytes([self.value]) + body[at:]
            case "drop":
                return body[:at] + body[at + 1 + self.value % 8 :]
            case "cut":
                return body[:at]
            case _:
                return body[: at + 1 + self.value] + body[at:]


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """One request; what depends on the conversation so far is filled in when it is said."""

    kind: ResourceType
    type_url: str | None = None
    """None: that of `kind`, or of the service."""
    names: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    answer: Answer = Answer.RIGHT
    error: str | None = None
    node: str | None = None
    says_what_it_has: bool = False
    is_other_variant: bool = False
    published: int | None = None
    """The world that is published before."""
    turns: int = 1
    """Turns of the loop before the next one."""
    damage: tuple[Damage, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """All that one client says."""

    moves: tuple[Move, ...]
    garbage: bytes | None
    loss: Loss
    lag: int
    """Turns of the loop that a write takes."""
    has_canaries: bool
    """Whether changes go to one client first."""


NAMES = st.lists(st.sampled_from(["a"] * 8 + ["b"] * 8 + ["c", "d", "unknown", "*", "", "\N{SNOWMAN}"]), max_size=4)
SOME_NAMES = NAMES.map(tuple)
FEW_NAMES = st.just(()) | SOME_NAMES
ERRORS = st.sampled_from([None, None, None, None, "", "no such thing"]) | st.text(max_size=5)
ANSWERS = st.sampled_from([Answer.RIGHT] * 5 + list(Answer))
LATER_NODES = st.sampled_from([None, None, NODE, ""])
FIRST_NODES = st.sampled_from([NODE] * 30 + [None, "", "x"])
ODD_NODES = st.sampled_from([None, NODE, OTHER_NODE, "x"])
ODD_TYPES = st.sampled_from([None, None, "", "type.googleapis.com/example.Unknown", CDS.type_url, SDS.type_url])
DAMAGE = st.builds(
    Damage,
    way=st.sampled_from(["set", "set", "insert", "drop", "cut", "repeat"]),
    at=st.integers(0, 200),
    value=st.integers(0, 255),
)
PUBLISHED = st.none() | st.integers(0, len(WORLDS) - 1)
MOVES = st.builds(
    Move,
    kind=st.sampled_from(KINDS),
    names=SOME_NAMES,
    dropped=FEW_NAMES,
    answer=ANSWERS,
    error=ERRORS,
    node=LATER_NODES,
    says_what_it_has=st.booleans(),
    published=PUBLISHED,
    turns=st.integers(0, 8),
)
FIRST_MOVES = st.builds(
    Move,
    kind=st.sampled_from(KINDS),
    names=FEW_NAMES,
    answer=st.just(Answer.NONE),
    node=FIRST_NODES,
    says_what_it_has=st.booleans(),
    published=st.sampled_from([None, 0, 0, 0, 1, 1, 2, 3]),
    turns=st.integers(0, 8),
)
ODD_MOVES = st.builds(
    replace,
    MOVES,
    type_url=ODD_TYPES,
    node=ODD_NODES,
    damage=st.lists(DAMAGE, max_size=3).map(tuple),
    is_other_variant=st.sampled_from([False, False, False, True]),
)
CONVERSATIONS = st.builds(
    Conversation,
    moves=st.tuples(FIRST_MOVES, st.lists(MOVES, min_size=1, max_size=20), st.lists(ODD_MOVES, max_size=3)).map(
        lambda parts: (parts[0], *parts[1], *parts[2])
    ),
    garbage=st.none() | st.binary(max_size=60),
    loss=st.sampled_from([Loss.NONE] * 6 + [Loss.CUT, Loss.BROKEN]),
    lag=st.integers(0, 3),
    has_canaries=st.booleans(),
)


class AbortedError(Exception):
    """What `abort` raises, as grpc's own does."""


@dataclass
class Context:
    """The part of `grpc.aio.ServicerContext` that a session uses, and what the client knows from it."""

    variant: str
    lag: int = 0
    breaks: bool = False
    code: grpc.StatusCode = grpc.StatusCode.OK
    told: list[Told] = field(default_factory=list)
    contents: dict[str, dict[str, str]] = field(default_factory=dict)
    """What the client has, by type and name."""

    async def send_initial_metadata(self, _: tuple[()]) -> None:
        assert not self.told

    async def write(self, body: bytes) -> None:
        for _ in range(self.lag):
            await asyncio.sleep(0)
        if self.breaks:
            raise grpc.aio.InternalError("the connection is gone")
        self.take(decode(self.variant, body))

    async def abort(self, code: grpc.StatusCode, _: str) -> None:
        self.code = code
        raise AbortedError

    def take(self, told: Told) -> None:
        """Apply a response as a client does: a state of all clusters or listeners replaces the one before."""
        self.told.append(told)
        is_whole = self.variant == "sotw" and told.type_url in {CDS.type_url, LDS.type_url}
        table = {} if is_whole else self.contents.get(told.type_url, {})
        table |= dict(word.split("=", 1) for word in told.resources)
        self.contents[told.type_url] = {name: text for name, text in table.items() if name not in told.removed}

    def of(self, type_url: str) -> list[Told]:
        return [told for told in self.told if told.type_url == type_url]


class Witness(Context):
    """A client that asks for everything its stream offers, and accepts what it hears."""

    def __init__(self, method: Method[Any]) -> None:
        super().__init__(method.name)
        self.kinds = KINDS if method.kind is None else (method.kind,)
        self.said: asyncio.Queue[bytes | None] = asyncio.Queue()
        for kind in self.kinds:
            self.said.put_nowait(request(self.variant, kind.type_url, self.names(kind.type_url), node=OTHER_NODE))

    def names(self, type_url: str) -> tuple[str, ...]:
        return () if type_url in {CDS.type_url, LDS.type_url} else ("a", "b", "c", "d")

    def take(self, told: Told) -> None:
        super().take(told)
        names = self.names(told.type_url) if self.variant == "sotw" else ()
        self.said.put_nowait(request(self.variant, told.type_url, names, node=None, nonce=told.nonce))

    async def requests(self) -> AsyncIterator[bytes]:
        while (body := await self.said.get()) is not None:
            yield body

    def has(self, contents: dict[str, str]) -> bool:
        """Whether it knows `contents` of every type; SotW has no words for the end of what was named."""
        return all(
            contents.items() <= self.contents.get(kind.type_url, {}).items()
            if self.variant == "sotw" and not kind.allows_wildcard
            else contents == self.contents.get(kind.type_url, {})
            for kind in self.kinds
        )


def say(move: Move, method: Method[Any], context: Context) -> bytes:
    """Encode a move, knowing what was told until now."""
    type_url = (method.kind or move.kind).type_url if move.type_url is None else move.type_url
    told = _answered(move.answer, type_url, context)
    nonce, version = ("77", "invented") if told is None and move.answer is Answer.INVENTED else ("", "")
    if told is not None:
        nonce, version = told.nonce, told.version
    elif move.says_what_it_has and move.answer is Answer.NONE:
        version = "some.earlier"
    node = None if move.node is None else pb.Node(id=move.node)
    error = None if move.error is None else pb.Status(code=13, message=move.error)
    initial = {"a": "1", "gone": "2"} if move.says_what_it_has else {}
    body: bytes
    if (method.name == "sotw") is not move.is_other_variant:
        body = pb.DiscoveryRequest(
            version_info=version,
            node=node,
            resource_names=move.names,
            type_url=type_url,
            response_nonce=nonce,
            error_detail=error,
        ).SerializeToString()
    else:
        body = pb.DeltaDiscoveryRequest(
            node=node,
            type_url=type_url,
            resource_names_subscribe=move.names,
            resource_names_unsubscribe=move.dropped,
            initial_resource_versions=initial,
            response_nonce=nonce,
            error_detail=error,
        ).SerializeToString()
    for damage in move.damage:
        body = damage.apply(body)
    return body


def _answered(answer: Answer, type_url: str, context: Context) -> Told | None:
    own = context.of(type_url)
    match answer:
        case Answer.RIGHT:
            return own[-1] if own else None
        case Answer.STALE:
            return own[0] if own else None
        case Answer.FOREIGN:
            return context.told[-1] if context.told else None
        case Answer.NONE | Answer.INVENTED:
            return None
        case _:
            assert_never(answer)


@dataclass
class Scene:
    """A server's parts, the client that is tested and the witness."""

    method: Method[Any]
    context: Context
    witness: Witness
    cache: SnapshotCache
    clients: Clients
    guard: Guard = field(default_factory=Guard)
    asked: set[str] = field(default_factory=set)
    """Types that were asked for in words that can be read."""

    async def play(self, conversation: Conversation) -> None:
        """Have the conversation, then publish the last world and wait for the witness to know it."""
        common = Common(self.method)
        self.cache.subscribe(common.forget)
        witnessing = self._start(common, self.witness.requests(), self.witness)
        talking = self._start(common, self._requests(conversation), self.context)
        if conversation.loss is Loss.CUT:
            for _ in range(sum(move.turns for move in conversation.moves) // 2):
                await asyncio.sleep(0)
            talking.cancel()
        await asyncio.wait((talking,))
        if not talking.cancelled() and not isinstance(talking.exception(), AbortedError):
            talking.result()
        self.cache.publish(build_world(LAST))
        for _ in range(_TURNS):
            await asyncio.sleep(0)
            if self.witness.has(LAST):
                break
        self.witness.said.put_nowait(None)
        await witnessing

    def _start(self, common: Common[Any], requests: AsyncIterator[bytes], context: Context) -> asyncio.Task[None]:
        session = Session(self.method, self.cache, self.clients, lambda: 0.0, common, guard=self.guard)
        return asyncio.create_task(session.run(requests, context))  # type: ignore[arg-type]  # only the part that is used

    async def _requests(self, conversation: Conversation) -> AsyncIterator[bytes]:
        for move in conversation.moves:
            if move.published is not None:
                self.cache.publish(WORLDS[move.published])
            body = say(move, self.method, self.context)
            self._note(body)
            yield body
            for _ in range(move.turns):
                await asyncio.sleep(0)
        if conversation.garbage is not None:
            self._note(conversation.garbage)
            yield conversation.garbage

    def _note(self, body: bytes) -> None:
        with suppress(RequestError, DecodeError):
            self.asked.add(self.method.decode(body)[1].type_url)


async def play(method: Method[Any], conversation: Conversation) -> Scene:
    """Play one conversation to its end; nothing may be left running."""
    context = Context(method.name, lag=conversation.lag, breaks=conversation.loss is Loss.BROKEN)
    if conversation.has_canaries:
        staged = StagedCache(Canary(lambda _: 1, PATIENCE), clock=lambda: 0.0, tell=lambda _: None)
        scene = Scene(method, context, Witness(method), staged, Clients(staged))
    else:
        scene = Scene(method, context, Witness(method), SnapshotCache(), Clients())
    async with asyncio.timeout(PATIENCE):
        await scene.play(conversation)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    return scene


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=settings().max_examples // 4, suppress_health_check=[HealthCheck.too_slow])
@given(conversation=CONVERSATIONS)
def test_any_conversation_ends_with_an_intended_status_and_disturbs_nobody(
    name: str, conversation: Conversation
) -> None:
    with capture_logs():
        scene = asyncio.run(play(METHODS[name], conversation))

    assert scene.context.code in INTENDED | ({grpc.StatusCode.CANCELLED} if conversation.loss is Loss.BROKEN else set())
    assert not scene.clients.connected()
    assert {told.type_url for told in scene.context.told} <= scene.asked
    assert [told.nonce for told in scene.context.told] == [str(n + 1) for n in range(len(scene.context.told))]
    assert scene.witness.code is grpc.StatusCode.OK
    assert scene.witness.has(LAST)


@pytest.mark.parametrize("name", METHODS)
@given(bodies=st.lists(st.binary(max_size=60), min_size=1, max_size=4))
def test_bytes_that_nobody_meant_end_their_stream_with_an_intended_status(name: str, bodies: Sequence[bytes]) -> None:
    async def talk(context: Context) -> None:
        async def requests() -> AsyncIterator[bytes]:
            for body in bodies:
                yield body

        session = Session(METHODS[name], SnapshotCache(), Clients(), lambda: 0.0)
        await session.run(requests(), context)  # type: ignore[arg-type]  # only the part that is used

    context = Context(METHODS[name].name)
    with capture_logs(), suppress(AbortedError):
        asyncio.run(talk(context))

    assert context.code in INTENDED
    assert not context.told
