"""The provider `native`, and what every provider takes from it: programs of pinned versions, built from source.

Whoever has a cluster of their own needs nothing of this to read: see `existing` and `kind`.
"""
