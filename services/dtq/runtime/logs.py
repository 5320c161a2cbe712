"""Logs: one line per event, as JSON or for a console, for our own and for library code.

Owns the format. Must never print a payload, a result or a secret: callers pass ids and counts.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Any

import structlog


def configure(*, level: str, json: bool) -> None:
    """Set up logging for this process."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: Any = (
        structlog.processors.JSONRenderer() if json else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        # What the level leaves out costs nothing: workers would write two lines for each task.
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    _quieten(("aiormq", "uvicorn.access", "asyncio"))


def _quieten(names: Sequence[str]) -> None:
    """Drivers repeat what our own lines say better: each reconnect, each request."""
    for name in names:
        logging.getLogger(name).setLevel(logging.ERROR)
