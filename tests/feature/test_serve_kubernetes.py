"""A control plane in a cluster: sidecars get what is applied there, and an API server that is away costs nothing."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.api_server import ApiServerEmulation
from tests.support.api_store import KINDS
from tests.support.cluster import CLUSTER_SETTINGS, HOME, build, following, namespace, pod, policy, secret
from tests.support.control_plane import PATIENCE, open_stream, wait_until
from tests.support.tokens import Issuer
from xds.admin.pages import build_pages
from xds.app import run_control_plane
from xds.errors import SettingsError
from xds.flags import HostPort
from xds.resources import ResourceType

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.api_store import Object
    from tests.support.control_plane import Running, Stream

TO = "httpProxy: http://192.0.2.{host}:3128\nhttpsProxy: http://192.0.2.{host}:3128\ndialect: go\n"
LONG = """\
apiVersion: egress-xds/v1alpha1
kind: EgressPolicy
metadata: {{name: {name}}}
spec:
  selector: {selector}
  proxies:
    corp: {{endpoints: [{{url: "http://192.0.2.{host}:3128"}}]{more}}}
  default: {{action: tunnel, proxy: corp}}
  dialect: go
"""


def to(host: int) -> str:
    """Return a policy that tunnels everything to the proxy 192.0.2.`host`."""
    return TO.format(host=host)


def long(name: str, host: int, selector: str = "{}", more: str = "") -> str:
    """Return the same in the long form."""
    return LONG.format(name=name, host=host, selector=selector, more=more)


def leads_to(stream: Stream, host: int) -> bool:
    """Whether the stream's newest clusters lead to the proxy 192.0.2.`host`."""
    needle = f"192.0.2.{host}".encode()
    return any(
        needle in found.resource for (kind, _), found in stream.resources.items() if kind is ResourceType.CLUSTER
    )


@pytest.fixture
async def api() -> AsyncIterator[ApiServerEmulation]:
    """A cluster with one namespace, one pod and a policy for everybody."""
    async with ApiServerEmulation() as server:
        for item in (namespace(HOME), namespace("shop"), pod("shop", "web-0", {"app": "web"})):
            server.put(item)
        server.put(policy(HOME, "corp", to(10)))
        yield server


def problems(running: Running) -> str:
    """Return every finding, in words."""
    return "\n".join(
        map(str, (each for state in running.parts.reconciler.state.documents for each in state.diagnostics))
    )


async def test_a_pod_gets_what_was_applied_and_then_what_is_applied(api: ApiServerEmulation, tmp_path: Path) -> None:
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: leads_to(stream, 10))
        api.put(policy(HOME, "corp", to(11)))
        await wait_until(lambda: leads_to(stream, 11))
        api.put(policy("shop", "own", to(12)))
        await wait_until(lambda: leads_to(stream, 12))
        api.remove("ConfigMap", "shop", "own")
        await wait_until(lambda: leads_to(stream, 11))


async def test_a_broken_policy_leaves_its_last_good_version_and_says_where(
    api: ApiServerEmulation, tmp_path: Path
) -> None:
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: leads_to(stream, 10))
        api.put(policy(HOME, "corp", to(11) + "noProxy: [10.0.0.0/33]\n"))
        await wait_until(lambda: "configmap/egress-system/corp/policy.yaml:4" in problems(running))

        assert leads_to(stream, 10)


async def test_where_only_policies_at_home_count_others_change_nothing(api: ApiServerEmulation, tmp_path: Path) -> None:
    api.put(policy("shop", "own", to(12)))
    settings = replace(CLUSTER_SETTINGS, namespaced_policies=False)
    async with following(api, tmp_path, settings) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: leads_to(stream, 10))
        api.put(policy("shop", "own", to(13)))
        api.put(policy(HOME, "corp", to(11)))
        await wait_until(lambda: leads_to(stream, 11))

        assert [state.source for state in running.parts.reconciler.state.documents] == [
            "configmap/egress-system/corp/policy.yaml"
        ]


async def test_labels_that_change_move_a_running_pod(api: ApiServerEmulation, tmp_path: Path) -> None:
    api.put(policy(HOME, "batch", long("batch", 20, "{podLabels: {matchLabels: {tier: batch}}}")))
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: leads_to(stream, 10))
        api.put(pod("shop", "web-0", {"app": "web", "tier": "batch"}))
        await wait_until(lambda: leads_to(stream, 20))


async def test_labels_and_annotations_of_a_namespace_move_its_pods(api: ApiServerEmulation, tmp_path: Path) -> None:
    api.put(policy(HOME, "eu", long("eu", 20, "{namespaceLabels: {matchLabels: {region: eu}}}")))
    api.put(policy(HOME, "spare", long("spare", 30, "{namespaceLabels: {matchLabels: {region: eu}}}")))
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: leads_to(stream, 10))
        api.put(namespace("shop", {"region": "eu"}))
        await wait_until(lambda: leads_to(stream, 20))
        api.put(namespace("shop", {"region": "eu"}, policy="spare"))
        await wait_until(lambda: leads_to(stream, 30))


async def test_a_pod_that_is_not_known_gets_nothing_until_it_is(api: ApiServerEmulation, tmp_path: Path) -> None:
    async with following(api, tmp_path) as running, open_stream(running.address, "web-1.shop") as stream:
        async with open_stream(running.address, "web-0.shop") as known:
            await wait_until(lambda: leads_to(known, 10))
        assert not stream.responses
        api.put(pod("shop", "web-1"))
        await wait_until(lambda: leads_to(stream, 10))
        api.remove("Pod", "shop", "web-1")
        await wait_until(lambda: len(running.parts.clients) == 0)


async def test_pods_that_change_nothing_relevant_cause_no_response(api: ApiServerEmulation, tmp_path: Path) -> None:
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: leads_to(stream, 10) and bool(stream.version(ResourceType.LISTENER)))
        changes, responses = running.parts.cache.changes, stream.responses
        for number in range(50):
            api.put(
                {**pod("shop", "web-0", {"app": "web"}), "status": {"phase": "Running", "podIP": f"10.0.0.{number}"}}
            )
            api.put(pod("shop", f"other-{number}"))
        assert running.parts.cluster is not None
        known = running.parts.cluster.workloads.pods()
        await wait_until(lambda: len(known) == 51)
        assert (running.parts.cache.changes, stream.responses) == (changes, responses)

        api.put(policy(HOME, "corp", to(11)))
        await wait_until(lambda: leads_to(stream, 11))
        assert running.parts.cache.changes == changes + 1


async def test_a_login_comes_from_its_secret_and_follows_it(api: ApiServerEmulation, tmp_path: Path) -> None:
    login = ", auth: {basic: {secretRef: {name: login}}}"
    api.put(policy(HOME, "corp", long("corp", 10, more=login)))
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: len(running.parts.clients) == 1)
        assert "create secret" in problems(running)
        assert not stream.responses

        api.put(secret(HOME, "login", username="alice", password="canary-one"))
        await wait_until(lambda: leads_to(stream, 10))
        assert "create secret" not in problems(running)
        watched = {seen.path for seen in api.requests if "secrets" in seen.path}
        assert watched == {f"/api/v1/namespaces/{HOME}/secrets"}
        assert all(
            seen.query["fieldSelector"] == "metadata.name=login" for seen in api.requests if "secrets" in seen.path
        )

        before = running.parts.cache.changes
        api.put(secret(HOME, "login", username="alice", password="canary-two"))
        await wait_until(lambda: running.parts.cache.changes > before)
        assert "canary" not in repr(running.parts.reconciler.state)


async def test_a_namespace_reaches_no_other_namespaces_secret(api: ApiServerEmulation, tmp_path: Path) -> None:
    api.put(secret(HOME, "login", username="alice", password="canary"))
    api.put(policy("shop", "own", long("own", 20, more=", auth: {basic: {secretRef: {name: login}}}")))
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: "create secret" in problems(running))

        assert {seen.path for seen in api.requests if "secrets" in seen.path} == {"/api/v1/namespaces/shop/secrets"}
        assert not stream.responses


async def test_networks_of_the_cluster_are_direct_unless_a_policy_says_otherwise(
    api: ApiServerEmulation, tmp_path: Path
) -> None:
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}, "spec": {"podCIDRs": ["10.244.7.0/24"]}}
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: bool(stream.version(ResourceType.LISTENER)))
        plain = stream.version(ResourceType.LISTENER)
        api.put(node)
        await wait_until(lambda: stream.version(ResourceType.LISTENER) != plain)
        api.put(
            policy(
                HOME,
                "corp",
                long("corp", 10).replace("  dialect", "  alwaysDirect: {clusterNetworks: false}\n  dialect"),
            )
        )
        known = stream.version(ResourceType.LISTENER)
        await wait_until(lambda: stream.version(ResourceType.LISTENER) != known)


async def test_an_api_server_that_is_away_is_not_noticed_and_what_did_not_change_is_not_told_again(
    api: ApiServerEmulation, tmp_path: Path
) -> None:
    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: leads_to(stream, 10) and bool(stream.version(ResourceType.LISTENER)))
        responses, changes = stream.responses, running.parts.cache.changes
        await api.go_away()
        api.put(pod("shop", "web-9"))
        api.compact()
        await api.come_back()
        assert running.parts.cluster is not None
        known = running.parts.cluster.workloads.pods()
        await wait_until(lambda: len(known) == 2)

        assert (stream.responses, running.parts.cache.changes) == (responses, changes)
        api.put(policy(HOME, "corp", to(11)))
        await wait_until(lambda: leads_to(stream, 11))


async def test_operators_read_on_the_config_map_what_became_of_it(api: ApiServerEmulation, tmp_path: Path) -> None:
    key = (HOME, "corp")

    def told(name: str) -> str:
        metadata = api.store.get(KINDS["v1", "ConfigMap"], key)["metadata"]
        return str({**metadata.get("annotations", {}), **metadata["labels"]}.get(f"egress-xds/{name}", ""))

    async with following(api, tmp_path) as running, open_stream(running.address, "web-0.shop") as stream:
        await wait_until(lambda: "1 acknowledged" in told("status"))
        assert told("accepted") == "true"
        passes, responses = running.parts.reconciler.passes.count, stream.responses

        api.put({**policy(HOME, "corp", to(11) + "noProxy: [10.0.0.0/33]\n"), **kept_metadata(api, key)})
        await wait_until(lambda: told("accepted") == "false")
        assert "policy.yaml:4" in told("problems")
        assert running.parts.reconciler.passes.count == passes + 1
        assert stream.responses == responses


def kept_metadata(api: ApiServerEmulation, key: tuple[str, str]) -> Object:
    """Return the metadata of a ConfigMap as it is stored, as whoever applies new data leaves it."""
    return {"metadata": api.store.get(KINDS["v1", "ConfigMap"], key)["metadata"]}


async def test_a_namespace_that_does_not_exist_is_no_home(api: ApiServerEmulation, tmp_path: Path) -> None:
    parts = await build(api, tmp_path, replace(CLUSTER_SETTINGS, namespace="egress-sistem"))
    with pytest.raises(SettingsError, match="--namespace egress-sistem: there is no such namespace"):
        await run_control_plane(parts, asyncio.Event(), lambda _: None)


async def test_nobody_is_served_before_tokens_can_be_checked(api: ApiServerEmulation, tmp_path: Path) -> None:
    stop, addresses = asyncio.Event(), asyncio.Queue[HostPort]()
    parts = await build(api, tmp_path, replace(CLUSTER_SETTINGS, token_source="cluster"))
    task = asyncio.create_task(run_control_plane(parts, stop, addresses.put_nowait))
    await wait_until(parts.first_world.is_set)
    assert addresses.empty()
    page = build_pages(parts.administration.observed)["/readyz"]()
    assert (page.status, b"keys of tokens: " in page.body) == (503, True)

    api.jwks = {"keys": [Issuer(is_rsa=True).jwk]}
    async with asyncio.timeout(PATIENCE):
        await addresses.get()
    stop.set()
    await asyncio.wait([task])


async def test_replicas_tell_the_same_versions(api: ApiServerEmulation, tmp_path: Path) -> None:
    api.put(policy("shop", "own", to(12)))
    async with (
        following(api, tmp_path, replace(CLUSTER_SETTINGS, identifier="one")) as one,
        following(api, tmp_path, replace(CLUSTER_SETTINGS, identifier="two")) as two,
        open_stream(one.address, "web-0.shop") as first,
        open_stream(two.address, "web-0.shop") as second,
    ):
        await wait_until(lambda: len(first.resources) > 1 and first.resources.keys() == second.resources.keys())

        assert {key: found.version for key, found in first.resources.items()} == {
            key: found.version for key, found in second.resources.items()
        }
