"""Removes the worker's secrets from the environment, where every process that a handler starts would find them."""

import ctypes
import os
import sys
from typing import Final

SECRETS: Final = frozenset({"DB_DSN", "RMQ_PASS", "DB_DSN_FILE", "RMQ_PASS_FILE"})


def forget_secrets() -> None:
    """Remove the secrets, once they are read, from the environment of this process.

    /proc/PID/environ shows the memory in which the process got its environment, so that memory is overwritten. The
    settings of the worker keep the secrets in its memory.
    """
    for name in SECRETS & os.environ.keys():
        if sys.platform == "linux":
            _overwrite(name)
        del os.environ[name]


def _overwrite(name: str) -> None:
    getenv = ctypes.CDLL(None).getenv
    getenv.restype = ctypes.c_void_p
    address = getenv(name.encode())
    if address:
        ctypes.memset(address, 0, len(ctypes.string_at(address)))
