"""The values that describe an addon: programs to build as images, objects to apply, and the checks that it works."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hack.cluster.native import versions

Json = dict[str, object]

# The restricted pod security standard: what every namespace of an addon is held to.
RESTRICTED: Mapping[str, str] = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addon:
    """One addon. `ready` holds, in order, what to wait for: a resource and the condition it must have."""

    name: str
    namespace: str
    programs: tuple[str, ...]
    objects: Callable[[], list[Json]]
    ready: tuple[tuple[str, str], ...]
    image_folder: str = ""


def image(program: str) -> str:
    """The name of the image that holds a program: a new version is a new name."""
    version = re.sub(r"[^0-9A-Za-z.]", "-", versions.program(program).module.version)
    return f"localhost/dtq/{program}:{version}"


def namespace(name: str) -> Json:
    """A namespace that admits only pods of the restricted standard."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(RESTRICTED)}}
