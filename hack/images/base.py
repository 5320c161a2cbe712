"""The base image of every Dockerfile, pinned by digest: a tag's content may change, a digest's cannot.

Builds without a registry replace it by a base from Debian's archive (`builder`).
"""

import re
import subprocess
from pathlib import Path
from typing import Final

from hack.images.recipes import ROOT, SUITE, recipes
from hack.lib import apt
from hack.lib.errors import HackError

ARGUMENT: Final = "BASE"
"""The build argument that holds the base."""
IMAGE: Final = f"docker.io/library/debian:{SUITE}-slim"
PINNED: Final = re.compile(rf"^ARG {ARGUMENT}=(?P<image>\S+)@(?P<digest>sha256:[0-9a-f]{{64}})$", re.MULTILINE)
INSPECT_SECONDS: Final = 120.0


def renew(log: Path) -> str:
    """Write the digest that the registry has now into every Dockerfile; return the digest.

    Raises:
        HackError: the registry cannot be asked.
    """
    apt.ensure(log, {"skopeo": "skopeo"})
    command = ["skopeo", "inspect", "--format", "{{.Digest}}", f"docker://{IMAGE}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=INSPECT_SECONDS)
    if done.returncode != 0:
        raise HackError(
            f"{IMAGE} cannot be inspected: {done.stderr.strip()}", next_step="is the registry within reach?"
        )
    digest = done.stdout.strip()
    for recipe in recipes().values():
        file = ROOT / recipe.dockerfile
        file.write_text(pinned(file.read_text(), digest))
    return digest


def pinned(dockerfile: str, digest: str) -> str:
    """Return the steps with another digest of the base.

    Raises:
        HackError: the digest is none, or the steps do not name the base.
    """
    changed, count = PINNED.subn(f"ARG {ARGUMENT}={IMAGE}@{digest}", dockerfile)
    if count != 1 or not PINNED.search(changed):
        raise HackError(f"the base cannot be pinned to {digest!r}", next_step=f"write ARG {ARGUMENT}={IMAGE}@sha256:…")
    return changed
