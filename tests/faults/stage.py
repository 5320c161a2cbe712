"""Sets up a walk: a database and a virtual host of its own, everything declared, one healthy API."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import asyncpg
import httpx2

from tests.faults.walk import ANSWER_SECONDS, BRIEF, CRON, MAX_ATTEMPTS, OK, Walk
from tests.support.addresses import PostgresService, RabbitMQService
from tests.support.databases import fresh_database
from tests.support.system import opened

MANIFESTS: Final = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  queues: [{name: default}, {name: shelf, maxLength: 3}]
  retry: {delaysSeconds: [1, 2]}
"""
TYPE: Final = """---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {{name: {name}}}
spec: {{maxAttempts: {most}, timeoutSeconds: 60, backoff: {{delaysSeconds: [1, 2]}}, {more}}}
"""
MORE: Final = {
    OK: f'schedule: [{{name: {CRON}, cron: "0 0 1 1 *", payload: {{op: 0}}}}]',
    BRIEF: "retention: {succeededSeconds: 0}",
}


ENVIRON: Final = {
    "QUEUES": "default",
    "WORKER_HANDLERS": "tests.support.fault_handlers",
    "WORKER_CONCURRENCY": "8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Servers:
    """What a stage is set up on.

    Attributes:
        template: the migrated database to clone.
    """

    postgres: PostgresService
    rabbitmq: RabbitMQService
    template: str


@asynccontextmanager
async def stage(
    servers: Servers,
    folder: Path,
    *,
    environ: Mapping[str, str] | None = None,
    finish: Callable[[str], str] | None = None,
) -> AsyncIterator[Walk]:
    """Set up a stage, and clear it away.

    Args:
        environ: of every process, besides the usual.
        finish: changes the SQL function `dtq_finish` before anything starts.
    """
    async with AsyncExitStack() as services:
        dsn = await services.enter_async_context(fresh_database(servers.postgres, template=servers.template))
        broker = services.enter_context(servers.rabbitmq.fresh_vhost())
        system = services.enter_context(opened(folder, dsn, broker, **ENVIRON | dict(environ or {})))
        system.handler_log.touch()
        connection = await asyncpg.connect(dsn)
        if finish is not None:
            definition = await connection.fetchval("SELECT pg_get_functiondef('dtq_finish'::regproc)")
            await connection.execute(finish(definition))
        system.run("apply", "-f", "-", stdin=manifests())
        api = system.api()
        await api.ready()
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx2.AsyncClient(timeout=ANSWER_SECONDS, limits=limits) as client:
            yield Walk(folder=folder, system=system, dsn=dsn, broker=broker, sql=connection, api=api, client=client)
        await connection.close()


def manifests() -> str:
    """Return everything that a walk declares."""
    types = [TYPE.format(name=name, most=most, more=MORE.get(name, "")) for name, most in MAX_ATTEMPTS.items()]
    return MANIFESTS + "".join(types)
