"""Fault schedules as data: which fault, where, when and for how long; made from a seed, shrunk when they fail.

Pure: the same seed always gives the same schedule.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

FIRST_AT_SECONDS: Final = 1.5
"""When the first fault may begin, in seconds: before it the load runs undisturbed."""
LAST_AT_SECONDS: Final = 6.0
"""When the last fault may begin, in seconds."""
SHORT_SECONDS: Final = 0.4
"""A fault is not shrunk below this, in seconds."""
CLOCK_SECONDS: Final = 3600.0
"""How far a skewed clock is off, in seconds."""
KILL_EVERY_SECONDS: Final = (1.0, 5.0)
"""Pause between two kills of a kill loop, in seconds."""
SERVER_EVERY_SECONDS: Final = 120.0
"""How often a kill loop crashes a server, in seconds: broker and database in turn."""

PROCESSES: Final = ("api-0", "api-1", "worker-0", "worker-1")
GROUPS: Final = {"apis": PROCESSES[:2], "workers": PROCESSES[2:], "all": PROCESSES}
LINKS: Final = ("api.postgres", "api.amqp", "worker.postgres", "worker.amqp")


class Kind(StrEnum):
    """What goes wrong."""

    KILL = "kill"
    TERM = "term"
    FREEZE = "freeze"
    CLOCK = "clock"
    BROKER_RESTART = "broker-restart"
    BROKER_KILL = "broker-kill"
    BROKER_FREEZE = "broker-freeze"
    BROKER_ALARM = "broker-alarm"
    BROKER_OVERFLOW = "broker-overflow"
    BROKER_QUEUE_DELETED = "broker-queue-deleted"
    BROKER_WIPED = "broker-wiped"
    POSTGRES_RESTART = "postgres-restart"
    POSTGRES_FREEZE = "postgres-freeze"
    POSTGRES_READ_ONLY = "postgres-read-only"
    POSTGRES_TERMINATED = "postgres-terminated"
    POSTGRES_LIMITED = "postgres-limited"
    POSTGRES_LOCKED = "postgres-locked"
    NET_LATENCY = "net-latency"
    NET_BLACKHOLE = "net-blackhole"
    NET_RESET = "net-reset"
    NET_HALF_CLOSE = "net-half-close"
    NET_DRIP = "net-drip"
    NET_ANSWERS_LOST = "net-answers-lost"


KINDS: Final = tuple(Kind)
_ON_PROCESSES: Final = (Kind.KILL, Kind.TERM, Kind.FREEZE, Kind.CLOCK)
_INSTANT: Final = (
    Kind.BROKER_RESTART,
    Kind.BROKER_QUEUE_DELETED,
    Kind.BROKER_WIPED,
    Kind.POSTGRES_TERMINATED,
    Kind.NET_RESET,
    Kind.NET_HALF_CLOSE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        target: processes, links, or nothing where the kind says it all.
        at_seconds: when it begins, after the schedule's start.
        seconds: how long it lasts; 0 for what is over at once.
        amount: seconds of latency, bytes a second, seconds of clock skew; 0 where it means nothing.
    """

    kind: Kind
    target: str = ""
    at_seconds: float
    seconds: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        """The fault in words."""
        parts = [f"at {self.at_seconds:.1f} s", self.kind.value]
        parts += [self.target] if self.target else []
        parts += [f"for {self.seconds:.1f} s"] if self.seconds else []
        parts += [f"({self.amount:g})"] if self.amount else []
        return " ".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """What one run does to the system. A shrunk schedule keeps the seed that it came from."""

    seed: int
    faults: tuple[Fault, ...]

    @property
    def seconds(self) -> float:
        """When the last fault is over, in seconds, if nothing holds it up."""
        return max((fault.at_seconds + fault.seconds for fault in self.faults), default=0.0)

    def __str__(self) -> str:
        """The schedule in words, one fault a line."""
        return "\n".join([f"seed {self.seed}", *(f"  {fault}" for fault in self.faults)])


def generate(seed: int) -> Schedule:
    """Return the schedule of a seed. Neighbouring seeds walk through all kinds, so that a few dozen meet each."""
    chance = random.Random(seed)
    count = chance.choice((1, 2, 2, 3, 3, 4))
    kinds = [KINDS[seed % len(KINDS)], *chance.choices(KINDS, k=count - 1)]
    faults = [_fault(kind, chance) for kind in kinds]
    return Schedule(seed=seed, faults=tuple(sorted(faults, key=lambda fault: (fault.at_seconds, fault.kind))))


def kill_loop(seed: int, seconds: float) -> Schedule:
    """Return a schedule that kills a random process every few seconds, and a server every two minutes."""
    chance = random.Random(seed)
    faults = []
    at_seconds = FIRST_AT_SECONDS
    while at_seconds < seconds:
        target = chance.choice(PROCESSES)
        faults.append(Fault(kind=Kind.KILL, target=target, at_seconds=round(at_seconds, 1), seconds=0.1))
        at_seconds += chance.uniform(*KILL_EVERY_SECONDS)
    servers = (Kind.BROKER_KILL, Kind.POSTGRES_RESTART)
    for number in range(int(seconds / SERVER_EVERY_SECONDS)):
        at_seconds = (number + 1) * SERVER_EVERY_SECONDS
        faults.append(Fault(kind=servers[number % 2], at_seconds=at_seconds, seconds=1.0))
    return Schedule(seed=seed, faults=tuple(faults))


def smaller(schedule: Schedule) -> Iterator[Schedule]:
    """Yield simpler schedules, the simplest first: one fault alone, one fault less, then shorter faults."""
    faults = schedule.faults
    if len(faults) > 2:
        for fault in faults:
            yield replace(schedule, faults=(fault,))
    if len(faults) > 1:
        for at in range(len(faults)):
            yield replace(schedule, faults=faults[:at] + faults[at + 1 :])
    for at, fault in enumerate(faults):
        if fault.seconds >= 2 * SHORT_SECONDS:
            shorter = replace(fault, seconds=round(fault.seconds / 2, 1))
            yield replace(schedule, faults=(*faults[:at], shorter, *faults[at + 1 :]))


def _fault(kind: Kind, chance: random.Random) -> Fault:
    at_seconds = round(chance.uniform(FIRST_AT_SECONDS, LAST_AT_SECONDS), 1)
    seconds = 0.0 if kind in _INSTANT else round(chance.uniform(0.5, 5.0), 1)
    target, amount = "", 0.0
    if kind in _ON_PROCESSES:
        target = chance.choice((*PROCESSES, *PROCESSES, *GROUPS))
    elif kind.startswith("net-"):
        target = chance.choice((*LINKS, "api.*", "worker.*", "*.postgres", "*.amqp"))
    if kind is Kind.FREEZE and target.startswith("worker") and chance.random() < 1 / 3:
        seconds = 17.0  # longer than a lease: what it ran goes to another worker, and it must notice
    if kind is Kind.NET_LATENCY:
        amount = chance.choice((0.05, 0.2, 0.5))
    elif kind is Kind.NET_DRIP:
        amount = chance.choice((500.0, 5_000.0))
    elif kind is Kind.CLOCK:
        amount = chance.choice((-CLOCK_SECONDS, CLOCK_SECONDS))
    return Fault(kind=kind, target=target, at_seconds=at_seconds, seconds=seconds, amount=amount)
