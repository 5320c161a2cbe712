"""Checks for the programs of the machine that hack/ needs; installs none."""

import shutil

from hack.lib.errors import HackError


def require(command: str, next_step: str) -> str:
    """Return the path of `command`; if it is missing, the error says how to install it."""
    found = shutil.which(command)
    if found is None:
        raise HackError(f"{command}: no such command", next_step=next_step)
    return found
