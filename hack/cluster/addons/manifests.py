"""Reads the YAML of a release as Kubernetes does, and fast: these files have tens of thousands of lines."""

from typing import Any

import yaml


class Loader(yaml.CSafeLoader):
    """A loader that reads a lone `=` as a string, as Kubernetes does; YAML 1.1 has a tag of its own for it."""


Loader.add_constructor("tag:yaml.org,2002:value", lambda _, node: node.value)


def read_all(text: str) -> list[Any]:
    """Every document of a file."""
    return [item for item in yaml.load_all(text, Loader) if item]
