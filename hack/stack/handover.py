"""Turns this process into another program."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from hack.lib.errors import HackError


def become(program: str | Path, *arguments: str, environ: Mapping[str, str] | None = None) -> NoReturn:
    """Replace this process with the program, which gets the terminal, the signals and the exit code."""
    sys.stdout.flush()
    argv = [str(program), *arguments]
    try:
        os.execvpe(argv[0], argv, dict(os.environ if environ is None else environ))  # noqa: S606 - no shell is meant
    except OSError as error:
        raise HackError(f"{program} cannot be run: {error}.") from error
