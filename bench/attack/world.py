"""What the attack runs on: the tenants' types, queues, tokens and grants, foreign history, and dtq's processes."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import asyncpg
import yaml

from bench.processes import STOP_SECONDS, free_port, run_dtq, wait_ready
from dtq_api.auth.tokens import new_token
from tests.security.costly_schemas import ALLOWED, COSTLY

QUEUE_SET: Final = "attack"
VICTIM_TYPE: Final = "victim.order.v1"
ATTACKER_TYPE: Final = "attacker.any.v1"
VICTIM: Final = "victim"
FLOODER: Final = "attacker-flood"
"""The attacker's token for what is cheap and frequent: it meets the limit of requests per second."""
PRODDER: Final = "attacker-costly"
"""The attacker's token for what is costly: a tenant may have several, and this one stays within the limit."""
SCHEMAS: Final = {
    f"attacker.schema-{number:02}.v1": schema
    for number, schema in enumerate([*ALLOWED.values(), *(schema for schema, _ in COSTLY.values())])
}
"""Every schema that `dtq apply` accepts although its check may be costly, by type."""
COSTLY_PAYLOADS: Final = {
    type_: json.dumps(payload).encode()
    for type_, (_, payload) in zip(list(SCHEMAS)[len(ALLOWED) :], COSTLY.values(), strict=True)
}
"""The payload that makes it so, by type."""
POLICY: Final = {
    "grants": [
        {"subjects": [f"token:{VICTIM}"], "verbs": ["enqueue", "read"], "types": ["victim.*"], "queues": ["victim"]},
        {
            "subjects": [f"token:{FLOODER}", f"token:{PRODDER}"],
            "verbs": ["enqueue", "read"],
            "types": ["attacker.*"],
            "queues": ["attacker"],
        },
    ]
}
FAILED: Final = """
INSERT INTO tasks (id, type, queue_set, queue, status, payload, attempts, failed_at, created_at, updated_at)
SELECT (lpad(to_hex(floor(extract(epoch FROM now()) * 1000)::bigint - 86400000 + n), 12, '0')
        || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
    $1, $2, 'victim', 'FAILED', '{"n": 1}', 1, now(), now(), now()
FROM generate_series(1, $3::bigint) n
"""
STARTED: Final = """
SELECT count(*) AS tasks, round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 1)::float8 AS p50_ms,
    round(percentile_cont(0.99) WITHIN GROUP (ORDER BY ms)::numeric, 1)::float8 AS p99_ms
FROM (
    SELECT extract(epoch FROM min(e.at) - t.created_at) * 1000 AS ms
    FROM tasks t JOIN task_events e ON e.task_id = t.id AND e.event = 'RUNNING' AND e.at >= $1
    WHERE t.id >= $3 AND t.type = $2 AND t.created_at >= $1 GROUP BY t.id
) AS started
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenants:
    """The tokens by name, and the environment of an API that accepts them."""

    tokens: dict[str, str]
    environ: dict[str, str]


def make_tenants(folder: Path) -> Tenants:
    """Write the token file and the policy file."""
    made = {name: new_token(name) for name in (VICTIM, FLOODER, PRODDER)}
    files = {"DTQ_AUTH_TOKENS_FILE": folder / "tokens", "DTQ_AUTH_POLICY_FILE": folder / "policy.yaml"}
    files["DTQ_AUTH_TOKENS_FILE"].write_text("".join(f"{line}\n" for _, line in made.values()))
    files["DTQ_AUTH_POLICY_FILE"].write_text(yaml.safe_dump(POLICY))
    return Tenants(
        tokens={name: token for name, (token, _) in made.items()},
        environ={"DTQ_AUTH": "on", **{variable: str(path) for variable, path in files.items()}},
    )


def apply_manifests() -> None:
    """Declare the tenants' queues and types."""
    queue_set = {"namespace": "attack", "queues": [{"name": "victim"}, {"name": "attacker"}]}
    manifests = [_manifest("QueueSet", QUEUE_SET, queue_set)]
    types: dict[str, dict[str, Any]] = {VICTIM_TYPE: {"queue": "victim"}, ATTACKER_TYPE: {"queue": "attacker"}}
    types |= {type_: {"queue": "attacker", "payloadSchema": schema} for type_, schema in SCHEMAS.items()}
    for type_, spec in types.items():
        bytes_max = {} if type_ == VICTIM_TYPE else {"maxPayloadBytes": 1_048_576}
        manifests.append(_manifest("TaskType", type_, {"queueSetRef": {"name": QUEUE_SET}, **bytes_max, **spec}))
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write("\n---\n".join(map(json.dumps, manifests)))
        file.flush()
        run_dtq("apply", "-f", file.name)


def _manifest(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "dtq.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


@contextmanager
def running(command: str, variable: str, environ: dict[str, str]) -> Iterator[tuple[int, int]]:
    """Run `dtq COMMAND` until the end of the block; give its port and its process id."""
    port = free_port()
    chosen = {
        "RMQ_NAMESPACE": "attack",
        "DTQ_QUEUE_SET": QUEUE_SET,
        "QUEUES": "victim,attacker",
        "WORKER_HANDLERS": "bench.attack.handlers",
        "DTQ_LOG_LEVEL": "error",
    }
    command_line = [sys.executable, "-m", "dtq_cli", command]
    process = subprocess.Popen(command_line, env=os.environ | chosen | environ | {variable: f"127.0.0.1:{port}"})
    try:
        wait_ready(f"http://127.0.0.1:{port}", process)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(STOP_SECONDS)


@asynccontextmanager
async def history(rows: int) -> AsyncIterator[asyncpg.Connection]:
    """Have so many failed tasks of the victim in the table; at the end, delete every task of the two tenants."""
    connection = await asyncpg.connect(os.environ["DB_DSN"], command_timeout=600)
    try:
        await connection.execute(FAILED, VICTIM_TYPE, QUEUE_SET, rows)
        await connection.execute("VACUUM ANALYZE tasks")
        yield connection
    finally:
        await connection.execute("DELETE FROM tasks WHERE queue_set = $1", QUEUE_SET)
        await connection.close()


async def starts(connection: asyncpg.Connection, since: Any) -> dict[str, Any]:
    """Return how long the victim's tasks waited for their start, in milliseconds after they were stored."""
    first = UUID(int=int(since.timestamp() * 1000) << 80)
    row = await connection.fetchrow(STARTED, since, VICTIM_TYPE, first)
    assert row is not None
    return dict(row)
