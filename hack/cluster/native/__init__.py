"""The provider `native`, and what every provider takes from it: programs of pinned versions, built from source.

To use a cluster of your own, read `existing` and `kind` instead.
"""
