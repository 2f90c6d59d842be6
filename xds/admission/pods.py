"""
Pods under review: one that is made where injection was asked for is changed to have its sidecar, or is refused.

Whether a namespace asked for it is the webhook's namespaceSelector to say: the API server, which knows best, matched it
before it asked, and what is known of the namespace here may be older. How a pod is changed is decided by
`xds.injection`, from what is known at this moment. Nothing is stored and nothing noted, so that dry runs are answered
as all else. Invariant: where something that decides is not known yet the pod is refused for now, and never let through
as it is, for without its sidecar its connections would go direct; nor with a sidecar that was made without its policy,
which says how the pod is reached and whether its questions to name servers are captured.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from xds.admission.review import MalformedReviewError, Verdict
from xds.errors import InjectionError
from xds.injection.annotations import INJECT
from xds.injection.inject import OPTED_OUT, UNKNOWN, Surroundings, inject
from xds.injection.patch import render_patch
from xds.policy.model import HeldPolicy, Policy

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping

    from xds.admission.review import Review
    from xds.injection.inject import Injection
    from xds.injection.settings import SidecarSettings
    from xds.policy.model import Network, Workload

_POD = ("", "v1", "Pod")
_ALLOWED = Verdict()
_PREVIEW = "xds inject"


def _refuse_for_now(reason: str) -> Verdict:
    return Verdict(f"the pod has no sidecar yet, for {reason}; try again in a moment", is_passing=True)


UNDECIDED_POD = _refuse_for_now("egress-xds has too much to do")
"""The answer where nothing was decided in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """What a pod that is to be made will be known as, and what its namespace says of injection."""

    workload: Workload
    annotations: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is known at this moment; each is called in the event loop."""

    place: Callable[[str, Mapping[str, object]], Place | None]
    """For a namespace and a pod; None: the namespace is not known yet. Raises ValueError: that is no pod."""
    is_served: Callable[[], bool]
    """Whether it is known which policies there are."""
    policy_for: Callable[[Workload], Policy | HeldPolicy | None]
    networks: Callable[[], tuple[Network, ...]]
    """Where the cluster is."""
    sidecar: Callable[[], SidecarSettings | None]
    """What sidecars are made of; None: not known yet."""
    wait_for_namespace: Callable[[str], Awaitable[None]]


class PodInjector:
    """Gives pods their sidecars; a `Reviewer`."""

    def __init__(self, known: Known) -> None:
        self._known = known

    def __call__(self, review: Review) -> Callable[[], Verdict]:
        """Return what decides about `review`, to be run in a thread. Raises MalformedReviewError."""
        if not is_new_pod(review):
            return lambda: _ALLOWED
        if review.new is None or not review.namespace:
            raise MalformedReviewError("the pod has no content or no namespace")
        sidecar = self._known.sidecar()
        if sidecar is None:
            return partial(_refuse_for_now, "egress-xds does not know yet which Kubernetes this is")
        try:
            place = self._known.place(review.namespace, review.new)
        except ValueError as error:
            raise MalformedReviewError(f"the pod is none: {error}") from None
        return partial(decide, review.new, self._look_around(review.namespace, place), sidecar)

    async def prepare(self, review: Review) -> None:
        """Wait until the namespace of a pod is known, which may have been made a moment before."""
        if is_new_pod(review) and review.namespace:
            await self._known.wait_for_namespace(review.namespace)

    def _look_around(self, namespace: str, place: Place | None) -> Surroundings:
        if place is None or not self._known.is_served():
            return Surroundings(
                namespace=namespace, namespace_labels={INJECT: "true"}, namespace_annotations={}, policy=UNKNOWN
            )
        return Surroundings(
            namespace=namespace,
            namespace_labels=dict(place.workload.namespace_labels),
            namespace_annotations=place.annotations,
            policy=self._known.policy_for(place.workload),
            networks=self._known.networks(),
        )


def is_new_pod(review: Review) -> bool:
    """Whether a pod is to be made: of one that runs, next to nothing can be changed."""
    return review.kind == _POD and review.operation == "CREATE"


def decide(pod: Mapping[str, object], around: Surroundings, sidecar: SidecarSettings) -> Verdict:
    """Return the verdict about a pod that is to be made."""
    try:
        injection = inject(pod, around, sidecar)
    except InjectionError as error:
        return _not_known() if around.policy is UNKNOWN else Verdict(_explain(error))
    if around.policy is UNKNOWN and injection.mode is not None:
        return _not_known()
    return Verdict(
        warnings=tuple(_warnings(injection)),
        patch=tuple(render_patch(pod, injection.pod)),
        audit=tuple(_audit(injection, around)),
        more=_PREVIEW,
    )


def _not_known() -> Verdict:
    return _refuse_for_now("egress-xds has not read its namespace and all policies yet")


def _explain(error: InjectionError) -> str:
    return "\n".join(("the pod can't get what it asks of egress-xds:", *error.problems))


def _warnings(injection: Injection) -> Iterator[str]:
    """Yield what whoever makes the pod is told; that it opted out is no news to him."""
    if injection.mode is None and injection.reason != OPTED_OUT:
        yield f"egress-xds gives the pod no sidecar, for {injection.reason}"
    yield from injection.warnings


def _audit(injection: Injection, around: Surroundings) -> Iterator[tuple[str, str]]:
    yield "mode", "none" if injection.mode is None else injection.mode.value
    if injection.reason:
        yield "reason", injection.reason
    if isinstance(around.policy, Policy | HeldPolicy):
        yield "policy", f"{around.policy.namespace or ''}/{around.policy.name}"
