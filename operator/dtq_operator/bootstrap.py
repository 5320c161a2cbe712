"""Bootstrap: creates the queue sets and task types that come with an installation, once at the start.

Existing objects are not changed and deleted ones not restored: after their creation they belong to the users.
"""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import structlog
import yaml

from dtq.domain.errors import Rejected, Unavailable
from dtq.runtime.loops import Retries
from dtq_kube.errors import Conflict, Refused
from dtq_operator.kube import Kube, Object
from dtq_reconcile.parse import parse

LAST_APPLIED: Final = "kubectl.kubernetes.io/last-applied-configuration"

_log = structlog.get_logger(__name__)


def read(file: Path) -> list[dict[str, Any]]:
    """Return the manifests of a file in the order of creation, QueueSets first.

    Raises:
        Rejected: `InvalidManifest`, or the file cannot be read.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise Rejected(
            "InvalidSettings", f"DTQ_BOOTSTRAP_FILE cannot be read ({error.strerror}): check the mount"
        ) from error
    parse(text)
    return sorted(
        (document for document in yaml.safe_load_all(text) if document), key=lambda document: str(document["kind"])
    )


async def create_absent(kube: Kube, manifests: list[dict[str, Any]], stop: asyncio.Event) -> None:
    """Create the missing objects, waiting for the API server and for the definitions.

    An object that the API server refuses is tried again too, since a policy may change. It does not block the others.
    """
    retries, left = Retries(), manifests
    while left and not stop.is_set():
        left = [manifest for manifest in left if not await _is_there(kube, manifest)]
        if left:
            retries.failed()
            await retries.pause(stop)


def _as_applied(manifest: Object) -> Object:
    """Return a manifest with the annotation that `kubectl apply` writes, so that a later `kubectl apply` finds it."""
    meta = manifest["metadata"]
    noted = {"metadata": {**meta, "annotations": dict(meta.get("annotations") or {})}}
    text = json.dumps({**manifest, **noted}, separators=(",", ":"), sort_keys=True) + "\n"
    annotations = {**noted["metadata"]["annotations"], LAST_APPLIED: text}
    return {**manifest, "metadata": {**meta, "annotations": annotations}}


async def _is_there(kube: Kube, manifest: Object) -> bool:
    kind, meta = manifest["kind"], manifest["metadata"]
    try:
        if await kube.get(kind, meta["namespace"], meta["name"]) is None:
            await kube.create(kind, meta["namespace"], _as_applied(manifest))
            _log.info("object bootstrapped", kind=kind, name=meta["name"])
    except Refused as error:
        _log.error("bootstrap refused", kind=kind, name=meta["name"], reason=str(error))
        return False
    except (Conflict, Unavailable) as error:
        # Another operator created it first, or the definitions are not installed yet.
        _log.warning("bootstrap delayed", kind=kind, name=meta["name"], reason=str(error))
        return False
    return True
