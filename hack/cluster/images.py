"""Builds container images of one static program as archives, without a registry.

Builds are reproducible: the same program gives the same archive.
"""

import hashlib
import io
import json
import tarfile
from pathlib import Path

ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
NOBODY = "65532:65532"


def write_archive(archive: Path, *, name: str, program: Path, machine: str, folder: str = "") -> None:
    """Write the image `name`; its only file and its command is `program` in `folder`."""
    place = f"{folder}/{program.name}".removeprefix("/")
    layer = _tar({place: program.read_bytes()}, mode=0o755)
    config = json.dumps(image_config(place, hashlib.sha256(layer).hexdigest(), machine)).encode()
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    parts = {"manifest.json": json.dumps(manifest).encode(), "config.json": config, "layer.tar": layer}
    archive.parent.mkdir(parents=True, exist_ok=True)
    archive.write_bytes(_tar(parts, mode=0o644))


def image_config(program: str, layer_digest: str, machine: str) -> dict[str, object]:
    """Return the configuration of the image: run `program` as the user `nobody`."""
    return {
        "architecture": ARCHITECTURES[machine],
        "os": "linux",
        "config": {"Entrypoint": [f"/{program}"], "User": NOBODY},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer_digest}"]},
    }


def _tar(files: dict[str, bytes], *, mode: int) -> bytes:
    written = io.BytesIO()
    with tarfile.open(fileobj=written, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), mode
            archive.addfile(member, io.BytesIO(content))
    return written.getvalue()
