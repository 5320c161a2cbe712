"""Builds the project's images without a registry: `python -m hack.images`.

A checkout goes in, an archive that a cluster can load comes out. The steps of an image are in its Dockerfile alone.
The product does not import this package.
"""
