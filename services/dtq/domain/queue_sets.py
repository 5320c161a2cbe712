"""The queue sets that a process knows, as it last read them from Postgres: one object that all its parts share."""

from collections.abc import Iterator, Mapping

from dtq.domain.manifests import QueueSetSpec


class QueueSets(Mapping[str, QueueSetSpec]):
    """Specs by the name of the set.

    Args:
        specs: what is known at first.
    """

    def __init__(self, specs: Mapping[str, QueueSetSpec] | None = None) -> None:
        self._specs: Mapping[str, QueueSetSpec] = specs or {}

    def replace(self, specs: Mapping[str, QueueSetSpec]) -> bool:
        """Know these from now on; return whether they differ from what was known."""
        changed = specs != self._specs
        self._specs = specs
        return changed

    def prefix(self, name: str) -> str:
        """Return the broker prefix of a set.

        Of a set that is not declared it is the name: nothing is bound there, so that a message is returned, and its
        task waits in Postgres.
        """
        spec = self._specs.get(name)
        return spec.namespace if spec else name

    def with_prefix(self, prefix: str) -> dict[str, QueueSetSpec]:
        """Return the sets that have this broker prefix: one at the most, since prefixes are unique."""
        return {name: spec for name, spec in self._specs.items() if spec.namespace == prefix}

    def __getitem__(self, name: str) -> QueueSetSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)
