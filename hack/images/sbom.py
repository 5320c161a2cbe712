"""The bill of materials of dtq's image: Python packages from uv.lock, Debian packages from the image itself.

Lists only what is in the image; the same image gives the same list.
"""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from hack.images import unpack
from hack.images.recipes import ROOT, SUITE, Recipe
from hack.lib.errors import HackError

RECORDS = "var/lib/dpkg/status.d/"
NAME = "dtq.cdx.json"
"""The file beside the image's archive."""


def of(recipe: Recipe, archive: Path) -> str:
    """The image's bill of materials, as CycloneDX JSON."""
    bill = _python()
    bill["serialNumber"] = f"urn:uuid:{uuid5(NAMESPACE_URL, recipe.reference)}"
    del bill["metadata"]["timestamp"]
    bill["components"] += debian(unpack.texts(archive, RECORDS))
    return json.dumps(bill, indent=2) + "\n"


def attach(recipe: Recipe, archive: Path) -> Path:
    """Write the bill of materials beside an image's archive, unless it is there; return the file."""
    file = archive.with_name(NAME)
    if not file.exists():
        file.write_text(of(recipe, archive))
    return file


def debian(records: list[str]) -> list[dict[str, Any]]:
    """Components of Debian packages, from their control records."""
    components = []
    for record in sorted(records):
        fields = dict(re.findall(r"^(\w[\w-]*): (.*)$", record, re.MULTILINE))
        name, version, machine = fields["Package"], fields["Version"], fields["Architecture"]
        components.append(
            {
                "type": "library",
                "bom-ref": f"deb-{name}@{version}",
                "name": name,
                "version": version,
                "purl": f"pkg:deb/debian/{name}@{version}?arch={machine}&distro={SUITE}",
            }
        )
    return components


def uv() -> Path:
    """The pinned uv that hack/bootstrap keeps."""
    version = re.search(r"^uv==(\S+)", (ROOT / "hack/uv.txt").read_text(), re.MULTILINE)
    assert version
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "dtq" / f"uv-{version[1]}" / "bin/uv"


def audit() -> int:
    """Ask OSV for known vulnerabilities of what uv.lock puts into the image; return uv's exit code."""
    command = [str(uv()), "audit", "--frozen", "--no-dev", "--preview-features", "audit"]
    return subprocess.run(command, cwd=ROOT, check=False).returncode


def _python() -> dict[str, Any]:
    command = [str(uv()), "export", "--quiet", "--frozen", "--no-dev", "--extra", "all", "--format", "cyclonedx1.5"]
    done = subprocess.run(
        [*command, "--preview-features", "sbom-export"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise HackError(f"uv export failed: {done.stderr.strip()}", next_step="run hack/bootstrap")
    found: dict[str, Any] = json.loads(done.stdout)
    return found
