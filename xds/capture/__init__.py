"""
The capture rules: what sends a pod's outgoing TCP connections to Envoy, and what is found wrong with it.

`wanted` says what is captured, `iptables` and `nftables` put that into the words of a program each, `sockets` reads who
listens, `check` judges what is in force. Nothing here runs a program or opens a file: `xds capture` does.

What is never captured: what Envoy itself opens, known by its user or by its socket mark, for it would come
back for ever; and what stays in the pod (the loopback interface, over which the pod also reaches its own
addresses). Everything that is not TCP passes by, but for QUIC (UDP 443, RFC 9114), which no CONNECT proxy carries:
it is rejected, so that a client falls back to TCP at once and not after a time-out. So is all UDP but questions to name
servers if that is asked for. Those questions go to Envoy if that is asked for.
"""

from __future__ import annotations

from xds.capture.check import LOOPBACKS, Check, Seen, State, check_capture
from xds.capture.found import Found
from xds.capture.iptables import (
    CHAIN,
    TABLES,
    read_iptables,
    render_capture,
    render_removal,
    render_restoration,
)
from xds.capture.nftables import (
    TABLE,
    find_nftables,
    read_nftables,
    render_nftables,
    render_nftables_removal,
    table_words,
)
from xds.capture.others import Others, Taker, find_takers, has_foreign_tables, place_last
from xds.capture.plan import Plan, build_plan, describe_differences
from xds.capture.sockets import LISTENS, UNCONNECTED, find_listeners
from xds.capture.wanted import (
    ENVOY_UID,
    LISTENER_PORT,
    Capture,
    Family,
    UdpRejection,
    build_capture,
    find_captured_users,
    find_foreign_networks,
    find_unmapped_users,
)

__all__ = [
    "CHAIN",
    "ENVOY_UID",
    "LISTENER_PORT",
    "LISTENS",
    "LOOPBACKS",
    "TABLE",
    "TABLES",
    "UNCONNECTED",
    "Capture",
    "Check",
    "Family",
    "Found",
    "Others",
    "Plan",
    "Seen",
    "State",
    "Taker",
    "UdpRejection",
    "build_capture",
    "build_plan",
    "check_capture",
    "describe_differences",
    "find_captured_users",
    "find_foreign_networks",
    "find_listeners",
    "find_nftables",
    "find_takers",
    "find_unmapped_users",
    "has_foreign_tables",
    "place_last",
    "read_iptables",
    "read_nftables",
    "render_capture",
    "render_nftables",
    "render_nftables_removal",
    "render_removal",
    "render_restoration",
    "table_words",
]
