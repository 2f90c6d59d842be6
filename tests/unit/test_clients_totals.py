"""What the registry counts, for metrics."""

from __future__ import annotations

from xds.clients import Clients, Totals
from xds.names import NodeId, Version
from xds.policy.model import Workload
from xds.resources import ResourceType

CDS, LDS = ResourceType.CLUSTER, ResourceType.LISTENER
POD = Workload(pod="web-0", namespace="shop")


def test_totals_outlive_the_streams_that_they_count() -> None:
    clients = Clients()
    for _ in range(2):
        connection = clients.connect(NodeId("web-0.shop"), POD, since=0.0, variant="delta")
        connection.note_sent(CDS, Version("1"), 100)
        connection.note_sent(LDS, Version("1"), 50)
        connection.note_ack(CDS, Version("1"))
        connection.note_nack(LDS, Version("1"), "no", 7.0)
        connection.close()

    assert clients.totals == {
        ("delta", CDS): Totals(responses=2, sent_bytes=200, acks=2),
        ("delta", LDS): Totals(responses=2, sent_bytes=100, nacks=2),
    }
    assert clients.opened == {"delta": 2}


def test_a_client_is_rejecting_until_it_accepts() -> None:
    clients = Clients()
    connection = clients.connect(NodeId("web-0.shop"), POD, since=0.0)
    connection.note_nack(LDS, Version("1"), "no", 7.0)
    before = clients.connected()[0]
    connection.note_ack(LDS, Version("2"))

    assert before.is_rejecting
    nack = before.types[LDS].nack
    assert nack is not None
    assert nack.at == 7.0
    assert not clients.connected()[0].is_rejecting
