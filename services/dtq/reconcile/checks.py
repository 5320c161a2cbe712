"""Checks of a TaskType that its shape cannot express: is the schema allowed, does the cron expression fire?

Owns the libraries that judge them. Must never change a manifest.
"""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from dtq.domain.json_text import unstorable
from dtq.domain.manifests import Schedule, TaskTypeSpec
from dtq.domain.plan import Reason, Refusal
from dtq.domain.schemas import PayloadValidator, check_schema


def refusal_of(spec: TaskTypeSpec) -> Refusal | None:
    """Return why a TaskType's spec cannot be served, or None."""
    for path, message in unstorable(spec.payload_schema, "spec.payloadSchema"):
        return Refusal(reason=Reason.INVALID_SCHEMA, message=f"{path}: {message}")
    if spec.payload_schema is not None and (problems := check_schema(spec.payload_schema)):
        text = "; ".join(f"{problem.path}: {problem.message}" for problem in problems)
        return Refusal(reason=Reason.INVALID_SCHEMA, message=text)
    for at, schedule in enumerate(spec.schedule):
        if trouble := _schedule_trouble(schedule, spec):
            return Refusal(reason=Reason.INVALID_SCHEDULE, message=f"spec.schedule[{at}]: {trouble}")
    return None


def _schedule_trouble(schedule: Schedule, spec: TaskTypeSpec) -> str | None:
    try:
        next(CronSim(schedule.cron, datetime.now(UTC).astimezone(ZoneInfo(schedule.timezone))))
    except (CronSimError, StopIteration):
        return f"cron {schedule.cron!r} never fires: write five fields, such as 0 6 * * 1"
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return f"timezone {schedule.timezone!r} is unknown: write an IANA name such as Europe/Berlin"
    for path, message in unstorable(schedule.payload, "payload"):
        return f"{path}: {message}"
    if spec.payload_schema is None:
        return None
    problems = PayloadValidator(spec.payload_schema).problems(schedule.payload)
    return "; ".join(f"{problem.path}: {problem.message}" for problem in problems) or None
