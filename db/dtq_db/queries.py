"""Loads the named statements of `queries/`: one file, one statement, one purpose.

No SQL is built at run time: each statement is a file that can be read and explained on its own.
"""

from functools import cache
from importlib.resources import files


@cache
def query(name: str) -> str:
    """Return the statement of `queries/<name>.sql`.

    Raises:
        FileNotFoundError: the statement does not exist.
    """
    return (files("dtq_db") / "queries" / f"{name}.sql").read_text(encoding="utf-8")


def names() -> list[str]:
    """Return the name of every statement, sorted."""
    return sorted(
        entry.name.removesuffix(".sql")
        for entry in (files("dtq_db") / "queries").iterdir()
        if entry.name.endswith(".sql")
    )
