"""
What the emulated API server asks of mutating webhooks before it stores a new object, as a real one does.

Only webhooks at a `url` are asked, in the order of their names, and each once. What isn't understood of a configuration
raises, so that a test does not pass because of a webhook that nobody asked.
"""

from __future__ import annotations

import base64
import json
import ssl
import uuid
from typing import TYPE_CHECKING, Any

import aiohttp

from tests.support.api_store import KINDS, Object, Refused
from tests.support.json_patch import apply_patch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.api_requests import Target
    from tests.support.api_store import Store

_CONFIGURATIONS = KINDS["admissionregistration.k8s.io/v1", "MutatingWebhookConfiguration"]
_NAMESPACES = KINDS["v1", "Namespace"]
_UNDERSTOOD = {
    *("name", "clientConfig", "rules", "namespaceSelector", "objectSelector", "failurePolicy", "timeoutSeconds"),
    # One request per object here, and one version of each kind.
    *("admissionReviewVersions", "matchPolicy", "reinvocationPolicy", "sideEffects"),
}


def is_asked(store: Store, verb: str, target: Target, content_type: str) -> bool:
    """Whether a request makes a new object of a kind that webhooks may change."""
    if target.subresource or target.resource.group == _CONFIGURATIONS.group:
        return False
    is_apply = verb == "patch" and content_type == "application/apply-patch+yaml"
    is_new = (target.namespace, target.name) not in store.objects.get(target.resource, {})
    return verb == "create" or (is_apply and is_new)


async def admit(store: Store, target: Target, item: Object, *, is_dry_run: bool) -> Object:
    """Return `item` as webhooks would have it. Raises Refused."""
    for hook in _hooks(store, target, item):
        response = await _ask(hook, _review(target, item, is_dry_run=is_dry_run))
        if response is None:
            continue
        if not response["allowed"]:
            status = dict(response["status"])
            message = f'admission webhook "{hook["name"]}" denied the request: {status["message"]}'
            details = status.get("details", {})
            seconds = details.get("retryAfterSeconds")
            raise Refused(status["code"], status["reason"], message, retry_after=seconds, details=details)
        if "patch" in response:
            assert response["patchType"] == "JSONPatch"
            item = apply_patch(item, json.loads(base64.b64decode(response["patch"])))
    return item


def _hooks(store: Store, target: Target, item: Object) -> Iterator[Object]:
    spaces = store.objects.get(_NAMESPACES, {})
    labels = spaces.get(("", target.namespace), {"metadata": {}})["metadata"].get("labels", {})
    for _, configuration in sorted(store.objects.get(_CONFIGURATIONS, {}).items()):
        for hook in configuration["webhooks"]:
            assert hook.keys() <= _UNDERSTOOD, hook.keys() - _UNDERSTOOD
            if (
                any(_is_about(rule, target) for rule in hook["rules"])
                and selects(hook.get("namespaceSelector", {}), labels)
                and selects(hook.get("objectSelector", {}), item["metadata"].get("labels") or {})
            ):
                yield hook


def _is_about(rule: Object, target: Target) -> bool:
    resource = target.resource
    return (
        resource.group in rule["apiGroups"]
        and resource.version in rule["apiVersions"]
        and resource.plural in rule["resources"]
        and "CREATE" in rule["operations"]
    )


def selects(selector: Object, labels: Mapping[str, str]) -> bool:
    """Whether a label selector of Kubernetes selects `labels`."""
    assert selector.keys() <= {"matchLabels", "matchExpressions"}
    wanted = selector.get("matchLabels", {}).items()
    return wanted <= labels.items() and all(_holds(found, labels) for found in selector.get("matchExpressions", ()))


def _holds(expression: Object, labels: Mapping[str, str]) -> bool:
    value, values = labels.get(expression["key"]), expression["values"]
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case other:
            raise AssertionError(other)


def _review(target: Target, item: Object, *, is_dry_run: bool) -> Object:
    resource = target.resource
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    plural = {"group": resource.group, "version": resource.version, "resource": resource.plural}
    name = {"name": item["metadata"]["name"]} if "name" in item["metadata"] else {}
    request = {"uid": str(uuid.uuid4()), "kind": kind, "resource": plural, "namespace": target.namespace, **name}
    request |= {"operation": "CREATE", "object": item, "oldObject": None, "dryRun": is_dry_run}
    return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}


async def _ask(hook: Object, review: Object) -> dict[str, Any] | None:
    """Return the response; None: nobody answered, and that does not matter to this webhook."""
    client, seconds = hook["clientConfig"], hook.get("timeoutSeconds", 10)
    bundle = base64.b64decode(client["caBundle"]).decode()
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=bundle))
    timeout = aiohttp.ClientTimeout(total=seconds)
    try:
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
            session.post(f"{client['url']}?timeout={seconds}s", json=review) as answer,
        ):
            answer.raise_for_status()
            response = (await answer.json())["response"]
            assert response["uid"] == review["request"]["uid"]
            assert isinstance(response, dict)
            return response
    except (aiohttp.ClientError, TimeoutError) as error:
        if hook["failurePolicy"] == "Ignore":
            return None
        message = f'Internal error occurred: failed calling webhook "{hook["name"]}": {error}'
        raise Refused(500, "InternalError", message) from error
