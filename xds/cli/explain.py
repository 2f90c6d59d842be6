"""`xds explain`: which way a connection goes, and why; and what a diagnostic's code means."""

from __future__ import annotations

import socket
import textwrap
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from xds.catalogue import CATALOGUE, RETIRED
from xds.cli.options import render_epilog, world_options
from xds.cli.output import render_json, render_table, style_diagnostic
from xds.cli.progress import working
from xds.errors import SettingsError, UnreachableError, clean_text, quote_value

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from xds.cli.subjects import Found
    from xds.cli.targets import Target
    from xds.explain.connection import Protocol
    from xds.explain.explanation import Explanation, Question, Subject
    from xds.settings import Settings

_WIDTH = 100
_SUGGESTIONS = 3
_MEANINGFUL = 3
"""Characters that two codes share if they are of one kind: `EX` and a digit."""
_USAGE = "xds explain POD.NAMESPACE HOST:PORT PATH"
_POD_AND_TARGET = ("POD.NAMESPACE", "HOST:PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What was typed about the connection."""

    policy: str | None
    admin: str | None
    config_dump: str | None
    labels: tuple[str, ...]
    service_account: str
    addresses: tuple[str, ...]
    protocol: str | None
    sni: str | None
    http_host: str | None
    explicit: bool
    resolve: bool | None
    no_files: bool

    @property
    def is_held(self) -> bool:
        """Whether an Envoy tells what it has, instead of a policy what it should have."""
        return self.admin is not None or self.config_dump is not None

    @property
    def names_connection(self) -> bool:
        """Whether anything was typed that says nothing of a code."""
        shown = (self.protocol, self.sni, self.http_host)
        return any((self.labels, self.service_account, self.addresses, self.explicit)) or shown != (None, None, None)


def _offer_codes(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem[str]]:
    """Complete a code, which comes first or not at all."""
    if ctx.params.get("words"):
        return []
    return [
        CompletionItem(code, help=entry.title)
        for code, entry in CATALOGUE.items()
        if code.startswith(incomplete.upper())
    ]


@click.command(
    name="explain",
    epilog=render_epilog(
        "xds explain web-0.shop api.example.com:443 -f policies",
        "xds explain web-0.shop https://api.example.com/ --kubernetes",
        "xds explain --policy corp 203.0.113.7:5432 --protocol tcp policies",
        "xds explain --admin 127.0.0.1:15000 203.0.113.7:443 --sni api.example.com",
        "xds explain EX101",
        codes="0 explained, 1 if a document has an error, no policy selects the pod, or what is compiled "
        "contradicts the policy, 2 for wrong usage, 3 if somebody can't be asked.",
    ),
)
@click.argument("words", metavar="[CODE | POD.NAMESPACE HOST:PORT [PATH]...]", nargs=-1, shell_complete=_offer_codes)
@click.option("--policy", metavar="[NAMESPACE/]NAME", help="A policy instead of a pod; HOST:PORT then comes first.")
@click.option("--admin", metavar="HOST:PORT|SOCKET", help="What this Envoy has, instead of a policy; as above.")
@click.option("--config-dump", metavar="FILE", help="What an Envoy answered to /config_dump; - is stdin. As above.")
@click.option(
    "-f",
    "--policies",
    "paths",
    multiple=True,
    metavar="PATH",
    type=click.Path(readable=False, path_type=Path),
    help="A directory or document of policies, as PATH; repeatable.",
)
@click.option("--address", "addresses", multiple=True, metavar="IP", help="What HOST resolves to; repeatable.")
@click.option(
    "--resolve/--no-resolve", default=None, help="Look HOST up here. --no-resolve: not even the names of proxies."
)
@click.option(
    "--protocol",
    type=click.Choice(["tls", "http", "tcp"]),
    help="What is spoken; by default by URL or port, and for other ports than 80 and 443 both tls and tcp.",
)
@click.option("--sni", metavar="NAME", help="The server name that the client sends, if it is not HOST; '' for none.")
@click.option("--http-host", metavar="HOST", help="The Host that the client sends, if it is another one.")
@click.option("--explicit", is_flag=True, help="The application knows of the proxy on loopback, and asks that.")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label of the pod; repeatable.")
@click.option("--service-account", default="", metavar="NAME", help="Its service account.")
@click.option("--no-files", is_flag=True, help="Leave out the files that policies name: they are on another machine.")
@click.option("-o", "--output", type=click.Choice(["table", "json"]), default="table", help="Form.")
@world_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    words: tuple[str, ...],
    policy: str | None,
    admin: str | None,
    config_dump: str | None,
    paths: tuple[Path, ...],
    addresses: tuple[str, ...],
    resolve: bool | None,
    protocol: str | None,
    sni: str | None,
    http_host: str | None,
    explicit: bool,
    labels: tuple[str, ...],
    service_account: str,
    no_files: bool,
    output: str,
    **flags: str | tuple[str, ...] | None,
) -> None:
    """
    Say which way a connection goes, and why.

    The connection is one of the pod to HOST:PORT (or [IPv6]:PORT, or a URL). What happens to it is read from the
    resources that the pod's Envoy gets; the rule that caused it, from the policy. What clients would do with the same
    NO_PROXY stands below. With --admin, it is what that Envoy really has, and no policy says why. With a CODE, tell
    more about that diagnostic; without anything, list them all.
    """
    options = _Options(
        policy=policy,
        admin=admin,
        config_dump=config_dump,
        labels=labels,
        service_account=service_account,
        addresses=addresses,
        protocol=protocol,
        sni=sni,
        http_host=http_host,
        explicit=explicit,
        resolve=resolve,
        no_files=no_files,
    )
    if policy is None and not options.is_held and len(words) < len(_POD_AND_TARGET):
        _explain_code(words, options)
        return
    pod, rest = _find_pod(words, options)
    if not rest:
        raise click.UsageError("say where the connection goes: xds explain --policy NAME HOST:PORT PATH")
    ctx.exit(_explain_connection(pod, rest[0], (*paths, *map(Path, rest[1:])), options, flags, output))


def _find_pod(words: tuple[str, ...], options: _Options) -> tuple[str | None, tuple[str, ...]]:
    """Return the pod, if one is named, and what follows. An Envoy may be asked whether it is that pod's."""
    is_target = [_is_target(word) for word in words[: len(_POD_AND_TARGET)]]
    if options.policy is None and is_target == [True, False] and _is_pod(words[1]):
        raise click.UsageError(f"the pod comes first: xds explain {words[1]} {words[0]}")
    if options.policy is None and not options.is_held:
        return words[0], words[1:]
    if is_target != [False, True] or not _is_pod(words[0]):
        return None, words
    if options.policy is not None:
        raise click.UsageError(f"--policy stands in place of a pod; leave out {words[0]}, or --policy")
    return words[0], words[1:]


def _is_target(word: str) -> bool:
    from xds.cli.targets import parse_target  # noqa: PLC0415  # a code need not wait for it

    try:
        parse_target(word)
    except click.UsageError:
        return False
    return True


def _is_pod(word: str) -> bool:
    from xds.bootstrap import parse_node_id  # noqa: PLC0415  # a code need not wait for it

    try:
        parse_node_id(word)
    except SettingsError:
        return False
    return True


def _explain_code(words: Sequence[str], options: _Options) -> None:
    if options.names_connection:
        raise click.UsageError(f"a connection is somebody's, to somewhere: {_USAGE}")
    if words:
        click.echo(render_entry(words[0]))
        return
    rows = [(entry.code, entry.severity.value, entry.title) for entry in CATALOGUE.values()]
    click.echo(render_table(("CODE", "SEVERITY", "TITLE"), rows))


def render_entry(code: str) -> str:
    """Return the catalogue's entry of `code`, in any case. Raises click.UsageError for a code that there is not."""
    upper = code.upper()
    if upper in RETIRED:
        return f"{upper} was produced by older versions only."
    entry = CATALOGUE.get(upper)
    if entry is None:
        raise click.UsageError(
            f"there is no code {code}; {_suggest(upper)}all of them: xds explain. A connection: {_USAGE}"
        )
    return f"{entry.code} ({entry.severity.value}): {entry.title}\n\n{textwrap.fill(entry.explanation, _WIDTH)}"


def _suggest(code: str) -> str:
    """Name the codes that begin like `code`: the leading digit is the kind of finding."""
    for length in range(len(code), _MEANINGFUL - 1, -1):
        close = [f"{known} ({entry.title})" for known, entry in CATALOGUE.items() if known.startswith(code[:length])]
        if close:
            return f"did you mean {' or '.join(close[:_SUGGESTIONS])}? Or "
    return ""


def _explain_connection(
    pod: str | None,
    text: str,
    paths: tuple[Path, ...],
    options: _Options,
    flags: Mapping[str, str | tuple[str, ...] | None],
    output: str,
) -> int:
    """Print the answers; return the exit code."""
    # What a connection needs, a code need not wait for.
    from xds.cli.logs import configure_logging  # noqa: PLC0415  # as said
    from xds.cli.targets import parse_target  # noqa: PLC0415  # as said
    from xds.settings import load_operator_settings  # noqa: PLC0415  # as said

    settings = load_operator_settings(flags)
    configure_logging(settings)
    target = parse_target(text)
    addresses = _read_addresses(target, options)
    _check_shown(target, options)
    with working("getting ready"):
        _import_the_heavy()
    whose, found = _find_held(pod, paths, options) if options.is_held else _find(pod, paths, options, settings)
    errors = [finding for finding in found.findings if finding.is_error]
    for finding in errors:
        click.echo(style_diagnostic(finding), err=True)
    if found.remark:
        click.echo(clean_text(found.remark), err=True)
    with working("looking at the resources"):
        answers = [] if found.subject is None else _answer(found.subject, target, options, addresses)
    _print(answers, found, whose, pod, output)
    return 1 if errors or not found.is_in_force or any(item.contradictions for item in answers) else 0


def _import_the_heavy() -> None:
    """Import what takes seconds, which somebody may want to be told of."""
    import xds.cli.subjects  # noqa: PLC0415  # a code need not wait for it
    import xds.compile.snapshot  # noqa: F401, PLC0415  # as said


def _find_held(pod: str | None, paths: tuple[Path, ...], options: _Options) -> tuple[str, Found]:
    from xds.cli.subjects import find_held  # noqa: PLC0415  # a code need not wait for it

    if options.admin is not None and options.config_dump is not None:
        raise click.UsageError("give either --admin or --config-dump: an Envoy is asked, or was")
    if paths or options.policy is not None or options.labels or options.service_account:
        raise click.UsageError("an Envoy has what it has, whatever policies say: xds explain --admin HOST:PORT TARGET")
    return find_held(options.admin, options.config_dump, pod)


def _find(pod: str | None, paths: tuple[Path, ...], options: _Options, settings: Settings) -> tuple[str, Found]:
    import asyncio  # noqa: PLC0415  # a code need not wait for it

    from xds.bootstrap import parse_labels, parse_node_id  # noqa: PLC0415  # as said
    from xds.cli.subjects import Asked, find_subject  # noqa: PLC0415  # as said
    from xds.cli.world import choose_place  # noqa: PLC0415  # as said

    asked = Asked(
        node_id=None if pod is None else parse_node_id(pod),
        labels=tuple(sorted(parse_labels(options.labels).items())),
        service_account=options.service_account,
        policy=options.policy or "",
    )
    if (asked.labels or asked.service_account) and (pod is None or settings.kubernetes):
        raise click.UsageError("--label and --service-account are for a pod that no cluster knows; leave them out")
    place = choose_place(paths, settings, resolves=options.resolve is not False, reads_files=not options.no_files)
    return asked.words, asyncio.run(find_subject(place, asked))


def _read_addresses(target: Target, options: _Options) -> tuple[IPv4Address | IPv6Address, ...]:
    """Return what HOST resolves to, as far as that is known. Raises UnreachableError if it does not resolve here."""
    is_literal = _parse_address(target.host) is not None
    if options.explicit and (options.addresses or options.resolve):
        raise click.UsageError("--address and --resolve are of no use here: explicit mode decides by name")
    if is_literal and (options.addresses or options.resolve):
        raise click.UsageError(f"{target.host} is an address; leave out --address and --resolve")
    if options.addresses and options.resolve:
        raise click.UsageError("give either --address or --resolve")
    found = []
    for text in options.addresses:
        address = _parse_address(text)
        if address is None:
            raise click.UsageError(f"--address {quote_value(text)} is no IP address; give e.g. 192.0.2.7")
        found.append(address)
    return tuple(found) if found or not options.resolve else _look_up(target.host)


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _look_up(host: str) -> tuple[IPv4Address | IPv6Address, ...]:
    try:
        answers = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise UnreachableError(f"{host} does not resolve on this machine; give --address IP") from error
    found = {_parse_address(str(sockaddr[0])) for *_, sockaddr in answers}
    return tuple(sorted((item for item in found if item is not None), key=lambda item: (item.version, int(item))))


def _check_shown(target: Target, options: _Options) -> None:
    """Raise click.UsageError for options about what the client sends that contradict one another."""
    if options.sni is not None and (options.protocol not in (None, "tls") or target.scheme == "http"):
        raise click.UsageError("--sni is for TLS; leave it out, or add --protocol tls")
    if options.http_host is not None and (options.protocol not in (None, "http") or target.scheme == "https"):
        raise click.UsageError("--http-host is for plain HTTP; leave it out, or add --protocol http")
    if options.sni is not None and options.http_host is not None:
        raise click.UsageError("give either --sni or --http-host: a connection is TLS or plain HTTP")
    if options.explicit and (options.sni is not None or options.http_host is not None):
        raise click.UsageError("--sni and --http-host are of no use here: explicit mode decides by what is asked for")
    if "@" in f"{options.sni or ''}{options.http_host or ''}":
        raise click.UsageError("--sni and --http-host take a host, without a login")


def _answer(
    subject: Subject, target: Target, options: _Options, addresses: tuple[IPv4Address | IPv6Address, ...]
) -> list[Explanation]:
    """Explain every protocol that may be meant; if all go the same way, the first is enough."""
    from xds.explain.explanation import Question, explain  # noqa: PLC0415  # a code need not wait for it
    from xds.explain.explicit import has_explicit  # noqa: PLC0415  # as said

    if options.explicit and not has_explicit(subject.snapshot):
        raise click.UsageError("there is no listener for explicit mode; add `explicit: {port: 15002}` to the policy")

    def ask(protocol: Protocol) -> Question:
        return Question(
            host=target.host,
            port=target.port,
            protocol=protocol,
            shown=options.sni if options.sni is not None else options.http_host,
            addresses=addresses,
            path=target.path,
            is_explicit=options.explicit,
        )

    is_silent = subject.policy is not None and target.port in subject.policy.server_first_ports
    answers = [explain(subject, ask(item)) for item in _protocols(target, options, is_silent=is_silent)]
    first, *others = answers
    return [first, *(item for item in others if _way(item) != _way(first))]


def _protocols(target: Target, options: _Options, *, is_silent: bool) -> Iterable[Protocol]:
    from xds.explain.connection import Protocol  # noqa: PLC0415  # a code need not wait for it

    words = {"tls": Protocol.TLS, "http": Protocol.HTTP_11, "tcp": Protocol.OTHER}
    chosen = options.protocol or {"http": "http", "https": "tls"}.get(target.scheme)
    if chosen is None and (options.sni is not None or options.http_host is not None):
        chosen = "http" if options.sni is None else "tls"
    if chosen is None:
        chosen = {80: "http", 443: "tls"}.get(target.port)
    if chosen is not None:
        return [words[chosen]]
    if options.explicit:
        return [Protocol.TLS]
    return [Protocol.OTHER] if is_silent else [Protocol.TLS, Protocol.OTHER]


def _way(explanation: Explanation) -> object:
    return [
        (branch.addresses, branch.decision.verdict, branch.decision.target, branch.decision.place)
        for branch in explanation.branches
    ]


def _print(answers: Sequence[Explanation], found: Found, whose: str, pod: str | None, output: str) -> None:
    from xds.cli.explained import describe_explanation, describe_policy, render_explanation  # noqa: PLC0415  # as said

    if output == "json":
        policy = found.subject.policy if found.subject is not None and found.is_in_force else None
        described = {
            "pod": pod,
            "policy": describe_policy(policy),
            "remark": found.remark or None,
            "answers": [describe_explanation(item) for item in answers],
        }
        click.echo(render_json(described))
        return
    for index, item in enumerate(answers):
        click.echo(("\n" if index else "") + render_explanation(item, whose))
