"""Calls RabbitMQ's management interface. The password is never logged or shown."""

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

from hack.lib.errors import HackError

TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Management:
    """The management interface of one broker, as one user."""

    url: str
    user: str
    password: str = field(repr=False)

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Send one request; `path` starts with /api and is already quoted. Raises HackError or OSError."""
        token = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        request = urllib.request.Request(  # noqa: S310 - an http URL of ours
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {token}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310
                content = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                reason = error.read().decode(errors="replace")[:200]
            raise HackError(f"RabbitMQ management: {method} {path}: {error.code} {reason}") from error
        return json.loads(content) if content else None

    def create_vhost(self, name: str) -> None:
        """Create a virtual host, and give our user full access to it."""
        host = quote(name, safe="")
        self.call("PUT", f"/api/vhosts/{host}")
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self.call("PUT", f"/api/permissions/{host}/{quote(self.user, safe='')}", everything)

    def delete_vhost(self, name: str) -> None:
        """Delete a virtual host with all that is in it; its connections are closed."""
        self.call("DELETE", f"/api/vhosts/{quote(name, safe='')}")
