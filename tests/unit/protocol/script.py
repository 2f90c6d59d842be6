"""Scripts for one stream: steps that change the world, send a request, or say all that must be answered now."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.unit.protocol.values import snapshot, told
from xds.protocol.delta import DeltaRequest
from xds.protocol.sotw import SotwRequest

if TYPE_CHECKING:
    from xds.protocol.stream import Event, Stream
    from xds.resources import Resource, ResourceType
    from xds.snapshot import Snapshot

Step = Callable[["Stage"], None]


class Stage:
    """A stream, the world around it, and what its last request told."""

    def __init__(self, stream: Stream[Any]) -> None:
        self.stream = stream
        self.snapshot: Snapshot | None = None
        self.event: Event | None = None


@dataclass(frozen=True)
class Row:
    """One rule: a sentence, the section that demands it, and a script."""

    sentence: str
    cites: str
    steps: Sequence[Step]


def play(stream: Stream[Any], row: Row) -> None:
    """Perform a row."""
    stage = Stage(stream)
    for step in row.steps:
        step(stage)


def world(*resources: Resource) -> Step:
    """From now on the snapshot is this."""

    def step(stage: Stage) -> None:
        stage.snapshot = snapshot(*resources)

    return step


def no_world() -> Step:
    """From now on there is no snapshot."""

    def step(stage: Stage) -> None:
        stage.snapshot = None

    return step


def sotw(kind: ResourceType, *names: str, nonce: str = "", version: str = "", error: str | None = None) -> Step:
    """Send a SotW request."""

    def step(stage: Stage) -> None:
        stage.event = stage.stream.receive(
            SotwRequest(type_url=kind.type_url, names=names, nonce=nonce, version=version, error=error)
        )

    return step


def delta(
    kind: ResourceType,
    *subscribe: str,
    drop: Sequence[str] = (),
    initial: Mapping[str, str] | None = None,
    nonce: str = "",
    error: str | None = None,
) -> Step:
    """Send a delta request."""

    def step(stage: Stage) -> None:
        stage.event = stage.stream.receive(
            DeltaRequest(
                type_url=kind.type_url,
                subscribe=subscribe,
                unsubscribe=tuple(drop),
                initial_versions=initial or {},
                nonce=nonce,
                error=error,
            )
        )

    return step


def await_listeners(*, awaits: bool = True) -> Step:
    """Say that the client comes back, or that it had time enough to ask for listeners."""

    def step(stage: Stage) -> None:
        stage.stream.await_listeners(awaits=awaits)

    return step


def renew() -> Step:
    """Say that it is time for heartbeats."""

    def step(stage: Stage) -> None:
        stage.stream.renew()

    return step


def expect(*responses: tuple[str, ...]) -> Step:
    """Everything that is owed now, in this order; nothing at all if empty."""

    def step(stage: Stage) -> None:
        said = []
        while (response := stage.stream.next_response(stage.snapshot)) is not None:
            said.append(told(response))
        assert said == list(responses), f"said {said}, not {list(responses)}"

    return step


def reports(event: Event | None) -> Step:
    """The last request told this, and nothing else."""

    def step(stage: Stage) -> None:
        assert stage.event == event, f"told {stage.event}, not {event}"

    return step
