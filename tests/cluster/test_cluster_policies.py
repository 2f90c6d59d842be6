"""What is applied in a cluster reaches its pods, and operators read there what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cluster.place import following, until
from tests.feature.test_serve_kubernetes import leads_to, long, problems, to
from tests.feature.test_serve_secrets import asking, encoded, hear
from tests.support.cluster import policy, secret
from tests.support.control_plane import open_stream, wait_until
from xds import names
from xds.kubernetes.events import POLICY_REFUSED
from xds.kubernetes.status import ACCEPTED, PROBLEMS, STATUS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.place import Place

BROKEN = "noProxy: [10.0.0.0/33]\n"
LOGIN = ", auth: {{basic: {{secretRef: {{name: {}}}}}}}"


async def test_a_pod_gets_what_is_applied_for_it(place: Place, kubeconfig: Path) -> None:
    await place.apply(policy(place.home, "corp", to(10)))
    await place.run_pod("web-0")
    async with (
        following(kubeconfig, place.settings) as running,
        open_stream(running.address, place.node("web-0")) as stream,
    ):
        await wait_until(lambda: leads_to(stream, 10))
        await place.apply(policy(place.home, "corp", to(11)))
        await wait_until(lambda: leads_to(stream, 11))
        await place.apply(policy(place.shop, "own", to(12)))
        await wait_until(lambda: leads_to(stream, 12))
        await place.remove("ConfigMap", place.shop, "own")
        await wait_until(lambda: leads_to(stream, 11))


async def test_a_broken_policy_leaves_its_last_good_version_and_its_config_map_tells_where(
    place: Place, kubeconfig: Path
) -> None:
    await place.apply(policy(place.home, "corp", to(10)))
    await place.run_pod("web-0")

    async def is_told(status: str, accepted: str) -> bool:
        annotations, labels = await place.metadata(place.home, "corp")
        return status in annotations.get(STATUS, "") and labels.get(ACCEPTED) == accepted

    async def has_event() -> bool:
        path = f"/api/v1/namespaces/{place.home}/events"
        found = await place.ask("GET", path, fieldSelector="involvedObject.name=corp")
        return any(item["reason"] == POLICY_REFUSED and "policy.yaml:4" in item["message"] for item in found["items"])

    async with (
        following(kubeconfig, place.settings) as running,
        open_stream(running.address, place.node("web-0")) as stream,
    ):
        await until(lambda: is_told("1 acknowledged", "true"), 30)
        responses = stream.responses
        await place.apply(policy(place.home, "corp", to(11) + BROKEN))
        await until(lambda: is_told("", "false"))
        await until(has_event)
        annotations, _ = await place.metadata(place.home, "corp")

        assert "policy.yaml:4" in annotations[PROBLEMS]
        assert leads_to(stream, 10)
        assert stream.responses == responses

        await place.apply(policy(place.home, "corp", to(11)))
        await wait_until(lambda: leads_to(stream, 11))
        await until(lambda: is_told("", "true"))


async def test_a_login_comes_from_its_secret_and_follows_it(place: Place, kubeconfig: Path) -> None:
    login = secret(place.home, "corp-proxy-login", username="shop", password="canary-of-shop")
    await place.apply(login)
    await place.apply(policy(place.home, "corp", long("corp", 10, more=LOGIN.format("corp-proxy-login"))))
    await place.run_pod("web-0")
    wanted = names.proxy_login("corp", f"secret:{place.home}/corp-proxy-login/login")
    async with (
        following(kubeconfig, place.settings) as running,
        asking(running.address, place.node("web-0"), wanted) as call,
    ):
        found: dict[str, bytes] = {}
        while not found:
            found, _ = await hear(call)
        assert encoded("shop") in found[wanted]

        await place.apply(secret(place.home, "corp-proxy-login", username="shop", password="canary-of-shop-2"))
        found, _ = await hear(call)
        assert encoded("shop", "-2") in found[wanted]


async def test_a_namespace_reaches_no_other_namespaces_secret(place: Place, kubeconfig: Path) -> None:
    await place.apply(secret(place.home, "shop-proxy-login", username="shop", password="canary"))
    await place.apply(policy(place.shop, "own", long("own", 20, more=LOGIN.format("shop-proxy-login"))))
    await place.run_pod("web-0")
    async with (
        following(kubeconfig, place.settings) as running,
        open_stream(running.address, place.node("web-0")) as stream,
    ):
        await wait_until(lambda: f"kubectl -n {place.shop} create secret" in problems(running))
        assert not leads_to(stream, 20)

        await place.apply(secret(place.shop, "shop-proxy-login", username="shop", password="canary"))
        await wait_until(lambda: leads_to(stream, 20))


async def test_labels_that_change_move_a_running_pod(place: Place, kubeconfig: Path) -> None:
    await place.apply(policy(place.home, "corp", to(10)))
    await place.apply(policy(place.home, "batch", long("batch", 20, "{podLabels: {matchLabels: {tier: batch}}}")))
    await place.run_pod("web-0", {"tier": "web"})
    async with (
        following(kubeconfig, place.settings) as running,
        open_stream(running.address, place.node("web-0")) as stream,
    ):
        await wait_until(lambda: leads_to(stream, 10))
        await place.run_pod("web-0", {"tier": "batch"})
        await wait_until(lambda: leads_to(stream, 20))


@pytest.mark.parametrize("is_deleted", [True, False], ids=["deleted", "completed"])
async def test_a_stream_waits_for_its_pod_and_ends_with_it(place: Place, kubeconfig: Path, *, is_deleted: bool) -> None:
    await place.apply(policy(place.home, "corp", to(10)))
    await place.run_pod("web-1")
    async with (
        following(kubeconfig, place.settings) as running,
        open_stream(running.address, place.node("web-0")) as stream,
    ):
        async with open_stream(running.address, place.node("web-1")) as known:
            await wait_until(lambda: leads_to(known, 10))
        await wait_until(lambda: len(running.parts.clients) == 0)
        assert not stream.responses
        await place.run_pod("web-0")
        await wait_until(lambda: leads_to(stream, 10))
        if is_deleted:
            await place.remove("Pod", place.shop, "web-0")
        else:
            await place.run_pod("web-0", phase="Succeeded")
        await wait_until(lambda: len(running.parts.clients) == 0)
