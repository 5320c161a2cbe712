"""The attacks of one tenant, which may only enqueue and read its own types: each as fast as its connections allow.

Runs as a process of its own with the lowest priority: `python -m bench.attack.attackers`, with its order on stdin.
"""

import asyncio
import base64
import itertools
import json
import random
import sys
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import uuid4

from bench.attack.client import NO_ANSWER, Client
from bench.attack.world import ATTACKER_TYPE, COSTLY_PAYLOADS, FLOODER, PRODDER, VICTIM_TYPE
from tests.security.costly_bodies import PAYLOADS

PAUSE_SECONDS: Final = 0.05
"""Pause of a connection that got no answer, in seconds."""
TRICKLE_SECONDS: Final = 1.0
"""Pause between two bytes of a slow client, in seconds."""
_numbers: Final = itertools.count()
_random: Final = random.Random(15)  # noqa: S311 - no secret depends on it


async def costly_schemas(client: Client) -> str:
    """Send a payload whose check against its type's schema takes long."""
    type_ = _random.choice(list(COSTLY_PAYLOADS))
    return await _enqueue_text(client, type_, COSTLY_PAYLOADS[type_])


async def costly_payloads(client: Client) -> str:
    """Send a payload that takes long to read, or that grows when it is stored: 1 MB of numbers, and the like."""
    return await _enqueue_text(client, ATTACKER_TYPE, _random.choice(list(PAYLOADS.values())))


async def forged_tokens(client: Client) -> str:
    """Present a ServiceAccount token that no cluster has signed, each time another one."""
    claims = {"aud": ["dtq"], "exp": 4_000_000_000, "sub": f"system:serviceaccount:a:{next(_numbers)}"}
    parts = [{"alg": "RS256", "kid": "a"}, claims, "signature"]
    token = ".".join(base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return await client.request("GET", "/tasks", token=token)


async def lists(client: Client) -> str:
    """List one's own failed tasks, of which there are none, among many of others."""
    return await client.request("GET", f"/tasks?limit=200&{_random.choice(('status=FAILED', 'queue=victim', ''))}")


async def flood(client: Client) -> str:
    """Enqueue a task."""
    return await client.enqueue(type=ATTACKER_TYPE, payload={})


async def scheduled_flood(client: Client) -> str:
    """Enqueue a task that is due in 300 days."""
    due = datetime.now(UTC) + timedelta(days=300)
    return await client.enqueue(type=ATTACKER_TYPE, payload={}, run_at=due.isoformat())


async def squatting(client: Client) -> str:
    """Take a key that the victim will use, for a task of one's own type and for one of the victim's."""
    type_ = _random.choice((ATTACKER_TYPE, VICTIM_TYPE))
    key = f"attacked-{next(_numbers)}"
    return await client.enqueue(type=type_, payload={"n": "taken"}, idempotency_key=key, queue="attacker")


async def rejected(client: Client) -> str:
    """Enqueue what is refused: an unknown type, another tenant's type or queue, a body that is not valid."""
    body = _random.choice(
        (
            {"type": f"attacker.{uuid4().hex}.v1", "payload": {}},
            {"type": VICTIM_TYPE, "payload": {}},
            {"type": ATTACKER_TYPE, "payload": {}, "queue": "victim"},
            {"type": ATTACKER_TYPE, "payload": {}, "max_attempts": 99, "run_at": "tomorrow"},
        )
    )
    return await client.request("POST", "/enqueue", json.dumps(body).encode())


async def foreign_tasks(client: Client) -> str:
    """Cancel, read or redrive tasks of others."""
    id_ = uuid4()
    method, path, body = _random.choice(
        (
            ("POST", f"/tasks/{id_}/cancel", b""),
            ("GET", f"/tasks/{id_}/payload", b""),
            ("GET", f"/tasks/{id_}/events", b""),
            ("POST", "/dlq/redrive", json.dumps({"ids": [str(id_)]}).encode()),
        )
    )
    return await client.request(method, path, body)


async def malformed(client: Client) -> str:
    """Send what is not HTTP, or a head that is too large."""
    return await client.exchange(_random.choice((b"\x16\x03\x01\r\n\r\n", b"GET / HTTP/9\r\nA\r\n\r\n", b"X" * 70_000)))


async def stopped_bodies(client: Client) -> str:
    """Send most of a large body, and then nothing."""
    await client.send(client.head("POST", "/enqueue", 1_000_000) + b" " * 900_000)
    try:
        return await client.answer()
    finally:
        client.close()


async def unread_bodies(client: Client) -> str:
    """Send a body that is far too large, or that the route does not read, and go on after the answer."""
    path, length = _random.choice((("/enqueue", 50_000_000), ("/nowhere", 1_000_000)))
    status = await client.exchange(client.head("POST", path, length) + b"a" * 1_000_000)
    client.close()
    return status


async def connection_flood(client: Client) -> str:
    """Open a connection, say nothing, and close it."""
    await client.send(b"")
    client.close()
    return "closed"


async def slow_heads(client: Client) -> str:
    """Send a head byte by byte."""
    return await _trickle(client, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 600, at_once=0)


async def slow_bodies(client: Client) -> str:
    """Send a body byte by byte."""
    head = client.head("POST", "/enqueue", 600)
    return await _trickle(client, head + b" " * 600, at_once=len(head))


ATTACKS: Final[tuple[tuple[str, int, Callable[[Client], Awaitable[str]]], ...]] = (
    (PRODDER, 8, costly_schemas),
    (PRODDER, 8, costly_payloads),
    (FLOODER, 250, forged_tokens),
    (PRODDER, 24, lists),
    (FLOODER, 64, flood),
    (FLOODER, 16, scheduled_flood),
    (PRODDER, 8, squatting),
    (PRODDER, 8, rejected),
    (PRODDER, 8, foreign_tasks),
    (FLOODER, 8, malformed),
    (FLOODER, 8, unread_bodies),
    (FLOODER, 16, connection_flood),
    (FLOODER, 100, slow_heads),
    (FLOODER, 100, slow_bodies),
    (FLOODER, 200, stopped_bodies),
)
"""Whose token, on how many connections, and what."""


async def _enqueue_text(client: Client, type_: str, payload: bytes) -> str:
    return await client.request("POST", "/enqueue", b'{"type":"%s","payload":%s}' % (type_.encode(), payload))


async def _trickle(client: Client, sent: bytes, *, at_once: int) -> str:
    await client.send(sent[:at_once])
    answer = asyncio.ensure_future(client.answer())
    try:
        for byte in sent[at_once:]:
            if answer.done():
                break
            await client.send(bytes((byte,)))
            await asyncio.wait([answer], timeout=TRICKLE_SECONDS)
        return await answer
    finally:
        answer.cancel()
        client.close()


async def attack(port: int, tokens: dict[str, str], only: list[str], seconds: float) -> dict[str, dict[str, int]]:
    """Attack for so many seconds, in every way or only in these; return the answers of each attack by status."""
    statuses: dict[str, Counter[str]] = defaultdict(Counter)

    async def repeat(step: Callable[[Client], Awaitable[str]], token: str) -> None:
        client = Client("127.0.0.1", port, token)
        while True:
            try:
                status = await step(client)
            except (OSError, asyncio.IncompleteReadError):
                client.close()
                status = NO_ANSWER
            statuses[step.__name__][status] += 1
            if status == NO_ANSWER:
                await asyncio.sleep(PAUSE_SECONDS)

    running = [
        asyncio.create_task(repeat(step, tokens[name]))
        for name, connections, step in ATTACKS
        if not only or step.__name__ in only
        for _ in range(connections)
    ]
    ended, _ = await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_EXCEPTION)
    for task in running:
        task.cancel()
    for task in ended:
        await task
    return {name: dict(counts) for name, counts in statuses.items()}


def main() -> None:
    """Read the order, attack, and print the answers."""
    print(json.dumps(asyncio.run(attack(**json.load(sys.stdin)))))


if __name__ == "__main__":
    main()
