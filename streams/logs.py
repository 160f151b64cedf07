"""How the processes of a station write their logs: text on a terminal, a JSON object a line elsewhere."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from streams.settings import LogSection

SECRET = ("password", "secret", "token_file", "authorization", "signature")
"""Parts of names whose values never go into a log."""

_TRACES = structlog.processors.ExceptionRenderer(
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(log: LogSection, **bound: str) -> None:
    """Set up structlog for this process, once; `bound` stands in every line (station, node, process)."""
    as_json = log.format == "json" or (log.format == "auto" and not sys.stderr.isatty())
    # Traces come without the values of variables: some of those are secrets.
    text = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    renderer: Any = structlog.processors.JSONRenderer() if as_json else text
    errors = [_TRACES] if as_json else []

    def everywhere(_: Any, __: str, line: Any) -> Any:
        # Not by contextvars: a thread begins without those of the thread that started it.
        return {**bound, **line}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            everywhere,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            withhold,
            *errors,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(log.level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)


def withhold(_: Any, __: str, line: Any) -> Any:
    """Put a sign in the place of what looks like a secret by its name."""
    for name in line:
        if any(part in name.lower() for part in SECRET):
            line[name] = "(withheld)"
    return line
