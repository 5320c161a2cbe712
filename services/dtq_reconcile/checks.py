"""Checks of a TaskType that the models cannot express: is the payload schema allowed, does a cron expression match?"""

import json
from datetime import UTC, datetime

from dtq.domain.json_text import unstorable
from dtq.domain.manifests import Schedule, TaskTypeSpec
from dtq.domain.plan import Reason, Refusal
from dtq.domain.schedules import BadSchedule, next_fire
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
        next_fire(schedule.cron, schedule.timezone, datetime.now(UTC))
    except BadSchedule as error:
        return str(error)
    for path, message in unstorable(schedule.payload, "payload"):
        return f"{path}: {message}"
    if spec.payload_schema is None:
        return None
    problems = PayloadValidator(spec.payload_schema).problems(schedule.payload, len(json.dumps(schedule.payload)))
    return "; ".join(f"{problem.path}: {problem.message}" for problem in problems) or None
