"""
What a tunnel for a plain HTTP request would be asked for, as filter state that travels with the request.

All ways are noted: by the name in the Host, by the address that was dialled, and by the name for HTTPS. Which of them
counts is for the route to say. Nothing here decides anything.
"""

from __future__ import annotations

from envoy_data_plane.envoy.extensions.filters.common.set_filter_state.v3 import FilterStateValueSharedWithUpstream
from envoy_data_plane.envoy.extensions.filters.http.set_filter_state.v3 import Config as SetFilterState

from xds.compile.access_log import build_filter_state_value
from xds.compile.routes import HOST_OF_METADATA, HTTPS_PORT

ASKED_BY_NAME = "egress-xds.asked-by-name"
ASKED_BY_ADDRESS = "egress-xds.asked-by-address"
ASKED_FOR_HTTPS = "egress-xds.asked-for-https"


def build_asked(
    by_name: str = f"{HOST_OF_METADATA}:%DOWNSTREAM_LOCAL_PORT%", by_address: str = "%DOWNSTREAM_LOCAL_ADDRESS%"
) -> SetFilterState:
    """
    Build the HTTP filter that notes them.

    The values are hashable, so that Envoy never uses a connection for a request that would ask for something else.
    """
    values = [
        build_filter_state_value(ASKED_BY_NAME, by_name),
        build_filter_state_value(ASKED_BY_ADDRESS, by_address),
        build_filter_state_value(ASKED_FOR_HTTPS, f"{HOST_OF_METADATA}:{HTTPS_PORT}"),
    ]
    for value in values:
        value.factory_key = "envoy.hashable_string"
        value.shared_with_upstream = FilterStateValueSharedWithUpstream.ONCE
    return SetFilterState(on_request_headers=values)
