"""
One open ADS stream: a reader and a writer around the state of `protocol.stream`.

The reader feeds requests in. Requests and new worlds start the writer, a task that lives as long as there is
something to write: it writes what is owed for the newest snapshot, one response at a time. So at most one response
is ever in the air per stream, a client that does not read is simply not written to, and what it missed in between
is never sent. An idle stream is one task that waits for a request.

Nothing here decides what to send. Invariant: nothing that a client sends can end another client's stream.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, assert_never

import grpc
import structlog
from google.protobuf.message import DecodeError

from xds.errors import cut_redacted
from xds.names import EXPLICIT_LISTENER
from xds.policy.model import Mode
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.memo import Memo
from xds.protocol.report import is_in_step, is_returning, report_resources
from xds.protocol.sotw import Sotw, SotwRequest
from xds.protocol.stream import RequestT, Response, Stream, UnknownType, Variant
from xds.protocol.subscription import Acked, Lapsed, Nacked
from xds.protocol.wire import (
    CONTROL_PLANE,
    MAX_NAMES,
    Encoder,
    TooManyNamesError,
    decode_delta,
    decode_sotw,
    encode_delta_body,
    encode_sotw_body,
)
from xds.resources import ResourceType
from xds.server.identity import ExpiredError, IdentityError
from xds.server.lifetime import Heartbeat
from xds.server.limits import Limits, Pace, StreamCounter
from xds.server.membership import GoneError, Membership, UnknownPodError
from xds.server.node import NodeError, parse_node

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from xds.cache import SnapshotCache
    from xds.clients import Clients, Connection
    from xds.gen.discovery_pb2 import Node
    from xds.names import NodeId
    from xds.policy.model import Workload
    from xds.server.identity import Caller
    from xds.snapshot import Snapshot
    from xds.workloads import Workloads

    Context = grpc.aio.ServicerContext[bytes, bytes]

_BYTES_PER_REQUEST = 16_384
"""A request counts as one more for each of these."""

_NO_REFUSAL = frozenset({grpc.StatusCode.OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE})
"""How a stream may end before its first request without being refused."""

_REST_OF_REQUESTS = 1.0
"""Seconds that a client that comes back has to ask for all types; an Envoy does so at once."""

_MAX_LOGGED = 500
"""Characters of a client's words that go into a log line."""

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Method(Generic[RequestT]):
    """What distinguishes the two RPCs."""

    name: str
    """`sotw` or `delta`."""
    variant: Variant[RequestT]
    decode: Callable[[bytes], tuple[Node | None, RequestT]]
    encode_body: Callable[[Response, str], bytes]
    """Encodes all but the nonce; the second argument is `control_plane.identifier`."""
    kind: ResourceType | None = None
    """The only type of its streams; None: all."""
    ttl: float | None = None
    """How long a client may keep what it is sent, in seconds, without a word from here; None: for ever."""


SOTW: Method[SotwRequest] = Method("sotw", Sotw(), decode_sotw, encode_sotw_body)
DELTA: Method[DeltaRequest] = Method("delta", Delta(), decode_delta, encode_delta_body)


class Common(Generic[RequestT]):
    """What the streams of one RPC have in common: work that is done once for those in the same state."""

    def __init__(self, method: Method[RequestT], identifier: str = CONTROL_PLANE) -> None:
        self.memo = Memo(method.variant)
        self.encoder = Encoder(lambda response: method.encode_body(response, identifier))

    def forget(self) -> None:
        """Drop what was worked out for an older world."""
        self.memo.forget()
        self.encoder.forget()


@dataclass(frozen=True, slots=True)
class Guard:
    """What all streams of a server may ask for."""

    limits: Limits = field(default_factory=Limits)
    streams: StreamCounter = field(default_factory=lambda: StreamCounter(Limits().streams_per_node))
    log_pace: Pace = field(default_factory=lambda: Pace(rate=10, burst=100))

    def may_log(self) -> bool:
        """Whether one more refusal is worth a line; all are counted, and a flood of them must not fill a disk."""
        now = time.monotonic()
        if self.log_pace.wait(now):
            return False
        self.log_pace.take(now)
        return True


class LimitError(ValueError):
    """The client asks for too much. The message is meant for the client's operator."""


class RequestError(ValueError):
    """The request can't be used where it was sent. The message is meant for the client's operator."""


_REFUSALS = (DecodeError, RequestError, TooManyNamesError, LimitError, IdentityError, NodeError)
"""What a request may be refused for; anything else is a bug."""


def _do_nothing() -> None:
    pass


@dataclass(frozen=True, slots=True)
class End:
    """How a stream ends: the gRPC status and what the client is told."""

    code: grpc.StatusCode
    details: str = ""


_EXPIRED = End(grpc.StatusCode.UNAUTHENTICATED, "the caller's certificate or token has expired; connect anew")


class Session(Generic[RequestT]):
    """One stream, from its first request to its end."""

    def __init__(  # noqa: PLR0913  # its parts, and options that all have defaults
        self,
        method: Method[RequestT],
        cache: SnapshotCache,
        clients: Clients,
        clock: Callable[[], float],
        common: Common[RequestT] | None = None,
        *,
        guard: Guard | None = None,
        callers: tuple[Caller, ...] = (),
        workloads: Workloads | None = None,
    ) -> None:
        """
        Make the session of one stream. Those of a method may have a `common` part, and those of a server a `guard`.

        `callers` is what the client has proven about itself; nothing if nobody asked. Without `workloads` it is
        believed in everything else.
        """
        common = Common(method) if common is None else common
        self._guard = Guard() if guard is None else guard
        self._callers = callers
        self._workloads = workloads
        limits = self._guard.limits
        self._pace = Pace(limits.requests_per_second, limits.request_burst)
        self._timers: list[asyncio.TimerHandle] = []
        self._wake: Callable[[], None] = _do_nothing
        self._method = method
        self._cache = cache
        self._clients = clients
        self._clock = clock
        self._stream = Stream(method.variant, common.memo)
        self._encode = common.encoder.encode
        self._log = _log.bind(variant=method.name)
        self._end: End | None = None
        self._reader: asyncio.Task[object] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._node_id: NodeId | None = None
        self._membership: Membership | None = None
        self._unfollow: Callable[[], None] = _do_nothing
        self._is_returning = False
        self._workload: Workload | None = None
        self._has_no_port = False
        self._connection: Connection | None = None

    def close(self) -> None:
        """Ask the stream to end, telling the client that it may try elsewhere."""
        self._finish(End(grpc.StatusCode.UNAVAILABLE, "the control plane is shutting down"))

    async def run(self, requests: AsyncIterator[bytes], context: Context) -> None:
        """Serve the stream until the client, an error or `close` ends it; raises what `context.abort` raises."""
        self._wake = partial(self._start_writing, context)
        unsubscribe = self._cache.subscribe(self._wake)
        ttl = self._method.ttl
        heartbeat = None if ttl is None else Heartbeat(ttl, self._renew)
        end = End(grpc.StatusCode.CANCELLED)
        try:
            # Sent now, because a status can't follow a response whose write was cancelled half-way otherwise.
            await context.send_initial_metadata(())
            end = self._end or await self._read(requests, context)
        finally:
            unsubscribe()
            self._unfollow()
            if heartbeat is not None:
                heartbeat.stop()
            self._cancel_timers()
            # Before any wait: gRPC may cancel this once more, and a client that is gone must not stay listed.
            if self._node_id is not None:
                self._guard.streams.leave(self._node_id)
            if self._connection is not None:
                self._connection.close()
                self._log.info("stream closed", status=end.code.name, details=end.details[:_MAX_LOGGED])
            writer = self._writer
            if writer is not None:
                writer.cancel()
                await asyncio.wait((writer,))
        if writer is not None and not writer.cancelled():
            writer.result()
        if self._connection is None and end.code not in _NO_REFUSAL:
            self._clients.note_refused(end.code.name.lower())
        if end.code is not grpc.StatusCode.OK:
            await context.abort(end.code, end.details)

    def _finish(self, end: End) -> None:
        """End the stream from outside of its reader; the first word counts."""
        if self._end is None:
            self._end = end
            if self._reader is not None:
                self._reader.cancel()

    async def _read(self, requests: AsyncIterator[bytes], context: Context) -> End:
        loop = asyncio.get_running_loop()
        self._reader = asyncio.current_task()
        first = End(grpc.StatusCode.DEADLINE_EXCEEDED, "the stream's first request did not come in time")
        self._timers.append(loop.call_later(self._guard.limits.first_request, self._finish, first))
        try:
            async for body in requests:
                end = self._receive(body)
                if end is not None:
                    return end
                self._answer(context)
                pause = self._pace.take(loop.time(), 1 + len(body) // _BYTES_PER_REQUEST)
                if pause:
                    await asyncio.sleep(pause)
        except asyncio.CancelledError:
            # `_finish` interrupts the wait for a request; any other cancellation is gRPC's and goes its way.
            if self._end is None or self._reader is None:
                raise
            self._reader.uncancel()
        finally:
            self._reader = None
        return self._end or End(grpc.StatusCode.OK)

    def _answer(self, context: Context) -> None:
        """Write what a request made due. Most are answers that make nothing due, and those need no task."""
        if self._writer is not None or self._end is not None:
            return
        response = self._next_response()
        if response is not None:
            self._writer = asyncio.create_task(self._write(context, response))
        elif self._connection is not None:
            self._connection.note_settled()

    def _start_writing(self, context: Context) -> None:
        """Write what a new world made due, unless something is being written; the writer then finds that too."""
        if self._writer is None and self._end is None and self._connection is not None:
            self._writer = asyncio.create_task(self._write(context, None))

    def _renew(self) -> None:
        self._stream.renew()
        self._wake()

    async def _write(self, context: Context, response: Response | None) -> None:
        try:
            response = response or self._next_response()
            while response is not None:
                body = self._encode(response)
                self._note_sent(response, len(body))
                await context.write(body)
                response = self._next_response()
        except grpc.aio.InternalError:  # the connection broke under the write
            self._finish(End(grpc.StatusCode.CANCELLED))
        except BaseException:
            self._finish(End(grpc.StatusCode.INTERNAL))  # `run` raises what it was
            raise
        self._writer = None
        if self._connection is not None and self._end is None:
            self._connection.note_settled()

    def _receive(self, body: bytes) -> End | None:
        """Take one request in; return how the stream must end if it is unusable."""
        try:
            node, request = self._method.decode(body)
            self._identify(node, request)
        except _REFUSALS as error:
            return self._refuse(error)
        event = self._stream.receive(request)
        if self._stream.names > MAX_NAMES:
            return End(grpc.StatusCode.RESOURCE_EXHAUSTED, f"more than {MAX_NAMES} subscribed names")
        if event is not None and self._connection is not None:
            self._report(event, self._connection)
        if self._method.ttl is not None and is_returning(request):
            self._stream.renew()  # what it has may be about to end
        return None

    def _refuse(self, error: Exception) -> End:
        """Return how the stream ends for `error`; what an identity lacks is for the log only."""
        if not isinstance(error, GoneError) and self._guard.may_log():
            self._log.warning("stream refused", reason=str(error))
        match error:
            case ExpiredError():
                return _EXPIRED
            case IdentityError():
                return End(grpc.StatusCode.PERMISSION_DENIED, "the caller is not the node that it claims to be")
            case GoneError():
                # Unlike UNAVAILABLE it does not invite to try again: nobody else knows of the pod either.
                return End(grpc.StatusCode.NOT_FOUND, str(error))
            case UnknownPodError():
                return End(grpc.StatusCode.UNAVAILABLE, str(error))
            case TooManyNamesError() | LimitError():
                return End(grpc.StatusCode.RESOURCE_EXHAUSTED, str(error))
            case DecodeError():
                return End(grpc.StatusCode.INVALID_ARGUMENT, "the request is not a discovery request")
            case _:
                return End(grpc.StatusCode.INVALID_ARGUMENT, str(error))

    def _identify(self, node: Node | None, request: RequestT) -> None:
        """
        Learn who is calling from the first request.

        Later ones may leave the node out; if present, "the node identifier should always be identical" (xDS
        protocol, "Basic Protocol Overview"). Metadata counts on the first only.
        """
        if self._node_id is None:
            if node is None:
                raise NodeError("the first request of a stream must carry a node with an id <pod>.<namespace>")
            node_id, claimed = parse_node(node)
            membership = Membership(self._workloads, node_id, claimed, self._callers, self._clock)
            workload = membership.look()
            if not self._guard.streams.enter(node_id):
                raise LimitError(f"node {node_id} has {self._guard.streams.limit} streams open; no more are served")
            self._node_id, self._membership = node_id, membership
            self._log = self._log.bind(node=node_id)
            self._is_returning = is_returning(request)
            self._cancel_timers()
            self._follow_expiry()
            if self._method.kind is None and self._is_returning:
                self._await_listeners()
            self._unfollow = membership.follow(self._look_again)
            if workload is not None:
                self._admit(node_id, workload)
            else:
                limit = self._guard.limits.unknown_node
                if self._guard.may_log():
                    self._log.info("a pod that the cluster does not tell of is told nothing", seconds=limit)
                self._timers.append(asyncio.get_running_loop().call_later(limit, self._give_up))
        elif node is not None and node.id not in {"", self._node_id}:
            raise NodeError(f"the stream belongs to node {self._node_id}; its requests must not name another")

    def _admit(self, node_id: NodeId, workload: Workload) -> None:
        """List the client; from now on it is served."""
        self._workload = workload
        self._connection = self._clients.connect(
            node_id,
            workload,
            since=self._clock(),
            variant=self._method.name,
            resources=partial(report_resources, self._stream),
            is_in_step=self._is_in_step,
            is_returning=self._is_returning,
        )
        self._log.info("stream opened")

    def _look_again(self) -> None:
        """Serve the pod as what it is now, or end the stream."""
        if self._end is not None or self._membership is None or self._node_id is None:
            return
        try:
            workload = self._membership.look()
        except (IdentityError, GoneError) as error:
            self._finish(self._refuse(error))
            return
        if workload is None or workload == self._workload:
            return
        if self._connection is None:
            self._admit(self._node_id, workload)
        else:
            self._workload = workload
            self._connection.move(workload)
        self._wake()

    def _give_up(self) -> None:
        """End the stream of a pod that nobody heard of meanwhile."""
        if self._connection is None and self._membership is not None and self._end is None:
            self._clients.note_refused(grpc.StatusCode.UNAVAILABLE.name.lower())
            self._finish(self._refuse(self._membership.unknown()))

    def _follow_expiry(self) -> None:
        """End the stream when the first proof does: from then on the client could not open it either."""
        ends = [caller.expires for caller in self._callers if caller.expires is not None]
        if ends:
            rest = max(0.0, min(ends) - self._clock())
            self._timers.append(asyncio.get_running_loop().call_later(rest, self._finish, _EXPIRED))

    def _await_listeners(self) -> None:
        """Give a client that comes back a moment to ask for more than its first request does."""
        self._stream.await_listeners()
        self._timers.append(asyncio.get_running_loop().call_later(_REST_OF_REQUESTS, self._stop_awaiting))

    def _stop_awaiting(self) -> None:
        self._stream.await_listeners(awaits=False)
        self._wake()

    def _cancel_timers(self) -> None:
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()

    def _next_response(self) -> Response | None:
        if self._workload is None or self._connection is None:
            return None
        snapshot = self._cache.snapshot_for(self._workload)
        if self._workload.mode is Mode.EXPLICIT and snapshot is not None:
            self._note_port(self._workload, snapshot)
        return self._stream.next_response(snapshot)

    def _note_port(self, workload: Workload, snapshot: Snapshot) -> None:
        """Say once that the applications of a pod in explicit mode have nobody to connect to."""
        is_missing = EXPLICIT_LISTENER not in snapshot.of(ResourceType.LISTENER)
        policy = self._cache.policy_for(workload)
        if is_missing and not self._has_no_port and policy is not None and self._guard.may_log():
            self._log.warning(
                "a pod is in explicit mode and its policy has no port for that: nothing listens there",
                policy=policy.name,
                hint="write `mode: explicit`, or `explicit: {port: 15002}`, in the policy",
            )
        self._has_no_port = is_missing

    def _is_in_step(self, kind: ResourceType, snapshot: Snapshot) -> bool:
        """Whether the client runs what `snapshot` has of `kind`; of a type that never comes here it wants nothing."""
        return self._method.kind not in {None, kind} or is_in_step(self._stream, kind, snapshot)

    def _note_sent(self, response: Response, size: int) -> None:
        if self._connection is not None and not response.renewed:
            self._connection.note_sent(response.kind, response.version, size)

    def _report(self, event: Acked | Nacked | Lapsed | UnknownType, connection: Connection) -> None:
        match event:
            case Acked(kind, version):
                connection.note_ack(kind, version)
            case Nacked(kind, version, text):
                connection.note_nack(kind, version, text, self._clock())
                if self._guard.may_log():
                    cut = cut_redacted(text, _MAX_LOGGED)
                    self._log.warning("response rejected", type=kind.name.lower(), version=version, text=cut)
            case Lapsed(kind, names, text):
                # Not the fault of any policy, so the registry need not know.
                self._log.warning(
                    "heartbeat rejected; resources are sent again",
                    type=kind.name.lower(),
                    resources=len(names),
                    text=cut_redacted(text, _MAX_LOGGED),
                )
            case UnknownType(type_url):
                connection.note_unknown_type(type_url[:_MAX_LOGGED])
                self._log.warning("unknown type requested", type_url=type_url[:_MAX_LOGGED])
            case _:
                assert_never(event)
