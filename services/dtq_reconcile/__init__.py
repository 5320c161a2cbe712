"""Reconciling: observe, plan, apply. Joins Postgres and RabbitMQ for the operator and for `dtq apply` alike."""
