"""What a client may rely on: I1 nothing lost, I2 nothing unexpected, I10 idempotency."""

from collections import defaultdict
from collections.abc import Iterator

from tests.faults.history import Call
from tests.faults.invariants.index import CRON, TERMINAL, Index, accepted, epoch, refused, signature, status_after


def accepted_tasks_end(index: Index) -> Iterator[str | None]:
    """I1: accepted means terminal, within T_max after the faults."""
    for task_id, call in index.acknowledged.items():
        row, moves = index.rows.get(task_id), index.moves(task_id)
        ended = [event for event in moves if event.event in TERMINAL]
        if row is None and not ended:
            yield f"lost: task {task_id} was accepted by call {call.n} and has no row"
        elif row is not None and row.status not in TERMINAL:
            yield f"lost: task {task_id} was accepted by call {call.n} and is still {row.status}"
        elif ended:
            due = max(index.healed_at, call.ended_at, epoch(call.run_at) if call.run_at else 0.0)
            late = epoch(ended[0].at) - due
            yield f"task {task_id} ended {late:.0f} s after it could" if late > index.limits.terminal_seconds else None


def nothing_is_unexpected(index: Index) -> Iterator[str | None]:
    """I2: rows, events and runs belong to an accepted request or one in doubt."""
    yield from _rows(index)
    for task_id in index.runs.keys() - index.rows.keys():
        if not index.moves(task_id):
            yield f"unexpected: a handler ran for task {task_id}, which nobody knows"
    for task_id in index.events.keys() - index.rows.keys():
        last = index.moves(task_id)[-1:]
        if not last or status_after(last[0]) not in TERMINAL:
            yield f"unexpected: task {task_id} has events and no row"


def _rows(index: Index) -> Iterator[str | None]:
    made: dict[str, int] = defaultdict(int)
    for row in index.rows.values():
        if (row.idempotency_key or "").startswith(CRON):
            continue
        calls = index.asked(row)
        made[signature(row.type, row.payload, row.idempotency_key)] += 1
        if not calls:
            yield f"unexpected: nobody asked for task {row.id}"
        elif all(refused(call) for call in calls):
            yield f"unexpected: task {row.id} was left by call {calls[0].n}, which was answered {calls[0].status}"
        else:
            yield None
    for asked, count in made.items():
        most = sum(not refused(call) for call in index.calls.get(asked, []))
        if count > most > 0:
            yield f"unexpected: {count} tasks of {most} requests: {asked[:200]}"


def keys_are_idempotent(index: Index) -> Iterator[str | None]:
    """I10: one key of a type, one task; another payload is refused."""
    by_key: dict[tuple[str, str], list[Call]] = defaultdict(list)
    for call in index.history.client:
        if call.key is not None:
            by_key[call.type, call.key].append(call)
    rows: dict[tuple[str, str], int] = defaultdict(int)
    for row in index.rows.values():
        if row.idempotency_key is not None:
            rows[row.type, row.idempotency_key] += 1
    for (type_, key), calls in by_key.items():
        ids = {call.task_id for call in calls if accepted(call)}
        bodies = {signature(call.type, call.payload, None) for call in calls if accepted(call)}
        first = sum(accepted(call) and not call.replayed for call in calls)
        if len(ids) > 1:
            yield f"key {key}: {len(ids)} tasks: {sorted(map(str, ids))}"
        elif len(bodies) > 1:
            yield f"key {key}: {len(bodies)} different bodies were accepted"
        elif first > 1:
            yield f"key {key}: {first} answers claim to have stored the task"
        elif rows[type_, key] > 1:
            yield f"key {key}: {rows[type_, key]} rows"
        else:
            yield None
