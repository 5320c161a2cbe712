"""Who is measured: how each contestant is configured, started and reset.

Each has persistent storage, confirmed publishes and late acknowledgements, as its documentation advises.
"""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from bench.peers import environments
from bench.processes import CHOSEN
from bench.servers import Servers

Commands = list[list[str]]
DTQ: Final = "dtq"


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """One contestant.

    Attributes:
        stores: where tasks and results are.
        configuration: what was chosen, for the report.
        environment: what its programs run on; see `environments.program`.
        modes: how its client can enqueue.
        fill: the quickest of them, which stores the tasks of a drain.
        drain_tasks: how many one worker drains in a few seconds.
        environ: of all its programs.
        workers: the command lines of so many workers, from the program's own.
        install: the command line that makes its tables, from the program's own; None if it makes them as it goes.
        final: SQL that counts the tasks whose end is stored; None if it stores none.
        reset: SQL that empties its tables.
        queues: what is purged beside.
    """

    name: str
    stores: str
    configuration: tuple[str, ...]
    environment: str
    modes: tuple[str, ...]
    fill: str
    drain_tasks: int
    environ: Callable[[Servers, str], Mapping[str, str]]
    workers: Callable[[list[str], int], Commands]
    install: Callable[[list[str]], list[str]] | None = None
    final: str | None = None
    reset: tuple[str, ...] = ()
    queues: tuple[str, ...] = ()

    @property
    def database(self) -> str:
        """Its own database."""
        return f"bench_{self.name.replace('-', '_')}"

    def program(self) -> list[str]:
        """Return the beginning of its client's command line; build what is missing."""
        if self.name == DTQ:
            return [sys.executable, "-m", "bench.peers.programs.dtq_peer"]
        return [*environments.program(self.environment)]


def _amqp(servers: Servers, database: str) -> dict[str, str]:
    return {"BENCH_AMQP": servers.rabbitmq.url(), "BENCH_DSN": servers.postgres.dsn(database)}


def _celery_results(servers: Servers, database: str) -> dict[str, str]:
    dsn = servers.postgres.dsn(database).removeprefix("postgresql")
    return {**_amqp(servers, database), "BENCH_RESULTS": f"db+postgresql+psycopg{dsn}"}


def _taskiq_results(servers: Servers, database: str) -> dict[str, str]:
    return {**_amqp(servers, database), "BENCH_RESULTS": servers.postgres.dsn(database)}


def _dtq(servers: Servers, database: str) -> dict[str, str]:
    return {**servers.environ(database), **CHOSEN, "WORKER_HANDLERS": "bench.peers.programs.dtq_handlers"}


def _module(program: list[str], module: str, *arguments: str) -> list[str]:
    """Run a module of the peer's own with the interpreter of its environment."""
    return [program[0], "-m", module, *arguments]


def _celery_workers(program: list[str], count: int) -> Commands:
    quiet = ("--loglevel", "ERROR", "--without-gossip", "--without-mingle")
    return [_module(program, "celery", "-A", program[-1], "worker", "-P", "prefork", "-c", str(count), *quiet)]


def _taskiq_workers(ack: str) -> Callable[[list[str], int], Commands]:
    def workers(program: list[str], count: int) -> Commands:
        chosen = ("--workers", str(count), "--max-async-tasks", "256", "--ack-type", ack, "--no-configure-logging")
        return [_module(program, "taskiq", "worker", f"{program[-1]}:broker", *chosen)]

    return workers


def _several(*arguments: str) -> Callable[[list[str], int], Commands]:
    return lambda program, count: [[*program, *arguments]] * count


def _install(program: list[str]) -> list[str]:
    return [*program, "install"]


_CELERY: Final[dict[str, Any]] = {
    "environment": "celery",
    "modes": ("single", "concurrent", "bulk"),
    "fill": "concurrent",
    "drain_tasks": 5_000,
    "workers": _celery_workers,
    "queues": ("bench.celery",),
}
_CELERY_CONFIGURATION: Final = (
    "task_default_queue_type = quorum, persistent messages (default), confirm_publish = True",
    "task_acks_late = True, task_reject_on_worker_lost = True, worker_prefetch_multiplier = 128",
    "prefork pool, one child per worker; bulk = group",
)
_TASKIQ: Final[dict[str, Any]] = {
    "environment": "taskiq",
    "modes": ("single", "concurrent"),
    "fill": "concurrent",
    "queues": ("bench.taskiq",),
}
_TASKIQ_CONFIGURATION: Final = "quorum queue (default), persistent messages, confirms (default), qos 256, uvloop"

CONTESTANTS: Final = (
    Contestant(
        name=DTQ,
        stores="tasks, results and events in Postgres, wake-ups in RabbitMQ",
        configuration=(
            "one API process over HTTP, payload schema off; quorum queue, persistent, confirmed",
            *(f"{name}={value}" for name, value in sorted(CHOSEN.items()) if name.startswith("WORKER_PREFETCH")),
            "every task has its result and three events (ENQUEUED, RUNNING, SUCCEEDED)",
        ),
        environment="ours",
        modes=("single", "concurrent", "bulk"),
        fill="bulk",
        drain_tasks=20_000,
        environ=_dtq,
        workers=lambda _, count: [[sys.executable, "-m", "dtq_cli", "worker"]] * count,
        final="SELECT count(*) FROM tasks WHERE status = 'SUCCEEDED'",
        reset=("TRUNCATE tasks, task_events, worker_claims",),
        queues=("bench.default",),
    ),
    Contestant(
        name="pgqueuer",
        stores="Postgres; the row is deleted, a log of status changes is kept",
        configuration=("asyncpg, uvloop, batch_size = 100, one connection a worker; client with a pool of 16",),
        environment="pgqueuer",
        modes=("single", "concurrent", "bulk"),
        fill="bulk",
        drain_tasks=40_000,
        environ=_amqp,
        workers=_several("worker"),
        install=_install,
        final="SELECT {total} - count(*) FROM pgqueuer",
        reset=("TRUNCATE pgqueuer, pgqueuer_log, pgqueuer_statistics",),
    ),
    Contestant(
        name="celery",
        stores="RabbitMQ; no result, no state",
        configuration=_CELERY_CONFIGURATION,
        environ=_amqp,
        **_CELERY,
    ),
    Contestant(
        name="celery-results",
        stores="RabbitMQ; one result row in Postgres",
        configuration=(*_CELERY_CONFIGURATION, "result backend: SQLAlchemy, psycopg 3"),
        environ=_celery_results,
        final="SELECT count(*) FROM celery_taskmeta WHERE status = 'SUCCESS'",
        reset=("DROP TABLE IF EXISTS celery_taskmeta, celery_tasksetmeta",),
        **{**_CELERY, "drain_tasks": 1_000},
    ),
    Contestant(
        name="dramatiq",
        stores="RabbitMQ; no result, no state",
        configuration=(
            "classic queue (it cannot declare a quorum queue), persistent messages (default), confirm_delivery = True",
            "one process with 8 threads (default) per worker; acknowledged after the run (always)",
        ),
        environment="dramatiq",
        modes=("single", "concurrent"),
        fill="concurrent",
        drain_tasks=8_000,
        environ=_amqp,
        workers=lambda program, count: [
            _module(program, "dramatiq", program[-1], "--processes", str(count), "--threads", "8")
        ],
        queues=("bench_dramatiq", "bench_dramatiq.DQ", "bench_dramatiq.XQ"),
    ),
    Contestant(
        name="taskiq",
        stores="RabbitMQ; no result, no state",
        configuration=(_TASKIQ_CONFIGURATION, "--max-async-tasks 256 --ack-type when_executed"),
        drain_tasks=8_000,
        environ=_amqp,
        workers=_taskiq_workers("when_executed"),
        **_TASKIQ,
    ),
    Contestant(
        name="taskiq-results",
        stores="RabbitMQ; one result row in Postgres",
        configuration=(
            _TASKIQ_CONFIGURATION,
            "--max-async-tasks 256 --ack-type when_saved; result backend: taskiq-postgres on asyncpg",
        ),
        drain_tasks=4_000,
        environ=_taskiq_results,
        workers=_taskiq_workers("when_saved"),
        final="SELECT count(*) FROM taskiq_results",
        reset=("DROP TABLE IF EXISTS taskiq_results",),
        **_TASKIQ,
    ),
    Contestant(
        name="procrastinate",
        stores="Postgres; the row and its events are kept",
        configuration=("psycopg 3, 20 concurrent tasks a worker, pool of 20",),
        environment="procrastinate",
        modes=("single", "concurrent", "bulk"),
        fill="bulk",
        drain_tasks=1_200,
        environ=_amqp,
        workers=lambda program, count: (
            [_module(program, "procrastinate", "-a", f"{program[-1]}.app", "worker", "-q", "bench", "-c", "20")] * count
        ),
        install=lambda program: _module(program, "procrastinate", "-a", f"{program[-1]}.app", "schema", "--apply"),
        final="SELECT count(*) FROM procrastinate_jobs WHERE status = 'succeeded'",
        reset=("TRUNCATE procrastinate_jobs, procrastinate_events CASCADE",),
    ),
    Contestant(
        name="river",
        stores="Postgres; the row is kept",
        configuration=("Go, pgx, MaxWorkers = 1,000, FetchCooldown = 2 ms, pool of 20; bulk = InsertManyFast (COPY)",),
        environment="river",
        modes=("single", "concurrent", "bulk"),
        fill="bulk",
        drain_tasks=60_000,
        environ=_amqp,
        workers=_several("worker"),
        install=_install,
        final="SELECT count(*) FROM river_job WHERE state = 'completed'",
        reset=("TRUNCATE river_job",),
    ),
    Contestant(
        name="graphile",
        stores="Postgres; the row is deleted",
        configuration=("Node.js, concurrentJobs = 24, localQueue of 500, completions in batches, pool of 20",),
        environment="graphile",
        modes=("single", "concurrent", "bulk"),
        fill="bulk",
        drain_tasks=60_000,
        environ=_amqp,
        workers=_several("worker"),
        install=_install,
        final="SELECT {total} - count(*) FROM graphile_worker._private_jobs",
        reset=("TRUNCATE graphile_worker._private_jobs",),
    ),
)
