"""ConfigMaps as documents: the scope comes from where they stand."""

from __future__ import annotations

from xds.kubernetes.documents import build_documents
from xds.kubernetes.objects import ConfigMapObject
from xds.policy.parse import Document

CORP = ConfigMapObject(uid="1", created="2026-11-21T01:22:26Z", documents=(("a.yaml", "A"), ("b.yml", "B")))


def test_policies_at_home_are_cluster_wide_and_all_others_are_bound_to_their_namespace() -> None:
    assert build_documents({("team", "x"): CORP, ("egress-system", "corp"): CORP}, "egress-system") == (
        Document("configmap/egress-system/corp/a.yaml", "A", None, "egress-system", CORP.created),
        Document("configmap/egress-system/corp/b.yml", "B", None, "egress-system", CORP.created),
        Document("configmap/team/x/a.yaml", "A", "team", "team", CORP.created),
        Document("configmap/team/x/b.yml", "B", "team", "team", CORP.created),
    )
