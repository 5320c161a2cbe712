"""The rounds: every measure of every contestant in turn, so that a ratio compares neighbours in time.

A measurement that fails is an entry of the errors; the run goes on.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import asyncpg

from bench.contestants import CONTESTANTS, DTQ, Contestant
from bench.group import Group, ProgramError, group, run
from bench.processes import free_port
from bench.record import Sample
from bench.servers import Servers
from bench.tally import FOLDER_VARIABLE, Tally
from bench.usage import Usage, server_cpu
from bench.wrk import http_load

MODES: Final = ("single", "concurrent", "bulk")
MEASURES: Final = (*MODES, "drain1", "drain2", "idle")
FROM, TO = 0.15, 0.95
"""The part of a drain whose rate counts: the first tasks see a worker that starts, the last ones one that idles."""
SECOND_WORKER_BY: Final = 0.5
"""The part of a drain by which every worker must have begun."""
CLIENT_SECONDS: Final = 120.0
"""Longest load of a client, in seconds."""
DRAIN_SECONDS: Final = 60.0
"""Longest drain, in seconds."""
POLL_SECONDS: Final = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How long the measurements are.

    Attributes:
        load_seconds: of each enqueue load.
        drain: a factor of every contestant's own number of tasks.
        idle_tasks: single tasks of the idle latency.
    """

    load_seconds: float
    drain: float
    idle_tasks: int


class Bench:
    """The measurements of one run, on its servers."""

    def __init__(self, servers: Servers, sizes: Sizes, folder: Path) -> None:
        self._servers = servers
        self._sizes = sizes
        self.tally = Tally(folder)
        self._url = ""

    async def install(self, contestant: Contestant) -> None:
        """Make the contestant's database and tables."""
        await self._servers.create_database(contestant.database)
        environ = self._environ(contestant)
        program = await asyncio.to_thread(contestant.program)
        commands = [] if contestant.install is None else [contestant.install(program)]
        if contestant.name == DTQ:
            dtq = contestant.workers(program, 1)[0][:-1]
            commands = [[*dtq, "migrate"], [*dtq, "apply", "-f", "bench/manifests.yaml"]]
        for command in commands:
            await asyncio.to_thread(run, command, environ, timeout_seconds=CLIENT_SECONDS)

    async def measure(self, contestant: Contestant, measure: str) -> Sample:
        """Measure once, from empty tables."""
        await self._servers.run_sql(contestant.database, *contestant.reset)
        await self._servers.purge(contestant.queues)
        self.tally.clear()
        match measure:
            case "drain1" | "drain2":
                sample = await self._drain(contestant, int(measure[-1]))
            case "idle":
                sample = await self._idle(contestant)
            case _:
                sample = await self._enqueue(contestant, measure)
        return replace(sample, contestant=contestant.name, measure=measure)

    @asynccontextmanager
    async def dtq_at_work(self) -> AsyncIterator[tuple[str, str]]:
        """Run dtq's API and a worker, from empty tables; give the API's URL and the database's."""
        dtq = next(contestant for contestant in CONTESTANTS if contestant.name == DTQ)
        await self._servers.run_sql(dtq.database, *dtq.reset)
        await self._servers.purge(dtq.queues)
        self.tally.clear()
        async with self._clients(dtq):
            with group(dtq.workers(dtq.program(), 1), self._environ(dtq)) as worker:
                await self._client(dtq, "idle", "--count", "1")
                await self._counted(worker, 2)
                yield self._url, self._servers.postgres.dsn(dtq.database)

    async def _enqueue(self, contestant: Contestant, mode: str) -> Sample:
        async with self._clients(contestant) as api:
            before = await self._usage(contestant)
            busy = api.cpu_seconds() if api else 0.0
            if contestant.name == DTQ and mode == "concurrent":
                load = await asyncio.to_thread(http_load, self._url, self._sizes.load_seconds)
            else:
                load = await self._client(contestant, mode, "--seconds", f"{self._sizes.load_seconds}")
            cpu = {**(await self._usage(contestant)).since(before).cpu_seconds, "client": load["cpu_seconds"]}
            if api:
                cpu["api"] = api.cpu_seconds() - busy
        # Postgres counts the commits of a connection when it ends, if not before.
        used = (await self._usage(contestant)).since(before)
        return _sample(load["count"], load["seconds"], replace(used, cpu_seconds=cpu))

    async def _drain(self, contestant: Contestant, workers: int) -> Sample:
        wanted = max(100, int(contestant.drain_tasks * self._sizes.drain * (1.5 if workers > 1 else 1)))
        async with self._clients(contestant):
            stored = await self._client(contestant, contestant.fill, "--count", f"{wanted}")
        total = stored["count"] + stored["before"]
        await self._servers.run_sql(contestant.database, "ANALYZE")
        program = contestant.program()
        connection = await asyncpg.connect(self._servers.postgres.dsn(contestant.database))
        before = await self._usage(contestant)
        try:
            with group(contestant.workers(program, workers), self._environ(contestant)) as running:
                begun, began, busy = await self._begun(running, total, workers)
                ended = await self._ended(running, contestant, total, connection)
                seconds = time.perf_counter() - began
                cpu = {name: used - busy[name] for name, used in self._busy(running).items()}
        finally:
            await connection.close()
        whole = (await self._usage(contestant)).since(before)
        sample = _sample(ended - begun, seconds, Usage(cpu, whole.counters))
        per_task = {name: count / total for name, count in whole.counters.items()}
        return replace(sample, per_task=per_task)

    async def _begun(self, running: Group, total: int, workers: int) -> tuple[int, float, dict[str, float]]:
        """Wait until the rate counts: return the tasks so far, the time, the CPU seconds."""
        until = time.perf_counter() + DRAIN_SECONDS
        while time.perf_counter() < until:
            running.check()
            counts = self.tally.counts()
            if sum(counts) >= FROM * total and sum(count > 0 for count in counts) >= workers:
                return sum(counts), time.perf_counter(), self._busy(running)
            if sum(counts) > SECOND_WORKER_BY * total:
                raise ProgramError(f"{len(counts)} of {workers} workers took part")
            await asyncio.sleep(POLL_SECONDS)
        raise ProgramError(f"{sum(self.tally.counts())} of {total} tasks began in {DRAIN_SECONDS:g} s")

    async def _ended(self, running: Group, contestant: Contestant, total: int, connection: Any) -> int:
        """Wait until the rate no longer counts; return the tasks so far, whose end is stored where it is."""
        until = time.perf_counter() + DRAIN_SECONDS
        while time.perf_counter() < until:
            running.check()
            count = sum(self.tally.counts())
            if count >= TO * total and contestant.final is not None:
                count = await connection.fetchval(contestant.final.format(total=total))
            if count >= TO * total:
                return count
            await asyncio.sleep(POLL_SECONDS)
        raise ProgramError(f"{sum(self.tally.counts())} of {total} tasks began, not all ended in {DRAIN_SECONDS:g} s")

    async def _idle(self, contestant: Contestant) -> Sample:
        async with self._clients(contestant):
            program = contestant.program()
            with group(contestant.workers(program, 1), self._environ(contestant)) as running:
                warm = 10
                count = self._sizes.idle_tasks
                await self._client(contestant, "idle", "--count", f"{warm}")
                await self._counted(running, warm + 1)
                # The first tasks waited for the worker to start.
                self.tally.forget()
                await self._client(contestant, "idle", "--count", f"{count}")
                await self._counted(running, count + 1)
        waits = self.tally.waits_ms()
        return Sample(count=len(waits), latency_ms=tuple(round(wait, 3) for wait in waits))

    async def _counted(self, running: Group, wanted: int) -> None:
        until = time.perf_counter() + DRAIN_SECONDS
        while (count := sum(self.tally.counts())) < wanted:
            running.check()
            if time.perf_counter() > until:
                raise ProgramError(f"{count} of {wanted} tasks began in {DRAIN_SECONDS:g} s")
            await asyncio.sleep(POLL_SECONDS)

    async def _client(self, contestant: Contestant, *arguments: str) -> dict[str, Any]:
        command = [*contestant.program(), *arguments]
        environ = {**self._environ(contestant), "BENCH_URL": self._url}
        output = await asyncio.to_thread(run, command, environ, timeout_seconds=CLIENT_SECONDS)
        load: dict[str, Any] = json.loads(output.splitlines()[-1])
        return load

    @asynccontextmanager
    async def _clients(self, contestant: Contestant) -> AsyncIterator[Group | None]:
        """Run what the clients of a contestant need: of dtq, its API."""
        if contestant.name != DTQ:
            yield None
            return
        port = free_port()
        environ = self._environ(contestant) | {"HTTP_PORT": f"127.0.0.1:{port}"}
        command = [*contestant.workers(contestant.program(), 1)[0][:-1], "api"]
        with group([command], environ) as api:
            self._url = f"http://127.0.0.1:{port}"
            await asyncio.to_thread(api.wait_ready, self._url)
            yield api

    def _environ(self, contestant: Contestant) -> dict[str, str]:
        return {
            **contestant.environ(self._servers, contestant.database),
            FOLDER_VARIABLE: str(self.tally.folder),
            "WORKER_HTTP_PORT": "127.0.0.1:0",
        }

    async def _usage(self, contestant: Contestant) -> Usage:
        return await Usage.now(self._servers, contestant.database)

    def _busy(self, running: Group) -> dict[str, float]:
        return {**server_cpu(self._servers), "worker": running.cpu_seconds()}


def _sample(count: int, seconds: float, used: Usage) -> Sample:
    return Sample(
        count=count,
        per_second=round(count / seconds, 1),
        per_task={name: counted / count for name, counted in used.counters.items()},
        cpu_us={name: spent / count * 1e6 for name, spent in used.cpu_seconds.items()},
    )


def in_turn(contestants: Sequence[Contestant], round_number: int) -> list[Contestant]:
    """Return the contestants in the order of a round: each begins with another one."""
    shift = round_number % len(contestants)
    return [*contestants[shift:], *contestants[:shift]]
