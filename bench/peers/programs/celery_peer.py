"""Celery on RabbitMQ; results in Postgres if BENCH_RESULTS names the backend."""

import os

from celery import Celery, group

from bench.peers.programs.load import main_blocking
from bench.tally import began

RESULTS = os.environ.get("BENCH_RESULTS")
app = Celery("bench", broker=os.environ["BENCH_AMQP"], backend=RESULTS)
app.conf.update(
    task_ignore_result=RESULTS is None,
    task_default_queue="bench.celery",
    task_default_queue_type="quorum",
    task_default_exchange_type="topic",
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=128,
    worker_enable_remote_control=False,
    broker_transport_options={"confirm_publish": True},
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task(name="noop")
def noop(payload: dict[str, int]) -> dict[str, int]:
    """Do nothing but count."""
    began(payload["sent_ns"])
    return {"sent_ns": payload["sent_ns"]}


class Peer:
    """Celery's client."""

    def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""
        noop.delay(payload)

    def many(self, payloads: list[dict[str, int]]) -> None:
        """Enqueue a group, which is Celery's way to enqueue many."""
        group(noop.s(payload) for payload in payloads).apply_async()


if __name__ == "__main__":
    main_blocking(Peer())
