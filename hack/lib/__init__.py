"""What the programs of hack/ share: processes, waiting, reports, errors, packages, the cache of built things.

Knows neither stacks nor clusters.
"""
