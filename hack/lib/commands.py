"""Checks for the programs of the machine that hack/ needs; installs none."""

import shutil

from hack.lib.errors import HackError


def require(command: str, next_step: str) -> str:
    """Where `command` is; an error that says how to get it when it is nowhere."""
    found = shutil.which(command)
    if found is None:
        raise HackError(f"{command}: no such command", next_step=next_step)
    return found
