"""Log set-up: one line per event, as JSON or for a console, for dtq's code and for libraries.

A log line never holds a payload, a result or a secret: callers pass ids and counts.
"""

import logging
import sys
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )

    def own_logger(name: str = "dtq") -> logging.Logger:
        # Not in the registry of `logging`: a handler that sets up its own logging must not silence its worker.
        logger = logging.Logger(name, level.upper())  # noqa: LOG001
        logger.addHandler(handler)
        return logger

    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        # A filtered event costs nothing: workers would write two lines for each task.
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=own_logger,
        cache_logger_on_first_use=True,
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    # Our own events say it better: each reconnect, each request.
    for name in ("aiormq", "uvicorn.access", "asyncio"):
        logging.getLogger(name).setLevel(logging.ERROR)
