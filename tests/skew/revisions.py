"""The code of another version: its source in a folder of its own, run by this environment's Python.

`use` checks where the modules come from, so that the code of this checkout is never run by mistake.
"""

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Final

from tests.support.system import REPOSITORY, System

ROOTS: Final = ("services", "db", "operator")
REVISION_VARIABLE: Final = "DTQ_SKEW_REVISION"
"""A git revision to take for the previous version, instead of the newest tag."""
_WHERE: Final = "import dtq_cli, dtq_db, dtq; print(*(m.__path__[0] for m in (dtq_cli, dtq_db, dtq)), sep='\\n')"


def previous() -> str | None:
    """Return the revision of the previous version: what the environment says, else the newest tag, if there is one."""
    if given := os.environ.get(REVISION_VARIABLE):
        return given
    found = _git("describe", "--tags", "--abbrev=0", "--match", "v*", check=False)
    return found.strip() or None


def check_out(revision: str, folder: Path) -> Path:
    """Put the source of a revision into a folder; return the folder."""
    folder.mkdir()
    archive = subprocess.run(
        ["git", "-C", str(REPOSITORY), "archive", revision, *ROOTS, "tests/support", "tests/system"],
        capture_output=True, check=True,
    )  # fmt: skip
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    return folder


def use(system: System, source: Path) -> System:
    """Return a system whose processes run the code of `source`."""
    path = os.pathsep.join(str(source / root) for root in (*ROOTS, "."))
    environ = {**system.environ, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}
    used = replace(system, environ=environ)
    found = used.python("-c", _WHERE).splitlines()
    strangers = [place for place in found if not place.startswith(str(source))]
    assert len(found) == 3, found
    assert not strangers, f"these modules are not of {source}: {strangers}"
    return used


def _git(*arguments: str, check: bool = True) -> str:
    return subprocess.run(
        ["git", "-C", str(REPOSITORY), *arguments], capture_output=True, text=True, check=check
    ).stdout
