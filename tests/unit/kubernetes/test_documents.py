"""ConfigMaps as documents: the scope comes from where they stand."""

from __future__ import annotations

from xds.kubernetes.documents import MAX_DOCUMENTS, MAX_LENGTH, build_documents
from xds.kubernetes.objects import ConfigMapObject
from xds.policy.parse import Document, parse_document

CORP = ConfigMapObject(uid="1", created="2026-11-21T01:22:26Z", documents=(("a.yaml", "A"), ("b.yml", "B")))


def test_policies_at_home_are_cluster_wide_and_all_others_are_bound_to_their_namespace() -> None:
    assert build_documents({("team", "x"): CORP, ("egress-system", "corp"): CORP}, "egress-system") == (
        Document("configmap/egress-system/corp/a.yaml", "A", None, "egress-system", created=CORP.created),
        Document("configmap/egress-system/corp/b.yml", "B", None, "egress-system", created=CORP.created),
        Document("configmap/team/x/a.yaml", "A", "team", "team", created=CORP.created),
        Document("configmap/team/x/b.yml", "B", "team", "team", created=CORP.created),
    )


def config_map(number: int, text: str) -> ConfigMapObject:
    """Return a ConfigMap that is the younger the higher its number."""
    return ConfigMapObject(uid=str(number), created=f"2026-11-21T00:{number:02d}:00Z", documents=(("a.yaml", text),))


def refused(found: tuple[Document, ...]) -> list[str]:
    """Return the sources that are refused unread."""
    return [document.source for document in found if document.refused]


def test_of_a_namespace_with_too_many_documents_the_youngest_are_refused() -> None:
    team = {("team", f"x{number:02d}"): config_map(99 - number, "A") for number in range(MAX_DOCUMENTS + 2)}
    found = build_documents({**team, ("other", "y"): config_map(99, "A")}, "egress-system")

    assert refused(found) == ["configmap/team/x00/a.yaml", "configmap/team/x01/a.yaml"]
    assert all(not document.text for document in found if document.refused)


def test_documents_of_a_namespace_that_are_too_large_together_are_refused_and_claim_their_namespace_only() -> None:
    half = "#" * (MAX_LENGTH // 2)
    team = {("team", f"x{number}"): config_map(number, half) for number in range(3)}
    found = build_documents(team, "egress-system")
    results = [parse_document(document) for document in found]

    assert refused(found) == ["configmap/team/x2/a.yaml"]
    assert [finding.code for finding in results[2].diagnostics] == ["EX103"]
    assert {held.namespace for held in results[2].held} == {"team"}


def test_at_home_there_is_no_such_limit_and_others_may_be_left_out() -> None:
    home = {("egress-system", f"x{number:02d}"): config_map(number, "A") for number in range(MAX_DOCUMENTS + 2)}

    assert not refused(build_documents(home, "egress-system"))
    assert build_documents({**home, ("team", "x"): CORP}, "egress-system", is_home_only=True) == build_documents(
        home, "egress-system"
    )
