"""Owners: which object a name belongs to."""

from dataclasses import dataclass
from typing import Final

LOCAL_UID: Final = "local"
"""Owner of what `dtq apply` declared: an object of a cluster may take it over, but not the reverse."""
EMBEDDED_UID: Final = "embedded"
"""Owner of the queue set that a process created from its environment: any manifest may take it over."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The owner of a name: an object, by its identity.

    Attributes:
        uid: the object's uid in Kubernetes; `local` for a manifest applied without a cluster.
        generation: of the object's spec; an older one never overwrites a newer one.
    """

    uid: str
    namespace: str
    name: str
    generation: int = 0

    def is_same_object(self, other: "Owner") -> bool:
        """Whether both are the same object, or one is its re-creation: a restored backup has another uid."""
        if LOCAL_UID in (self.uid, other.uid) and self.uid != other.uid:
            return False
        return self.uid == other.uid or (self.namespace, self.name) == (other.namespace, other.name)

    def is_foreign_to(self, other: "Owner | None") -> bool:
        """Whether both are objects of a cluster in different namespaces, which do not see each other."""
        outside = (LOCAL_UID, EMBEDDED_UID)
        if other is None or self.uid in outside or other.uid in outside:
            return False
        return self.namespace != other.namespace

    @property
    def shown(self) -> str:
        """The owner's name, for messages."""
        if self.uid == EMBEDDED_UID:
            return "the environment of a process (DTQ_QUEUE_SET)"
        place = f"{self.namespace}/{self.name}"
        return f"{place} of `dtq apply`" if self.uid == LOCAL_UID else f"{place} in the cluster"
