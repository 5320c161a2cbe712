"""Loads the named statements of `queries/`: one file, one statement, one purpose.

No SQL is built at run time: each statement is a file that can be read and explained on its own.
"""

from importlib.resources import files
from typing import Final


def query(name: str) -> str:
    """Return the statement of `queries/<name>.sql`.

    Raises:
        KeyError: the statement does not exist.
    """
    return _TEXTS[name]


def names() -> list[str]:
    """Return the name of every statement, sorted."""
    return sorted(_TEXTS)


# Read at the start: a process without a free file descriptor must still be able to work.
_TEXTS: Final = {
    entry.name.removesuffix(".sql"): entry.read_text(encoding="utf-8")
    for entry in (files("dtq_db") / "queries").iterdir()
    if entry.name.endswith(".sql")
}
