"""What may happen to one task: I3 attempts, I4 terminal, I5 one success, I6 leases apart."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from tests.faults.history import EventRow
from tests.faults.invariants.index import (
    DRAINED,
    REAPED,
    SUSPECTED,
    TERMINAL,
    TIMED_OUT,
    Index,
    epoch,
    is_noted,
    status_after,
)

EXCUSES: Final = {REAPED: "lease expired", DRAINED: "worker stopped", TIMED_OUT: "attempt out of time"}
"""Why work that was done may be done again, by the note of the attempt that did it."""
UNEXCUSED: Final = "no reason"


def attempts_are_counted(index: Index) -> Iterator[str | None]:
    """I3: within the budget, numbered 1..n without gap or repeat, each started at most once."""
    for row in index.rows.values():
        wrong = _numbers(index, row.id, row.attempts)
        budget = _budget(index, row.id)
        if row.attempts > row.max_attempts:
            wrong = f"{row.attempts} attempts, {row.max_attempts} allowed"
        elif budget is not None and row.attempts > budget:
            wrong = f"{row.attempts} attempts, {budget} asked for"
        yield f"task {row.id}: {wrong}" if wrong else None
    for task_id, runs in index.runs.items():
        claimed = {event.attempt for event in index.moves(task_id) if event.event == "RUNNING"}
        for attempt, count in Counter(run.attempt for run in runs if run.phase == "start").items():
            if count > 1:
                yield f"task {task_id}: attempt {attempt} was started {count} times"
            elif attempt not in claimed:
                yield f"task {task_id}: attempt {attempt} was started and never claimed"
            else:
                yield None


def terminal_is_final(index: Index) -> Iterator[str | None]:
    """I4: nothing follows a terminal status but a redrive of what failed, and the row agrees with its events."""
    for task_id, row in index.rows.items():
        moves = index.moves(task_id)
        wrong = None
        for former, event in pairwise(moves):
            if former.event in TERMINAL and (former.event, event.event) != ("FAILED", "REDRIVE"):
                wrong = f"task {task_id}: {event.event} after {former.event}"
        if wrong is None and moves and status_after(moves[-1]) != row.status:
            wrong = f"task {task_id} is {row.status}, its last event says {moves[-1].event}"
        yield wrong


def success_is_recorded_once(index: Index) -> Iterator[str | None]:
    """I5: at most one success, written by the holder of the lease; a repeated run had lost its lease."""
    for task_id, row in index.rows.items():
        moves = index.moves(task_id)
        successes = [at for at, event in enumerate(moves) if event.event == "SUCCEEDED"]
        if len(successes) > 1:
            yield f"task {task_id}: {len(successes)} successes"
        elif row.result is not None and row.status != "SUCCEEDED":
            yield f"task {task_id} has a result and is {row.status}"
        elif successes:
            yield _foreign(index, task_id, moves, successes[0])
        for attempt, why in _done_again(index, task_id):
            done = f"task {task_id}: attempt {attempt} had done its work, and it was done again"
            yield done if why == UNEXCUSED else None


def leases_do_not_overlap(index: Index) -> Iterator[str | None]:
    """I6: no claim while another one is held, none without a lease, none taken back during its lease."""
    slack = index.limits.skew_seconds
    for task_id in index.rows:
        moves = index.moves(task_id)
        holder: EventRow | None = None
        for event in moves:
            if event.event == "RUNNING":
                lease = index.workers.get(event.worker_id or "")
                if holder is not None:
                    yield f"task {task_id}: claimed by {event.worker_id} while {holder.worker_id} held it"
                elif lease is not None and epoch(event.at) > epoch(lease.lease_expires_at) + slack:
                    yield f"task {task_id}: claimed by {event.worker_id} after its lease had ended"
                else:
                    yield None
                holder = event
                continue
            if holder is not None and is_noted(event, REAPED):
                lease = index.workers.get(holder.worker_id or "")
                if lease is not None and epoch(event.at) < epoch(lease.lease_expires_at) - slack:
                    yield f"task {task_id}: taken back from {holder.worker_id}, whose lease held"
            holder = None


def duplicates(index: Index) -> Counter[str]:
    """Return how many handler runs did again what another run of their task had done, by why they could."""
    return Counter(why for task_id in index.runs for _, why in _done_again(index, task_id))


def _numbers(index: Index, task_id: str, attempts: int) -> str | None:
    last = 0
    for event in index.moves(task_id):
        if event.event == "RUNNING":
            if event.attempt != last + 1:
                return f"attempt {event.attempt} follows attempt {last}"
            last += 1
        elif event.event == "RELEASED":
            last -= 1
    return (
        None
        if last == attempts or not index.moves(task_id)
        else f"{last} attempts by its events, {attempts} by its row"
    )


def _budget(index: Index, task_id: str) -> int | None:
    row = index.rows[task_id]
    policy = index.policies.get(row.type)
    asked = [call.max_attempts for call in index.asked(row) if call.max_attempts is not None]
    first = asked[0] if asked else policy.max_attempts if policy else None
    if first is None or row.redrives:
        return None
    return first + sum(is_noted(event, DRAINED) or is_noted(event, SUSPECTED) for event in index.moves(task_id))


def _foreign(index: Index, task_id: str, moves: list[EventRow], at: int) -> str | None:
    """Return what is wrong with the success of a task."""
    success, claim = moves[at], moves[at - 1]
    result = index.rows[task_id].result
    if claim.event != "RUNNING" or (claim.attempt, claim.worker_id) != (success.attempt, success.worker_id):
        return f"task {task_id}: success of attempt {success.attempt} without its claim"
    if isinstance(result, dict) and result.get("attempt", success.attempt) != success.attempt:
        return f"task {task_id}: the result of attempt {result['attempt']} was recorded for attempt {success.attempt}"
    ended = {run.attempt for run in index.runs.get(task_id, []) if run.phase == "end" and run.outcome == "succeeded"}
    if index.runs.get(task_id) and success.attempt not in ended:
        return f"task {task_id}: success of attempt {success.attempt}, whose handler did not come to its end"
    return None


def _done_again(index: Index, task_id: str) -> Iterator[tuple[int, str]]:
    """Of a task that was done more than once: every run but the last must have lost its right. Yields why it did."""
    moves = index.moves(task_id)
    done = sorted(
        run.attempt for run in index.runs.get(task_id, []) if run.phase == "end" and run.outcome == "succeeded"
    )
    for attempt in done[:-1]:
        ends = [after for claim, after in pairwise(moves) if claim.event == "RUNNING" and claim.attempt == attempt]
        yield attempt, next((why for end in ends for note, why in EXCUSES.items() if is_noted(end, note)), UNEXCUSED)
