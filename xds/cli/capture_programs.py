"""
The programs that change the kernel's rules: finding and running them, and what they answer in words.

This is the one place that runs iptables and nft. What the rules are is decided in `xds.capture`. Invariant: a failure
is a CaptureError with the program's own words and a remedy.
"""

from __future__ import annotations

import shutil
import subprocess
from enum import Enum
from typing import TYPE_CHECKING

from xds.capture import TABLES, Family
from xds.errors import CaptureError

if TYPE_CHECKING:
    from collections.abc import Iterable

TIMEOUT = 60.0
"""Seconds for one call: longer than the wait for the lock that other users of iptables may hold."""

_LOCK_WAIT = "10"
"""Seconds to wait for that lock."""

SYSTEM_PATH = "/usr/sbin:/sbin:/usr/local/sbin"
"""Searched after PATH, which often lacks these directories."""


class Backend(Enum):
    """What the kernel is told the rules with."""

    IPTABLES = "iptables"
    NFTABLES = "nftables"


class LacksRightsError(CaptureError):
    """A process that may not look at the rules, or not change them, whatever the program."""


class NoSuchTableError(CaptureError):
    """The kernel has nothing that could hold rules of this program, so that there are none, either."""


def find_missing(backend: Backend, families: Iterable[Family]) -> str:
    """Return the first program of `backend` that is not installed; empty if none is missing."""
    programs = {
        Backend.IPTABLES: [name for family in families for name in (family.save_command, family.restore_command)],
        Backend.NFTABLES: ["nft"],
    }
    wanted = programs[backend]
    return next((name for name in wanted if find_program(name) is None), "")


def find_program(name: str) -> str | None:
    """Return the path of a program, if it is installed."""
    return shutil.which(name) or shutil.which(name, path=SYSTEM_PATH)


def run_nft(arguments: Iterable[str], script: str = "") -> str:
    """Run nft and return what it prints. Raises CaptureError."""
    return run_program(["nft", *arguments], script)


def save_iptables(family: Family, tables: Iterable[str] = TABLES) -> str:
    """Return what `iptables-save` prints of tables: of those that may hold rules of ours. Raises CaptureError."""
    return "".join(run_program([family.save_command, "-t", table]) for table in tables)


def restore_iptables(family: Family, script: str, *, tries: bool = False) -> None:
    """Apply a script, or with `tries` have it read only. Raises CaptureError."""
    options = ["--test"] if tries else []
    run_program([family.restore_command, "--noflush", "--wait", _LOCK_WAIT, *options], script)


def run_program(arguments: list[str], script: str = "") -> str:
    """Run a program that changes or prints rules, and return what it prints. Raises CaptureError."""
    program = find_program(arguments[0])
    if program is None:
        raise explain_missing(arguments[0])
    try:
        done = subprocess.run(  # noqa: S603 -- the arguments are fixed words, and the program is found above
            [program, *arguments[1:]],
            input=script,
            capture_output=True,
            encoding="utf-8",
            errors="replace",  # the comment of somebody's rule may hold anything
            timeout=TIMEOUT,
            check=False,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CaptureError(f"{arguments[0]} could not be run: {error}; run it by hand to see why") from error
    if done.returncode:
        raise _kind(done.stderr)(f"{' '.join(arguments)}: {_reason(done.stderr)}; {_remedy(done.stderr)}")
    return done.stdout


def explain_missing(name: str) -> CaptureError:
    """Return the complaint about a program that is not installed."""
    package = "nftables" if name == "nft" else "iptables"
    return CaptureError(f"{name} is not installed; install it, on Debian with `apt-get install {package}`")


def _reason(complaint: str) -> str:
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    return " ".join(lines[:2]) if lines else "failed without a word"


def _kind(complaint: str) -> type[CaptureError]:
    if _lacks_rights(complaint.lower()):
        return LacksRightsError
    return NoSuchTableError if _lacks_table(complaint) else CaptureError


def _lacks_table(complaint: str) -> bool:
    lowered = complaint.lower()
    if _lacks_rights(lowered):
        return False
    words = ("family not supported", "does not exist", "can't initialize", "protocol not supported")
    return any(word in lowered for word in (*words, "cache initialization failed"))


def _lacks_rights(lowered: str) -> bool:
    return any(word in lowered for word in ("permission denied", "you must be root", "not permitted"))


def _remedy(complaint: str) -> str:
    lowered = complaint.lower()
    if "lock file" in lowered or "read-only" in lowered:
        return "iptables-legacy keeps its lock in /run: mount an emptyDir there, or use --backend nftables"
    if _lacks_rights(lowered) and "(legacy)" in lowered:
        return "iptables-legacy needs CAP_NET_RAW beside CAP_NET_ADMIN; add it, or use --backend nftables"
    if _lacks_rights(lowered):
        return "run it as root, or with CAP_NET_ADMIN, in the pod's network namespace"
    if _lacks_table(complaint):
        return "this kernel has no nat table for the family; leave it out with --family, or try the other --backend"
    if "could not process rule" in lowered and ("no such file" in lowered or "not supported" in lowered):
        return "this kernel lacks what the rule needs (nft_redir, nft_reject); try --backend iptables"
    if "invalid argument" in lowered:
        # The kernel refuses users that the namespace has no mapping for (xt_owner).
        return (
            "in a user namespace Envoy's user may not exist: use --exempt-mark N with `xds bootstrap --so-mark N`; "
            "from outside of it, enter it, too (nsenter -U)"
        )
    if "lock" in lowered:
        return "something else is changing iptables; try again"
    return "nothing was changed for this family"
