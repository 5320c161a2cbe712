"""Reconciling: observe, plan, apply. Brings Postgres and RabbitMQ together for the operator and for `dtq apply`."""
