"""What the auth suite shares: callers with tokens, and the policy that grants them permissions.

Every request is authenticated like that of any other client.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import httpx2
import yaml

from dtq_api.auth.policy import Verb
from dtq_api.auth.tokens import new_token
from tests.api.world import ANY, SMALL, Running

POLICY: Final[Mapping[str, Any]] = {
    "grants": [
        {"subjects": ["token:all", "token:old"], "verbs": [*map(str, Verb)]},
        {"subjects": ["token:small"], "verbs": [*map(str, Verb)], "types": [SMALL]},
        {"subjects": ["token:reader"], "verbs": ["read"], "types": ["sample.*"]},
        {"subjects": ["token:canceller"], "verbs": ["cancel"], "types": [ANY]},
        {"subjects": ["token:producer"], "verbs": ["enqueue"], "types": [ANY]},
        {"subjects": ["token:queued"], "verbs": ["enqueue", "read"], "types": [ANY], "queues": ["low", "hi*"]},
        {"subjects": ["token:queued"], "verbs": ["enqueue"], "types": [SMALL], "queues": ["default"]},
        {"subjects": ["token:keda"], "verbs": ["scale-read"]},
    ]
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Callers:
    """Tokens by name, and the files that make them valid."""

    tokens: Mapping[str, str]
    tokens_file: Path
    policy_file: Path

    @classmethod
    def create(cls, folder: Path) -> "Callers":
        today = datetime.now(UTC).date()
        names = ("all", "small", "reader", "canceller", "producer", "queued", "keda", "idle")
        expiries: dict[str, date | None] = dict.fromkeys(names)
        expiries["old"] = today
        expiries["young"] = today + timedelta(days=1)
        made = {name: new_token(name, expires) for name, expires in expiries.items()}
        callers = cls(
            tokens={name: token for name, (token, _) in made.items()},
            tokens_file=folder / "tokens",
            policy_file=folder / "policy.yaml",
        )
        callers.tokens_file.write_text("# callers\n" + "".join(f"{line}\n" for _, line in made.values()))
        callers.policy_file.write_text(yaml.safe_dump(dict(POLICY)))
        return callers

    @property
    def environ(self) -> dict[str, str]:
        return {
            "DTQ_AUTH": "on",
            "DTQ_AUTH_TOKENS_FILE": str(self.tokens_file),
            "DTQ_AUTH_POLICY_FILE": str(self.policy_file),
        }

    def header(self, name: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[name]}"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded:
    """An API with authentication."""

    api: Running
    callers: Callers

    async def ask(self, caller: str | None, method: str, path: str, **more: Any) -> httpx2.Response:
        """Send a request as a caller; None sends no credential."""
        headers = {} if caller is None else self.callers.header(caller)
        return await self.api.client.request(method, path, headers=headers, **more)

    async def enqueued(self, type_: str = ANY) -> str:
        """Enqueue a task; return its id."""
        answer = await self.ask("all", "POST", "/enqueue", json={"type": type_, "payload": {}})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["id"])

    async def failed(self, type_: str = ANY) -> str:
        """Enqueue a task and let it fail; return its id."""
        id_ = await self.enqueued(type_)
        await self.api.end(UUID(id_), "FAILED", error="boom")
        return id_
