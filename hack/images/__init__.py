"""The project's images without a registry: `python -m hack.images`.

Owns everything between a checkout and an archive that a cluster can load. The steps of an image are its
Dockerfile's, and only there. Must never be imported by the product.
"""
