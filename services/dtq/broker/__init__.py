"""RabbitMQ: delivers wake-ups. The only package that uses aiormq.

Any message may be lost, duplicated or late without harm: Postgres is the source of truth.
"""
