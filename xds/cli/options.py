"""Options that several verbs share: those of `xds.settings`, and who a node is."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

import click

from xds.settings import OPTIONS, Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from xds.settings import Option

_F = TypeVar("_F", bound="Callable[..., object]")

_DEFAULTS = Settings()
_NOTE = "Flags of the server that change what is compiled are understood, too (see xds serve --help): {flags}."


FACTS = ("listen", "always_direct", "cluster_cidr", "api_server", "ip_families", "resolv_conf", "resolve_timeout")
"""Settings of `serve` that change what is compiled."""

CLUSTER = ("kubernetes", "kubeconfig", "context", "namespace", "namespaced_policies", "discover_networks")
"""Settings that say which cluster, and what of it counts."""

ASIDE = frozenset(("namespaced_policies", "discover_networks", *FACTS))
"""Settings of the server that every command which compiles understands; to explain them each time hides the rest."""


def settings_options(fields: Iterable[str], *, is_server: bool = False) -> Callable[[_F], _F]:
    """
    Add the flags of these settings to a command, in the order of `OPTIONS`.

    Only the help of the server explains those of `ASIDE`; others name them.
    """
    wanted = frozenset(fields)
    aside = frozenset[str]() if is_server else ASIDE & wanted
    chosen = [option for option in OPTIONS if option.field in wanted]

    def decorate(command: _F) -> _F:
        for option in reversed(chosen):
            command = click.option(
                option.flag,
                option.field,
                help=_help(option),
                hidden=option.field in aside,
                **_form(option),
            )(command)
        if aside:
            flags = ", ".join(option.flag for option in chosen if option.field in aside)
            command.__doc__ = f"{inspect.cleandoc(command.__doc__ or '')}\n\n{_NOTE.format(flags=flags)}"
        return command

    return decorate


def world_options(command: _F) -> _F:
    """Add what a command needs to read policies; its arguments then are those of `load_operator_settings`."""
    return settings_options((*CLUSTER, *FACTS))(command)


def render_epilog(*examples: str, codes: str = "") -> str:
    """Return the end of a help: examples, a line each, and what the exit codes mean."""
    lines = "\n".join(f"  {example}" for example in examples)
    text = f"\b\nExamples:\n{lines}"
    return f"{text}\n\nExit codes: {codes}" if codes else text


def _form(option: Option) -> dict[str, Any]:
    if option.is_switch:
        return {"is_flag": True, "flag_value": "on", "default": None}
    return {"metavar": option.metavar, "multiple": option.is_repeatable}


def _help(option: Option) -> str:
    default = getattr(_DEFAULTS, option.field)
    default = "on" if default is True and not option.is_switch else default
    default = " ".join(map(str, default)) if isinstance(default, tuple) else default
    unit = " s" if isinstance(default, float) else ""
    shown = f"; default: {default:g}{unit}" if unit else f"; default: {default}" if default else ""
    return f"{option.help}  [{option.variable}{shown}{'; repeatable' if option.is_repeatable else ''}]"
