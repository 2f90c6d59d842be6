"""Delta, rule by rule. Sections are those of Envoy's api-docs/xds_protocol; `proto` is discovery.proto."""

from __future__ import annotations

import pytest

from tests.unit.protocol.script import Row, delta, expect, no_world, play, world
from tests.unit.protocol.values import CDS, EDS, LDS, RDS, SDS, resource
from xds.protocol.delta import Delta
from xds.protocol.stream import Stream

A1, A2 = resource(CDS, "a", "1"), resource(CDS, "a", "2")
B1, B2 = resource(CDS, "b", "1"), resource(CDS, "b", "2")
L1, L2, M1 = resource(LDS, "l", "1"), resource(LDS, "l", "2"), resource(LDS, "m", "1")
R1, R2, S1 = resource(RDS, "r", "1"), resource(RDS, "r", "2"), resource(RDS, "s", "1")
E1, E2 = resource(EDS, "e", "1"), resource(EDS, "e", "2")
K1 = resource(SDS, "k", "1")
AE1, AE2 = resource(CDS, "a", "1", endpoint="e"), resource(CDS, "a", "2", endpoint="e")

ROWS = (
    Row(
        "a first CDS request without names is a wildcard",
        "How the client specifies what resources to return",
        [world(A1, B1), delta(CDS), expect(("cluster", "a=1", "b=1"))],
    ),
    *(
        Row(
            f"a first {kind.name.lower()} request without names asks for nothing",
            "How the client specifies what resources to return",
            [world(E1, R1, K1), delta(kind), expect()],
        )
        for kind in (EDS, RDS, SDS)
    ),
    Row(
        "a first request that only unsubscribes is no wildcard",
        "Incremental xDS",
        [world(A1), delta(CDS, drop=["a"]), expect()],
    ),
    Row(
        "a star is a wildcard",
        "Incremental xDS",
        [world(A1, B1), delta(CDS, "*"), expect(("cluster", "a=1", "b=1"))],
    ),
    Row(
        "a star is a name like any other for a type without wildcards",
        "Knowing When a Requested Resource Does Not Exist",
        [world(E1), delta(EDS, "*"), expect(("endpoint", "-*"))],
    ),
    Row(
        "the spec's example: unnamed, plus A, minus star, minus A; the last unsubscribes from all",
        "How the client specifies what resources to return",
        [
            world(A1, B1),
            delta(CDS),
            expect(("cluster", "a=1", "b=1")),
            delta(CDS, "a"),
            expect(("cluster", "a=1")),
            delta(CDS, drop=["*"]),
            world(A2, B2),
            expect(("cluster", "a=2")),
            delta(CDS, drop=["a"]),
            world(A1, B1),
            expect(),
        ],
    ),
    Row(
        "an empty request after the first changes nothing",
        "proto: resource_names_subscribe",
        [world(A1), delta(CDS, "a"), expect(("cluster", "a=1")), delta(CDS), world(A1, B1), expect()],
    ),
    Row(
        "a wildcard over nothing is answered, so that a client can finish its start",
        "How the client specifies what resources to return",
        [world(), delta(CDS), expect(("cluster",)), expect()],
    ),
    Row(
        "only what changed is sent",
        "Grouping Resources into Responses",
        [world(A1, B1), delta(CDS), expect(("cluster", "a=1", "b=1")), world(A2, B1), expect(("cluster", "a=2"))],
    ),
    Row(
        "what is gone is removed",
        "Deleting Resources",
        [world(A1, B1), delta(CDS), expect(("cluster", "a=1", "b=1")), world(A1), expect(("cluster", "-b"))],
    ),
    Row(
        "a removed route that was asked for by name is sent when it comes back as it was",
        "Knowing When a Requested Resource Does Not Exist",
        [
            world(R1),
            delta(RDS, "r"),
            expect(("route", "r=1")),
            world(),
            expect(("route", "-r")),
            world(R1),
            expect(("route", "r=1")),
        ],
    ),
    Row(
        "a name that does not exist is answered so, once, and sent when it does",
        "Knowing When a Requested Resource Does Not Exist",
        [world(), delta(SDS, "k"), expect(("secret", "-k")), expect(), world(K1), expect(("secret", "k=1"))],
    ),
    Row(
        "a name that does not exist is answered beside one that does",
        "Knowing When a Requested Resource Does Not Exist",
        [world(R1), delta(RDS, "r", "x"), expect(("route", "r=1", "-x"))],
    ),
    Row(
        "what is asked for again is sent again although nothing changed",
        "Subscribing to Resources",
        [world(R1), delta(RDS, "r"), expect(("route", "r=1")), delta(RDS, "r"), expect(("route", "r=1")), expect()],
    ),
    Row(
        "a star that is asked for again brings everything again",
        "Subscribing to Resources",
        [world(A1), delta(CDS, "*"), expect(("cluster", "a=1")), delta(CDS, "*"), expect(("cluster", "a=1")), expect()],
    ),
    Row(
        "a missing name that is asked for again is answered again",
        "Knowing When a Requested Resource Does Not Exist",
        [world(), delta(RDS, "r"), expect(("route", "-r")), delta(RDS, "r"), expect(("route", "-r")), expect()],
    ),
    Row(
        "a name dropped and added in one request stays subscribed, and is answered",
        "proto: resource_names_subscribe",
        [world(R1), delta(RDS, "r"), expect(("route", "r=1")), delta(RDS, "r", drop=["r"]), expect(("route", "r=1"))],
    ),
    Row(
        "an update of what was unsubscribed is silence",
        "Unsubscribing from Resources",
        [world(R1), delta(RDS, "r"), expect(("route", "r=1")), delta(RDS, drop=["r"]), world(R2), expect()],
    ),
    Row(
        "an unsubscription is not answered",
        "Unsubscribing from Resources",
        [world(R1), delta(RDS, "r"), expect(("route", "r=1")), delta(RDS, drop=["r"]), expect()],
    ),
    Row(
        "a phantom unsubscription is ignored",
        "Unsubscribing from Resources",
        [world(A1), delta(CDS, drop=["x"]), delta(CDS, "a", drop=["y"]), expect(("cluster", "a=1"))],
    ),
    Row(
        "a phantom unsubscription beside a wildcard is ignored",
        "Unsubscribing from Resources",
        [world(A1), delta(CDS), expect(("cluster", "a=1")), delta(CDS, drop=["a", "x"]), expect()],
    ),
    Row(
        "a name unsubscribed beside a wildcard that covers it is sent",
        "Unsubscribing from Resources",
        [
            world(A1),
            delta(CDS, "*", "a"),
            expect(("cluster", "a=1")),
            delta(CDS, drop=["a"]),
            expect(("cluster", "a=1")),
        ],
    ),
    Row(
        "a name unsubscribed beside a wildcard that does not cover it is removed",
        "Unsubscribing from Resources",
        [
            world(A1),
            delta(CDS, "*", "x"),
            expect(("cluster", "a=1", "-x")),
            delta(CDS, drop=["x"]),
            expect(("cluster", "-x")),
            expect(),
        ],
    ),
    Row(
        "a name and the wildcard unsubscribed together are not answered",
        "Unsubscribing from Resources",
        [world(A1), delta(CDS, "*", "a"), expect(("cluster", "a=1")), delta(CDS, drop=["a", "*"]), expect()],
    ),
    Row(
        "an ACK is not answered",
        "Incremental xDS",
        [world(A1), delta(CDS), expect(("cluster", "a=1")), delta(CDS, nonce="1"), expect()],
    ),
    Row(
        "an equal world is silence",
        "When to send an update",
        [world(A1), delta(CDS), expect(("cluster", "a=1")), world(resource(CDS, "a", "1")), expect()],
    ),
    Row(
        "a NACK is not answered until the content changes, then once",
        "When to send an update",
        [
            world(A1, B1),
            delta(CDS),
            expect(("cluster", "a=1", "b=1")),
            delta(CDS, nonce="1", error="no"),
            expect(),
            world(A2, B1),
            expect(("cluster", "a=2")),
            expect(),
        ],
    ),
    Row(
        "a NACK that also subscribes is honoured for the names",
        "proto: DeltaDiscoveryRequest",
        [
            world(R1, S1),
            delta(RDS, "r"),
            expect(("route", "r=1")),
            delta(RDS, "s", nonce="1", error="no"),
            expect(("route", "s=1")),
        ],
    ),
    Row(
        "a removal that came in a refused response is repeated with the next",
        "Deleting Resources",
        [
            world(R1, S1),
            delta(RDS, "r", "s"),
            expect(("route", "r=1", "s=1")),
            world(R2),
            expect(("route", "r=2"), ("route", "-s")),
            delta(RDS, nonce="2"),
            delta(RDS, nonce="3", error="no"),
            expect(),
            world(R1),
            expect(("route", "r=1", "-s")),
        ],
    ),
    Row(
        "a removal that came in a refused response is forgotten if the name came back",
        "Deleting Resources",
        [
            world(R1, S1),
            delta(RDS, "r", "s"),
            expect(("route", "r=1", "s=1")),
            world(R1),
            expect(("route", "-s")),
            delta(RDS, nonce="2", error="no"),
            world(R2, S1),
            expect(("route", "r=2", "s=1")),
        ],
    ),
    Row(
        "a stale nonce does not keep a subscription from being honoured",
        "Incremental xDS",
        [
            world(R1, S1),
            delta(RDS, "r"),
            expect(("route", "r=1")),
            world(R2, S1),
            expect(("route", "r=2")),
            delta(RDS, "s", nonce="1"),
            expect(("route", "s=1")),
        ],
    ),
    Row(
        "an unknown nonce does not keep an unsubscription from being honoured",
        "Incremental xDS",
        [world(R1), delta(RDS, "r"), expect(("route", "r=1")), delta(RDS, drop=["r"], nonce="99"), world(R2), expect()],
    ),
    Row(
        "a wildcard that comes back with everything is met with silence",
        "Incremental xDS",
        [world(A1, B1), delta(CDS, initial={"a": A1.version, "b": B1.version}), expect()],
    ),
    Row(
        "a star that comes back with everything is met with silence",
        "Incremental xDS",
        [world(A1), delta(CDS, "*", initial={"a": A1.version}), expect()],
    ),
    Row(
        "a wildcard that comes back gets what changed, what is new, and what is gone",
        "Incremental xDS",
        [
            world(A2, B1),
            delta(CDS, initial={"a": A1.version, "x": "1"}),
            expect(("cluster", "a=2", "b=1"), ("cluster", "-x")),
        ],
    ),
    Row(
        "names that come back get what changed and what is gone, and silence for the rest",
        "Incremental xDS",
        [
            world(R2, S1),
            delta(RDS, "r", "s", "x", initial={"r": R1.version, "s": S1.version, "x": "1"}),
            expect(("route", "r=2"), ("route", "-x")),
        ],
    ),
    Row(
        "a name that comes back without a version is answered",
        "Incremental xDS",
        [world(R1, S1), delta(RDS, "r", "s", initial={"r": R1.version}), expect(("route", "s=1"))],
    ),
    Row(
        "versions of what is not subscribed are ignored",
        "Incremental xDS",
        [world(R1), delta(RDS, "r", initial={"r": R1.version, "x": "1"}), expect()],
    ),
    Row(
        "versions count only on the first request of a type",
        "proto: initial_resource_versions",
        [world(R1, S1), delta(RDS, "r"), delta(RDS, "s", initial={"s": S1.version}), expect(("route", "r=1", "s=1"))],
    ),
    Row(
        "what comes back before there is a world is compared when there is one",
        "envoy#5168",
        [
            no_world(),
            delta(CDS, initial={"a": A1.version, "x": "1"}),
            expect(),
            world(A1, B1),
            expect(("cluster", "b=1"), ("cluster", "-x")),
        ],
    ),
    Row(
        "without a world there is silence, and what was asked for is remembered",
        "envoy#5168",
        [no_world(), delta(CDS), delta(RDS, "r"), expect(), world(A1), expect(("cluster", "a=1"), ("route", "-r"))],
    ),
    Row(
        "additions go CDS, EDS, LDS, RDS, SDS, whatever the order of the requests",
        "Eventual consistency considerations",
        [
            world(A1, E1, L1, R1, K1),
            delta(SDS, "k"),
            delta(RDS, "r"),
            delta(LDS),
            delta(EDS, "e"),
            delta(CDS),
            expect(("cluster", "a=1"), ("endpoint", "e=1"), ("listener", "l=1"), ("route", "r=1"), ("secret", "k=1")),
        ],
    ),
    Row(
        "a cluster outlives the listener that is to stop using it",
        "Eventual consistency considerations",
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(LDS, nonce="2"),
            world(B1, L2),
            expect(("cluster", "b=1"), ("listener", "l=2")),
            delta(LDS, nonce="4"),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "a client that refused the new listener keeps the clusters of the old one, whatever else it accepts",
        "Eventual consistency considerations",
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(LDS, nonce="2"),
            world(B1, L2),
            expect(("cluster", "b=1"), ("listener", "l=2")),
            delta(LDS, nonce="4", error="no"),
            expect(),
            world(B1, L2, M1),
            expect(("listener", "m=1")),
            delta(LDS, nonce="5"),
            expect(),
            world(B1, L1, M1),
            expect(("listener", "l=1")),
            delta(LDS, nonce="6"),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "a refused listener that its client dropped keeps no cluster",
        "Eventual consistency considerations",
        [
            world(A1, L1),
            delta(CDS),
            delta(LDS, "l"),
            expect(("cluster", "a=1"), ("listener", "l=1")),
            delta(LDS, nonce="2", error="no"),
            world(L1),
            expect(),
            delta(LDS, drop=["l"]),
            expect(("cluster", "-a")),
        ],
    ),
    Row(
        "a changed cluster brings its unchanged endpoints again",
        "Resource warming",
        [
            world(AE1, E1),
            delta(CDS),
            delta(EDS, "e"),
            expect(("cluster", "a=1"), ("endpoint", "e=1")),
            world(AE2, E1),
            expect(("cluster", "a=2"), ("endpoint", "e=1")),
            expect(),
        ],
    ),
    Row(
        "endpoints that come back known are sent if their cluster changed meanwhile",
        "Resource warming",
        [
            world(AE2, E1),
            delta(CDS, initial={"a": AE1.version}),
            expect(("cluster", "a=2")),
            delta(EDS, "e", initial={"e": E1.version}),
            expect(("endpoint", "e=1")),
        ],
    ),
    Row(
        "a cluster that is asked for again brings its endpoints again",
        "Resource warming",
        [
            world(AE1, E1),
            delta(CDS),
            delta(EDS, "e"),
            expect(("cluster", "a=1"), ("endpoint", "e=1")),
            delta(CDS, "*"),
            expect(("cluster", "a=1"), ("endpoint", "e=1")),
        ],
    ),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.sentence)
def test_delta_rule(row: Row) -> None:
    play(Stream(Delta()), row)
