"""Streams that share their work are told, byte for byte, what each would be told alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

import hypothesis.strategies as st
import pytest
from hypothesis import given

from tests.unit.protocol.values import CDS, EDS, LDS, SDS, resource, snapshot
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.memo import Memo
from xds.protocol.sotw import Sotw, SotwRequest
from xds.protocol.stream import RequestT, Stream, Variant
from xds.protocol.wire import Encoder, encode_nonce, encode_perishable_body, encode_sotw, encode_sotw_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from xds.protocol.stream import Response
    from xds.resources import ResourceType
    from xds.snapshot import Snapshot

STREAMS = 3
NAMES = ("a", "b", "c")
WORLD = st.dictionaries(st.sampled_from(NAMES), st.sampled_from("12"))
ORDERS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), WORLD, st.booleans()),
        st.tuples(st.just("publish"), WORLD, st.booleans()),
        st.tuples(
            st.just("request"),
            st.integers(0, STREAMS - 1),
            st.sampled_from([CDS, CDS, LDS, EDS, SDS]),
            st.sampled_from([(), (), ("*",), ("a",), ("*", "b")]),
            st.sampled_from(["", "newest", "newest", "old"]),
            st.sampled_from([None, None, None, "refused"]),
        ),
        st.tuples(st.just("listen")),
        st.tuples(st.just("answer")),
        st.tuples(st.just("renew")),
        st.tuples(st.just("reconnect"), st.integers(0, STREAMS - 1)),
    ),
    max_size=40,
)
BEGIN: list[tuple[Any, ...]] = [("publish", dict.fromkeys(NAMES, "1"), True)] + [
    ("request", index, kind, (), "", None) for index in range(STREAMS) for kind in (CDS, LDS)
]


def world(contents: dict[str, str], *, is_warm: bool) -> Snapshot:
    endpoints = [resource(EDS, name) for name in contents] if is_warm else []
    clusters = [resource(CDS, name, content, endpoint=name if is_warm else None) for name, content in contents.items()]
    listeners = [resource(LDS, name, content) for name, content in contents.items() if name != "b"]
    return snapshot(*clusters, *endpoints, *listeners, resource(SDS, "a"))


class Forgetful(dict[Any, Any]):
    """Keeps nothing, so that everything is worked out each time."""

    def __setitem__(self, key: object, value: object) -> None:
        del key, value


class Crowd(Generic[RequestT]):
    """Some streams that share a memo and an encoder, each with a twin that shares nothing."""

    def __init__(
        self,
        variant: Variant[RequestT],
        request: Callable[[ResourceType, tuple[str, ...], str, str | None], RequestT],
        encode: Callable[[Response], bytes],
        body: Callable[[Response], bytes],
    ) -> None:
        self.variant, self.encode, self.encoder, self.memo = variant, encode, Encoder(body), Memo(variant)
        self.request = request
        self.pairs = [self.pair() for _ in range(STREAMS)]
        self.newest: list[dict[ResourceType, str]] = [{} for _ in range(STREAMS)]
        self.snapshot: Snapshot | None = None
        self.heard = 0

    def pair(self) -> tuple[Stream[RequestT], Stream[RequestT]]:
        alone = Memo(self.variant)
        alone._outcomes = alone._renewals = Forgetful()
        return Stream(self.variant, self.memo), Stream(self.variant, alone)

    def publish(self, contents: dict[str, str], is_warm: bool) -> None:
        self.memo.forget()
        self.encoder.forget()
        self.snapshot = world(contents, is_warm=is_warm)

    def answer(self) -> None:
        """ACK all that was heard, in SotW with the legacy wildcard."""
        for newest, pair in zip(self.newest, self.pairs, strict=True):
            for kind, nonce in newest.items():
                for stream in pair:
                    stream.receive(self.request(kind, (), nonce, None))

    def listen(self) -> None:
        for newest, (one, twin) in zip(self.newest, self.pairs, strict=True):
            while True:
                told, expected = one.next_response(self.snapshot), twin.next_response(self.snapshot)
                assert (told is None) is (expected is None)
                if told is None or expected is None:
                    break
                # Of equal resources, what is kept of an older world may know other references; nobody is told these.
                assert self.encoder.encode(told) == self.encode(expected)
                assert (told.version, told.removed) == (expected.version, expected.removed)
                newest[told.kind] = told.nonce
                self.heard += 1

    def renew(self) -> None:
        for pair in self.pairs:
            for stream in pair:
                stream.renew()

    def reconnect(self, index: int) -> None:
        self.pairs[index], self.newest[index] = self.pair(), {}


def sotw_request(kind: ResourceType, names: tuple[str, ...], nonce: str, error: str | None) -> SotwRequest:
    return SotwRequest(type_url=kind.type_url, nonce=nonce, error=error, names=names)


def delta_request(kind: ResourceType, names: tuple[str, ...], nonce: str, error: str | None) -> DeltaRequest:
    return DeltaRequest(type_url=kind.type_url, nonce=nonce, error=error, subscribe=names)


@pytest.mark.parametrize("variant", ["sotw", "delta"])
@given(orders=ORDERS)
def test_streams_that_share_their_work_are_told_what_each_would_be_told_alone(
    variant: str, orders: list[tuple[Any, ...]]
) -> None:
    crowd: Crowd[Any] = _sotw_crowd() if variant == "sotw" else _delta_crowd()

    for what, *words in [*BEGIN, ("listen",), *orders, *[("listen",), ("answer",)] * 3, ("listen",)]:
        if what == "request":
            index, kind, names, nonce, error = words
            newest = crowd.newest[index].get(kind, "")
            asked = crowd.request(kind, names, {"newest": newest, "old": "1"}.get(nonce, ""), error)
            assert len({crowd.pairs[index][0].receive(asked), crowd.pairs[index][1].receive(asked)}) == 1
        else:
            getattr(crowd, str(what))(*words)

    assert crowd.heard >= 2 * STREAMS


def _sotw_crowd() -> Crowd[SotwRequest]:
    return Crowd(Sotw(), sotw_request, encode_sotw, encode_sotw_body)


def _delta_crowd() -> Crowd[DeltaRequest]:
    def encode_body(response: Response) -> bytes:
        return encode_perishable_body(response, "here", 30)

    return Crowd(Delta(), delta_request, lambda told: encode_body(told) + encode_nonce(told.nonce), encode_body)
