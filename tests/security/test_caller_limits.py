"""Limits per caller: requests per second and lists; other callers and the probes are not affected."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import asyncpg
import httpx2
import pytest
import pytest_asyncio

from dtq.domain.errors import Rejected
from dtq.runtime.logs import WARNING_SECONDS
from dtq.runtime.probes import server
from dtq_api import caller_limits
from dtq_api.caller_limits import (
    BURST_SECONDS,
    LARGE_BODIES,
    LARGE_BODIES_IN_ALL,
    LARGE_BODY_BYTES,
    LISTS_WAITING_MAX,
    REFUSAL_SECONDS_MAX,
    REFUSALS_PER_SECOND,
    CallerLimits,
)
from dtq_db.tasks import LISTS_MAX
from tests.api.world import Running, problem, running
from tests.auth.world import Callers, Guarded
from tests.support.addresses import BrokerVhost
from tests.support.waiting import eventually

LISTS: Final = 2
REQUESTS: Final = 64
RATE: Final = 10
BURST: Final = int(RATE * BURST_SECONDS)


class Clock:
    """A clock that moves when the test says so."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest_asyncio.fixture(loop_scope="session")
async def narrow(declared_dsn: str, broker_vhost: BrokerVhost, tmp_path: Path) -> AsyncIterator[Guarded]:
    """An API with authentication that works on one request of a caller at a time."""
    callers = Callers.create(tmp_path)
    environ = callers.environ | {"DTQ_CALLER_REQUESTS_AT_ONCE": "1"}
    async with running(declared_dsn, broker_vhost, up=True, **environ) as api:
        yield Guarded(api=api, callers=callers)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def limits(clock: Clock) -> CallerLimits:
    return CallerLimits(requests_per_second=RATE, requests=REQUESTS, lists=LISTS, clock=clock)


@pytest_asyncio.fixture(loop_scope="session")
async def limited(declared_dsn: str, broker_vhost: BrokerVhost, tmp_path: Path) -> AsyncIterator[Guarded]:
    """An API with authentication and low limits."""
    callers = Callers.create(tmp_path)
    environ = callers.environ | {"DTQ_CALLER_REQUESTS_PER_SECOND": str(RATE), "DTQ_CALLER_LISTS": str(LISTS)}
    environ["DTQ_CALLER_REQUESTS_AT_ONCE"] = str(REQUESTS)
    async with running(declared_dsn, broker_vhost, up=True, **environ) as api:
        yield Guarded(api=api, callers=callers)


def refused(send: Callable[[], None]) -> int:
    """Return after how many seconds a request may be sent again that must be refused now."""
    with pytest.raises(Rejected) as caught:
        send()
    assert caught.value.code == "TooManyRequests"
    assert caught.value.retry_after_seconds is not None
    return caught.value.retry_after_seconds


def test_a_caller_may_send_a_burst_and_then_its_rate(limits: CallerLimits, clock: Clock) -> None:
    for _ in range(BURST):
        limits.admit("a")
    assert refused(lambda: limits.admit("a")) == 1
    limits.admit("b")
    clock.now += 1.0
    for _ in range(RATE):
        limits.admit("a")
    refused(lambda: limits.admit("a"))
    clock.now += 1_000.0
    for _ in range(BURST):
        limits.admit("a")
    refused(lambda: limits.admit("a"))


def test_a_refused_caller_is_told_when_to_come_back(clock: Clock) -> None:
    limits = CallerLimits(requests_per_second=1, requests=REQUESTS, lists=LISTS, clock=clock)
    for _ in range(int(BURST_SECONDS)):
        limits.admit("a")
    clock.now -= 2.5
    seconds = refused(lambda: limits.admit("a"))
    assert seconds == 4
    clock.now += seconds
    limits.admit("a")


def test_a_bounded_number_of_callers_is_remembered(limits: CallerLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caller_limits, "CALLERS_MAX", 3)
    for number in range(9):
        limits.admit(str(number))
        assert len(limits._rested_at) <= 3
    limits.admit("8")
    assert limits._rested_at.keys() == {"6", "7", "8"}, "a known caller takes no room"


def test_a_limited_caller_is_logged_once_a_minute(
    limits: CallerLimits, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    for times in (1, 2):
        for _ in range(BURST):
            limits.admit("a")
        for _ in range(3):
            refused(lambda: limits.admit("a"))
        assert capsys.readouterr().out.count("caller limited") == 1, f"minute {times}"
        clock.now += WARNING_SECONDS


async def test_a_caller_who_sends_too_many_is_refused_and_others_are_served(
    limited: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limited.api.api.limits, "_clock", Clock())
    body = {"type": "sample.any.v1", "payload": {}}
    for _ in range(BURST):
        assert (await limited.ask("all", "GET", "/")).status_code == 200
    written = await limited.api.written()
    for method, path in (("GET", "/"), ("GET", "/nowhere"), ("GET", "/metrics"), ("POST", "/enqueue")):
        answer = await limited.ask("all", method, path, json=body if method == "POST" else None)
        assert "token:all" in problem(answer, 429, "TooManyRequests")["detail"]
        assert answer.headers["retry-after"] == "1"
    assert await limited.api.written() == written
    assert (await limited.ask("producer", "POST", "/enqueue", json=body)).status_code == 201
    for path in ("/livez", "/readyz"):
        assert (await limited.ask("all", "GET", path)).status_code == 200


async def test_without_authentication_requests_are_not_limited(
    fresh_api: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh_api.api.limits, "_clock", Clock())
    monkeypatch.setattr(fresh_api.api.limits, "_interval_seconds", 1.0)
    for _ in range(int(BURST_SECONDS) + 2):
        assert (await fresh_api.client.get("/")).status_code == 200


def test_the_server_takes_no_address_from_a_header() -> None:
    assert not server(lambda *_: asyncio.sleep(0), ("127.0.0.1", 0), grace_seconds=1).config.proxy_headers


@asynccontextmanager
async def blocked_tasks(api: Running) -> AsyncIterator[None]:
    """Make every statement on `tasks` wait until the end of the block."""
    async with api.sql.transaction():
        await api.sql.execute("LOCK TABLE tasks IN ACCESS EXCLUSIVE MODE")
        yield


async def test_lists_of_one_caller_leave_room_for_the_lists_of_others(limited: Guarded, dsn: str) -> None:
    observer = await asyncpg.connect(dsn)

    async def blocked() -> int:
        count: int = await observer.fetchval(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        )
        return count

    async def are_blocked(count: int) -> bool:
        return await blocked() == count

    limits = limited.api.api.limits
    surplus = 3
    try:
        async with blocked_tasks(limited.api):
            mine = [
                asyncio.create_task(limited.ask("all", "GET", "/tasks"))
                for _ in range(LISTS + LISTS_WAITING_MAX + surplus)
            ]
            await eventually(lambda: are_blocked(LISTS), "as many lists as allowed are read")

            async def are_refused() -> bool:
                return sum(task.done() for task in mine) == surplus

            await eventually(are_refused, "those that may not wait are refused")
            assert limits.lists.open("token:all") == LISTS + LISTS_WAITING_MAX
            other = asyncio.create_task(limited.ask("reader", "GET", "/tasks"))
            await eventually(lambda: are_blocked(LISTS + 1), "the list of another caller is read beside them")
        assert (await other).status_code == 200
        answers = await asyncio.gather(*mine)
    finally:
        await observer.close()
    statuses = Counter(answer.status_code for answer in answers)
    assert statuses[200] >= LISTS
    assert statuses[200] + statuses[429] == len(answers)
    assert statuses[429] >= surplus
    for answer in answers:
        if answer.status_code == 429:
            assert f"{LISTS} lists of token:all" in problem(answer, 429, "TooManyRequests")["detail"]
            assert answer.headers["retry-after"] == "1"
    assert not limits.lists._callers
    assert LISTS < LISTS_MAX


async def test_a_list_that_waits_too_long_for_its_turn_is_refused(
    limits: CallerLimits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits.lists, "_wait_seconds", 0.05)
    async with limits.lists.turn("a"), limits.lists.turn("a"):
        with pytest.raises(Rejected, match="2 lists of a"):
            async with limits.lists.turn("a"):
                pass
        async with limits.lists.turn("b"):
            pass
    async with limits.lists.turn("a"):
        pass
    assert not limits.lists._callers


class Body:
    """A body that is not complete before the test says so."""

    def __init__(self, size: int) -> None:
        self.text = b'{"type": "sample.any.v1", "payload": "%s"}' % (b"a" * size)
        self._rest = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.text[:10]
        await self._rest.wait()
        yield self.text[10:]

    def complete(self) -> None:
        self._rest.set()

    def sent_to(self, api: Guarded, caller: str = "all") -> "asyncio.Task[httpx2.Response]":
        headers = {"Content-Type": "application/json", "Content-Length": str(len(self.text))}
        sent = api.api.client.post("/enqueue", content=self, headers=headers | api.callers.header(caller))
        return asyncio.create_task(sent)


async def test_requests_of_one_caller_take_turns_and_others_do_not_wait(narrow: Guarded) -> None:
    turns = narrow.api.api.limits.requests
    id_ = await narrow.enqueued()
    async with turns.turn("token:all"):
        mine = [asyncio.create_task(narrow.ask("all", "GET", f"/tasks/{id_}")) for _ in range(3)]
        cancel = asyncio.create_task(narrow.ask("all", "POST", f"/tasks/{id_}/cancel"))

        async def wait() -> bool:
            return turns.open("token:all") == 5

        await eventually(wait, "the requests wait")
        assert (await narrow.ask("reader", "GET", f"/tasks/{id_}")).json()["status"] == "ENQUEUED"
        assert not any(request.done() for request in (*mine, cancel))
    assert [(await request).status_code for request in (*mine, cancel)] == [200] * 4
    assert not turns._callers


async def test_a_request_that_waits_too_long_for_its_turn_is_refused(
    narrow: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = narrow.api.api.limits.requests
    monkeypatch.setattr(turns, "_wait_seconds", 0.05)
    async with turns.turn("token:all"):
        for method, path in (("GET", "/tasks"), ("POST", "/enqueue")):
            answer = await narrow.ask("all", method, path, json={"type": "sample.any.v1", "payload": {}})
            assert "DTQ_CALLER_REQUESTS_AT_ONCE" in problem(answer, 429, "TooManyRequests")["detail"]
            assert answer.headers["retry-after"] == "1"
    assert (await narrow.ask("all", "GET", "/tasks")).status_code == 200


async def test_a_slow_body_holds_no_turn(narrow: Guarded) -> None:
    body = Body(10)
    slow = body.sent_to(narrow)
    for _ in range(3):
        assert (await narrow.ask("all", "GET", "/tasks")).status_code == 200
    body.complete()
    assert (await slow).status_code == 201


async def test_large_bodies_of_one_caller_take_turns_before_they_are_read(
    limited: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = limited.api.api.limits
    large = [Body(LARGE_BODY_BYTES) for _ in range(LARGE_BODIES)]
    sent = [body.sent_to(limited) for body in large]

    async def are_read() -> bool:
        return limits._large_bodies.open("token:all") == LARGE_BODIES

    await eventually(are_read, "as many large bodies as allowed are read")
    monkeypatch.setattr(limits._large_bodies, "_wait_seconds", 0.05)
    further = Body(LARGE_BODY_BYTES)
    further.complete()
    assert "large bodies" in problem(await further.sent_to(limited), 429, "TooManyRequests")["detail"]
    small = Body(10)
    small.complete()
    assert (await small.sent_to(limited)).status_code == 201
    assert (await further.sent_to(limited, "producer")).status_code == 201
    for body in large:
        body.complete()
    assert [(await answer).status_code for answer in sent] == [201] * LARGE_BODIES
    assert not limits._large_bodies._callers


async def test_large_bodies_of_all_callers_are_bounded(limits: CallerLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits._large_bodies_in_all, "_wait_seconds", 0.05)
    async with AsyncExitStack() as held:
        for number in range(LARGE_BODIES_IN_ALL):
            await held.enter_async_context(limits.large_body(f"caller {number}"))
        with pytest.raises(Rejected, match="large bodies of all callers"):
            await held.enter_async_context(limits.large_body("another"))
    async with limits.large_body("another"):
        pass


async def test_refusals_are_answered_at_once_until_there_are_many(
    limits: CallerLimits, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def noted(seconds: float) -> None:
        waits.append(round(seconds, 3))

    monkeypatch.setattr(asyncio, "sleep", noted)
    for _ in range(REFUSALS_PER_SECOND):
        await limits.pace_refusal()
    assert waits == []
    for _ in range(2):
        await limits.pace_refusal()
    assert waits == [1 / REFUSALS_PER_SECOND, 2 / REFUSALS_PER_SECOND]
    for _ in range(int(REFUSALS_PER_SECOND * REFUSAL_SECONDS_MAX)):
        await limits.pace_refusal()
    assert waits[-1] == REFUSAL_SECONDS_MAX == max(waits)
    waits.clear()
    clock.now += 1.0 + REFUSAL_SECONDS_MAX
    await limits.pace_refusal()
    assert waits == []


async def test_a_refusal_is_paced_and_an_accepted_request_is_not(
    narrow: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = narrow.api.api.limits
    monkeypatch.setattr(limits, "_refusals_rested_at", limits._clock() + REFUSAL_SECONDS_MAX)
    refusal = asyncio.create_task(narrow.ask(None, "GET", "/tasks"))
    assert (await narrow.ask("all", "GET", "/tasks")).status_code == 200
    assert not refusal.done()
    refusal.cancel()
