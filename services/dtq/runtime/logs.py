"""Log set-up: one line per event, as JSON or for a console, for dtq's code and for libraries.

A log line never holds a payload, a result or a secret: callers pass ids and counts.
"""

import logging
import sys
import time
from collections.abc import Callable
from typing import Any, Final

import structlog

WARNING_SECONDS: Final = 60.0
"""How often the warnings about one source are logged, in seconds."""
SOURCES_MAX: Final = 1_000
"""Most sources whose last warning is remembered; with more of them, all of them are forgotten."""


class RareWarnings:
    """Bounds the warnings that requests can cause: one per source, such as an address or a caller, and WARNING_SECONDS.

    Args:
        clock: returns a monotonic time, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._warned_at: dict[str, float] = {}

    def is_due(self, source: str) -> bool:
        """Return whether a warning about a source may be logged now; it then counts as logged."""
        now = self._clock()
        if now - self._warned_at.get(source, float("-inf")) < WARNING_SECONDS:
            return False
        if len(self._warned_at) >= SOURCES_MAX and source not in self._warned_at:
            self._warned_at.clear()
        self._warned_at[source] = now
        return True


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
