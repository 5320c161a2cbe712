"""The path of a message: I7 nothing forgotten, I8 dead letters, I9 confirms that hold, I17 not too early."""

from collections.abc import Iterator
from typing import Final

from tests.faults.invariants.index import DRAINED, REAPED, Index, epoch, is_noted

DESTROYS_MESSAGES: Final = frozenset(
    {"broker-queue-deleted", "broker-wiped", "broker-overflow", "broker-restart", "broker-kill"}
)
"""Faults after which a confirmed message may be gone; an end of the broker takes the retries that move just then."""


def nothing_is_forgotten(index: Index) -> Iterator[str | None]:
    """I7: due tasks are claimed, and tasks of a lost lease are taken back, soon after the faults."""
    limits = index.limits
    for wait in index.waits():
        if wait.due is None:
            continue
        claimed = index.ended_at if wait.claimed is None else epoch(wait.claimed.at)
        waited = claimed - max(wait.due, index.healed_at)
        what = f"task {wait.task_id} waited {waited:.1f} s for a claim after its {wait.since.event}"
        yield what if waited > limits.waiting_seconds else None
    for task_id in index.rows:
        for claim, following in index.steps(task_id):
            lease = index.workers.get(claim.worker_id or "")
            if claim.event != "RUNNING" or lease is None or (following is not None and not is_noted(following, REAPED)):
                continue
            until = index.ended_at if following is None else epoch(following.at)
            late = until - max(epoch(lease.lease_expires_at), index.healed_at)
            what = f"task {task_id} was held {late:.1f} s longer than the lease of {claim.worker_id}"
            yield what if late > limits.reap_seconds else None


def dead_letters_match(index: Index) -> Iterator[str | None]:
    """I8: the dead letter queue holds one message for each failed task, and no other."""
    letters = {letter.id for letter in index.history.dlq}
    failed = {row.id for row in index.rows.values() if row.status == "FAILED"}
    for task_id in failed | letters:
        if task_id not in letters:
            yield f"task {task_id} failed and has no dead letter"
        elif task_id not in failed:
            status = index.rows[task_id].status if task_id in index.rows else "gone"
            yield f"a dead letter of task {task_id}, which is {status}"
        else:
            yield None


def confirms_hold(index: Index) -> Iterator[str | None]:
    """I9: what the broker confirmed it holds, unless a fault destroyed it."""
    excused = [fault.name for fault in index.history.faults if fault.name in DESTROYS_MESSAGES]
    for metric in index.history.metrics:
        if metric.name == "dq_relay_lost_total":
            swallowed = metric.value > 0 and not excused
            yield f"{metric.process}: {metric.value:g} confirmed messages were never there" if swallowed else None


def nothing_is_early(index: Index) -> Iterator[str | None]:
    """I17: no attempt begins before it is due, by `run_at` or by the back-off."""
    for wait in index.waits():
        if wait.due is None or wait.claimed is None or wait.claimed.event != "RUNNING":
            continue
        if wait.since.event == "RETRY" and is_noted(wait.since, DRAINED):
            continue
        early = wait.due - epoch(wait.claimed.at)
        what = f"task {wait.task_id} was claimed {early:.1f} s before it was due after its {wait.since.event}"
        yield what if early > index.limits.early_seconds else None
