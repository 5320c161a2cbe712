"""The account that a server runs as, and its access to the server's files.

A server never runs as root: Postgres refuses to, and RabbitMQ should not.
"""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from hack.lib.errors import HackError
from hack.lib.files import write_private


@dataclass(frozen=True, slots=True)
class Account:
    """The current user, or the packaged system user if we are root."""

    name: str | None

    @classmethod
    def packaged(cls, name: str) -> "Account":
        """Return the account for a server whose Debian package adds the user `name`."""
        return cls(name if os.geteuid() == 0 else None)

    def command(self, *argv: str) -> tuple[str, ...]:
        """The command line that runs argv as this account, in the same process."""
        if self.name is None:
            return argv
        entry = self._entry()
        return ("setpriv", f"--reuid={entry.pw_uid}", f"--regid={entry.pw_gid}", "--init-groups", "--", *argv)

    def make_folder(self, path: Path, *, mode: int = 0o700) -> None:
        """Make a folder that this account owns, and check that the account can reach it."""
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(mode)
        if self.name is not None:
            entry = self._entry()
            os.chown(path, entry.pw_uid, entry.pw_gid)
            self._require_way(path)

    def write(self, path: Path, text: str, *, mode: int = 0o600) -> None:
        """Write a file that only this account can ever read."""
        entry = None if self.name is None else self._entry()
        write_private(path, text, mode=mode, owner=(entry.pw_uid, entry.pw_gid) if entry else None)

    def _entry(self) -> pwd.struct_passwd:
        assert self.name is not None
        try:
            return pwd.getpwnam(self.name)
        except KeyError as error:
            raise HackError(
                f"the system user {self.name} is missing, although its package should have made it.",
                next_step="install the servers again: `python -m hack.stack install`.",
            ) from error

    def _require_way(self, path: Path) -> None:
        closed = next((folder for folder in reversed(path.parents) if not folder.stat().st_mode & 0o001), None)
        if closed is not None:
            raise HackError(
                f"the user {self.name} cannot reach {path}: {closed} is closed to others.",
                next_step="keep the state elsewhere: `make up DTQ_STATE=/var/tmp/dtq`.",
            )
