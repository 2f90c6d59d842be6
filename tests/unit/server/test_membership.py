"""As what a stream is served, compared with a naive reading of what became of its pod."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xds.names import NodeId
from xds.policy.model import Workload
from xds.server.identity import Caller, ExpiredError, IdentityError
from xds.server.membership import GoneError, Membership
from xds.workloads import Pod, Workloads

NODE = NodeId("web-0.shop")
CLAIMED = Workload(pod="web-0", namespace="shop", labels=(("app", "claimed"),), service_account="claimed")


def pod(uid: str = "1", app: str = "web", account: str = "web") -> Pod:
    return Pod(Workload(pod="web-0", namespace="shop", labels=(("app", app),), service_account=account), uid)


def member(workloads: Workloads | None, *callers: Caller, now: float = 0.0) -> Membership:
    return Membership(workloads, NODE, CLAIMED, callers, lambda: now)


def test_without_a_registry_a_node_is_what_it_claims_as_far_as_it_is_proven() -> None:
    assert member(None).look() == CLAIMED
    assert member(None, Caller(namespace="shop", pod="web-0", pod_uid="whatever")).look() == CLAIMED
    with pytest.raises(IdentityError):
        member(None, Caller(namespace="shop", service_account="web")).look()


def test_a_pod_that_is_not_known_is_nothing_yet_but_its_name_must_be_the_proven_one() -> None:
    assert member(Workloads(), Caller(namespace="shop", service_account="other", pod_uid="1")).look() is None
    for caller in (Caller(namespace="bank"), Caller(namespace="shop", pod="web-1")):
        with pytest.raises(IdentityError):
            member(Workloads(), caller).look()


def test_every_proof_must_fit_the_pod_and_last() -> None:
    workloads = Workloads()
    workloads.update({NODE: pod()})

    assert member(workloads, Caller(namespace="shop"), Caller(namespace="shop", pod_uid="1")).look() == pod().workload
    with pytest.raises(IdentityError):
        member(workloads, Caller(namespace="shop"), Caller(namespace="shop", pod_uid="2")).look()
    with pytest.raises(ExpiredError):
        member(workloads, Caller(namespace="shop", expires=5.0), now=5.0).look()


PODS = st.one_of(st.none(), st.builds(pod, st.sampled_from("12"), st.sampled_from(["web", "api"])))


@given(st.lists(PODS, min_size=1, max_size=12), st.sampled_from(["", "1", "2"]))
def test_a_stream_is_served_as_one_pod_for_all_its_life(becomes: list[Pod | None], proven: str) -> None:
    """Nothing before the pod is known, then always as what is known of it, and never as another of its name."""
    workloads = Workloads()
    found = member(workloads, Caller(namespace="shop", pod="web-0", pod_uid=proven))
    looks: list[str] = []
    workloads.follow(NODE, lambda: looks.append("look"))
    served: str | None = None
    before: Pod | None = None
    for current in becomes:
        workloads.update({NODE: current})
        assert len(looks) == (current != before)
        looks.clear()
        before = current
        if served is not None and (current is None or current.uid != served):
            with pytest.raises(GoneError):
                found.look()
            return
        if current is None:
            assert found.look() is None
        elif proven not in {"", current.uid}:
            with pytest.raises(IdentityError):
                found.look()
            return
        else:
            served = current.uid
            assert found.look() == current.workload
