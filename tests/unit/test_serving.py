"""Whether a type is run: every combination of who consumes, who handles, and whose lease holds."""

from datetime import UTC, datetime, timedelta

import pytest

from dtq.domain.serving import Gap, Served, WorkerGroup, served

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def group(
    *, namespace: str | None = "tasks", queues: str = "default", types: str = "a.b", silent: float = -10.0
) -> WorkerGroup:
    return WorkerGroup(
        namespace=namespace,
        queues=frozenset(queues.split()),
        types=frozenset(types.split()),
        lease_expires_at=NOW - timedelta(seconds=silent),
        silent_seconds=silent,
    )


def since(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([], Served(gap=Gap.QUEUE_NOT_CONSUMED)),
        ([group()], Served()),
        ([group(queues="high default", types="x.y a.b")], Served()),
        ([group(namespace=None)], Served()),
        ([group(namespace="other")], Served(gap=Gap.QUEUE_NOT_CONSUMED)),
        ([group(queues="high")], Served(gap=Gap.QUEUE_NOT_CONSUMED)),
        ([group(types="x.y")], Served(gap=Gap.NO_HANDLER)),
        ([group(queues="high"), group(types="x.y")], Served(gap=Gap.NO_HANDLER)),
        ([group(silent=59.0)], Served()),
        ([group(silent=61.0)], Served(gap=Gap.QUEUE_NOT_CONSUMED, since=since(61))),
        ([group(silent=61.0), group(types="x.y")], Served(gap=Gap.NO_HANDLER, since=since(61))),
        ([group(silent=900.0), group(silent=70.0)], Served(gap=Gap.QUEUE_NOT_CONSUMED, since=since(70))),
        ([group(silent=900.0), group()], Served()),
    ],
    ids=[
        "no worker",
        "served",
        "one of several queues and types",
        "a worker that does not tell its prefix",
        "another prefix",
        "another queue",
        "another type",
        "one consumes, another handles",
        "within the grace",
        "after the grace",
        "the handler left, the queue is consumed",
        "since the last of several",
        "an old one ended, a new one lives",
    ],
)
def test_served(groups: list[WorkerGroup], expected: Served) -> None:
    assert served("a.b", "tasks", "default", groups, grace_seconds=60.0) == expected


def test_a_prefix_that_is_not_known_hides_nothing() -> None:
    assert served("a.b", None, "default", [group(namespace="other")], grace_seconds=60.0) == Served()
