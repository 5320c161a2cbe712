"""The local stack: private Postgres and RabbitMQ servers, and dtq's processes beside them.

Everything is below one state folder. Services of the system are never touched, and dtq is not imported.
"""
