"""The operator: turns TaskType and QueueSet objects into rows in Postgres and topology in RabbitMQ."""
