"""One run: load, faults, recovery, quiet, history. The checker judges the history.

Every wait is bounded: what does not recover or come to rest in time is a problem of the run.
"""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

from dtq.runtime.loops import wait
from tests.faults.checker import check_folder
from tests.faults.dump import clear, dump, scrape
from tests.faults.history import Call, Injected, Lines, Sample
from tests.faults.injectors import inject
from tests.faults.load import Load
from tests.faults.observer import SAMPLE_SECONDS, Observer
from tests.faults.schedule import Fault, Schedule
from tests.faults.world import World

READY_SECONDS: Final = 60.0
"""After the last fault every process is ready again within this, in seconds."""
RECOVERED_SECONDS: Final = 120.0
"""After the last fault the throughput is back within this, in seconds."""
RECOVERED_SHARE: Final = 0.9
"""How much of the earlier throughput counts as back."""
RESOLVE_SECONDS: Final = 60.0
"""How long requests in doubt are asked again, in seconds."""
QUIET_SECONDS: Final = 150.0
"""How long the accepted tasks may take to end after the load, in seconds: a lease, a reap and a few
retries for the last, and the relay's and the topology watch's rounds before them."""
PROBLEMS_MAX: Final = 20
"""Most broken promises that an outcome tells; the history tells them all."""
STARTING: Final = "starting"
"""Names, among the faults, the time from the last one until every process was ready."""
ANSWERS: Final = (0, 201, 503)
"""What a well-formed request may meet: no answer from a process that is not there, a task, or a refusal for now."""


@dataclass(kw_only=True)
class Outcome:
    """How a run ended.

    Attributes:
        problems: what is wrong, in words; none means that all promises held.
        per_second: tasks that were accepted a second.
        ready_seconds: from the last fault's end until every process was ready; None: never.
        recovered_seconds: from there until the throughput was back; None: never.
        statuses: answers to the client by HTTP status, "0" for none.
        counts: what the checker counted.
        duplicates: the duplicated handler runs by why they could come to be.
        commit: of the code that ran.
    """

    name: str
    seed: int
    faults: list[str]
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)
    per_second: float = 0.0
    ready_seconds: float | None = None
    recovered_seconds: float | None = None
    quiet_seconds: float | None = None
    slowest_seconds: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    commit: str = ""


class Run:
    """One schedule on one world.

    Args:
        folder: where the history goes.
        per_second: how many requests the client posts a second.
        baseline: throughput that counts as undisturbed, in tasks a second; None measures none.
    """

    def __init__(
        self, world: World, schedule: Schedule, folder: Path, *, per_second: float, baseline: float | None
    ) -> None:
        self._world = world
        self._schedule = schedule
        self._folder = folder
        self._baseline = baseline
        self._before: float | None = None
        self._stack = ExitStack()
        client = self._stack.enter_context(Lines[Call](folder / "client.jsonl"))
        self._faults = self._stack.enter_context(Lines[Injected](folder / "faults.jsonl"))
        samples = self._stack.enter_context(Lines[Sample](folder / "samples.jsonl"))
        self._load = Load(
            run=f"{schedule.seed}-{time.time():.0f}",
            addresses=[member.address for name, member in world.members.items() if name.startswith("api")],
            record=client.write,
            per_second=per_second,
            chance=random.Random(schedule.seed),
        )
        self._observer = Observer(world, record=samples.write)
        self.outcome = Outcome(name=folder.name, seed=schedule.seed, faults=[str(fault) for fault in schedule.faults])

    async def go(self, *, least_seconds: float = 0.0) -> Outcome:
        """Run to the end; the load lasts `least_seconds` at the least."""
        self._world.begin()
        metrics_before = await scrape(self._world)
        handler_log = self._world.system.handler_log
        offset = handler_log.stat().st_size if handler_log.exists() else 0
        began, started_at = time.monotonic(), time.time()
        stop_load, stop_observer = asyncio.Event(), asyncio.Event()
        with self._stack:
            async with asyncio.TaskGroup() as parts:
                observing = parts.create_task(self._observer.run(stop_observer))
                watching = parts.create_task(self._world.watch())
                posting = parts.create_task(self._load.post(stop_load))
                await self._break(began)
                await self._recover()
                await wait(asyncio.Event(), max(0.0, began + least_seconds - time.monotonic()))
                stop_load.set()
                self.outcome.per_second = round(self._load.accepted / (time.monotonic() - began), 2)
                await posting
                await self._come_to_rest()
                watching.cancel()
                stop_observer.set()
                await observing
        await dump(
            self._world, self._folder, handler_offset=offset, started_at=started_at, metrics_before=metrics_before
        )
        self._conclude(began)
        await clear(self._world)
        return self.outcome

    async def _break(self, began: float) -> None:
        await asyncio.gather(*(self._do(fault, began) for fault in self._schedule.faults))

    async def _do(self, fault: Fault, began: float) -> None:
        await wait(asyncio.Event(), max(0.0, began + fault.at_seconds - time.monotonic()))
        at = time.time()
        if self._before is None:
            self._before = self._observer.per_second()
        try:
            await inject(self._world, fault)
        finally:
            self._faults.write(
                Injected(at=at, until=time.time(), name=fault.kind, target=fault.target, detail=str(fault))
            )

    async def _recover(self) -> None:
        """Wait until all is as it was before the faults."""
        healed = time.monotonic()
        # A sample that was begun before the last fault's end says nothing.
        await wait(asyncio.Event(), 2 * SAMPLE_SECONDS)
        self.outcome.ready_seconds = await self._until(lambda: self._observer.all_ready, healed, READY_SECONDS)
        at = time.time() - (time.monotonic() - healed)
        until = at + (self.outcome.ready_seconds or READY_SECONDS)
        if self._schedule.faults:
            # Until then the processes may still have been starting, which takes long on a busy machine.
            self._faults.write(Injected(at=at, until=until, name=STARTING))
        if self.outcome.ready_seconds is None:
            down = [name for name, ready in self._observer.ready.items() if not ready]
            self.outcome.problems.append(f"not ready within {READY_SECONDS:g} s after the last fault: {down}")
        if self._baseline is not None:
            wanted = RECOVERED_SHARE * max(self._baseline, self._before or 0.0)
            # The backlog does not count as throughput: only what comes from then on does, as in the checker.
            self.outcome.recovered_seconds = await self._until(
                lambda: self._observer.per_second(until) >= wanted, healed, RECOVERED_SECONDS
            )
            if self.outcome.recovered_seconds is None:
                self.outcome.problems.append(
                    f"throughput {self._observer.per_second(until):.1f} a second, not {wanted:.1f}, "
                    f"{RECOVERED_SECONDS:g} s after the last fault"
                )

    async def _come_to_rest(self) -> None:
        """Ask again what is in doubt, and wait until every task is at its end."""
        if left := await self._load.resolve(RESOLVE_SECONDS):
            self.outcome.problems.append(f"{left} requests with a key got no 201 within {RESOLVE_SECONDS:g} s")
        began = time.monotonic()
        self.outcome.quiet_seconds = await self._until(self._is_quiet, began, QUIET_SECONDS)
        if self.outcome.quiet_seconds is None:
            progress = self._observer.progress
            self.outcome.problems.append(f"not at rest {QUIET_SECONDS:g} s after the load: {progress}")

    def _is_quiet(self) -> bool:
        progress = self._observer.progress
        return progress is not None and progress.open == 0 and progress.dead_letters_due == 0

    async def _until(self, holds: Callable[[], bool], since: float, seconds: float) -> float | None:
        """Return how many seconds after `since` it held, or None if it did not in time."""
        while not holds():
            if time.monotonic() - since > seconds:
                return None
            await wait(asyncio.Event(), SAMPLE_SECONDS / 2)
        return round(time.monotonic() - since, 1)

    def _conclude(self, began: float) -> None:
        outcome, load = self.outcome, self._load
        outcome.seconds = round(time.monotonic() - began, 1)
        outcome.slowest_seconds = round(load.slowest_seconds, 2)
        outcome.statuses = {str(status): count for status, count in sorted(load.statuses.items())}
        outcome.problems += self._world.crashed
        if wrong := {status: count for status, count in load.statuses.items() if status not in ANSWERS}:
            outcome.problems.append(f"answers that no fault excuses: {wrong}")
        verdict = check_folder(self._folder)
        outcome.counts = asdict(verdict.counts)
        outcome.duplicates = dict(verdict.duplicates)
        outcome.problems += verdict.problems[:PROBLEMS_MAX]
