"""Reconciling one TaskType: observe its row and claim, plan, and apply in the same transaction.

`dtq.domain.plan` holds the rules. The claim row is locked throughout, so two reconcilers take turns.
"""

from dataclasses import replace

from dtq.domain.manifests import TaskType
from dtq.domain.owners import Owner
from dtq.domain.plan import (
    ADOPT_ANNOTATION,
    Action,
    ObservedTaskType,
    Plan,
    Reason,
    References,
    plan_task_type,
    plan_task_type_deletion,
)
from dtq.domain.rows import TaskTypeRow, task_type_row
from dtq.runtime import failpoints
from dtq_db.connections import Database
from dtq_db.references import search
from dtq_db.resources import Resources, transaction
from dtq_reconcile.checks import refusal_of


async def reconcile_task_type(database: Database, manifest: TaskType, owner: Owner, *, dry_run: bool = False) -> Plan:
    """Make Postgres hold what a TaskType declares; return what was done, or would be done.

    Raises:
        Unavailable: the database does not answer; nothing was changed.
    """
    if refusal := refusal_of(manifest.spec):
        return Plan(refusal=refusal)
    desired = task_type_row(manifest)
    adopt = manifest.metadata.annotations.get(ADOPT_ANNOTATION) == "true"
    async with transaction(database) as resources:
        observed = await _observe(resources, desired.type, desired.queue_set)
        plan = plan_task_type(desired, owner, observed, adopt=adopt)
        if not dry_run:
            await _apply(resources, plan, owner, desired)
    return plan


async def release_task_type(
    database: Database, name: str, owner: Owner, *, policy: str | None = None, dry_run: bool = False
) -> Plan:
    """Release a TaskType as its deletion policy says; return what was done, or would be done.

    `policy` is the current one if the manifest is known; otherwise the policy in the row applies.

    Raises:
        Unavailable: the database does not answer; nothing was changed.
    """
    plan = await _release(database, name, owner, None, policy=policy, dry_run=dry_run)
    if plan.refusal is None or plan.refusal.reason is not Reason.IN_USE:
        return plan
    # The type is inactive now, so a search can complete. It takes long, so it must not hold the row's lock.
    references = await search(database, name, is_inactive=not dry_run)
    return await _release(database, name, owner, references, policy=policy, dry_run=dry_run)


async def _release(
    database: Database, name: str, owner: Owner, references: References | None, *, policy: str | None, dry_run: bool
) -> Plan:
    async with transaction(database) as resources:
        observed = replace(await _observe(resources, name, None), references=references)
        row = observed.row and (replace(observed.row, deletion_policy=policy) if policy else observed.row)
        plan = plan_task_type_deletion(row, owner, observed, name)
        if not dry_run:
            await _apply(resources, plan, observed.claim or owner, row)
    return plan


async def _observe(resources: Resources, name: str, queue_set: str | None) -> ObservedTaskType:
    claim = await resources.claim("TaskType", name)
    referred = await resources.queue_set(queue_set) if queue_set else None
    return ObservedTaskType(
        claim=claim,
        row=await resources.task_type(name),
        queues=None if referred is None else frozenset(queue.name for queue in referred.queues),
        queue_set_owner=await resources.owner("QueueSet", queue_set) if queue_set else None,
    )


async def _apply(resources: Resources, plan: Plan, owner: Owner, row: TaskTypeRow | None) -> None:
    for step in plan.steps:
        match step.action:
            case Action.CLAIM:
                await resources.put_claim("TaskType", step.target, owner)
                await failpoints.hit("reconcile.claim_written")
            case Action.CREATE | Action.UPDATE:
                assert row is not None
                await resources.put_task_type(row)
                await failpoints.hit("reconcile.row_written")
            case Action.DEACTIVATE:
                await resources.deactivate_task_type(step.target)
                await failpoints.hit("reconcile.row_deleted")
            case Action.DELETE:
                await resources.delete_task_type(step.target)
                await failpoints.hit("reconcile.row_deleted")
            case Action.RELEASE:
                await resources.delete_claim("TaskType", step.target, owner)
            case Action.DECLARE:
                raise AssertionError("a task type has no topology")
