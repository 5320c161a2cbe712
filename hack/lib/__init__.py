"""What the programs of hack/ share: processes, waiting, reports, errors, packages, the cache of built things.

It must never know what a stack or a cluster is.
"""
