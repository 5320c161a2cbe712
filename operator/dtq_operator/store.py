"""The store: every TaskType and QueueSet as the watch last reported it, for the reconciler to start from.

Only answers of the API server change the store.
"""

from collections.abc import Iterator
from typing import NamedTuple, TypeVar

from pydantic import ValidationError

from dtq.domain.manifests import API_VERSION, QueueSet, TaskType
from dtq.domain.owners import Owner
from dtq_operator.kube import Object

M = TypeVar("M", TaskType, QueueSet)


class Key(NamedTuple):
    """Identifies an object."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.namespace}/{self.name}"


def key_of(kind: str, obj: Object) -> Key:
    """Return an object's key."""
    return Key(kind, obj["metadata"]["namespace"], obj["metadata"]["name"])


class Store:
    """Objects by key, and the last version of deleted objects that are not released yet."""

    def __init__(self) -> None:
        self._objects: dict[Key, Object] = {}
        self.gone: dict[Key, Object] = {}

    def put(self, key: Key, obj: Object) -> None:
        """Store an object that the API server returned, unless the store has a newer version."""
        for known in (self._objects.get(key), self.gone.get(key)):
            if known is not None and version(known) > version(obj):
                return
        self._objects[key] = obj
        self.gone.pop(key, None)

    def remove(self, key: Key, obj: Object) -> None:
        """Record that an object is gone, unless another object has its name by now."""
        known = self._objects.get(key)
        if known is None or known["metadata"]["uid"] == obj["metadata"]["uid"]:
            self._objects.pop(key, None)
            self.gone[key] = obj

    def get(self, key: Key) -> Object | None:
        """Return an object, or None."""
        return self._objects.get(key)

    def of_kind(self, kind: str) -> Iterator[tuple[Key, Object]]:
        """Return every object of a kind."""
        return iter([(key, obj) for key, obj in self._objects.items() if key.kind == kind])

    def present(self, model: type[M]) -> Iterator[tuple[Key, Object, M]]:
        """Yield the readable objects of a kind that are not being deleted; the reconciler reports the others."""
        for key, obj in self.of_kind(model.__name__):
            if not obj["metadata"].get("deletionTimestamp"):
                try:
                    manifest = parse(model, obj)
                except ValidationError:
                    continue
                yield key, obj, manifest

    def __len__(self) -> int:
        return len(self._objects)


def version(obj: Object) -> int:
    """Return an object's resourceVersion as a number; since 1.35 the API guarantees that versions can be compared."""
    text = str(obj["metadata"].get("resourceVersion", "0"))
    return int(text) if text.isdigit() else 0


def parse(model: type[M], obj: Object) -> M:
    """Return the manifest that an object holds.

    Raises:
        ValidationError: the object does not match the current CRD.
    """
    fields = {name: obj[name] for name in ("apiVersion", "metadata", "spec") if name in obj}
    return model.model_validate({"apiVersion": API_VERSION, "kind": model.__name__} | fields)


def owner_of(obj: Object) -> Owner:
    """Return an object's identity as its claim stores it."""
    meta = obj["metadata"]
    return Owner(uid=meta["uid"], namespace=meta["namespace"], name=meta["name"], generation=meta.get("generation", 0))
