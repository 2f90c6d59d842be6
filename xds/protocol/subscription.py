"""
One resource type on one stream: what the client asked for, what it was sent, what it answered.

Everything that changes this state is in this file; `sotw` and `delta` read requests into it and work
out what it is owed. Nothing here knows gRPC, time or which client it is.

Invariant: `sent` holds only what the client may still have, i.e. names that it still subscribes to.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from xds.names import Version

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from xds.names import Nonce
    from xds.resources import Resource, ResourceType

WILDCARD = "*"
"""The name that subscribes to everything, for types that allow it (xDS protocol, "How the client specifies …")."""

LASTING_SUFFIX = "~"
"""
Ends the version that a client has without a time to live, from a server that gives none: it is no current version, so
the client is sent the resource anew, and no heartbeat names it.
"""

_UNSURE = Version("")
"""What a client has that may have lost it; no resource has this version."""

_MAX_REMEMBERED = 16
"""Unanswered responses whose versions are remembered. A client that never answers must not cost memory."""


@dataclass(frozen=True, slots=True)
class Acked:
    """The client applied the response of this version."""

    kind: ResourceType
    version: Version


@dataclass(frozen=True, slots=True)
class Nacked:
    """The client refused the response of this version; `text` is its own account of why."""

    kind: ResourceType
    version: Version
    text: str


@dataclass(frozen=True, slots=True)
class Lapsed:
    """The client has lost some of what a heartbeat named, so that it refused the heartbeat; `text` is its account."""

    kind: ResourceType
    names: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """What a response must say, before it has a nonce. SotW has no words for `removed`; it is bookkeeping there."""

    version: Version
    resources: tuple[Resource, ...]
    removed: tuple[str, ...] = ()
    renewed: tuple[tuple[str, Version], ...] = ()
    """A heartbeat: names and versions that the client has and is to keep. It says nothing else."""


@dataclass(slots=True)
class Exchange:
    """Responses of one type on one stream, and the client's answers to them."""

    kind: ResourceType
    last: Nonce | None = None
    """Nonce of the newest response."""
    acked: Version | None = None
    """Version of the newest response that the client accepted."""
    held: Mapping[str, Version | None] = field(default_factory=lambda: NOTHING_SENT.sent)
    """
    Versions that the client accepted, by name, and so has: `sent` without what is in the air or was refused. What it
    lost interest in may be missing. Replaced, never changed: it is `sent` itself as a rule.
    """
    refused: dict[str, Version] = field(default_factory=dict)
    """Versions that the client refused by name, until the name is sent again."""
    refused_removals: set[str] = field(default_factory=set)
    """Removals that came in a refused response. They join the next one."""
    _told: dict[str, tuple[Content, Mapping[str, Version | None]]] = field(default_factory=dict)
    """Responses that an answer may still name, oldest first, and what the client was sent up to each."""
    _answered: str | None = None
    _is_rejected: bool = False

    def open(self, nonce: Nonce, content: Content, sent: Mapping[str, Version | None]) -> None:
        """Note that a response went out, and what the client was sent with it and before."""
        self.last = nonce
        self._told[nonce] = content, sent
        if self.refused:
            for resource in content.resources:
                self.refused.pop(resource.name, None)
        if not content.renewed:
            self.refused_removals.clear()
        while len(self._told) > _MAX_REMEMBERED:
            del self._told[next(iter(self._told))]

    def record(self, nonce: str, error: str | None) -> Acked | Nacked | Lapsed | None:
        """
        Note the client's answer to the response that `nonce` names; None if this request is no new answer.

        The presence of `error_detail` makes it a NACK (xDS protocol, "ACK and NACK semantics summary"). A
        request may carry an old nonce again just to change its subscription; it then answers nothing. That a client
        took a heartbeat is no news either.
        """
        told = self._told.get(nonce)
        if told is None or (nonce == self._answered and (error is None or self._is_rejected)):
            return None
        while next(iter(self._told)) != nonce:  # answers come in order, so older ones will not come any more
            del self._told[next(iter(self._told))]
        self._answered, self._is_rejected = nonce, error is not None
        content, sent = told
        if content.renewed:
            return None if error is None else Lapsed(self.kind, tuple(name for name, _ in content.renewed), error)
        if error is not None:
            self.refused.update((resource.name, resource.version) for resource in content.resources)
            self.refused_removals.update(content.removed)
            return Nacked(self.kind, content.version, error)
        self.acked = content.version
        self.held = sent if not self.refused else self._without_refused(sent)
        return Acked(self.kind, content.version)

    @property
    def is_answered(self) -> bool:
        """Whether no response waits for its answer."""
        return self._answered == self.last

    @property
    def pending(self) -> frozenset[str]:
        """The names in responses that wait for their answer."""
        return frozenset(
            resource.name
            for nonce, (content, _) in self._told.items()
            if nonce != self._answered
            for resource in content.resources
        )

    def is_stale(self, nonce: str) -> bool:
        """
        Tell whether a SotW request was written before its client saw the newest response.

        "A nonce becomes stale following a newer nonce being presented" (xDS protocol, "Resource updates").
        An empty nonce is right until the client "has … accepted an update in this xDS stream"
        (discovery.proto, `response_nonce`); while an answer is outstanding it is older than that response.
        """
        if self.last is None:
            return False
        if nonce:
            return nonce != self.last
        return self.acked is not None or not self.is_answered

    def _without_refused(self, sent: Mapping[str, Version | None]) -> Mapping[str, Version | None]:
        """Return `sent` with what the client runs in place of what it refused."""
        return {
            name: self.held.get(name) if self.refused.get(name) == version else version
            for name, version in sent.items()
        }


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Shared:
    """What any number of streams were sent of one type, all of them the same. Told apart by identity."""

    sent: Mapping[str, Version | None]
    full: Mapping[str, Resource]
    version: Version | None = None
    """The version of the type whose resources, all and no others, this is; None: of no version."""


NOTHING_SENT: Shared = Shared(MappingProxyType({}), MappingProxyType({}))
"""How every stream begins."""


@dataclass(slots=True)
class Subscription:
    """What one client wants of one type, and what it has of it."""

    kind: ResourceType
    exchange: Exchange = field(init=False)
    is_wildcard: bool = False
    names: set[str] = field(default_factory=set)
    """Names asked for one by one, beside a wildcard or without one."""
    has_requested: bool = False
    has_named: bool = False
    """Whether a name was ever asked for; from then on an empty SotW list is not a wildcard any more."""
    owed: set[str] = field(default_factory=set)
    """Names that must be answered even if what was sent is still current."""
    owes_all: bool = False
    """The wildcard itself must be answered, in full, and even if there is nothing to send."""
    sent: Mapping[str, Version | None] = field(default_factory=lambda: NOTHING_SENT.sent)
    """
    Version that the client was last sent of each name; None: it was told that there is none. Replaced, never changed:
    other streams may hold it too.
    """
    full: Mapping[str, Resource] = field(default_factory=lambda: NOTHING_SENT.full)
    """SotW, full-state types: the resources of the newest response. Replaced, never changed, as `sent`."""
    shared: Shared | None = NOTHING_SENT
    """What `sent` and `full` are together, if other streams may hold the same."""
    claimed: Version | None = None
    """SotW: the version that the client says it has from an earlier stream."""

    def __post_init__(self) -> None:
        self.exchange = Exchange(self.kind)

    @property
    def is_plain(self) -> bool:
        """Whether what is owed follows from the snapshot, `sent`, `full` and `owes_all` alone."""
        return (
            self.is_wildcard
            and self.claimed is None
            and not (self.names or self.owed or self.exchange.refused or self.exchange.refused_removals)
        )

    def is_current(self, version: Version) -> bool:
        """Whether it shows without a look at the resources that nothing of `version` is owed."""
        if not self.has_requested:
            return True
        return self.shared is not None and self.shared.version == version and not self.owes_all and self.is_plain

    def adopt(self, shared: Shared) -> None:
        """Hold `shared` in place of an equal state, or after what leads to it was sent."""
        self.sent, self.full, self.shared = shared.sent, shared.full, shared

    def tracks(self, name: str) -> bool:
        """Whether the client wants to know about `name`."""
        return self.is_wildcard or name in self.names

    def select(self, table: Mapping[str, Resource]) -> Mapping[str, Resource]:
        """Return the part of `table` that the client subscribes to, in the table's order."""
        if self.is_wildcard:
            return table
        return {name: resource for name, resource in table.items() if name in self.names}

    def is_due(self, resource: Resource) -> bool:
        """
        Whether a subscribed resource must go out.

        Content that the client refused counts as sent: repeating it would be refused again, so it waits for
        a change (xDS protocol, "When to send an update").
        """
        return resource.name in self.owed or self.sent.get(resource.name) != resource.version

    def is_settled(self, table: Mapping[str, Resource]) -> bool:
        """Whether the client runs what it was sent: nothing unanswered, and nothing current refused."""
        return self.exchange.is_answered and not any(
            self.tracks(name) and name in table and table[name].version == version
            for name, version in self.exchange.refused.items()
        )

    def follow(self, names: set[str], *, is_wildcard: bool, asked: set[str]) -> None:
        """
        Take over the client's subscription; `asked` must be answered whatever was sent before.

        What the client no longer subscribes to, it forgets, and so is forgotten here: when it asks again it
        is answered again (xDS protocol, "How the client specifies what resources to return").
        """
        if is_wildcard != self.is_wildcard:
            self.owes_all = is_wildcard
        self.owed -= self.names - names
        self.owed |= asked
        if names != self.names and self.exchange.held:
            kept = self.exchange.held.items()
            self.exchange.held = {name: version for name, version in kept if is_wildcard or name in names}
        self.names, self.is_wildcard, self.has_requested = names, is_wildcard, True
        if not is_wildcard:
            self.sent = {name: version for name, version in self.sent.items() if name in names}
            self.full = {name: resource for name, resource in self.full.items() if name in names}
            self.shared = None

    def presume(self, versions: Mapping[str, Version]) -> None:
        """Believe a reconnecting client about what it has: only differences are owed."""
        self.sent = {name: version for name, version in versions.items() if self.tracks(name)}
        self.exchange.held = self.sent
        self.shared = None if self.sent else NOTHING_SENT
        self.owes_all = self.owes_all and not versions

    def forget_absent(self, table: Mapping[str, Resource]) -> None:
        """Forget what is in `table` no more, so that it is sent when it is back, even as it was."""
        if not self.sent.keys() <= table.keys():
            self.sent = {name: version for name, version in self.sent.items() if name in table}
            self.shared = None

    def lapse(self, names: Iterable[str]) -> None:
        """
        Count on nothing of what the client may have lost: it is sent again, or taken away for good.

        What it refused before stays refused: it would be refused again.
        """
        lost = set(names)
        refused = self.exchange.refused
        self.sent = {
            name: _UNSURE if version and name in lost and refused.get(name) != version else version
            for name, version in self.sent.items()
        }
        self.exchange.held = {name: version for name, version in self.exchange.held.items() if name not in lost}
        self.shared = None

    def mark_sent(self, resources: Iterable[Resource], removed: Iterable[str]) -> None:
        """Note what a response told the client."""
        sent = dict(self.sent)
        for resource in resources:
            sent[resource.name] = resource.version
            self.owed.discard(resource.name)
        for name in removed:
            self.owed.discard(name)
            if name in self.names:
                sent[name] = None
            else:
                sent.pop(name, None)
        self.sent, self.shared = sent, None
        self.owes_all = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What SotW and delta requests have in common."""

    type_url: str
    nonce: str = ""
    """Nonce of the response that this request answers or follows; empty: none."""
    error: str | None = None
    """Text of the NACK; None: no NACK."""
