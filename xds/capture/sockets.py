"""
Who listens here, read from what the kernel prints of its sockets (proc_pid_net(5)).

Nothing here opens a file or a socket; the tables are passed in.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import TYPE_CHECKING

from xds.capture.wanted import Family

if TYPE_CHECKING:
    from collections.abc import Mapping

_LOCAL, _STATE, _UID = 1, 3, 7
"""Columns of /proc/net/tcp (proc_pid_net(5)): local address and port, state (both in hexadecimal), user."""

LISTENS = "0A"
UNCONNECTED = "07"
"""TCP_LISTEN, and TCP_CLOSE, which is what a UDP socket is that takes packets from everybody (the kernel's
include/net/tcp_states.h)."""


def _as_the_kernel_prints(address: str) -> str:
    """Return an address as /proc/net/tcp has it: 32 bits at a time, each in the byte order of the machine."""
    packed = ip_address(address).packed
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


_EVERY_ADDRESS = ("0.0.0.0", "::")  # noqa: S104 -- addresses to recognise, not to listen on
_LISTENING = {
    Family.IPV4: frozenset(map(_as_the_kernel_prints, ("127.0.0.1", *_EVERY_ADDRESS))),
    Family.IPV6: frozenset(map(_as_the_kernel_prints, ("::1", "::"))),
}
"""Where a listener takes what is redirected. One on `::` takes IPv4, too, unless it was told not to."""


def find_listeners(tables: Mapping[Family, str], family: Family, port: int, state: str = LISTENS) -> frozenset[int]:
    """
    Return the users that listen where REDIRECT delivers a connection of `family`: on loopback, or on every address.

    `tables` holds what `/proc/net/tcp` and `/proc/net/tcp6` say, or with `state` UNCONNECTED those of UDP. They are
    read because the question must not be asked by connecting: Envoy would take the connection for a captured one, to
    itself.
    """
    wanted = {f"{host}:{port:04X}" for host in _LISTENING[family]}
    rows = (line.split() for table in tables.values() for line in table.splitlines())
    return frozenset(
        int(row[_UID]) for row in rows if len(row) > _UID and row[_STATE] == state and row[_LOCAL] in wanted
    )
