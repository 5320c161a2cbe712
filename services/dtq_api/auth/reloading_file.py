"""A file that is read again when it changes, such as a mounted ConfigMap or Secret.

A change that cannot be read is logged once, and the last valid value stays.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final, Generic, TypeVar

import structlog

from dtq.domain.errors import Rejected

FILE_BYTES_MAX: Final = 1_048_576
"""Largest file, in bytes: what a ConfigMap or Secret can hold."""

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class ReloadingFile(Generic[T]):
    """The parsed content of a file.

    Args:
        variable: the setting that names the file, for messages.

    Raises:
        Rejected: `InvalidSettings`: at the start, the file cannot be read or has mistakes.
    """

    def __init__(self, path: Path, parse: Callable[[str], T], *, variable: str) -> None:
        self._path = path
        self._parse = parse
        self._variable = variable
        self._text = self._read()
        self._trouble = ""
        self.current = self._parsed(self._text)

    def refresh(self) -> None:
        """Read the file if it has changed; if it has mistakes, the value stays."""
        try:
            text = self._read()
            if text == self._text and not self._trouble:
                return
            self.current, self._text, trouble = self._parsed(text), text, ""
        except Rejected as error:
            trouble = str(error)
        if trouble and trouble != self._trouble:
            _log.error("file rejected", variable=self._variable, reason=trouble)
        elif not trouble:
            _log.info("file reloaded", variable=self._variable)
        self._trouble = trouble

    def _read(self) -> str:
        try:
            content = self._path.read_bytes()
            if len(content) > FILE_BYTES_MAX:
                raise self._wrong(f"is larger than {FILE_BYTES_MAX} bytes")
            return content.decode()
        except OSError as error:
            raise self._wrong(f"cannot be read ({error.strerror}): check the mount") from error
        except UnicodeDecodeError as error:
            raise self._wrong("is not UTF-8") from error

    def _parsed(self, text: str) -> T:
        try:
            return self._parse(text)
        except Rejected as error:
            raise self._wrong(str(error)) from error

    def _wrong(self, what: str) -> Rejected:
        return Rejected("InvalidSettings", f"{self._variable}: {self._path} {what}")
