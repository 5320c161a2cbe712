"""The embedded default: the queue set that the environment describes, for a start without manifests.

Any QueueSet manifest of the same name takes over its claim.
"""

import structlog

from dtq.domain.manifests import QueueSet
from dtq.domain.owners import EMBEDDED_UID, Owner
from dtq.domain.rows import queue_set_row
from dtq.runtime.settings import CommonSettings
from dtq_db.connections import Database
from dtq_db.resources import transaction

_log = structlog.get_logger(__name__)


def default_queue_set(settings: CommonSettings) -> QueueSet:
    """Return the queue set that DTQ_QUEUE_SET, RMQ_NAMESPACE, QUEUES and BACKOFFS describe."""
    delays = sorted({int(delay) for delay in settings.backoffs if delay >= 1 and float(delay).is_integer()})
    return QueueSet.model_validate(
        {
            "kind": "QueueSet",
            "metadata": {"name": settings.queue_set},
            "spec": {
                "namespace": settings.rmq_namespace,
                "queues": [{"name": name} for name in settings.queues],
            }
            | ({"retry": {"delaysSeconds": delays[:12]}} if delays else {}),
        }
    )


async def ensure_default(database: Database, settings: CommonSettings) -> None:
    """Write the embedded default unless a queue set of that name or prefix exists.

    Raises:
        Unavailable: the database does not answer.
    """
    row = queue_set_row(default_queue_set(settings))
    async with transaction(database) as resources:
        if await resources.queue_set(row.name) is None and await resources.prefix_holder(row) is None:
            await resources.put_claim("QueueSet", row.name, Owner(uid=EMBEDDED_UID, namespace="", name=row.name))
            await resources.put_queue_set(row)
            _log.info("default queue set declared", queue_set=row.name, namespace=row.namespace)
