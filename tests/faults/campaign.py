"""Many runs: several worlds side by side, state on disk so that a campaign can be continued, shrinking of failures.

A finished schedule is not run again, and the history of a failure is kept.
"""

import asyncio
import json
import shutil
import subprocess
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.faults.run import Outcome, Run
from tests.faults.schedule import Schedule, smaller
from tests.faults.world import World, running_world
from tests.support.services import Services
from tests.support.system import REPOSITORY

BASELINE_SECONDS: Final = 8.0
"""How long the undisturbed throughput is measured, in seconds."""
SHRINK_RUNS_MAX: Final = 6
"""Most runs spent on making one failure smaller."""
SHRUNK_FAULTS_MAX: Final = 10
"""A schedule of more faults is not shrunk: a kill loop is its own explanation."""
WORLDS_MAX: Final = 5
"""How often one world may be started again."""
KEPT: Final = ("samples.jsonl", "faults.jsonl", "client.jsonl")
"""What is kept of a run that passed: enough to draw it."""
UNDISTURBED: Final = Schedule(seed=-1, faults=())


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One planned run.

    Attributes:
        name: of its folder and its line in the results; never used twice.
        least_seconds: the shortest duration of the load.
    """

    name: str
    schedule: Schedule
    least_seconds: float = 0.0


class Campaign:
    """Runs jobs, each once, on a few worlds.

    Args:
        state: holds results and histories; a campaign continues after the results that it finds there.
        per_second: requests a second on each world.
        say: shows a line of progress.
    """

    def __init__(self, state: Path, *, per_second: float, say: Callable[[str], None]) -> None:
        self.runs = state / "runs"
        self._per_second = per_second
        self._say = say
        self._results = state / "results.jsonl"
        self._commit = _commit()
        state.mkdir(parents=True, exist_ok=True)

    def outcomes(self) -> list[Outcome]:
        """Return what was found so far, in the order in which the runs ended."""
        if not self._results.exists():
            return []
        return [Outcome(**json.loads(line)) for line in self._results.read_text().splitlines()]

    async def run(self, jobs: Iterable[Job], *, worlds: int) -> None:
        """Run the remaining jobs on `worlds` worlds side by side."""
        done = {outcome.name for outcome in self.outcomes()}
        waiting = [job for job in jobs if job.name not in done]
        progress = _Progress(total=len(waiting), say=self._say)
        left = deque(waiting)
        services = Services.create()
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(min(worlds, len(waiting))):
                    group.create_task(self._keep_world(services, f"world-{number}", left, progress))
        finally:
            services.remove()

    async def _keep_world(self, services: Services, name: str, left: deque[Job], progress: "_Progress") -> None:
        """Run jobs on a world, and on a new one if the harness itself fails."""
        for world_number in range(WORLDS_MAX):
            taken: list[Job] = []
            try:
                await self._run_jobs(services, f"{name}-{world_number}", left, taken, progress)
            except Exception as error:  # noqa: BLE001 - reported, and the job is repeated
                self._say(f"{name} failed and is started again: {''.join(traceback.format_exception(error))}")
                left.extendleft(taken)
            else:
                return

    async def _run_jobs(
        self, services: Services, name: str, left: deque[Job], taken: list[Job], progress: "_Progress"
    ) -> None:
        """Run jobs until none is left; the last of `taken` is under way."""
        async with running_world(services, services.folder / name) as world:
            undisturbed = await self._once(world, UNDISTURBED, f"{name}-undisturbed", BASELINE_SECONDS, None)
            baseline = undisturbed.per_second
            self._say(f"{name}: {baseline:.1f} tasks a second undisturbed {'; '.join(undisturbed.problems)}")
            while left:
                taken.append(job := left.popleft())
                outcome = await self._once(world, job.schedule, job.name, job.least_seconds, baseline)
                outcome.commit = self._commit
                progress.show(outcome)
                if outcome.problems:
                    self._say(f"{job.name} FAILED\n{job.schedule}\n" + "\n".join(outcome.problems))
                    if len(job.schedule.faults) <= SHRUNK_FAULTS_MAX:
                        smallest = await self._shrink(world, job, baseline)
                        outcome.problems.append(f"shrunk to: {smallest}")
                        self._say(f"{job.name} shrunk to {smallest}")
                with self._results.open("a") as results:
                    results.write(json.dumps(asdict(outcome)) + "\n")
                taken.clear()

    async def _once(
        self, world: World, schedule: Schedule, name: str, least_seconds: float, baseline: float | None
    ) -> Outcome:
        folder = self.runs / name
        shutil.rmtree(folder, ignore_errors=True)
        run = Run(world, schedule, folder, per_second=self._per_second, baseline=baseline)
        outcome = await run.go(least_seconds=least_seconds)
        if not outcome.problems:
            for path in folder.iterdir():
                if path.name not in KEPT:
                    path.unlink()
        return outcome

    async def _shrink(self, world: World, job: Job, baseline: float) -> Schedule:
        """Look for the smallest schedule that still fails, by a bounded number of runs."""
        smallest, runs = job.schedule, 0
        candidates = smaller(smallest)
        while runs < SHRINK_RUNS_MAX and (candidate := next(candidates, None)) is not None:
            runs += 1
            outcome = await self._once(world, candidate, f"{job.name}-shrink-{runs}", 0.0, baseline)
            if outcome.problems:
                smallest, candidates = candidate, smaller(candidate)
        return smallest


def _commit() -> str:
    """Return the commit that runs, with a plus if files were changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False).stdout.strip()


@dataclass(kw_only=True)
class _Progress:
    """The progress line."""

    total: int
    say: Callable[[str], None]
    done: int = 0
    failed: int = 0
    began: float = 0.0

    def __post_init__(self) -> None:
        self.began = time.monotonic()

    def show(self, outcome: Outcome) -> None:
        self.done += 1
        self.failed += bool(outcome.problems)
        left = (time.monotonic() - self.began) / self.done * (self.total - self.done)
        self.say(
            f"[{self.done}/{self.total}] {outcome.name} {'FAILED' if outcome.problems else 'ok'} "
            f"{outcome.seconds:.0f} s, ready {outcome.ready_seconds} s, throughput back {outcome.recovered_seconds} s, "
            f"slowest answer {outcome.slowest_seconds} s, answers {outcome.statuses}; "
            f"failed {self.failed}; about {left / 60:.0f} min left"
        )
