"""`dtq apply`, `get` and `delete`: the operator's work, done once, without a cluster.

Reads files and prints plans; parser, plan and apply are the same as the operator's.
Every command raises `Unavailable` when Postgres or RabbitMQ does not answer.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from dtq.domain.errors import Rejected
from dtq.domain.manifests import Manifest, TaskType
from dtq.domain.owners import EMBEDDED_UID, LOCAL_UID, Owner
from dtq.domain.plan import FORCE_DELETE_ANNOTATION, Plan
from dtq.domain.rows import QueueSetRow, TaskTypeRow
from dtq.runtime.settings import CommonSettings
from dtq_db import resources
from dtq_db.connections import Database
from dtq_db.resources import Kind
from dtq_reconcile.parse import parse
from dtq_reconcile.queue_sets import reconcile_queue_set, release_queue_set
from dtq_reconcile.task_types import reconcile_task_type, release_task_type

_KINDS: Final[dict[str, Kind]] = {
    "tasktypes": "TaskType",
    "tasktype": "TaskType",
    "tt": "TaskType",
    "queuesets": "QueueSet",
    "queueset": "QueueSet",
    "qs": "QueueSet",
}


def read(path: Path) -> list[Manifest]:
    """Return the manifests of a file, a folder or stdin, queue sets first.

    Raises:
        Rejected: a file cannot be read, or a manifest is wrong.
    """
    if str(path) == "-":
        found = parse(sys.stdin.read(), "stdin")
    else:
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not files:
            raise Rejected("InvalidManifest", f"{path} contains no *.yaml or *.yml file")
        found = [manifest for file in files for manifest in parse(_text(file), str(file))]
    return sorted(found, key=lambda manifest: manifest.kind != "QueueSet")


async def apply(settings: CommonSettings, manifests: list[Manifest], *, dry_run: bool, if_absent: bool = False) -> int:
    """Apply manifests and print what was done; return how many were refused.

    With `if_absent`, objects that are already declared stay unchanged.
    """
    refused = 0
    async with Database(settings.db_dsn.get_secret_value(), name="dtq-apply") as database:
        for manifest in manifests:
            owner = _owner(manifest)
            if if_absent and await _is_declared(database, manifest):
                print(f"{_target(manifest)}: already declared, kept unchanged")
                continue
            mismatched: dict[str, str] = {}
            if isinstance(manifest, TaskType):
                plan = await reconcile_task_type(database, manifest, owner, dry_run=dry_run)
            else:
                done = await reconcile_queue_set(database, settings.rmq_url, manifest, owner, dry_run=dry_run)
                plan, mismatched = done.plan, done.mismatched
            refused += _show(manifest, plan, "unchanged", dry_run=dry_run)
            for name, reason in mismatched.items():
                print(f"  {name} exists with other arguments and is kept unchanged: {reason}")
            refused += bool(mismatched)
    return refused


async def delete(settings: CommonSettings, manifests: list[Manifest], *, dry_run: bool) -> int:
    """Release the objects of manifests, task types first; return how many were refused."""
    refused = 0
    async with Database(settings.db_dsn.get_secret_value(), name="dtq-delete") as database:
        for manifest in reversed(manifests):
            owner, name = _owner(manifest), manifest.metadata.name
            if isinstance(manifest, TaskType):
                plan = await release_task_type(database, name, owner, dry_run=dry_run)
            else:
                force = manifest.metadata.annotations.get(FORCE_DELETE_ANNOTATION) == name
                plan = await release_queue_set(database, settings.rmq_url, name, owner, force=force, dry_run=dry_run)
            refused += _show(manifest, plan, "not declared by dtq apply: nothing to do", dry_run=dry_run)
    return refused


async def get(settings: CommonSettings, kind: str, name: str | None, output: str) -> bool:
    """Print the objects in force; return whether there was any.

    Raises:
        Rejected: the kind or the output format does not exist.
    """
    known = _KINDS.get(kind.lower())
    if known is None or output not in ("table", "name", "json"):
        raise Rejected("Usage", "write `dtq get tasktypes|queuesets [NAME] [-o table|name|json]`")
    async with Database(settings.db_dsn.get_secret_value(), name="dtq-get") as database:
        names = [name] if name else await resources.names(database, known)
        rows: list[TaskTypeRow | QueueSetRow] = []
        async with resources.transaction(database) as found:
            for object_name in names:
                row = await (found.task_type(object_name) if known == "TaskType" else found.queue_set(object_name))
                if row is not None:
                    rows.append(row)
    if not rows:
        print(f"no {known} {name or ''}".rstrip() + " is declared: use `dtq apply -f FILE`", file=sys.stderr)
        return False
    _print_rows(rows, output)
    return True


def _print_rows(rows: list[TaskTypeRow | QueueSetRow], output: str) -> None:
    if output == "json":
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    table = [_columns(row) for row in rows]
    if output == "name":
        print("\n".join(line[0] for line in table))
        return
    header = (
        ("NAME", "QUEUESET", "QUEUE", "ATTEMPTS", "TIMEOUT", "ACTIVE")
        if isinstance(rows[0], TaskTypeRow)
        else ("NAME", "PREFIX", "QUEUES", "RETRIES", "PAUSED")
    )
    widths = [max(len(line[at]) for line in [header, *table]) for at in range(len(header))]
    for line in [header, *table]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _columns(row: TaskTypeRow | QueueSetRow) -> tuple[str, ...]:
    if isinstance(row, TaskTypeRow):
        timeout, active = f"{row.timeout_seconds}s", "yes" if row.active else "no"
        return (row.type, row.queue_set, row.default_queue, str(row.default_max_attempts), timeout, active)
    queues = ",".join(queue.name for queue in row.queues)
    retries = ",".join(f"{delay}s" for delay in row.retry_delays_seconds)
    return (row.name, row.namespace, queues, retries, "yes" if row.paused else "no")


def _show(manifest: Manifest, plan: Plan, idle: str, *, dry_run: bool) -> bool:
    """Print what a plan did, or would do; return whether the object was refused."""
    target = _target(manifest)
    for step in plan.steps:
        line = f"{target}: {'would ' if dry_run else ''}{step.action} {step.target}"
        print(line + (f" ({step.detail})" if step.detail else ""))
    if plan.refusal:
        print(f"{target}: refused: {plan.refusal.reason}: {plan.refusal.message}", file=sys.stderr)
    elif not plan.steps:
        print(f"{target}: {idle}")
    return plan.refusal is not None


def _target(manifest: Manifest) -> str:
    return f"{manifest.kind.lower()}/{manifest.metadata.name}"


async def _is_declared(database: Database, manifest: Manifest) -> bool:
    """Return whether that name is declared; a process's own default does not count."""
    async with resources.transaction(database) as found:
        claim = await found.owner(manifest.kind, manifest.metadata.name)
    return claim is not None and claim.uid != EMBEDDED_UID


def _owner(manifest: Manifest) -> Owner:
    return Owner(uid=LOCAL_UID, namespace=manifest.metadata.namespace, name=manifest.metadata.name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected("InvalidManifest", f"cannot read {path}: {error}") from error
