"""The queue sets that a process last read from Postgres: one object that all parts of the process share."""

from collections.abc import Iterator, Mapping

from dtq.domain.manifests import QueueSetSpec


class QueueSets(Mapping[str, QueueSetSpec]):
    """Specs by the name of the set."""

    def __init__(self, specs: Mapping[str, QueueSetSpec] | None = None) -> None:
        self._specs: Mapping[str, QueueSetSpec] = specs or {}

    def replace(self, specs: Mapping[str, QueueSetSpec]) -> None:
        """Take over newly read specs."""
        self._specs = specs

    def prefix(self, name: str) -> str:
        """Return the broker prefix of a set.

        For a set that is not declared, the prefix is its name: no queue is bound there, so a message is returned and
        its task waits in Postgres.
        """
        spec = self._specs.get(name)
        return spec.namespace if spec else name

    def with_prefix(self, prefix: str) -> dict[str, QueueSetSpec]:
        """Return the sets that have this broker prefix: at most one, since prefixes are unique."""
        return {name: spec for name, spec in self._specs.items() if spec.namespace == prefix}

    def __getitem__(self, name: str) -> QueueSetSpec:
        return self._specs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)
