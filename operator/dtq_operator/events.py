"""Kubernetes Events, as `kubectl describe` shows them, without duplicates.

An event's name is derived from its object and its content, so that neither a restart nor a second operator records it
twice. An event that cannot be recorded blocks nothing: it waits and is tried again periodically.
"""

import hashlib
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import Final

import structlog

from dtq.domain.errors import Unavailable
from dtq_kube.errors import Conflict, NotFound
from dtq_operator.conditions import MESSAGE_CHARS_MAX
from dtq_operator.kube import Kube, Object

REPEAT_SECONDS: Final = 600.0
"""How long the same event of the same object is not repeated, in seconds."""
REMEMBERED_MAX: Final = 10_000
"""Most events remembered; the oldest are dropped."""
WAITING_MAX: Final = 1_000
"""Most events that wait to be recorded; the oldest are dropped."""
COMPONENT: Final = "dtq-operator"

_log = structlog.get_logger(__name__)


class Events:
    """Records events."""

    def __init__(self, kube: Kube) -> None:
        self._kube = kube
        self._recorded: OrderedDict[str, float] = OrderedDict()
        self._waiting: OrderedDict[str, Object] = OrderedDict()

    async def record(self, kind: str, obj: Object, reason: str, message: str, *, warning: bool = False) -> None:
        """Record that something happened to an object, unless the same event was recorded recently."""
        meta = obj["metadata"]
        digest = hashlib.sha256(f"{meta['uid']}/{reason}/{message}".encode()).hexdigest()[:16]
        now = time.monotonic()
        if now - self._recorded.get(digest, float("-inf")) < REPEAT_SECONDS:
            return
        self._recorded[digest] = now
        self._recorded.move_to_end(digest)
        while len(self._recorded) > REMEMBERED_MAX:
            self._recorded.popitem(last=False)
        at = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": f"{meta['name']}.{digest}", "namespace": meta["namespace"]},
            "involvedObject": {
                "apiVersion": obj.get("apiVersion"),
                "kind": kind,
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "reason": reason,
            "message": message[:MESSAGE_CHARS_MAX],
            "type": "Warning" if warning else "Normal",
            "firstTimestamp": at,
            "lastTimestamp": at,
            "count": 1,
            "source": {"component": COMPONENT},
            "reportingComponent": COMPONENT,
        }
        await self._try(digest, event)

    async def catch_up(self) -> bool:
        """Try again to record waiting events, up to the first that fails again; return False.

        The failed event moves to the end of the queue, so that one namespace's refusal does not block the others.
        """
        for digest, event in list(self._waiting.items()):
            if not await self._try(digest, event):
                break
        return False

    async def _try(self, digest: str, event: Object) -> bool:
        self._waiting.pop(digest, None)
        try:
            await self._kube.record_event(event["metadata"]["namespace"], event)
        except NotFound as error:
            self._recorded.pop(digest, None)  # its namespace is gone; otherwise the next reconcile records it again
            _log.warning("event discarded", event_reason=event["reason"], reason=str(error))
        except (Conflict, Unavailable) as error:
            self._waiting[digest] = event
            while len(self._waiting) > WAITING_MAX:
                self._waiting.popitem(last=False)
            _log.warning("event delayed", event_reason=event["reason"], reason=str(error))
            return False
        return True
