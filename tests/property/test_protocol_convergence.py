"""
Whatever happens on the way, a client ends up with what the snapshot says, and then there is silence.

Two model clients, SotW and delta, live through the same story: subscriptions come and go, messages of both
directions cross, responses are refused, requests are stale, streams break, the world changes or is unknown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from tests.unit.protocol.model_client import DeltaClient, Interest, ModelClient, SotwClient
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource, snapshot

if TYPE_CHECKING:
    from xds.resources import ResourceType
    from xds.snapshot import Snapshot

NAMES = ("a", "b", "c")
KINDS = st.sampled_from([CDS, EDS, LDS, RDS, SDS])
SOME_NAMES = st.sets(st.sampled_from(NAMES))
TABLE = st.dictionaries(st.sampled_from(NAMES), st.sampled_from(["1", "2"]))
WORLD = st.fixed_dictionaries({CDS: TABLE, EDS: TABLE, LDS: TABLE, RDS: TABLE, SDS: TABLE})

World = dict["ResourceType", dict[str, str]]


def build(world: World) -> Snapshot:
    """Each cluster refers to the endpoints of its own name, if there are any."""
    return snapshot(
        *(
            resource(kind, name, content, endpoint=name if kind is CDS and name in world[EDS] else None)
            for kind, table in world.items()
            for name, content in table.items()
        )
    )


class Story(RuleBasedStateMachine):
    """The same events for a SotW and a delta client."""

    def __init__(self) -> None:
        super().__init__()
        self.sotw = SotwClient()
        self.delta = DeltaClient()
        self.clients: tuple[ModelClient[Any], ...] = (self.sotw, self.delta)
        self.world: World | None = None
        self.snapshot: Snapshot | None = None
        self.named: set[ResourceType] = set()
        self.kept: dict[ModelClient[Any], set[tuple[ResourceType, str]]] = {client: set() for client in self.clients}
        """Names that a client may keep: it refused the response that took them away."""
        self.edition = 0
        self.may_refuse = False

    @initialize(world=WORLD, may_refuse=st.booleans())
    def begin(self, world: World, *, may_refuse: bool) -> None:
        self.may_refuse = may_refuse
        self.publish(world)
        for kind in (CDS, LDS):
            self.subscribe(kind, set(), is_wildcard=True)
        for kind in (EDS, RDS, SDS):
            self.subscribe(kind, set(NAMES), is_wildcard=False)

    @rule(world=WORLD)
    def publish(self, world: World) -> None:
        self.world, self.snapshot = world, build(world)

    @rule(kind=KINDS, name=st.sampled_from(NAMES), content=st.sampled_from(["1", "2", None]))
    def change_one(self, kind: ResourceType, name: str, content: str | None) -> None:
        """Everything else stays: what depends on the change must follow, and nothing else."""
        if self.world is None:
            return
        table = {known: text for known, text in self.world[kind].items() if known != name}
        self.publish({**self.world, kind: table if content is None else {**table, name: content}})

    @rule()
    def publish_equal(self) -> None:
        if self.world is not None:
            self.snapshot = build(self.world)

    @rule()
    def lose_world(self) -> None:
        self.world = self.snapshot = None

    @rule(kind=KINDS, names=SOME_NAMES, is_wildcard=st.booleans())
    def subscribe(self, kind: ResourceType, names: set[str], *, is_wildcard: bool) -> None:
        is_wildcard = is_wildcard and kind.allows_wildcard
        if kind.allows_wildcard and not names and not is_wildcard and kind not in self.named:
            return  # no request can say this as long as an empty list means everything
        if names:
            self.named.add(kind)
        for client in self.clients:
            client.subscribe(kind, names, is_wildcard=is_wildcard)

    @rule(kind=KINDS)
    def ask_again(self, kind: ResourceType) -> None:
        if kind in self.delta.interests and self.delta.interests[kind] != Interest():
            self.delta.ask_again(kind)

    @rule(kind=KINDS, names=SOME_NAMES)
    def send_stale_request(self, kind: ResourceType, names: set[str]) -> None:
        if kind in self.sotw.nonces:
            self.sotw.write_stale(kind, names)

    @rule(limit=st.integers(0, 3))
    def serve(self, limit: int) -> None:
        for client in self.clients:
            client.serve(self.snapshot, limit)

    @rule(data=st.data(), count=st.integers(1, 3))
    def read(self, data: st.DataObject, count: int) -> None:
        for client in self.clients:
            for _ in range(min(count, len(client.responses))):
                self.read_one(client, is_refused=self.may_refuse and data.draw(st.booleans()))

    def read_one(self, client: ModelClient[Any], *, is_refused: bool) -> None:
        before = {kind: set(contents) for kind, contents in client.contents.items()}
        update = client.read("refused" if is_refused else None)
        if is_refused:
            gone = set(update.removed) | (before[update.kind] - set(update.contents))
            self.kept[client] |= {(update.kind, name) for name in gone}

    @rule()
    def reconnect(self) -> None:
        self.named = {kind for kind in self.named if self.sotw.interests[kind].names}
        for client in self.clients:
            client.reconnect()

    @rule()
    def settle_refusing(self) -> None:
        """A client that refuses everything is not told the same again and again."""
        if not self.may_refuse:
            return
        for client in self.clients:
            for _ in range(50):
                if not client.serve(self.snapshot) and not client.responses:
                    break
                while client.responses:
                    self.read_one(client, is_refused=True)
            else:
                raise AssertionError("the server repeats what is refused")

    @rule()
    def settle(self) -> None:
        """Settled is settled: an equal world, published again, is met with silence."""
        for client in self.clients:
            client.settle(self.snapshot)
            received = client.received
            client.settle(self.snapshot if self.world is None else build(self.world))
            assert client.received == received
            if self.world is not None and not client.has_refused:
                self.check(client, self.world)

    @rule(world=WORLD)
    def converge(self, world: World) -> None:
        """Whatever was refused before, content that is new is sent, and both clients end up with the snapshot."""
        self.edition += 1
        fresh = {
            kind: {name: f"{text}.{self.edition}" for name, text in table.items()} for kind, table in world.items()
        }
        self.publish(fresh)
        for client in self.clients:
            client.settle(self.snapshot)
            self.check(client, fresh)

    def teardown(self) -> None:
        """Every story ends settled."""
        self.settle()

    def check(self, client: ModelClient[Any], world: World) -> None:
        """The client has of each type what it asked for, and no changed cluster still waits for its endpoints."""
        for kind, interest in client.interests.items():
            contents, table = client.contents[kind], world[kind]
            expected = {name: content for name, content in table.items() if interest.tracks(name)}
            assert {name: contents[name] for name in contents if name in table} == expected
            # SotW has no words for the end of a resource that is neither a cluster nor a listener.
            may_keep = isinstance(client, SotwClient) and not kind.allows_wildcard
            assert all(may_keep or (kind, name) in self.kept[client] for name in contents.keys() - table.keys())
            if kind is EDS:
                assert not client.warming & expected.keys(), "a cluster warms for ever"


Story.TestCase.settings = settings(
    max_examples=max(120, settings().max_examples),
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
test_clients_converge = Story.TestCase
