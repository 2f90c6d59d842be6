"""The annotation that prefers a policy: whoever does not get the one that he wrote is told."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.unit.injection.pod_shapes import CORPORATE, EXPLICIT, HELD, SIDECAR, around, pod
from xds.injection.inject import UNKNOWN, Unknown, inject

if TYPE_CHECKING:
    from xds.policy.model import HeldPolicy, Policy

CORP = replace(CORPORATE, name="corp")


def warnings(
    wanted: str, policy: Policy | HeldPolicy | Unknown | None, *policies: str, of_namespace: bool = False
) -> list[str]:
    said = {"egress-xds/policy": wanted}
    place = replace(around(policy, annotations=said if of_namespace else None), policies=policies)
    found = inject(pod(annotations=None if of_namespace else said), place, SIDECAR).warnings
    return [warning for warning in found if "egress-xds/policy" in warning]


@pytest.mark.parametrize(
    ("wanted", "policy"),
    [("corp", CORP), ("broken", HELD), ("crop", UNKNOWN), ("", CORP)],
    ids=["the one in force", "the one that is held", "nobody looked", "none"],
)
def test_a_preference_that_is_met_or_that_nobody_can_judge_is_no_news(
    wanted: str, policy: Policy | HeldPolicy | Unknown | None
) -> None:
    assert warnings(wanted, policy, "corp") == []


def test_a_name_that_is_nearly_that_of_a_policy_is_asked_about() -> None:
    (warning,) = warnings("crop", CORP, "corp", "other")

    assert warning == (
        "the annotation egress-xds/policy of the pod prefers 'crop', but the policy in force is 'corp'; "
        "did you mean corp?"
    )


@pytest.mark.parametrize("policy", [CORP, replace(EXPLICIT, name="corp"), HELD, None])
def test_another_policy_than_the_preferred_one_is_told_in_every_mode(policy: Policy | HeldPolicy | None) -> None:
    (warning,) = warnings("special", policy, "corp", "special", of_namespace=True)

    assert "of its namespace prefers 'special'" in warning
    assert "decides between equals only" in warning
