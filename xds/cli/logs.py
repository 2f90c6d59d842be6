"""
Where log lines go: stderr, whatever the verb, so that they never mix with data.

structlog, and what it draws in for tracebacks, takes longer to import than most commands take to answer, and hardly
one of them logs anything. So it is set up when the first who wants to log imports it.
"""

from __future__ import annotations

import logging
import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.util import find_spec
from typing import TYPE_CHECKING

from xds.errors import clean_text, redact_logins

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from structlog.typing import EventDict, Processor, WrappedLogger

    from xds.settings import Settings

_LIBRARY = "structlog"


def configure_logging(settings: Settings) -> None:
    """Send log lines to stderr: for people, or one JSON object each. Tracebacks never show local variables."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _WhenImported)]
    if _LIBRARY in sys.modules:
        _configure(settings)
    else:
        sys.meta_path.insert(0, _WhenImported(settings))


class _WhenImported(MetaPathFinder):
    """Finds nothing but structlog, once, and leaves the finding to others."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002  # as a finder is called
        target: ModuleType | None = None,  # noqa: ARG002  # as above
    ) -> ModuleSpec | None:
        if fullname != _LIBRARY:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(_LIBRARY)
        if spec is not None and spec.loader is not None:
            spec.loader = _Configuring(spec.loader, self._settings)
        return spec


class _Configuring(Loader):
    """Loads structlog as `loader` would, then sets it up: nobody ever holds it as it comes."""

    def __init__(self, loader: Loader, settings: Settings) -> None:
        self._loader = loader
        self._settings = settings

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _configure(self._settings)


def _configure(settings: Settings) -> None:
    import structlog  # noqa: PLC0415  # see above

    is_json = settings.log_format == "json"
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if is_json:
        # A traceback ends with the words of an exception, so it is redacted as well.
        processors += [structlog.processors.format_exc_info, _redact, structlog.processors.JSONRenderer()]
    else:
        processors += [_redact, _clean]
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: redact_logins(value) if isinstance(value, str) else value for key, value in event.items()}


def _clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Keep what clients and servers said from a terminal, and from making lines; JSON escapes it anyway."""
    return {key: clean_text(value) if isinstance(value, str) else value for key, value in event.items()}
