"""What client status says of many clients, of several streams of one, and of content that is not served any more."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.json_format import MessageToDict

from tests.unit.protocol.values import CDS, LDS, SDS, resource, snapshot
from xds.admin.csds import MAX_RESPONSE_BYTES, ClientStatus
from xds.cache import SnapshotCache, World
from xds.clients import Clients
from xds.gen.status_pb2 import (
    ACKED,
    DOES_NOT_EXIST,
    NACKED,
    NOT_SENT,
    REQUESTED,
    STALE,
    ClientConfig,
    ClientStatusRequest,
)
from xds.names import NodeId
from xds.policy.model import Workload
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.report import report_resources
from xds.protocol.stream import Response, Stream
from xds.protocol.subscription import Nacked

if TYPE_CHECKING:
    from xds.clients import Connection
    from xds.resources import Resource, ResourceType

BIG = "x" * 100_000


class Site:
    """A cache, a registry, and clients that are played."""

    def __init__(self, *resources: Resource) -> None:
        self.cache, self.clients = SnapshotCache(), Clients()
        self.serve(*resources)
        self.status = ClientStatus(self.clients, self.cache)

    def serve(self, *resources: Resource) -> None:
        self.now = snapshot(*resources)
        self.cache.publish(World(candidates=(), snapshots={}, refuse_all=self.now))

    async def entries(self) -> dict[str, ClientConfig.GenericXdsConfig]:
        """Return what is said of the only client, by resource."""
        (config,) = (await self.status.describe(ClientStatusRequest())).config
        return {entry.name: entry for entry in config.generic_xds_configs}

    def connect(self, pod: str, kind: ResourceType, *names: str, labels: tuple[tuple[str, str], ...] = ()) -> Played:
        stream = Stream(Delta())
        workload = Workload(pod=pod, namespace="shop", labels=labels, service_account="till")
        connection = self.clients.connect(
            NodeId(f"{pod}.shop"), workload, since=0.0, resources=partial(report_resources, stream)
        )
        stream.receive(DeltaRequest(type_url=kind.type_url, subscribe=names))
        return Played(self, stream, connection)


class Played:
    """One client, which answers when it is told to."""

    def __init__(self, site: Site, stream: Stream[DeltaRequest], connection: Connection) -> None:
        self.site, self.stream, self.connection = site, stream, connection

    def hear(self) -> Response:
        response = self.stream.next_response(self.site.now)
        assert response is not None
        return response

    def answer(self, response: Response, error: str | None = None) -> None:
        event = self.stream.receive(DeltaRequest(type_url=response.kind.type_url, nonce=response.nonce, error=error))
        if isinstance(event, Nacked):
            self.connection.note_nack(event.kind, event.version, event.text, 1_000.5)


async def test_a_thousand_clients_fit_into_what_a_grpc_client_takes() -> None:
    site = Site(resource(LDS, "l", BIG))
    for number in range(1000):
        played = site.connect(f"web-{number}", LDS)
        played.answer(played.hear())

    response = await site.status.describe(ClientStatusRequest())

    entries = [entry for config in response.config for entry in config.generic_xds_configs]
    assert len(entries) == 1000
    assert {entry.client_status for entry in entries} == {ACKED}
    assert 0 < sum(entry.HasField("xds_config") for entry in entries) < 1000
    assert response.ByteSize() <= MAX_RESPONSE_BYTES + 100_000


async def test_a_node_with_two_streams_is_described_once_and_the_newer_one_counts() -> None:
    site = Site(resource(CDS, "c"), resource(LDS, "l"))
    old, new = site.connect("web-0", LDS), site.connect("web-0", CDS)
    old.answer(old.hear())
    new.hear()

    (config,) = (await site.status.describe(ClientStatusRequest())).config

    assert {entry.name: entry.client_status for entry in config.generic_xds_configs} == {"l": ACKED, "c": REQUESTED}


async def test_each_standing_has_its_words() -> None:
    site = Site(resource(SDS, "here"), resource(SDS, "bad"))
    played = site.connect("web-0", SDS, "here", "none")
    asked = (await site.entries())["here"]
    response = played.hear()
    sent = await site.entries()
    played.answer(response, "bad key http://user:word@proxy")
    refused = await site.entries()

    assert (asked.client_status, asked.config_status) == (REQUESTED, NOT_SENT)
    assert (sent["here"].client_status, sent["here"].config_status) == (REQUESTED, STALE)
    assert sent["none"].client_status == DOES_NOT_EXIST
    assert refused["here"].client_status == NACKED
    assert refused["here"].error_state.details == "bad key [redacted]@proxy"
    assert refused["here"].error_state.last_update_attempt.ToMilliseconds() == 1_000_500
    assert not refused["here"].HasField("xds_config")


async def test_content_that_is_not_served_any_more_is_not_shown_as_the_clients() -> None:
    site = Site(resource(CDS, "c", "1"))
    played = site.connect("web-0", CDS)
    played.answer(played.hear())
    site.serve(resource(CDS, "c", "2"))

    (entry,) = (await site.status.describe(ClientStatusRequest())).config[0].generic_xds_configs

    assert entry.version_info == resource(CDS, "c", "1").version
    assert not entry.HasField("xds_config")


async def test_of_a_secret_nothing_but_its_name_is_shown() -> None:
    site = Site(resource(SDS, "login", "s3cr3t"))
    played = site.connect("web-0", SDS, "login")
    played.answer(played.hear())

    response = await site.status.describe(ClientStatusRequest())

    (entry,) = response.config[0].generic_xds_configs
    assert entry.xds_config.value == b"\x0a\x05login"
    assert b"s3cr3t" not in response.SerializeToString()


async def test_a_node_shows_what_selectors_look_at() -> None:
    site = Site()
    site.connect("web-0", CDS, labels=(("app", "web"),))

    (config,) = (await site.status.describe(ClientStatusRequest())).config

    assert MessageToDict(config.node.metadata) == {"labels": {"app": "web"}, "serviceAccount": "till"}
