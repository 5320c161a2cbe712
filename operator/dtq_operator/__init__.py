"""The operator: turns TaskType and QueueSet objects into rows in Postgres and topology in RabbitMQ."""

import dtq_kube  # noqa: F401 - before kopf, which would run the whole `kubernetes` package
