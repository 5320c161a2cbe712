"""The values that describe an addon: programs to build as images, objects to apply, and the checks that it works."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hack.cluster.native import versions

Json = dict[str, object]

# Every namespace of an addon enforces the restricted pod security standard.
RESTRICTED: Mapping[str, str] = {"pod-security.kubernetes.io/enforce": "restricted"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addon:
    """One addon. `ready` lists, in order, the resources to wait for and the condition of each."""

    name: str
    namespace: str
    programs: tuple[str, ...]
    objects: Callable[[], list[Json]]
    ready: tuple[tuple[str, str], ...]
    image_folder: str = ""


def image(program: str) -> str:
    """Return the name of a program's image; it contains the version."""
    version = re.sub(r"[^0-9A-Za-z.]", "-", versions.program(program).module.version)
    return f"localhost/dtq/{program}:{version}"


def namespace(name: str) -> Json:
    """A namespace that admits only pods of the restricted standard."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": dict(RESTRICTED)}}
