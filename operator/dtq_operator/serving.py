"""Whether task types are served: reads what the live workers registered, and keeps the status of types up to date.

The rule is in `dtq.domain.serving`. Each check is one small statement, whatever the number of types.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from dtq.domain.serving import Gap, WorkerGroup, served
from dtq_db import catalog
from dtq_operator import conditions
from dtq_operator.conditions import Condition, is_accepted
from dtq_operator.kube import Object
from dtq_operator.shared import Shared
from dtq_operator.store import Key


class Serving:
    """Checks which types the workers serve; `desired` returns a queue's desired replicas, None while unknown."""

    def __init__(self, shared: Shared, desired: Callable[[str, str], int | None]) -> None:
        self._shared = shared
        self._desired = desired
        self._groups: list[WorkerGroup] | None = None
        self._prefixes: dict[str, str] = {}
        self._told: dict[Key, Condition] = {}

    async def condition(self, key: Key) -> Condition | None:
        """Return the condition Served of a type for its status; None if the type is gone.

        Raises:
            Unavailable: there was no check yet, and Postgres does not answer.
        """
        if self._groups is None:
            await self._look()
        obj = self._shared.store.get(key)
        if obj is None:
            return None
        told = self._told[key] = self._judge(obj)
        return told

    async def once(self) -> bool:
        """Check once; return False.

        Raises:
            Unavailable: Postgres does not answer; the conditions stay.
        """
        await self._look()
        unserved = dict.fromkeys(Gap, 0)
        types = dict(self._shared.store.of_kind("TaskType"))
        self._told = {key: told for key, told in self._told.items() if key in types}
        for key, obj in types.items():
            found = self._judge(obj)
            if key in self._told and self._told[key] != found:
                self._shared.queue.add(key)
            if found.status == "False" and is_accepted(obj) and obj["spec"].get("active", True):
                unserved[Gap(found.reason)] += 1
        for gap, count in unserved.items():
            self._shared.metrics.unserved.labels(gap).set(count)
        return False

    async def _look(self) -> None:
        self._prefixes = await catalog.prefixes(self._shared.database)
        self._groups = await catalog.worker_groups(self._shared.database)

    def _judge(self, obj: Object) -> Condition:
        spec, status = obj["spec"], obj.get("status") or {}
        queue_set = (spec.get("queueSetRef") or {}).get("name", "default")
        queue = spec.get("queue", "default")
        found = served(
            obj["metadata"]["name"],
            self._prefixes.get(queue_set),
            queue,
            self._groups or (),
            grace_seconds=self._shared.pace.unserved_seconds,
        )
        created = datetime.fromisoformat(obj["metadata"]["creationTimestamp"])
        return conditions.served(
            found,
            where=f"queue {queue} of QueueSet {queue_set}",
            is_new=(datetime.now(UTC) - created).total_seconds() < self._shared.pace.unserved_seconds,
            is_idle=self._desired(queue_set, queue) == 0,
            former=status.get("conditions") or [],
        )
