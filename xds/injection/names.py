"""
What we call our parts of a pod, and which ports they take.

Invariant: nothing of another's has these names in a pod that was injected: it is refused, or replaced by ours.
"""

from __future__ import annotations

TRUST = "egress-trust"
BOOTSTRAP = "egress-bootstrap"
ENVOY = "egress-envoy"
CAPTURE = "egress-capture"

CONTAINERS = (TRUST, BOOTSTRAP, ENVOY, CAPTURE)
"""Our containers, in the order in which they run."""

BOOTSTRAP_VOLUME = "egress-bootstrap"
RUN_VOLUME = "egress-run"
IDENTITY_VOLUME = "egress-identity"
TRUST_VOLUME = "egress-trust"

VOLUMES = (BOOTSTRAP_VOLUME, RUN_VOLUME, IDENTITY_VOLUME, TRUST_VOLUME)
"""Our volumes."""

PROBE_PORT = 15024
"""Where Envoy answers the kubelet."""

TRUST_DIRECTORY = "/etc/egress-xds/trust"
