"""The local stack: private Postgres and RabbitMQ servers, and dtq's processes beside them.

It owns what lies below one state folder. It must never touch a service of the system, nor import dtq.
"""
