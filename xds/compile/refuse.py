"""
The built-in policy for pods that no policy selects: everything is refused but the always-direct addresses.

Having no policy must never mean having no control. This room holds the one value and nothing else.
"""

from __future__ import annotations

from xds.diagnostics import Where
from xds.policy.model import Default, Deny, Policy

REFUSE_ALL = Policy(
    name="refuse-all", default=Default(action=Deny(), http_action=Deny()), where=Where("built-in policy refuse-all")
)
