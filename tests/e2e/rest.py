"""Checks that an idle system writes nothing: objects, their events, and their rows."""

from tests.e2e.kube import Kube
from tests.e2e.release import NAME, NAMESPACE
from tests.e2e.world import World

SWEEPS = 2
_KINDS = ("tasktypes", "queuesets", "deployments", "events")
_ROWS = " UNION ALL ".join(
    f"SELECT '{table}', {key}::text, xmin::text FROM {table}"
    for table, key in (
        ("task_type", "type"),
        ("queue_set", "name"),
        ("queue", "(queue_set, name)"),
        ("resource_claim", "(kind, key)"),
        ("catalog_revision", "''"),
    )
)
_SWEPT_AT = f'max(dq_operator_last_sweep_timestamp_seconds{{namespace="{NAMESPACE}"}})'


class Rest:
    """Looks again and again, and knows when a number of sweeps have passed without a write."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._last: frozenset[tuple[str, ...]] = frozenset()
        self._swept: set[str] = set()
        self.written: set[tuple[str, ...]] = set()
        """What was written last."""

    def reached(self) -> bool:
        """Look once; whether nothing was written over the last sweeps."""
        state = written(self._world)
        if state != self._last:
            self.written = set(state - self._last)
            self._last, self._swept = state, set()
        self._swept.update(series["value"][1] for series in self._world.kube.query(_SWEPT_AT))
        # The first of them may have begun before the look that found nothing new.
        return len(self._swept) > SWEEPS + 1


def written(world: World) -> frozenset[tuple[str, ...]]:
    """Each object and row, with the version that its last write gave it."""
    dsn = world.release.secret(f"{NAME}-demo-postgres")["dsn"]
    rows = (tuple(line.split("|")) for line in world.release.psql(dsn, _ROWS))
    return frozenset(rows) | frozenset(version for kind in _KINDS for version in _versions(world.kube, kind))


def _versions(kube: Kube, kind: str) -> list[tuple[str, ...]]:
    return [
        (kind, item["metadata"]["name"], item["metadata"]["resourceVersion"])
        for item in kube.items(kind, "-n", NAMESPACE)
        # Others, such as the kubelet, tell things about pods.
        if kind != "events" or item["source"].get("component") == "dtq-operator"
    ]
