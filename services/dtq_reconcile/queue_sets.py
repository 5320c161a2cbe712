"""Reconciling one QueueSet: its claim, then the topology in RabbitMQ, then its rows.

Rows promise that tasks run, so they are written after the topology is declared, and deleted after it is deleted. The
next reconcile completes what a crash interrupted. `dtq.domain.plan` holds the rules.
"""

from collections.abc import Collection
from dataclasses import asdict, dataclass, field, replace

from dtq.broker.admin import Admin, connected
from dtq.domain.manifests import QueueSet, QueueSetSpec
from dtq.domain.owners import Owner
from dtq.domain.plan import (
    ADOPT_ANNOTATION,
    Action,
    ObservedQueueSet,
    Plan,
    Step,
    plan_queue_set,
    plan_queue_set_deletion,
    removed_queues,
)
from dtq.domain.rows import QueueSetRow, queue_set_row
from dtq.domain.stored import queue_set_of
from dtq.domain.topology import Topology, dead_letter_queue, topology_of
from dtq.runtime import failpoints
from dtq_db.connections import Database
from dtq_db.maintenance import dead_letters_lost
from dtq_db.resources import Resources, transaction


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconciled:
    """What was done for a queue set, or would be done.

    Attributes:
        mismatched: the difference, by the name of each queue or exchange that exists with other arguments.
    """

    plan: Plan
    mismatched: dict[str, str] = field(default_factory=dict)


async def reconcile_queue_set(
    database: Database,
    rmq_url: str,
    manifest: QueueSet,
    owner: Owner,
    *,
    lost: set[str] | None = None,
    dry_run: bool = False,
) -> Reconciled:
    """Make Postgres and RabbitMQ hold what a QueueSet declares.

    The name is claimed first, then the topology is declared, then the rows are written: a spec that RabbitMQ refuses
    never comes into force, and the earlier spec stays in force.

    `lost` receives the names of queues that were missing and have been re-created. Passed again after a failure, it
    makes the next call report what the failed call repaired.

    Raises:
        Unavailable: Postgres or RabbitMQ does not answer; the next call finds what was already done.
        Rejected: RabbitMQ does not permit us to declare; the rows are unchanged.
    """
    topology = topology_of(manifest.spec)
    async with connected(rmq_url) as admin:
        missing = frozenset(name for name, count in (await admin.ready(topology)).items() if count is None)
        async with transaction(database) as resources:
            plan, _ = await _plan(resources, manifest, owner, missing)
            if not dry_run:
                await _apply_rows(resources, _claims_only(plan), owner, None)
        claims = _claims_only(plan).steps
        if dry_run or plan.refusal:
            return Reconciled(plan=plan)

        async def before_making(queues: frozenset[str]) -> None:
            # Once the queue is there, nothing shows that its copies are lost: a crash must not come in between.
            if dead_letter_queue(manifest.spec.namespace) in queues:
                await dead_letters_lost(database, manifest.metadata.name)

        declared = await admin.declare(topology, lost, before_making=before_making)
        await failpoints.hit("reconcile.topology_declared")
        async with transaction(database) as resources:
            claim = await resources.claim("QueueSet", manifest.metadata.name)
            # Without a claim, the object was deleted and its name released meanwhile.
            plan, before = await _plan(resources, manifest, owner, missing) if claim else (Plan(), None)
            await _apply_rows(resources, plan, owner, queue_set_row(manifest))
        await failpoints.hit("reconcile.rows_committed")
        if claim is None or plan.refusal:
            await _take_back_if_gone(database, admin, manifest.metadata.name, topology, declared.missing)
            return Reconciled(plan=plan)
        if before is not None:
            await _retire(admin, before, manifest.spec)
        late = tuple(
            Step(action=Action.DECLARE, target=name, detail="missing in RabbitMQ")
            for name in sorted(declared.missing - missing)
        )
        # Queues that went missing between the observation and the declaration were repaired too, and are reported too.
        return Reconciled(plan=replace(plan, steps=claims + plan.steps + late), mismatched=declared.mismatched)


async def release_queue_set(
    database: Database,
    rmq_url: str,
    name: str,
    owner: Owner,
    *,
    policy: str | None = None,
    force: bool = False,
    dry_run: bool = False,
) -> Plan:
    """Release a QueueSet as its deletion policy says; return what was done, or would be done.

    `policy` is the current one if the manifest is known; otherwise the policy in the row applies.

    Raises:
        Unavailable: Postgres, or RabbitMQ where the policy needs it, does not answer.
        Rejected: RabbitMQ does not permit us to inspect or to delete.
    """
    async with transaction(database) as resources:  # other reconcilers of this name wait until it ends
        observed = await _observe(resources, name, None)
        if policy and observed.row:
            observed = replace(observed, row=replace(observed.row, deletion_policy=policy))
        plan = plan_queue_set_deletion(observed.row, owner, observed, name, force=force)
        if observed.row is not None and _deletes(plan):
            topology = topology_of(_spec_of(observed.row))
            async with connected(rmq_url) as admin:
                observed = replace(observed, ready=await admin.holding(topology))
                plan = plan_queue_set_deletion(observed.row, owner, observed, name, force=force)
                if not dry_run and _deletes(plan):
                    await admin.delete(topology)
                    await failpoints.hit("reconcile.topology_deleted")
        if not dry_run:
            await _apply_rows(resources, plan, observed.claim or owner, observed.row)
    return plan


def _spec_of(row: QueueSetRow) -> QueueSetSpec:
    """Return the spec that the rows hold, as far as this release understands them."""
    return queue_set_of(asdict(row), [asdict(queue) for queue in row.queues]).spec


def _deletes(plan: Plan) -> bool:
    return any(step.action is Action.DELETE for step in plan.steps)


async def _plan(
    resources: Resources, manifest: QueueSet, owner: Owner, missing: frozenset[str]
) -> tuple[Plan, QueueSetRow | None]:
    """Return the plan for the current state, and the current row."""
    desired = queue_set_row(manifest)
    observed = replace(await _observe(resources, desired.name, desired), missing=missing)
    adopt = manifest.metadata.annotations.get(ADOPT_ANNOTATION) == "true"
    return plan_queue_set(desired, owner, observed, adopt=adopt), observed.row


def _claims_only(plan: Plan) -> Plan:
    return replace(plan, steps=tuple(step for step in plan.steps if step.action is Action.CLAIM))


async def _observe(resources: Resources, name: str, desired: QueueSetRow | None) -> ObservedQueueSet:
    claim = await resources.claim("QueueSet", name)
    row = await resources.queue_set(name)
    gone = removed_queues(row, desired) if desired else [queue.name for queue in row.queues] if row else []
    holder = await resources.prefix_holder(desired) if desired else None
    return ObservedQueueSet(
        claim=claim,
        row=row,
        prefix_holder=holder,
        prefix_owner=await resources.owner("QueueSet", holder) if holder else None,
        used_queues=await resources.used_queues(name),
        waiting={queue: await resources.waiting(name, queue) for queue in gone},
    )


async def _apply_rows(resources: Resources, plan: Plan, owner: Owner, row: QueueSetRow | None) -> None:
    for step in plan.steps:
        match step.action:
            case Action.CLAIM:
                await resources.put_claim("QueueSet", step.target, owner)
                await failpoints.hit("reconcile.claim_written")
            case Action.CREATE | Action.UPDATE:
                assert row is not None
                await resources.put_queue_set(row)
                await failpoints.hit("reconcile.row_written")
            case Action.DELETE:
                await resources.delete_queue_set(step.target)
                await failpoints.hit("reconcile.row_deleted")
            case Action.RELEASE:
                await resources.delete_claim("QueueSet", step.target, owner)
            case Action.DECLARE:
                pass  # the whole topology is declared after the commit
            case Action.DEACTIVATE:
                raise AssertionError("a queue set is not deactivated: it is paused")


async def _take_back_if_gone(
    database: Database, admin: Admin, name: str, topology: Topology, made: Collection[str]
) -> None:
    """Delete the queues created here while the queue set was being deleted: they would have no owner."""
    async with transaction(database) as resources:
        if (await _observe(resources, name, None)).row is None:
            queues = tuple(queue for queue in topology.queues if queue.name in made)
            await admin.delete(replace(topology, queues=queues))


async def _retire(admin: Admin, before: QueueSetRow, spec: QueueSetSpec) -> None:
    """Unbind the queues that are no longer declared; they drain, and must be deleted by hand."""
    kept = {queue.name for queue in topology_of(spec).queues}
    former = topology_of(_spec_of(before))
    gone = tuple(
        binding
        for binding in former.bindings
        if binding.queue not in kept or binding.routing_key not in {queue.name for queue in spec.queues}
    )
    await admin.unbind(replace(former, bindings=gone))
