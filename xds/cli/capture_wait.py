"""
Whether Envoy takes what `xds capture --apply` is about to send it, and waiting until it does.

Nothing here changes a rule. Invariant: the question is never asked by connecting, for Envoy would take that connection
for a captured one.
"""

from __future__ import annotations

import re
import signal
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from xds.capture import LOOPBACKS, UNCONNECTED, Family, find_captured_users, find_listeners
from xds.errors import CaptureError, SettingsError, quote_value
from xds.names import DNS_PORT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from xds.capture import Capture

LISTENERS = {Family.IPV4: Path("/proc/net/tcp"), Family.IPV6: Path("/proc/net/tcp6")}
"""The TCP sockets of this network namespace; the second is missing where the kernel knows no IPv6."""

ANSWERERS = {Family.IPV4: Path("/proc/net/udp"), Family.IPV6: Path("/proc/net/udp6")}
"""Its UDP sockets."""

TERMINATED = 143
"""The exit code of a program that SIGTERM ended, as shells tell it."""

_LOOK_EVERY = 0.1
_SAY_EVERY = 5.0
"""Seconds."""

_UNITS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"(?P<count>[0-9]{1,9})(?P<unit>ms|s|m|h|)")
_ENDS = (signal.SIGTERM, signal.SIGINT)


def parse_wait(text: str) -> float:
    """Read e.g. `120s`, `2m` or a number of seconds. Anything else, and nothing at all, is a SettingsError."""
    found = _DURATION.fullmatch(text.strip())
    seconds = int(found["count"]) * _UNITS[found["unit"]] if found else 0.0
    if not seconds:
        raise SettingsError(
            f"--wait {quote_value(text)} is no time to wait; write one such as 120s, or --wait alone, which "
            "is without end"
        )
    return seconds


def require_envoy(capture: Capture, families: Sequence[Family]) -> None:
    """Raise CaptureError unless something takes what is about to be captured, and is not captured itself."""
    deaf = _find_deaf(capture, families)
    if deaf:
        raise _complain_deaf(capture, families, deaf)
    if silent := _find_silent(capture, families):
        raise CaptureError(
            f"nothing answers questions of {_listed(silent)} on UDP {DNS_PORT}: no name would resolve in this network "
            "namespace; nothing was changed: put a policy with `dns.mode: capture` in force first, or leave out --dns"
        )


def wait_for_envoy(capture: Capture, families: Sequence[Family], within: float | None) -> None:
    """
    Return once Envoy takes what is about to be captured; every few seconds stderr is told what is waited for.

    `within` is in seconds; None is for ever. Raises CaptureError when they have passed, and at once if Envoy's own
    connections would be captured. Runs within `holding_signals`: SIGTERM and SIGINT end it at once.
    """
    started = time.monotonic()
    told = float("-inf")
    while awaited := _find_awaited(capture, families):
        now = time.monotonic()
        if within is not None and now - started >= within:
            raise CaptureError(
                f"waited {within:g} s for {awaited}, in vain; nothing was changed: see what Envoy says, and whether "
                "the control plane has a policy for it"
            )
        if now - told >= _SAY_EVERY:
            click.echo(f"waiting for {awaited}", err=True)
            told = now
        end_if_told(_LOOK_EVERY)


@contextmanager
def holding_signals() -> Iterator[None]:
    """
    Hold SIGTERM and SIGINT back, so that nothing ends between the rules of two families.

    Held signals reach the first process of a container, too, which the kernel else spares those that it has no handler
    for (pid_namespaces(7)).
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_if_told(seconds: float = 0) -> None:
    """End this command if one of the held signals came or comes within `seconds`."""
    came = signal.sigtimedwait(_ENDS, seconds)
    if came is None:
        return
    if came.si_signo == signal.SIGINT:
        raise KeyboardInterrupt
    raise click.exceptions.Exit(TERMINATED)


def _find_awaited(capture: Capture, families: Sequence[Family]) -> str:
    """Return what is not there yet, in words; empty if nothing is missing."""
    if deaf := _find_deaf(capture, families):
        return f"Envoy to listen on {_places(deaf, capture.to_port)}"
    if silent := _find_silent(capture, families):
        return (
            f"Envoy to answer questions on {_places(silent, DNS_PORT)}, which takes a policy with `dns.mode: capture`"
        )
    return ""


def _find_deaf(capture: Capture, families: Iterable[Family]) -> list[Family]:
    """Return the families that nobody listens for. Raises CaptureError if who listens would be captured itself."""
    tables, port = read_sockets(LISTENERS), capture.to_port
    listeners = {family: find_listeners(tables, family, port) for family in families}
    if captured := find_captured_users(capture, frozenset().union(*listeners.values())):
        raise CaptureError(
            f"Envoy listens on port {port} as user {captured[0]}, whose connections would be captured and sent back to "
            f"it for ever; nothing was changed: run it as user {capture.exempt_uids[0]}, or add "
            f"--exempt-uid {captured[0]} where no application runs as that user"
        )
    return [family for family, users in listeners.items() if not users]


def _find_silent(capture: Capture, families: Iterable[Family]) -> list[Family]:
    if not capture.dns:
        return []
    tables = read_sockets(ANSWERERS)
    return [family for family in families if not find_listeners(tables, family, DNS_PORT, UNCONNECTED)]


def _complain_deaf(capture: Capture, families: Sequence[Family], deaf: Sequence[Family]) -> CaptureError:
    alone = [family.value for family in families if family not in deaf]
    remedy = f"capture the other family alone with --family {alone[0]}" if alone else "start Envoy first"
    return CaptureError(
        f"nothing listens on {_places(deaf, capture.to_port)}: every outgoing {_listed(deaf)} TCP connection of this "
        f"network namespace would be sent there and fail; nothing was changed: {remedy}, or, where Envoy starts later, "
        "wait for it with --wait; --force applies without Envoy"
    )


def read_sockets(paths: Mapping[Family, Path]) -> dict[Family, str]:
    """Return the kernel's tables that there are. Raises CaptureError if one can't be read."""
    try:
        return {family: path.read_text(encoding="ascii") for family, path in paths.items() if path.exists()}
    except OSError as error:
        raise CaptureError(
            f"what listens here can't be read from /proc/net: {error.strerror}; nothing was changed: "
            "--force applies anyway"
        ) from error


def _places(families: Iterable[Family], port: int) -> str:
    return " and ".join(f"{LOOPBACKS[family]}:{port}" for family in families)


def _listed(families: Iterable[Family]) -> str:
    return " and ".join(family.value for family in families)
