"""
The annotations of pods and namespaces that injection reads and writes: one table, which documentation is made of.

A namespace's annotations are defaults for its pods. Nothing here looks at the rest of a pod. Invariant: an annotation
with our prefix is either understood or a problem; none is ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from xds.capture import Family, UdpRejection, build_capture
from xds.errors import InjectionError, SettingsError, quote_value
from xds.injection.quantities import parse_cpu, parse_memory
from xds.policy.model import Mode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from xds.policy.model import Network

PREFIX = "egress-xds/"
INJECT = f"{PREFIX}inject"
"""On a pod an annotation, `false` to opt out; on a namespace a *label*, `true` to opt in."""
MODE = f"{PREFIX}mode"
INJECTED = f"{PREFIX}injected"
SERVER_CA = f"{PREFIX}server-ca"
RUN_AS_USER = f"{PREFIX}run-as-user"

POD, NAMESPACE = "the pod", "its namespace"
"""Where an annotation stands, for messages."""

FORBIDDEN_REMEDY = "remove it; what its namespace says counts"

NO_LIMIT = "none"
"""Instead of an amount: there is no limit."""

_MAX_ITEMS = 100
_MAX_UID = 2**31 - 1
"""The API server accepts no larger user id."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One annotation, for whoever writes it: `values` and `default` are shown as they are."""

    name: str
    """Without the prefix."""
    values: str
    default: str
    meaning: str
    on_namespace: bool = True
    """Whether a namespace may have it, as the default of its pods. A pod may have every one."""
    is_written: bool = False
    """Whether the injector writes it; what a pod says itself is replaced."""

    @property
    def key(self) -> str:
        """The whole name."""
        return f"{PREFIX}{self.name}"


ANNOTATIONS = (
    Annotation(
        name="inject",
        values="`true`, `false`",
        default="`true`",
        meaning="`false` leaves the pod alone, in a namespace whose pods get a sidecar.",
        on_namespace=False,
    ),
    Annotation(
        name="mode",
        values="`transparent`, `explicit`, `env`",
        default="the policy's `mode`; beside a mesh `explicit`",
        meaning="How the policy reaches the application: its connections are captured; it is told of the sidecar by "
        "`HTTP_PROXY` and its kin; or it is told of the company's proxy, without a sidecar.",
    ),
    Annotation(
        name="policy",
        values="the name of a policy",
        default="none",
        meaning="Which policy is preferred among those that are equal otherwise.",
    ),
    Annotation(
        name="exclude-ports",
        values="ports, with commas",
        default="none",
        meaning="Connections to these ports are not captured.",
    ),
    Annotation(
        name="exclude-cidrs",
        values="networks, with commas",
        default="none",
        meaning="Connections to these networks are not captured.",
    ),
    Annotation(
        name="exclude-uids",
        values="user ids, with commas",
        default="none",
        meaning="Connections of these users are not captured.",
    ),
    Annotation(
        name="dns",
        values="`true`, `false`",
        default="`true` if the policy has `dns.mode: capture`",
        meaning="Whether questions to name servers (UDP 53) go to the sidecar.",
    ),
    Annotation(
        name="reject-udp",
        values="`quic`, `all`, `none`",
        default="`quic`",
        meaning="Which UDP is rejected, for no CONNECT proxy carries it: UDP 443, all but DNS, or none.",
    ),
    Annotation(
        name="family",
        values="`ipv4`, `ipv6`, `both`",
        default="the installation's, which is `both` unless it says otherwise",
        meaning="Which address family is captured.",
    ),
    Annotation(
        name="trusted-ca",
        values="`true`, `false`",
        default="`false`",
        meaning="Whether containers get the policy's `trustedCA` beside the system's authorities, in a volume and in "
        "the variables that runtimes read.",
    ),
    Annotation(
        name="native-sidecar",
        values="`true`, `false`",
        default="`true` where the cluster has native sidecars (1.29)",
        meaning="Whether the sidecar is an init container with `restartPolicy: Always`. Otherwise init containers have "
        "no egress through it, and jobs do not end.",
    ),
    Annotation(
        name="sidecar-cpu",
        values="an amount such as `100m`",
        default="the installation's, `100m`",
        meaning="What Envoy requests of a processor.",
    ),
    Annotation(
        name="sidecar-cpu-limit",
        values="an amount such as `2`, `none`",
        default="the installation's, `2`, or what is requested if that is more",
        meaning="Envoy's limit of processor time; `none`: there is none, which a namespace with a quota of it refuses.",
    ),
    Annotation(
        name="sidecar-memory",
        values="an amount such as `128Mi`",
        default="the installation's, `128Mi`",
        meaning="What Envoy requests of memory.",
    ),
    Annotation(
        name="sidecar-memory-limit",
        values="an amount of at least `80Mi`",
        default="the installation's, `500Mi`",
        meaning="Envoy's limit of memory; at nineteen twentieths of four fifths of it, new connections are refused.",
    ),
    Annotation(
        name="run-as-user",
        values="a user id from 1",
        default="`1337`; beside a mesh `1338`",
        meaning="The sidecar's user, whose connections alone are not captured. No other container may run as it.",
    ),
    Annotation(
        name="injected",
        values="`true`",
        default="",
        meaning="The pod has a sidecar; the status of policies counts it.",
        on_namespace=False,
        is_written=True,
    ),
    Annotation(
        name="server-ca",
        values="PEM",
        default="",
        meaning="Who signs for the control plane; the sidecar reads it from a volume.",
        on_namespace=False,
        is_written=True,
    ),
)
"""Every annotation. The injector also writes `mode`, as it was decided."""

_KNOWN = {annotation.key: annotation for annotation in ANNOTATIONS}
_CAPTURE_ONLY = frozenset({"exclude-ports", "exclude-cidrs", "exclude-uids", "dns", "reject-udp", "family"})
_SIDECAR_ONLY = frozenset(
    {"native-sidecar", "sidecar-cpu", "sidecar-cpu-limit", "sidecar-memory", "sidecar-memory-limit"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What a pod and its namespace ask for; None: nothing is said."""

    mode: Mode | None = None
    policy: str | None = None
    exclude_ports: tuple[int, ...] = ()
    exclude_networks: tuple[Network, ...] = ()
    exclude_uids: tuple[int, ...] = ()
    dns: bool | None = None
    reject_udp: UdpRejection = UdpRejection.QUIC
    families: tuple[Family, ...] | None = None
    trusted_ca: bool = False
    native_sidecar: bool | None = None
    cpu: str | None = None
    cpu_limit: str | None = None
    """An amount, or `NO_LIMIT`."""
    memory: str | None = None
    memory_limit: str | None = None
    run_as_user: int | None = None
    places: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """Where the annotation in force stands, `POD` or `NAMESPACE`, by its name without the prefix."""

    def name_of(self, name: str) -> str:
        """Return how a message speaks of an annotation that is there."""
        return f"the annotation {PREFIX}{name} of {self.places.get(name, POD)}"

    def without_effect(self, mode: Mode) -> tuple[str, ...]:
        """Return the names of the pod's own annotations that mean nothing in `mode`."""
        idle = {
            Mode.TRANSPARENT: frozenset[str](),
            Mode.EXPLICIT: _CAPTURE_ONLY,
            Mode.ENV: _CAPTURE_ONLY | _SIDECAR_ONLY,
        }
        return tuple(sorted(name for name in idle[mode] if self.places.get(name) == POD))


def check_forbidden(names: frozenset[str]) -> None:
    """Refuse what no pod can be forbidden to say. Raises SettingsError."""
    known = {annotation.name for annotation in ANNOTATIONS if not annotation.is_written}
    for name in sorted(names - known):
        raise SettingsError(
            f"{quote_value(name)} can't be forbidden; give the name of an annotation without its prefix, one of "
            f"{', '.join(sorted(known))}"
        )


def is_opted_out(pod_annotations: Mapping[str, str]) -> bool:
    """Whether a pod says that it is to be left alone, whatever else is wrong with it."""
    return pod_annotations.get(INJECT, "").strip() == "false"


def read_wishes(
    pod_annotations: Mapping[str, str],
    namespace_annotations: Mapping[str, str],
    forbidden: frozenset[str] = frozenset(),
) -> Wishes:
    """
    Return what is asked for; what the pod says beats what its namespace says.

    `forbidden` are names, without their prefix, that pods may not have. The pod's `mode`, which the injector writes, is
    then not read but compared with what was decided without it, by whoever decides. Raises InjectionError with every
    value that can't be read, on either, and every annotation that is not known or is forbidden.
    """
    reader = _Reader(pod_annotations, namespace_annotations, forbidden)
    reader.check_names()
    reader.check_forbidden()
    reader.read("inject", _truth, default=True)
    wishes = Wishes(
        mode=reader.read("mode", lambda text: Mode(_one_of(text, [mode.value for mode in Mode])), None),
        policy=reader.read("policy", str, None),
        exclude_ports=reader.read("exclude-ports", _ports, ()),
        exclude_networks=reader.read("exclude-cidrs", _networks, ()),
        exclude_uids=reader.read("exclude-uids", _uids, ()),
        dns=reader.read("dns", _truth, None),
        reject_udp=reader.read(
            "reject-udp",
            lambda text: UdpRejection(_one_of(text, [kind.value for kind in UdpRejection])),
            UdpRejection.QUIC,
        ),
        families=reader.read("family", parse_families, None),
        trusted_ca=reader.read("trusted-ca", _truth, default=False),
        native_sidecar=reader.read("native-sidecar", _truth, None),
        cpu=reader.read("sidecar-cpu", _cpu, None),
        cpu_limit=reader.read("sidecar-cpu-limit", lambda text: text if text == NO_LIMIT else _cpu(text), None),
        memory=reader.read("sidecar-memory", _memory, None),
        memory_limit=reader.read("sidecar-memory-limit", _memory, None),
        run_as_user=reader.read("run-as-user", _uid, None),
        places=MappingProxyType(reader.places),
    )
    if reader.problems:
        raise InjectionError(reader.problems)
    return wishes


def render_annotations_table() -> str:
    """Return the table of all annotations, in Markdown."""
    rows = [("Annotation", "Values", "Default", "Meaning"), ("---", "---", "---", "---")]
    rows += [
        (
            f"`{annotation.key}`",
            annotation.values,
            "written by the injector" if annotation.is_written else annotation.default,
            annotation.meaning if annotation.on_namespace else f"{annotation.meaning} On pods only.",
        )
        for annotation in ANNOTATIONS
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


class _Reader:
    """Reads one annotation after the other and remembers what is wrong."""

    def __init__(self, pod: Mapping[str, str], namespace: Mapping[str, str], forbidden: frozenset[str]) -> None:
        self._by_place = {NAMESPACE: namespace, POD: pod}
        self._forbidden = forbidden
        self.problems: list[str] = []
        self.places: dict[str, str] = {}

    def check_names(self) -> None:
        """Find annotations that nobody knows, and those that stand where they mean nothing."""
        for place, texts in self._by_place.items():
            for key in sorted(key for key in texts if key.startswith(PREFIX)):
                known = _KNOWN.get(key)
                if known is None:
                    self.problems.append(f"the annotation {quote_value(key)} of {place} is not known; {_remedy(key)}")
                elif place == NAMESPACE and not known.on_namespace:
                    self.problems.append(f"the annotation {key} of {place} is for pods only; {_remedy(key)}")

    def check_forbidden(self) -> None:
        """Find what the pod may not say."""
        for name in sorted(self._forbidden - {"mode"}):
            if f"{PREFIX}{name}" in self._by_place[POD]:
                self.problems.append(f"the annotation {PREFIX}{name} is forbidden for pods here; {FORBIDDEN_REMEDY}")

    def read(self, name: str, parse: Callable[[str], _T], default: _T) -> _T:
        """Return the pod's value, else the namespace's, else `default`; both are looked at."""
        found = default
        for place, texts in self._by_place.items():
            text = texts.get(f"{PREFIX}{name}")
            if text is None or (place == NAMESPACE and not _KNOWN[f"{PREFIX}{name}"].on_namespace):
                continue
            if place == POD and name in self._forbidden:
                continue
            self.places[name] = place
            try:
                found = parse(text.strip())
            except ValueError as error:
                self.problems.append(f"the annotation {PREFIX}{name} of {place}: {quote_value(text)} {error}")
            except SettingsError as error:
                self.problems.append(f"the annotation {PREFIX}{name} of {place}: {error}")
        return found


def _remedy(key: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415  # seldom wanted

    if key == INJECT:
        return f'remove it; a namespace opts in by the label {INJECT}: "true"'
    names = [annotation.name for annotation in ANNOTATIONS]
    close = get_close_matches(key.removeprefix(PREFIX), names, n=1)
    return f"did you mean {PREFIX}{close[0]}?" if close else "remove it"


def _one_of(text: str, values: list[str]) -> str:
    if text not in values:
        raise ValueError(f"is none of {', '.join(values)}; write one of them, or remove the annotation")
    return text


def _truth(text: str) -> bool:
    return _one_of(text, ["true", "false"]) == "true"


def parse_families(text: str) -> tuple[Family, ...]:
    """Read `ipv4`, `ipv6` or `both`. Raises ValueError with what to write instead."""
    word = _one_of(text, [*(family.value for family in Family), "both"])
    return tuple(family for family in Family if word in (family.value, "both"))


def _items(text: str) -> list[str]:
    """Split at commas; an empty text is an empty list, with which a pod takes back what its namespace says."""
    items = [item.strip() for item in text.split(",")] if text else []
    if len(items) > _MAX_ITEMS:
        raise ValueError(
            f"has {len(items)} entries; each is a rule of the kernel, so that there are at most {_MAX_ITEMS}"
        )
    return items


def _numbers(text: str, what: str, example: str) -> list[int]:
    items = _items(text)
    if not all(item.isascii() and item.isdecimal() for item in items):
        raise ValueError(f"is no list of {what}; write numbers with commas, such as {example}")
    return [int(item) for item in items]


def _ports(text: str) -> tuple[int, ...]:
    return build_capture(exclude_ports=_numbers(text, "ports", "5432,9092")).exclude_ports


def _uids(text: str) -> tuple[int, ...]:
    return build_capture(exclude_uids=_numbers(text, "user ids", "0,999")).exclude_uids


def _networks(text: str) -> tuple[Network, ...]:
    return build_capture(exclude_cidrs=_items(text)).exclude_networks


def _cpu(text: str) -> str:
    parse_cpu(text)
    return text


def _memory(text: str) -> str:
    parse_memory(text)
    return text


def _uid(text: str) -> int:
    uid = int(text) if text.isascii() and text.isdecimal() else 0
    if not 1 <= uid <= _MAX_UID:
        raise ValueError(f"is no user id from 1 to {_MAX_UID}; write a number that no application runs as")
    return uid
