"""The registry of clients: who is connected, and where each stands with each type."""

from __future__ import annotations

import pytest

from xds.clients import MAX_NACK_TEXT, Clients, Connection, Nack, TypeStatus
from xds.names import NodeId, Version
from xds.policy.model import Workload
from xds.resources import ResourceType

CDS, LDS = ResourceType.CLUSTER, ResourceType.LISTENER
V1, V2 = Version("1"), Version("2")


def connect(clients: Clients, pod: str = "web-0", since: float = 7.0) -> Connection:
    return clients.connect(NodeId(f"{pod}.shop"), Workload(pod=pod, namespace="shop"), since=since, variant="delta")


def status(clients: Clients, kind: ResourceType = CDS) -> TypeStatus:
    (client,) = clients.connected()
    return client.types[kind]


def test_a_client_is_listed_from_connect_to_close() -> None:
    clients = Clients()
    connection = connect(clients)
    (client,) = clients.connected()
    assert (client.node_id, client.workload.pod, client.since, client.variant) == ("web-0.shop", "web-0", 7.0, "delta")
    assert len(clients) == 1

    connection.close()
    connection.close()
    assert (clients.connected(), len(clients)) == ((), 0)


def test_clients_are_listed_by_node_and_older_streams_first() -> None:
    """A node has two streams while its old one has not been found dead."""
    clients = Clients()
    for pod, since in (("web-1", 1.0), ("web-0", 2.0), ("web-1", 3.0)):
        connect(clients, pod, since)

    assert [(client.node_id, client.since) for client in clients.connected()] == [
        ("web-0.shop", 2.0),
        ("web-1.shop", 1.0),
        ("web-1.shop", 3.0),
    ]


def test_closing_one_stream_of_a_node_leaves_the_other() -> None:
    clients = Clients()
    old = connect(clients, since=1.0)
    connect(clients, since=2.0)

    old.close()

    assert [client.since for client in clients.connected()] == [2.0]


def test_a_type_that_was_not_sent_has_no_status() -> None:
    clients = Clients()
    connect(clients).note_sent(CDS, V1)

    assert LDS not in clients.connected()[0].types


@pytest.mark.parametrize(
    ("story", "is_current", "is_rejected"),
    [
        pytest.param(["sent 1"], False, False, id="what was only sent is not current"),
        pytest.param(["sent 1", "ack 1"], True, False, id="what was applied is current"),
        pytest.param(["sent 1", "ack 1", "sent 2"], False, False, id="a newer version waits for its answer"),
        pytest.param(["sent 1", "nack 1"], False, True, id="what was refused is rejected"),
        pytest.param(["sent 1", "ack 1", "sent 2", "nack 2"], False, True, id="a refusal after an ACK is a rejection"),
        pytest.param(
            ["sent 1", "ack 1", "sent 1", "nack 1"], False, True, id="a refusal of the version that is in use"
        ),
        pytest.param(["sent 1", "nack 1", "sent 2"], False, True, id="a rejection stands until the next answer"),
        pytest.param(["sent 1", "nack 1", "sent 2", "ack 2"], True, False, id="an ACK ends a rejection"),
    ],
)
def test_where_a_client_stands(story: list[str], *, is_current: bool, is_rejected: bool) -> None:
    clients = Clients()
    connection = connect(clients)
    for line in story:
        verb, _, number = line.partition(" ")
        match verb:
            case "sent":
                connection.note_sent(CDS, Version(number))
            case "ack":
                connection.note_ack(CDS, Version(number))
            case _:
                connection.note_nack(CDS, Version(number), "bad")

    assert (status(clients).is_current, status(clients).is_rejected) == (is_current, is_rejected)


def test_a_type_that_was_never_sent_is_not_current() -> None:
    assert not TypeStatus().is_current


def test_the_last_refusal_stays_visible_after_an_ack() -> None:
    clients = Clients()
    connection = connect(clients)
    connection.note_sent(CDS, V1)
    connection.note_nack(CDS, V1, "no such filter")
    connection.note_sent(CDS, V2)
    connection.note_ack(CDS, V2)

    assert status(clients) == TypeStatus(sent=V2, acked=V2, nack=Nack(V1, "no such filter"), is_rejected=False)


def test_types_are_told_apart() -> None:
    clients = Clients()
    connection = connect(clients)
    connection.note_sent(CDS, V1)
    connection.note_sent(LDS, V2)
    connection.note_ack(LDS, V2)

    assert (status(clients, CDS).acked, status(clients, LDS).acked) == (None, V2)


def test_a_refusal_is_kept_up_to_a_bound() -> None:
    clients = Clients()
    connect(clients).note_nack(CDS, V1, "x" * 1_000_000)

    assert status(clients).nack == Nack(V1, "x" * MAX_NACK_TEXT)


def test_types_that_are_not_served_are_listed() -> None:
    clients = Clients()
    connection = connect(clients)
    connection.note_unknown_type("type.example/A")
    connection.note_unknown_type("type.example/B")

    assert clients.connected()[0].unknown_types == ("type.example/A", "type.example/B")


def test_what_was_read_does_not_change_afterwards() -> None:
    clients = Clients()
    connection = connect(clients)
    before = clients.connected()
    connection.note_sent(CDS, V1)

    assert dict(before[0].types) == {}
