"""Tracebacks of handlers, without dtq's own frames and bounded in depth."""

import traceback
from pathlib import Path
from typing import Final

FRAMES_MAX: Final = 40
"""Most frames shown for one error: the last ones. An endless recursion has a thousand."""
_CALLERS: Final = frozenset(str(Path(__file__).with_name(name)) for name in ("runner.py", "child.py"))
"""The modules that call handlers: their frames do not help the author of a handler."""


def traceback_of(error: BaseException) -> str | None:
    """Return where a handler raised `error` and what caused it; None if no frame of the handler is left."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename in _CALLERS:
        frames = frames.tb_next
    if frames is None:
        return None
    try:
        return "".join(traceback.format_exception(type(error), error, frames, limit=-FRAMES_MAX))
    except Exception as broken:  # noqa: BLE001 - a foreign class may raise anything while it is formatted
        return f"the traceback cannot be shown: {type(broken).__name__}"
