"""`python -m bench`: dtq, the raw limits and the peers side by side, in interleaved rounds on servers of its own.

Writes the record, and the report from it. Takes all of a machine: nothing else should run meanwhile.
"""

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench import facts, raw_limits, report, under_load
from bench.contestants import CONTESTANTS, DTQ, Contestant
from bench.record import RECORD, Record, Sample
from bench.rounds import MEASURES, MODES, Bench, Sizes, in_turn
from bench.servers import Servers, servers
from hack.lib.errors import HackError
from hack.lib.report import say

PARTS: Final = ("limit", *MEASURES, "load")
"""Of a round, in order."""

ERROR_LENGTH: Final = 300
"""Most characters of an entry of the errors: it is one line of the report."""


class Run:
    """One run, as far as it has come."""

    def __init__(self, given: argparse.Namespace, running: Servers, folder: Path) -> None:
        self._given = given
        self._servers = running
        self._sizes = Sizes(load_seconds=given.seconds, drain=given.drain, idle_tasks=given.idle)
        self._bench = Bench(running, self._sizes, folder)
        self.samples: list[Sample] = []
        self.errors: list[str] = []

    async def prepare(self) -> list[Contestant]:
        """Build and install the contestants; return those that can take part."""
        chosen = [who for who in CONTESTANTS if _is_wanted(who.name, self._given)]
        ready = []
        for contestant in chosen:
            say(f"==> preparing {contestant.name}")
            try:
                await self._bench.install(contestant)
            except Exception as error:  # noqa: BLE001 - one contestant that fails must not end the run
                self._failed(f"{contestant.name}: could not be prepared", error)
            else:
                ready.append(contestant)
        await self._servers.create_database(raw_limits.DATABASE)
        return ready

    async def round(self, number: int, contestants: list[Contestant]) -> None:
        """Measure everything once."""
        say(f"==> round {number} of {self._given.rounds}")
        wanted = self._given.only or PARTS
        if "limit" in wanted:
            for name in raw_limits.RAW:
                await self._note(number, f"{name}", raw_limits.measure(self._servers, name, self._given.seconds))
        for measure in MEASURES:
            for contestant in in_turn(contestants, number - 1):
                if measure in wanted and (measure not in MODES or measure in contestant.modes):
                    work = self._bench.measure(contestant, measure)
                    await self._note(number, f"{contestant.name}: {measure}", work)

        if "load" in wanted and any(contestant.name == DTQ for contestant in contestants):
            await self._load(number)

    async def _load(self, number: int) -> None:
        try:
            found = await under_load.measure(self._bench, self._given.load_seconds)
        except Exception as error:  # noqa: BLE001 - as below
            self._failed(f"round {number}: latency under load", error)
            return
        for sample in found:
            self._add(number, f"{DTQ}: {sample.measure}", sample)

    async def _note(self, number: int, what: str, work: Awaitable[Sample]) -> None:
        try:
            self._add(number, what, await work)
        except Exception as error:  # noqa: BLE001 - one figure that is missing must not end the run
            self._failed(f"round {number}: {what}", error)

    def _add(self, number: int, what: str, sample: Sample) -> None:
        self.samples.append(replace(sample, round=number))
        middle = sample.latency_ms[len(sample.latency_ms) // 2] if sample.latency_ms else None
        say(f"    {what}: " + (f"{sample.per_second:,.0f}/s" if middle is None else f"p50 {middle:.1f} ms"))

    def _failed(self, what: str, error: Exception) -> None:
        text = " ".join(f"{what}: {type(error).__name__}: {error}".split())[:ERROR_LENGTH]
        self.errors.append(text)
        say(f"    FAILED {text}")


async def _run(given: argparse.Namespace) -> Record:
    began = time.time()
    async with servers() as running:
        with tempfile.TemporaryDirectory(prefix="dtq-bench-tally-") as folder:
            run = Run(given, running, Path(folder))
            contestants = await run.prepare()
            steal = facts.Steal()
            for number in range(1, given.rounds + 1):
                await run.round(number, contestants)
            described = await running.describe()
    sizes = {name: getattr(given, name) for name in ("rounds", "seconds", "drain", "idle", "load_seconds")}
    known = facts.facts(began, sizes, contestants, described, steal.share())
    return Record(facts=known, samples=tuple(run.samples), errors=tuple(run.errors))


def _is_wanted(name: str, given: argparse.Namespace) -> bool:
    return (not given.contestants or name in given.contestants) and name not in given.without


def main() -> None:
    """Run the measurements that were asked for."""
    names = [contestant.name for contestant in CONTESTANTS]
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="MEASURE", help="just these measures")
    parser.add_argument("--contestants", nargs="+", choices=names, metavar="NAME", help=f"just these of {names}")
    parser.add_argument("--without", nargs="+", choices=names, default=[], metavar="NAME", help="all but these")
    parser.add_argument("--seconds", type=float, default=1.5, help="length of each load (default: %(default)s)")
    parser.add_argument(
        "--drain", type=float, default=0.5, help="factor of the tasks of a drain (default: %(default)s)"
    )
    parser.add_argument("--idle", type=int, default=60, help="tasks of the idle latency (default: %(default)s)")
    parser.add_argument("--load-seconds", type=float, default=5.0, help="of each open-loop load (default: %(default)s)")
    parser.add_argument("--record", type=Path, default=RECORD, help="where to write (default: %(default)s)")
    given = parser.parse_args()
    try:
        record = asyncio.run(_run(given))
    except HackError as error:
        raise SystemExit(f"{error}") from error
    record.write(given.record)
    if given.record == RECORD:
        report.write(Record.read(given.record))  # as it was rounded when it was written
    say(f"==> {len(record.samples)} figures, {len(record.errors)} failures: {given.record}")


if __name__ == "__main__":
    main()
