"""The names and arguments that dtq declares in RabbitMQ: a contract with every broker that already holds them."""

from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.manifests import QueueSetSpec
from dtq.domain.topology import (
    DELIVERY_LIMIT,
    Binding,
    dead_letter_exchange,
    dead_letter_queue,
    main_exchange,
    retry_delay,
    retry_queue,
    topology_of,
    work_queue,
)


def spec(**changes: object) -> QueueSetSpec:
    document = {"namespace": "tasks", "queues": [{"name": "high"}, {"name": "low", "type": "Classic", "maxLength": 9}]}
    return QueueSetSpec.model_validate(document | {"retry": {"delaysSeconds": [5, 30]}} | changes)


def test_the_names_are_the_origins() -> None:
    assert main_exchange("ns") == "ns.direct"
    assert dead_letter_exchange("ns") == "ns.dlx"
    assert work_queue("ns", "high") == "ns.high"
    assert retry_queue("ns", "high", 30) == "ns.retry.high.30s"
    assert dead_letter_queue("ns") == "ns.dlq"


def test_a_set_declares_one_retry_queue_per_delay_and_unbounded_queue() -> None:
    topology = topology_of(spec())
    assert [(exchange.name, exchange.kind) for exchange in topology.exchanges] == [
        ("tasks.direct", "direct"),
        ("tasks.dlx", "direct"),
    ]
    assert sorted(queue.name for queue in topology.queues) == [
        "tasks.dlq",
        "tasks.high",
        "tasks.low",
        "tasks.retry.high.30s",
        "tasks.retry.high.5s",
    ]
    assert set(topology.bindings) == {
        Binding(exchange=exchange, queue=queue, routing_key=key)
        for key in ("high", "low")
        for exchange, queue in (("tasks.direct", f"tasks.{key}"), ("tasks.dlx", "tasks.dlq"))
    }


def test_a_full_queue_refuses_and_never_drops() -> None:
    assert all(queue.arguments["x-overflow"] == "reject-publish" for queue in topology_of(spec()).queues)


def test_a_retry_queue_dead_letters_into_the_main_exchange_after_its_delay() -> None:
    queues = {queue.name: dict(queue.arguments) for queue in topology_of(spec()).queues}
    assert queues["tasks.retry.high.30s"] == {
        "x-queue-type": "quorum",
        "x-overflow": "reject-publish",
        "x-delivery-limit": DELIVERY_LIMIT,
        "x-message-ttl": 30_000,
        "x-dead-letter-exchange": "tasks.direct",
        "x-dead-letter-routing-key": "high",
    }
    assert queues["tasks.low"] == {"x-queue-type": "classic", "x-overflow": "reject-publish", "x-max-length": 9}
    assert "x-dead-letter-exchange" not in queues["tasks.high"]


@given(
    st.lists(st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True), min_size=1, max_size=5, unique=True),
    st.lists(st.integers(1, 604_800), min_size=1, max_size=12, unique=True),
)
def test_no_two_queues_of_a_set_share_a_name(names: list[str], delays: list[int]) -> None:
    free = [{"name": name} for name in names if name not in {"retry", "dlq", "dlx", "direct"}] or [{"name": "q"}]
    topology = topology_of(spec(queues=free, retry={"delaysSeconds": delays}))
    declared = [queue.name for queue in topology.queues]
    assert len(declared) == len(set(declared)) == 1 + len(free) * (1 + len(delays))


def test_only_a_declared_delay_has_a_retry_queue() -> None:
    assert retry_delay(spec(), "high", 30.0) == 30
    assert retry_delay(spec(), "low", 30.0) is None, "a bounded queue has no ladder"
    assert retry_delay(spec(), "gone", 30.0) is None
    for delay in (None, 30.5, 31.0, 0.0, float("inf"), float("nan")):
        assert retry_delay(spec(), "high", delay) is None
