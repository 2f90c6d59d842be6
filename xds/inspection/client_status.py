"""
What replicas of the control plane say of their sidecars: a client of client status discovery (CSDS).

Source: envoy/service/status/v3/csds.proto. Every server that speaks it can be asked; ours says more, in the nodes'
metadata (`xds.clients.OWN_METADATA`). Nothing that a server says is believed to have the shape that it should have, and
no text of it is passed on with a login in it. Invariant: a replica that can't be asked never hides what others say.
"""

from __future__ import annotations

import asyncio
import math
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

import grpc
from google.protobuf.message import DecodeError

from xds.clients import OWN_METADATA, InForce
from xds.errors import UnreachableError
from xds.gen.discovery_pb2 import Node
from xds.gen.status_pb2 import (
    ACKED,
    CLIENT_RESOURCE_UNKNOWN,
    DOES_NOT_EXIST,
    ERROR,
    NACKED,
    RECEIVED_ERROR,
    SYNCED,
    ClientStatusRequest,
    ClientStatusResponse,
    NodeMatcher,
    StringMatcher,
)
from xds.inspection.fleet import Answer, Refusal, SidecarStatus, State, TypeReport
from xds.names import TypeUrl
from xds.render.said import redact_said
from xds.resources import RESOURCE_TYPES, ResourceType

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.struct_pb2 import Struct, Value

    from xds.gen.status_pb2 import ClientConfig, UpdateFailureState

    Call = grpc.aio.UnaryUnaryMultiCallable[ClientStatusRequest, bytes]

_METHOD = "/envoy.service.status.v3.ClientStatusDiscoveryService/FetchClientStatus"
_OPTIONS = (
    # What tens of thousands of sidecars take, and no more.
    ("grpc.max_receive_message_length", 256 << 20),
    # The environment's proxy is for the applications' egress.
    ("grpc.enable_http_proxy", 0),
    # Whoever watches sees a replica that is back within a second.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1_000),
)


_MALFORMED = (DecodeError, ArithmeticError, RecursionError, ValueError)
"""What it may come to if an answer does not mean what it should; it is the trouble of that replica only."""
_RANKS = {kind.name.lower(): rank for rank, kind in enumerate(ResourceType)}


class StatusReader:
    """
    Asks replicas again and again over connections that stay open; a context manager.

    `nodes` narrows the question to ids that begin with one of these texts; an answer may still hold others.
    """

    def __init__(self, nodes: Iterable[str] = ()) -> None:
        self._prefixes = tuple(nodes)
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for channel in self._channels.values():
            await channel.close()

    async def ask(self, replicas: Mapping[str, str], *, within: float) -> tuple[Answer, ...]:
        """Ask all `replicas` (name → `host:port` or path of a socket) at the same time, each for `within` seconds."""
        for address in self._channels.keys() - set(replicas.values()):
            await self._channels.pop(address).close()
        return tuple(await asyncio.gather(*(self._answer(name, replicas[name], within) for name in replicas)))

    async def _answer(self, replica: str, address: str, within: float) -> Answer:
        try:
            return Answer(replica=replica, sidecars=await self.read(replica, address, within=within))
        except UnreachableError as error:
            return Answer(replica=replica, problem=str(error))

    async def read(self, replica: str, address: str, *, within: float) -> tuple[SidecarStatus, ...]:
        """Return the sidecars of one replica, by node. Raises UnreachableError."""
        try:
            answer = await self._fetch(address, within)
            found = await asyncio.to_thread(_read, answer, replica)
        except grpc.aio.AioRpcError as error:
            raise _translate(replica, error, within) from error
        except _MALFORMED as error:
            raise UnreachableError(
                f"{replica} does not speak client status; is this an address of xds serve --admin-listen?"
            ) from error
        return tuple(sorted(found, key=lambda sidecar: sidecar.node))

    async def _fetch(self, address: str, within: float) -> bytes:
        """Return the answer undecoded: gRPC would swallow what is wrong with it, and it may be large."""
        if address not in self._channels:
            target = f"unix:{address}" if address.startswith("/") else address
            self._channels[address] = grpc.aio.insecure_channel(target, options=_OPTIONS)
        call: Call = self._channels[address].unary_unary(
            _METHOD, request_serializer=ClientStatusRequest.SerializeToString
        )
        # Our own server then leaves out what it says of each resource; others do not know it.
        caller = Node()
        caller.metadata.update({OWN_METADATA: True})
        matchers = [NodeMatcher(node_id=StringMatcher(prefix=prefix)) for prefix in self._prefixes]
        try:
            request = ClientStatusRequest(node=caller, node_matchers=matchers, exclude_resource_contents=True)
            return await call(request, timeout=within)
        except grpc.aio.AioRpcError as error:
            if not matchers or error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
        # Not every server can choose; what is too much is left out by whoever asked.
        return await call(ClientStatusRequest(node=caller, exclude_resource_contents=True), timeout=within)


def _read(answer: bytes, replica: str) -> list[SidecarStatus]:
    return [read_config(config, replica) for config in ClientStatusResponse.FromString(answer).config]


def read_config(config: ClientConfig, replica: str) -> SidecarStatus:
    """Read what is said of one node; of a server that is not ours, from what is said of each resource."""
    own = config.node.metadata.fields.get(OWN_METADATA)
    told = {} if own is None else _decode(own.struct_value)
    said = told.get("types")
    types = _read_types(said) if isinstance(said, dict) else _judge_types(config)
    standing, lacks = _standing(told), _text(told, "lacks")
    return SidecarStatus(
        node=config.node.id or config.client_scope,
        replica=_text(told, "replica") or replica,
        state=_state(standing, types, lacks),
        policy=_text(told, "policy"),
        standing=standing,
        since=_number(told, "since"),
        variant=_text(told, "variant"),
        lacks=lacks,
        types=MappingProxyType({kind: types[kind] for kind in sorted(types, key=_rank)}),
    )


def _state(standing: InForce | None, types: Mapping[str, TypeReport], lacks: str) -> State:
    if any(report.refusal is not None for report in types.values()):
        return State.REFUSED
    if standing is InForce.HELD:
        return State.HELD
    if lacks:
        return State.LACKING
    return State.CURRENT if types and all(report.is_current for report in types.values()) else State.PENDING


def _read_types(told: Mapping[str, object]) -> dict[str, TypeReport]:
    """Read what our own server says."""
    return {name: _read_type(report) for name, report in told.items() if isinstance(report, dict)}


def _read_type(told: Mapping[str, object]) -> TypeReport:
    rejected = told.get("rejected")
    return TypeReport(
        is_current=told.get("current") is True,
        resources=None if (count := _number(told, "resources")) is None else int(count),
        sent=_text(told, "sent"),
        acknowledged=_text(told, "acknowledged"),
        refusal=None
        if not isinstance(rejected, dict)
        else Refusal(_text(rejected, "version"), redact_said(_text(rejected, "text")), _number(rejected, "at")),
    )


def _judge_types(config: ClientConfig) -> dict[str, TypeReport]:
    """Put together what any server says of each resource."""
    entries: dict[str, list[ClientConfig.GenericXdsConfig]] = {}
    for entry in config.generic_xds_configs:
        entries.setdefault(_name(entry.type_url), []).append(entry)
    return {name: _judge_type(found) for name, found in entries.items()}


def _judge_type(entries: list[ClientConfig.GenericXdsConfig]) -> TypeReport:
    versions = {entry.version_info for entry in entries}
    version = next(iter(versions)) if len(versions) == 1 else ""
    is_current = all(map(_is_settled, entries))
    refused = next(filter(_is_refused, entries), None)
    return TypeReport(
        is_current=is_current,
        resources=len(entries),
        sent=version,
        acknowledged=version if is_current else "",
        refusal=None if refused is None else _read_refusal(refused),
    )


def _is_settled(entry: ClientConfig.GenericXdsConfig) -> bool:
    """Tell what the client says; where the server does not pass that on, what the server says."""
    if entry.client_status == CLIENT_RESOURCE_UNKNOWN:
        return entry.config_status == SYNCED
    return entry.client_status in (ACKED, DOES_NOT_EXIST)


def _is_refused(entry: ClientConfig.GenericXdsConfig) -> bool:
    return entry.client_status in (NACKED, RECEIVED_ERROR) or entry.config_status == ERROR


def _read_refusal(entry: ClientConfig.GenericXdsConfig) -> Refusal:
    state = entry.error_state
    return Refusal(state.version_info, redact_said(state.details), _read_moment(state))


def _read_moment(state: UpdateFailureState) -> float | None:
    """Return when it was; None: it does not say, or names a moment that no calendar has."""
    if not state.HasField("last_update_attempt"):
        return None
    try:
        return state.last_update_attempt.ToMilliseconds() / 1000
    except ValueError:
        return None


def _name(type_url: str) -> str:
    kind = RESOURCE_TYPES.get(TypeUrl(type_url))
    return type_url if kind is None else kind.name.lower()


def _rank(kind: str) -> tuple[int, str]:
    """Order types as they are served; those of others come last, by name."""
    return _RANKS.get(kind, len(_RANKS)), kind


def _standing(told: Mapping[str, object]) -> InForce | None:
    said = told.get("standing")
    return next((standing for standing in InForce if standing.value == said), None)


def _decode(struct: Struct) -> dict[str, object]:
    """Read what our own server may say, several times faster than the library reads everything."""
    return {key: _decode_value(value) for key, value in struct.fields.items()}


def _decode_value(value: Value) -> object:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "struct_value":
            return _decode(value.struct_value)
        case "bool_value":
            return value.bool_value
        case "number_value" if math.isfinite(value.number_value):
            return value.number_value
        case _:
            return None


def _text(told: Mapping[str, object], key: str) -> str:
    found = told.get(key)
    return found if isinstance(found, str) else ""


def _number(told: Mapping[str, object], key: str) -> float | None:
    found = told.get(key)
    return found if isinstance(found, float) else None


def _translate(replica: str, error: grpc.aio.AioRpcError, within: float) -> UnreachableError:
    details = redact_said((error.details() or "").partition("\n")[0])
    match error.code():
        case grpc.StatusCode.UNAVAILABLE:
            # gRPC names all that led to it, and the cause last.
            cause = details.rpartition(": ")[2].lower()
            cause = cause if "[" in cause else cause.removesuffix("]")
            return UnreachableError(
                f"{replica} can't be reached ({cause}); is `xds serve` running there, and is this its --admin-listen?"
            )
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return UnreachableError(f"{replica} did not answer within {within:g} s; see its log, or allow more time")
        case grpc.StatusCode.UNIMPLEMENTED:
            return UnreachableError(
                f"{replica} does not serve client status; give the address of --admin-listen, not of --listen"
            )
        case code:
            return UnreachableError(f"{replica} broke off with {code.name}: {details}; see its log")
