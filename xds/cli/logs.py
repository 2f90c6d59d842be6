"""Where log lines go: stderr, whatever the verb, so that they never mix with data."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING

import structlog

from xds.errors import redact_logins

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

    from xds.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Send log lines to stderr: for people, or one JSON object each. Tracebacks never show local variables."""
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
        processors.append(_redact)
        plain = structlog.dev.plain_traceback
        processors.append(structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=plain))
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
    )


def _redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: redact_logins(value) if isinstance(value, str) else value for key, value in event.items()}
