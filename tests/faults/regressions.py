"""The schedules that once broke a promise, each as small as possible. They run before all others.

They are written out instead of kept as seeds, because the generator may change.
"""

from dataclasses import dataclass
from typing import Final

from tests.faults.schedule import Fault, Kind, Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Regression:
    """A schedule that failed, and what it found."""

    schedule: Schedule
    found: str


REGRESSIONS: Final = (
    Regression(
        schedule=Schedule(seed=7, faults=(Fault(kind=Kind.NET_HALF_CLOSE, target="api.amqp", at_seconds=2.0),)),
        found="requests waited 40 s for publishes on a half-open connection, until its heartbeat failed; later: the "
        "driver cancelled what the relay waited for, which ended the relay of each API without a word",
    ),
    Regression(
        schedule=Schedule(seed=10, faults=(Fault(kind=Kind.BROKER_WIPED, at_seconds=2.0, seconds=0.5),)),
        found="a vhost that was made anew, and refused declarations for a moment, was answered with 500",
    ),
    Regression(
        schedule=Schedule(
            seed=0,
            faults=(Fault(kind=Kind.NET_ANSWERS_LOST, target="api.postgres", at_seconds=2.0, seconds=3.0),),
        ),
        found="a task whose undoing got no answer was promised with a 201, although the row was gone",
    ),
    Regression(
        schedule=Schedule(seed=54, faults=(Fault(kind=Kind.BROKER_WIPED, at_seconds=5.5),)),
        found="the dead letters that a wiped broker had held were not published again",
    ),
    Regression(
        schedule=Schedule(seed=133, faults=(Fault(kind=Kind.BROKER_OVERFLOW, at_seconds=4.8, seconds=4.4),)),
        found="dead letters were refused for ever on a channel that had been told once that their queue was full",
    ),
)
