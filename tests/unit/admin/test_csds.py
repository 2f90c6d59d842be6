"""What client status says of many clients, of several streams of one, and of content that is not served any more."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.json_format import MessageToDict

from tests.unit.protocol.values import CDS, LDS, SDS, resource, snapshot
from xds.admin.csds import MAX_RESPONSE_BYTES, ClientStatus
from xds.cache import SnapshotCache, World
from xds.clients import MAX_NACK_TEXT, OWN_METADATA, Clients
from xds.compile.refuse import REFUSE_ALL
from xds.diagnostics import Where
from xds.gen.discovery_pb2 import Node
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
from xds.policy.model import HeldPolicy, Workload
from xds.protocol.delta import Delta, DeltaRequest
from xds.protocol.report import is_in_step, report_resources
from xds.protocol.stream import Response, Stream
from xds.protocol.subscription import Acked, Nacked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from xds.clients import Connection
    from xds.names import Version
    from xds.policy.model import Policy
    from xds.resources import Resource, ResourceType

BIG = "x" * 100_000


class Site:
    """A cache, a registry, and clients that are played."""

    def __init__(self, *resources: Resource) -> None:
        self.cache, self.clients = SnapshotCache(), Clients()
        self.serve(*resources)
        self.status = ClientStatus(self.clients, self.cache, replica="xds-0")

    def serve(self, *resources: Resource) -> None:
        self.now = snapshot(*resources)
        self.cache.publish(World(candidates=(), snapshots={}, refuse_all=self.now))

    async def own(self) -> dict[str, Any]:
        """Return what the server says of the only client in words of its own."""
        (config,) = (await self.status.describe(ClientStatusRequest())).config
        told: dict[str, Any] = MessageToDict(config.node.metadata)[OWN_METADATA]
        return told

    async def entries(self) -> dict[str, ClientConfig.GenericXdsConfig]:
        """Return what is said of the only client, by resource."""
        (config,) = (await self.status.describe(ClientStatusRequest())).config
        return {entry.name: entry for entry in config.generic_xds_configs}

    def connect(
        self,
        pod: str,
        kind: ResourceType,
        *names: str,
        labels: tuple[tuple[str, str], ...] = (),
        initial: Mapping[str, Version] | None = None,
    ) -> Played:
        stream = Stream(Delta())
        workload = Workload(pod=pod, namespace="shop", labels=labels, service_account="till")
        connection = self.clients.connect(
            NodeId(f"{pod}.shop"),
            workload,
            since=12.5,
            variant="delta",
            resources=partial(report_resources, stream),
            is_in_step=partial(is_in_step, stream),
        )
        stream.receive(DeltaRequest(type_url=kind.type_url, subscribe=names, initial_versions=initial or {}))
        return Played(self, stream, connection)


class Played:
    """One client, which answers when it is told to."""

    def __init__(self, site: Site, stream: Stream[DeltaRequest], connection: Connection) -> None:
        self.site, self.stream, self.connection = site, stream, connection

    def hear(self) -> Response:
        response = self.stream.next_response(self.site.now)
        assert response is not None
        self.connection.note_sent(response.kind, response.version)
        return response

    def answer(self, response: Response, error: str | None = None) -> None:
        event = self.stream.receive(DeltaRequest(type_url=response.kind.type_url, nonce=response.nonce, error=error))
        match event:
            case Nacked(kind, version, text):
                self.connection.note_nack(kind, version, text, 1_000.5)
            case Acked(kind, version):
                self.connection.note_ack(kind, version)
            case other:
                raise AssertionError(other)


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

    shown = MessageToDict(config.node.metadata)
    assert shown.pop(OWN_METADATA)
    assert shown == {"labels": {"app": "web"}, "serviceAccount": "till"}


async def test_the_metadata_says_who_answers_since_when_and_which_versions_count() -> None:
    site = Site(resource(CDS, "c"))
    played = site.connect("web-0", CDS)
    asked = await site.own()
    response = played.hear()
    sent = await site.own()
    played.answer(response)
    acknowledged = await site.own()

    assert asked == {
        "replica": "xds-0",
        "standing": "refuse-all",
        "since": 12.5,
        "variant": "delta",
        "types": {},
    }
    assert sent["types"] == {"cluster": {"current": False, "resources": 1, "sent": response.version}}
    assert acknowledged["types"] == {
        "cluster": {"current": True, "resources": 1, "sent": response.version, "acknowledged": response.version}
    }


async def test_who_asks_for_the_metadata_is_told_of_no_resources() -> None:
    site = Site(resource(CDS, "c"), resource(CDS, "d"))
    played = site.connect("web-0", CDS)
    played.answer(played.hear())
    caller = Node()
    caller.metadata.update({OWN_METADATA: True})

    (config,) = (await site.status.describe(ClientStatusRequest(node=caller))).config

    assert not config.generic_xds_configs
    assert MessageToDict(config.node.metadata)[OWN_METADATA]["types"]["cluster"]["resources"] == 2


async def test_a_client_that_comes_with_all_that_is_served_has_that_version_though_nothing_was_sent() -> None:
    site = Site(resource(CDS, "c"))
    before = site.connect("web-0", CDS)
    response = before.hear()
    before.connection.close()

    held = {name: item.version for name, item in site.now.of(CDS).items()}
    site.connect("web-0", CDS, initial=held)
    (same,) = (await site.own())["types"].values()
    site.serve(resource(CDS, "c", "2"))
    (stale,) = (await site.own())["types"].values()

    assert same == {"current": True, "resources": 1, "sent": response.version, "acknowledged": response.version}
    assert stale == {"current": False, "resources": 1}


async def test_a_client_that_acknowledged_everything_is_not_current_once_there_is_something_newer() -> None:
    site = Site(resource(CDS, "c", "1"))
    played = site.connect("web-0", CDS)
    played.answer(played.hear())
    site.serve(resource(CDS, "c", "2"))

    (cluster,) = (await site.own())["types"].values()

    assert cluster["sent"] == cluster["acknowledged"]
    assert not cluster["current"]


async def test_a_refused_version_stands_in_the_metadata_with_its_reason_and_without_logins() -> None:
    site = Site(resource(LDS, "l"))
    played = site.connect("web-0", LDS)
    response = played.hear()
    played.answer(response, "no such filter http://user:word@proxy " + "x" * 5_000)

    told = await site.own()

    rejected = told["types"]["listener"]["rejected"]
    assert not told["types"]["listener"]["current"]
    assert (rejected["version"], rejected["at"]) == (response.version, 1_000.5)
    assert rejected["text"].startswith("no such filter [redacted]@proxy xxx")
    assert len(rejected["text"]) == 1_000


async def test_what_a_client_quotes_is_told_without_what_looks_like_a_credential() -> None:
    site = Site(resource(LDS, "l"))
    played = site.connect("web-0", LDS)
    played.answer(played.hear(), "Authorization: Basic canary, Bearer 0canary, password=canary, http://me:canary@proxy")

    (config,) = (await site.status.describe(ClientStatusRequest())).config

    assert str(config).count("[redacted]") == 8, "of the resource, and in the metadata"
    assert "canary" not in str(config)


async def test_sidecars_that_refuse_the_same_have_a_moment_each() -> None:
    site = Site(resource(LDS, "l"))
    for number in range(2):
        played = site.connect(f"web-{number}", LDS)
        response = played.hear()
        played.connection.note_nack(LDS, response.version, "no such filter", 1_000.0 + number)

    shown = (await site.status.describe(ClientStatusRequest())).config

    assert [
        MessageToDict(config.node.metadata)[OWN_METADATA]["types"]["listener"]["rejected"]["at"] for config in shown
    ] == [1_000, 1_001]


async def test_a_login_that_the_end_of_a_long_refusal_cuts_in_two_does_not_show() -> None:
    site = Site(resource(LDS, "l"))
    played = site.connect("web-0", LDS)
    played.answer(played.hear(), f"{' ' * (MAX_NACK_TEXT - 20)}http://user:word-word@proxy")

    response = await site.status.describe(ClientStatusRequest())

    assert b"word" not in response.SerializeToString()


@pytest.mark.parametrize(
    ("candidate", "told"),
    [
        pytest.param(
            replace(REFUSE_ALL, name="corp", namespace="shop"),
            {"standing": "policy", "policy": "shop/corp"},
            id="one of a namespace",
        ),
        pytest.param(
            replace(REFUSE_ALL, name="corp", namespace=None),
            {"standing": "policy", "policy": "corp"},
            id="one where policies have no namespaces",
        ),
        pytest.param(
            HeldPolicy(name="corp", namespace="shop", where=Where("corp.yaml")),
            {"standing": "held", "policy": "shop/corp"},
            id="one that can't be used",
        ),
    ],
)
async def test_the_metadata_names_the_policy_in_force(candidate: Policy | HeldPolicy, told: dict[str, str]) -> None:
    site = Site()
    key = (candidate.namespace, candidate.name)
    site.cache.publish(World(candidates=(candidate,), snapshots={key: snapshot()}, refuse_all=snapshot()))
    site.connect("web-0", CDS)

    own = await site.own()

    assert {name: own.get(name) for name in ("standing", "policy")} == told


async def test_what_a_node_says_on_two_streams_is_put_together() -> None:
    site = Site(resource(CDS, "c"), resource(LDS, "l"))
    for kind in (CDS, LDS):
        played = site.connect("web-0", kind)
        played.answer(played.hear())

    types = (await site.own())["types"]

    assert {name: told["current"] for name, told in types.items()} == {"cluster": True, "listener": True}
