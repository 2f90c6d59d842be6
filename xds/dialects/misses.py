"""
Why no entry matched: the entry that another client would have taken, and what this one makes of it.

Reads the list in the widest sense that any client gives it. This module must not decide anything; its words
only stand beside a decision that a client's module made. Invariant: an answer from here never goes directly.
"""

from __future__ import annotations

import re

from xds.dialects.addresses import parse_address, parse_network, to_ascii, unmapped, unmapped_network
from xds.dialects.answers import Answer, Target

_OTHER_SEPARATORS = re.compile(r"[\s|;]+")
_BRACKETED = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,9}))?")
_WITH_PORT = re.compile(r"([^:]+):([0-9]{1,9})")
_NOTHING = "no entry matches"


def miss(no_proxy: str, target: Target) -> Answer:
    """Return the answer that no entry of `no_proxy` matches `target`, with the closest entry if there is one."""
    for part in no_proxy.split(","):
        entries = [entry for entry in _OTHER_SEPARATORS.split(part) if entry]
        for entry in entries:
            why = _nearly(entry, target)
            if why is not None:
                joined = f"`{entry}` is not parted from its neighbour by a comma"
                return Answer(goes_direct=False, entry=None, why=joined if len(entries) > 1 else why)
    return Answer(goes_direct=False, entry=None, why=_NOTHING)


def _nearly(entry: str, target: Target) -> str | None:
    if entry == "*":
        return "`*` does not count here"
    host, port = _split(entry)
    why = _nearly_address(entry, host, target) if target.address else _nearly_name(entry, host, target)
    if why is None or port is None:
        return why
    if port == target.port:
        return f"the port in `{entry}` is not understood"
    return f"`{entry}` is for another port"


def _split(entry: str) -> tuple[str, int | None]:
    bracketed = _BRACKETED.fullmatch(entry)
    match = bracketed or _WITH_PORT.fullmatch(entry)
    if match is None:
        return entry, None
    return match[1], int(match[2]) if match[2] else None


def _nearly_address(entry: str, host: str, target: Target) -> str | None:
    assert target.address is not None
    address = unmapped(target.address)
    network = parse_network(host)
    if network is not None:
        return f"the network `{entry}` is not understood" if address in unmapped_network(network) else None
    literal = parse_address(host)
    if literal is None or unmapped(literal) != address:
        return None
    return f"`{entry}` is not in the notation that matches"


def _nearly_name(entry: str, host: str, target: Target) -> str | None:
    name = _normal(target.host)
    suffix = _normal(host.removeprefix("*").lstrip("."))
    if not suffix or (name != suffix and not name.endswith(f".{suffix}")):
        return None
    if target.host.endswith(".") != host.endswith("."):
        return f"`{entry}` differs by a trailing dot"
    if name == suffix:
        covers = "the name itself" if host.startswith(("*", ".")) else "a name that is written in another way"
        return f"`{entry}` does not cover {covers}"
    if host.startswith("*"):
        return f"`{entry}` is no wildcard here"
    return f"`{entry}` is no suffix here" if host.startswith(".") else f"`{entry}` stands for that name alone"


def _normal(name: str) -> str:
    return to_ascii(name).lower().removesuffix(".")
