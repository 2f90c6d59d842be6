"""
Putting the capture rules in force and removing them, with iptables or with nftables.

Whatever fails on the way, the rules end as they were: what one family got is put back when the other fails, and rules
of the other backend leave only when those of this one are in force, so that no connection slips through between them.
Two commands in one network namespace change it one after the other. Invariant: after `apply_rules` no family has rules
of ours of both backends.
"""

from __future__ import annotations

import fcntl
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from xds.capture import (
    Capture,
    Family,
    find_nftables,
    find_unmapped_users,
    render_capture,
    render_nftables,
    render_nftables_removal,
    render_removal,
    render_restoration,
    table_words,
)
from xds.cli.capture_programs import (
    Backend,
    LacksRightsError,
    NoSuchTableError,
    explain_missing,
    find_missing,
    restore_iptables,
    run_nft,
    save_iptables,
)
from xds.cli.capture_wait import end_if_told
from xds.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO

NETWORK_NAMESPACE = Path("/proc/self/ns/net")
"""The network namespace itself, which is the same file for everybody in it (namespaces(7))."""

USERS = Path("/proc/self/uid_map")
"""The users that there are in this user namespace (user_namespaces(7))."""

_TURN_WAIT = 60.0
_LOOK_EVERY = 0.05
"""Seconds to wait for another command's end, and between two looks."""


class _Rules(Protocol):
    """Our rules of one backend. Each method but `save` leaves them whole or as they were, and raises CaptureError."""

    def save(self, families: Sequence[Family]) -> Mapping[Family, str]:
        """Return what `put_back` needs."""
        ...

    def put(self, capture: Capture, families: Sequence[Family]) -> None:
        """Put rules in force in place of those that are there."""
        ...

    def remove(self, families: Sequence[Family]) -> list[Family]:
        """Remove the rules and return the families that had some."""
        ...

    def put_back(self, saved: Mapping[Family, str]) -> None:
        """Bring back what `save` saw."""
        ...


class _Iptables:
    """Scripts per family and table, put back by hand when one fails."""

    def save(self, families: Sequence[Family]) -> Mapping[Family, str]:
        return {family: save_iptables(family) for family in families}

    def put(self, capture: Capture, families: Sequence[Family]) -> None:
        self._change(self.save(families), lambda family, before: render_capture(capture, family, before))

    def remove(self, families: Sequence[Family]) -> list[Family]:
        saved = {family: _save_if_any(family) for family in families}
        return self._change(saved, lambda _, before: render_removal(before))

    def put_back(self, saved: Mapping[Family, str]) -> None:
        for family, before in saved.items():
            script = render_restoration(before, save_iptables(family))
            if script:
                restore_iptables(family, script)

    def _change(self, saved: Mapping[Family, str], render: Callable[[Family, str], str]) -> list[Family]:
        """
        Apply a script per family; return the families that had something to change.

        Every script is tried before the first is applied. What the kernel alone can refuse is seen by applying only.
        """
        scripts = {family: render(family, before) for family, before in saved.items()}
        changes = {family: script for family, script in scripts.items() if script}
        for family, script in changes.items():
            restore_iptables(family, script, tries=True)
        with _putting_back(self, {family: saved[family] for family in changes}):
            for family, script in changes.items():
                restore_iptables(family, script)
        return list(changes)


def _save_if_any(family: Family) -> str:
    try:
        return save_iptables(family)
    except NoSuchTableError:
        return ""


class _Nftables:
    """One script, which the kernel takes whole or not at all."""

    def save(self, families: Sequence[Family]) -> Mapping[Family, str]:
        present = find_nftables(run_nft(["list", "tables"]))
        return {
            family: run_nft(["list", "table", *table_words(family)]) if family in present else "" for family in families
        }

    def put(self, capture: Capture, families: Sequence[Family]) -> None:
        # The kernel takes rules about users that the namespace does not have, and then never matches them.
        if unmapped := find_unmapped_users(capture, USERS.read_text(encoding="ascii")):
            raise CaptureError(
                f"there is no user {unmapped[0]} in this user namespace, so that a rule would not know its "
                "connections; use --exempt-mark N with `xds bootstrap --so-mark N`"
            )
        run_nft(["-f", "-"], render_nftables(capture, families))

    def remove(self, families: Sequence[Family]) -> list[Family]:
        try:
            present = find_nftables(run_nft(["list", "tables"]))
        except NoSuchTableError:
            return []
        removed = [family for family in families if family in present]
        if removed:
            run_nft(["-f", "-"], render_nftables_removal(removed))
        return removed

    def put_back(self, saved: Mapping[Family, str]) -> None:
        run_nft(["-f", "-"], "".join(render_nftables_removal([family]) + table for family, table in saved.items()))


_RULES: Mapping[Backend, _Rules] = {Backend.IPTABLES: _Iptables(), Backend.NFTABLES: _Nftables()}


def choose_backend(backend: Backend | None, families: Sequence[Family]) -> tuple[Backend, ...]:
    """
    Return the backends to try, best first; None as `backend` is whichever is installed and works here.

    Raises CaptureError if nothing that would do is installed.
    """
    asked = tuple(Backend) if backend is None else (backend,)
    installed = tuple(one for one in asked if not find_missing(one, families))
    if not installed:
        raise explain_missing(find_missing(asked[0], families))
    return installed


def apply_rules(backend: Backend | None, capture: Capture, families: Sequence[Family]) -> Backend:
    """Put rules in force and return the backend that took them; whatever fails, the rules stay as they were."""
    candidates = choose_backend(backend, families)
    failures: list[CaptureError] = []
    with _taking_turns():
        for candidate in candidates:
            try:
                _switch_to(candidate, capture, families)
            except CaptureError as error:
                failures.append(error)
            else:
                return candidate
    raise _join(failures)


def remove_rules(families: Sequence[Family]) -> list[Family]:
    """Remove the rules of both backends and return the families that had some. Raises CaptureError."""
    removed: set[Family] = set()
    failures: list[CaptureError] = []
    with _taking_turns():
        for backend in choose_backend(None, families):
            try:
                removed.update(_RULES[backend].remove(families))
            except CaptureError as error:
                failures.append(error)
    if failures:
        raise _join(failures)
    return [family for family in families if family in removed]


def _join(failures: Sequence[CaptureError]) -> CaptureError:
    """Return one failure for those of several backends; who has no rights need not be told twice."""
    said = [error for error in failures if not isinstance(error, LacksRightsError)]
    if len(said) > 1:
        return CaptureError("; ".join(str(error) for error in said))
    return said[0] if said else failures[0]


def _switch_to(backend: Backend, capture: Capture, families: Sequence[Family]) -> None:
    rules = _RULES[backend]
    saved = rules.save(families)
    rules.put(capture, families)
    with _putting_back(rules, saved):
        for other in Backend:
            if other is not backend and not find_missing(other, families):
                # iptables-legacy wants CAP_NET_RAW beside CAP_NET_ADMIN, so that who lacks it has made no such rules.
                with suppress(LacksRightsError):
                    _RULES[other].remove(families)


@contextmanager
def _putting_back(rules: _Rules, saved: Mapping[Family, str]) -> Iterator[None]:
    """Bring the rules back to what was saved if what runs within fails."""
    try:
        yield
    except CaptureError as error:
        try:
            rules.put_back(saved)
        except CaptureError as second:
            raise CaptureError(
                f"{error}; and what was changed before could not be put back: {second}: see `xds capture --check`"
            ) from error
        raise


@contextmanager
def _taking_turns() -> Iterator[None]:
    """
    Wait until no other command changes the rules of this network namespace, and keep others waiting.

    The lock is on the namespace, not on a file of a file system, which the containers of a pod do not share; the
    kernel drops it when this process ends, however it does.
    """
    deadline = time.monotonic() + _TURN_WAIT
    with _open_namespace() as namespace:
        while not _lock(namespace):
            if time.monotonic() >= deadline:
                raise CaptureError(
                    f"another command has been changing the capture rules for {_TURN_WAIT:g} s; nothing was "
                    "changed: see which process holds a lock on the network namespace with `lslocks`"
                )
            end_if_told(_LOOK_EVERY)
        yield


def _open_namespace() -> IO[bytes]:
    try:
        return NETWORK_NAMESPACE.open("rb")
    except OSError as error:
        raise CaptureError(f"{NETWORK_NAMESPACE}: {error.strerror}; nothing was changed: mount /proc") from error


def _lock(namespace: IO[bytes]) -> bool:
    try:
        fcntl.flock(namespace, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
