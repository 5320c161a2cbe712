"""Injects each kind of fault into a running system, and undoes it.

Every injector is bounded, and undoes its fault whatever else happens.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from typing import Final, Literal
from urllib.parse import quote

from dtq.runtime.loops import wait
from hack.lib.errors import HackError
from hack.stack.rabbitmq import RabbitMQ
from tests.faults.proxy import FAIR, Weather
from tests.faults.schedule import Fault, Kind
from tests.faults.world import QUEUES, VHOST, World, links, targets
from tests.support.rabbitmqctl import rabbitmqctl

Injector = Callable[[World, Fault], AbstractAsyncContextManager[None]]

QUEUES_KEPT_SECONDS: Final = 5.0
"""How long after queues were lost the broker is not killed, in seconds: they are declared within two, and RabbitMQ
(3.10) that crashes within a second of making a queue, where one of its name was before, comes back without the queue's
process. Only deleting the queue helps, as the runbook says and the broker suite checks."""
OVERFLOW_POLICY: Final = f"/api/policies/{VHOST}/overflow"


async def inject(world: World, fault: Fault) -> None:
    """Inject a fault for its duration, and undo it."""
    async with INJECTORS[fault.kind](world, fault):
        if fault.seconds:
            await wait(asyncio.Event(), fault.seconds)


@asynccontextmanager
async def _ended(world: World, fault: Fault, *, told: Literal["kill", "term"]) -> AsyncIterator[None]:
    names = targets(fault.target)
    async with world.held(names):
        try:
            await asyncio.gather(*(world.end(name, told) for name in names))
            yield
        finally:
            for name in names:
                world.start(name)


@asynccontextmanager
async def _frozen(world: World, fault: Fault) -> AsyncIterator[None]:
    names = targets(fault.target)
    async with world.held(names):
        processes = [world.members[name].process for name in names]
        for process in processes:
            process.freeze()
        try:
            yield
        finally:
            for process in processes:
                process.thaw()


@asynccontextmanager
async def _clock_skewed(world: World, fault: Fault) -> AsyncIterator[None]:
    """Start the processes again with another clock; and again with the right one."""
    names = targets(fault.target)
    async with world.held(names):
        await _restart(world, names, fault.amount)
        try:
            yield
        finally:
            await _restart(world, names, 0.0)


async def _restart(world: World, names: tuple[str, ...], clock_seconds: float) -> None:
    for name in names:
        await world.end(name, "term")
        world.start(name, clock_seconds=clock_seconds)


@asynccontextmanager
async def _broker_down(world: World, _: Fault, *, end: Callable[[RabbitMQ], None]) -> AsyncIterator[None]:
    async with world.held(["broker"]):
        if end is RabbitMQ.kill:
            await wait(asyncio.Event(), max(0.0, world.queues_made_at + QUEUES_KEPT_SECONDS - time.monotonic()))
        try:
            await asyncio.to_thread(end, world.rabbitmq)
            yield
        finally:
            await asyncio.to_thread(world.rabbitmq.start)


@asynccontextmanager
async def _broker_frozen(world: World, _: Fault) -> AsyncIterator[None]:
    async with world.held(["broker"]):
        world.rabbitmq.pause()
        try:
            yield
        finally:
            world.rabbitmq.resume()


@asynccontextmanager
async def _broker_alarm(world: World, _: Fault) -> AsyncIterator[None]:
    async with world.held(["broker"]):
        try:
            await rabbitmqctl(world.rabbitmq, "set_vm_memory_high_watermark", "absolute", "1")
            yield
        finally:
            await rabbitmqctl(world.rabbitmq, "set_vm_memory_high_watermark", "absolute", "1GB")


@asynccontextmanager
async def _broker_overflow(world: World, _: Fault) -> AsyncIterator[None]:
    """Limit every queue to almost no messages."""
    policy = {"pattern": ".*", "definition": {"max-length": 1, "overflow": "reject-publish"}, "apply-to": "queues"}
    call = world.rabbitmq.management.call
    async with world.held(["broker"]):
        try:
            await asyncio.to_thread(call, "PUT", OVERFLOW_POLICY, policy)
            yield
        finally:
            await asyncio.to_thread(call, "DELETE", OVERFLOW_POLICY)


@asynccontextmanager
async def _broker_queue_deleted(world: World, fault: Fault) -> AsyncIterator[None]:
    """Delete one work queue with all that it holds."""
    queue = QUEUES[int(fault.at_seconds * 10) % len(QUEUES)]
    async with world.held(["broker"]):
        with suppress(HackError):  # it may be gone already
            await asyncio.to_thread(
                world.rabbitmq.management.call, "DELETE", f"/api/queues/{VHOST}/{quote(f'tasks.{queue}')}"
            )
        world.queues_made_at = time.monotonic()
        yield


@asynccontextmanager
async def _broker_wiped(world: World, _: Fault) -> AsyncIterator[None]:
    """Delete the vhost with every queue and message, and make an empty one."""
    management = world.rabbitmq.management
    async with world.held(["broker"]):
        try:
            await asyncio.to_thread(management.delete_vhost, VHOST)
            yield
        finally:
            await asyncio.to_thread(management.create_vhost, VHOST)
            world.queues_made_at = time.monotonic()


@asynccontextmanager
async def _postgres_crashed(world: World, _: Fault) -> AsyncIterator[None]:
    """An immediate shutdown: no checkpoint, every connection cut, crash recovery at the start."""
    async with world.held(["postgres"]):
        try:
            await asyncio.to_thread(world.postgres.kill)
            yield
        finally:
            await asyncio.to_thread(world.postgres.start)


@asynccontextmanager
async def _postgres_frozen(world: World, _: Fault) -> AsyncIterator[None]:
    async with world.held(["postgres"]):
        world.postgres.pause()
        try:
            yield
        finally:
            world.postgres.resume()


@asynccontextmanager
async def _postgres_altered(world: World, _: Fault, *, do: str, undo: str) -> AsyncIterator[None]:
    """Change what the role may do, and cut its connections so that it notices."""
    async with world.held(["postgres"]):
        try:
            await asyncio.to_thread(world.postgres.sql, f"{do};\n{TERMINATE}")
            yield
        finally:
            if undo:
                await asyncio.to_thread(world.postgres.sql, undo)


@asynccontextmanager
async def _postgres_locked(world: World, fault: Fault) -> AsyncIterator[None]:
    """Hold a lock against every read and write of the tasks."""
    statement = (
        f"SET lock_timeout = '10s'; BEGIN; LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE; "
        f"SELECT pg_sleep({fault.seconds}); COMMIT;"
    )
    async with world.held(["postgres"]):
        holding = asyncio.create_task(asyncio.to_thread(world.postgres.sql, statement, database="dtq"))
        try:
            yield
        finally:
            with suppress(HackError):  # the lock itself may come too late: then nothing was held
                await holding


@asynccontextmanager
async def _bad_weather(world: World, fault: Fault) -> AsyncIterator[None]:
    weather = {
        Kind.NET_LATENCY: Weather(latency_seconds=fault.amount),
        Kind.NET_BLACKHOLE: Weather(blackhole=True),
        Kind.NET_DRIP: Weather(bytes_per_second=int(fault.amount)),
        Kind.NET_ANSWERS_LOST: Weather(answers_lost=True),
    }[fault.kind]
    names = links(fault.target)
    async with world.held(names):
        for name in names:
            world.proxies[name].become(weather)
        try:
            yield
        finally:
            for name in names:
                world.proxies[name].become(FAIR)


@asynccontextmanager
async def _links_cut(world: World, fault: Fault) -> AsyncIterator[None]:
    for name in links(fault.target):
        proxy = world.proxies[name]
        if fault.kind is Kind.NET_RESET:
            proxy.reset()
        else:
            proxy.half_close()
    yield


TERMINATE: Final = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = 'dtq'"
INJECTORS: Final[dict[Kind, Injector]] = {
    Kind.KILL: partial(_ended, told="kill"),
    Kind.TERM: partial(_ended, told="term"),
    Kind.FREEZE: _frozen,
    Kind.CLOCK: _clock_skewed,
    Kind.BROKER_RESTART: partial(_broker_down, end=RabbitMQ.stop),
    Kind.BROKER_KILL: partial(_broker_down, end=RabbitMQ.kill),
    Kind.BROKER_FREEZE: _broker_frozen,
    Kind.BROKER_ALARM: _broker_alarm,
    Kind.BROKER_OVERFLOW: _broker_overflow,
    Kind.BROKER_QUEUE_DELETED: _broker_queue_deleted,
    Kind.BROKER_WIPED: _broker_wiped,
    Kind.POSTGRES_RESTART: _postgres_crashed,
    Kind.POSTGRES_FREEZE: _postgres_frozen,
    Kind.POSTGRES_READ_ONLY: partial(
        _postgres_altered,
        do="ALTER ROLE dtq SET default_transaction_read_only = on",
        undo="ALTER ROLE dtq RESET default_transaction_read_only",
    ),
    Kind.POSTGRES_TERMINATED: partial(_postgres_altered, do="SELECT 1", undo=""),
    Kind.POSTGRES_LIMITED: partial(
        _postgres_altered, do="ALTER ROLE dtq CONNECTION LIMIT 1", undo="ALTER ROLE dtq CONNECTION LIMIT -1"
    ),
    Kind.POSTGRES_LOCKED: _postgres_locked,
    Kind.NET_LATENCY: _bad_weather,
    Kind.NET_BLACKHOLE: _bad_weather,
    Kind.NET_DRIP: _bad_weather,
    Kind.NET_ANSWERS_LOST: _bad_weather,
    Kind.NET_RESET: _links_cut,
    Kind.NET_HALF_CLOSE: _links_cut,
}
