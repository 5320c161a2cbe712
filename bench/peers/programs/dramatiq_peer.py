"""Dramatiq on RabbitMQ, without results: it has no backend for Postgres."""

import os

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker

from bench.peers.programs.load import main_blocking
from bench.tally import began

dramatiq.set_broker(RabbitmqBroker(url=os.environ["BENCH_AMQP"], confirm_delivery=True))


@dramatiq.actor(queue_name="bench_dramatiq")
def noop(payload: dict[str, int]) -> None:
    """Do nothing but count."""
    began(payload["sent_ns"])


class Peer:
    """Dramatiq's client."""

    def one(self, payload: dict[str, int]) -> None:
        """Enqueue a task."""
        noop.send(payload)


if __name__ == "__main__":
    main_blocking(Peer())
