"""RabbitMQ: where wake-ups are delivered. The only package that knows aiormq.

Any message may be lost, doubled or late without harm: Postgres is the truth.
"""
