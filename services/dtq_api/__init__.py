"""The HTTP API and the maintenance loops: Starlette in front of Postgres and RabbitMQ."""
