"""The state after a run: I15 no leak, I18 as declared, I19 progress for all, I20 correct metrics."""

from collections import Counter
from collections.abc import Iterator

import msgspec

from tests.faults.invariants.index import REAPED, TERMINAL, Index, accepted, is_noted


def secrets_stay(index: Index) -> Iterator[str | None]:
    """I15: what a payload holds is seen nowhere but in its column."""
    canaries = {str(call.payload["canary"]) for call in index.history.client if "canary" in call.payload}
    if not canaries:
        return
    history = index.history
    places = {
        "last_error": "\n".join(row.last_error or "" for row in history.tasks),
        "task_events.note": "\n".join(event.note or "" for event in history.events),
        "an answer": "\n".join(call.error or "" for call in history.client),
        "the metrics": msgspec.json.encode(history.metrics).decode(),
        **history.logs,
    }
    for name, text in places.items():
        seen = [canary for canary in canaries if canary in text]
        yield f"{len(seen)} payloads are seen in {name}" if seen else None


def it_is_as_declared(index: Index) -> Iterator[str | None]:
    """I18: what is declared is there, what was deleted is gone, and nothing was deleted with something in it."""
    for declared in index.history.declared:
        if declared.emptied:
            yield f"{declared.kind} {declared.name} was deleted with something in it"
        elif declared.wanted != declared.found:
            yield f"{declared.kind} {declared.name} is {'missing' if declared.wanted else 'still there'}"
        else:
            yield None


def every_type_makes_progress(index: Index) -> Iterator[str | None]:
    """I19: no type stands still while others go on."""
    accepted_by = Counter(index.rows[id_].type for id_ in index.acknowledged if id_ in index.rows)
    ended_by = Counter(row.type for row in index.rows.values() if row.status in TERMINAL)
    for type_, count in accepted_by.items():
        yield None if ended_by[type_] else f"none of {count} tasks of {type_} came to its end"


def metrics_are_true(index: Index) -> Iterator[str | None]:
    """I20: counters are what the events say; they may miss something only where a process died or was broken."""
    events = index.history.events
    reaped = sum(is_noted(event, REAPED) for event in events if event.event in ("RETRY", "FAILED"))
    truth = {
        ("dq_tasks_finished_total", "outcome", "succeeded"): sum(event.event == "SUCCEEDED" for event in events),
        ("dq_retries_total", "", ""): sum(event.event == "RETRY" and not is_noted(event, REAPED) for event in events),
        ("dq_dead_letters_total", "", ""): sum(
            event.event == "FAILED" and not is_noted(event, REAPED) for event in events
        ),
        ("dq_reaped_total", "", ""): reaped,
        ("dq_redriven_total", "", ""): sum(event.event == "REDRIVE" for event in events),
        ("dq_tasks_running", "", ""): sum(row.status == "RUNNING" for row in index.rows.values()),
    }
    answered = sum(accepted(call) for call in index.history.client)
    most = answered if index.is_undisturbed else len(index.history.client)
    truth["dq_enqueue_total", "status", "ok"] = most
    for (name, label, value), wanted in truth.items():
        found = [
            metric.value
            for metric in index.history.metrics
            if metric.name == name and metric.labels.get(label, "") == value
        ]
        if not found:
            continue
        total = sum(found)
        wrong = total != wanted if index.is_undisturbed else total > wanted
        yield f"{name} says {total:g}, the history {wanted}" if wrong else None
