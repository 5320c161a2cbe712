"""Plain figures of this machine: HTTP enqueue, drain, and the way from a POST to its handler.

Run it beside the local stack: `make up bench`. Never part of the tests.
"""
