"""The API server asks the webhook, and hands on what it says."""

from __future__ import annotations

from base64 import b64encode
from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.cluster.deployed import placed
from tests.cluster.place import LABEL, following, until
from tests.feature.test_admission import free_port
from tests.feature.test_serve_kubernetes import to
from tests.support.certificates import Authority
from tests.support.cluster import policy
from tests.support.manifests import KUSTOMIZE, read_manifests
from xds.flags import HostPort
from xds.kubernetes.connection import ApiError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.place import Place
    from tests.support.manifests import Manifest


def webhook(place: Place, port: int, authority: Authority) -> Manifest:
    """Return the webhook of `deploy/`, for the namespaces of this run, at a port of this machine."""
    objects = read_manifests(KUSTOMIZE / "base" / "webhook.yaml")
    (given,) = [item for item in objects if item["kind"] == "ValidatingWebhookConfiguration"]
    found = deepcopy(placed(given, place))
    (hook,) = found["webhooks"]
    path = hook["clientConfig"]["service"]["path"]
    bundle = b64encode(authority.certificate.encode()).decode()
    hook["clientConfig"] = {"url": f"https://localhost:{port}{path}", "caBundle": bundle}
    hook["namespaceSelector"] = {"matchLabels": {LABEL: place.run.name}}
    # Otherwise a webhook that is not reached would look like one that allows.
    hook["failurePolicy"] = "Fail"
    return found


async def test_a_bad_policy_is_refused_with_its_line_before_it_is_stored(place: Place, tmp_path: Path) -> None:
    place.need_real_server("admission webhooks")
    if not HostPort(host=place.api.host, port=place.api.port).is_loopback:
        pytest.skip(f"the API server {place.api.host} does not run on this machine, so it can't ask a webhook here")
    authority, port = Authority(), free_port()
    issued = authority.issue("localhost")
    (tmp_path / "tls.crt").write_text(issued.certificate, encoding="utf-8")
    (tmp_path / "tls.key").write_text(issued.key, encoding="utf-8")
    settings = replace(
        place.settings,
        admission_listen=HostPort(host="127.0.0.1", port=port),
        tls_certificate=tmp_path / "tls.crt",
        tls_key=tmp_path / "tls.key",
    )
    bad, said = policy(place.home, "corp", to(10) + "noProxy: [10.0.0.0/33]\n"), [""]

    async def is_refused() -> bool:
        try:
            await place.apply(bad, dryRun="All")
        except ApiError as error:
            said.append(error.message)
            return True
        return False

    async with following(place.run.kubeconfig, settings):
        await place.apply(webhook(place, port, authority))
        await until(is_refused, 30)
        if "failed calling webhook" in said[-1]:
            pytest.skip(f"the API server, perhaps in a container, does not reach this machine: {said[-1]}")
        assert "denied the request" in said[-1]
        assert "policy.yaml:4" in said[-1]

        with pytest.raises(ApiError, match=r"policy\.yaml:4"):
            await place.apply(bad)
        good = await place.apply(policy(place.home, "corp", to(10)))
        assert good["metadata"]["uid"]
