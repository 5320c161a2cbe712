"""Reads an image's archive: its configuration, and its files as they are at run time."""

import json
import tarfile
from pathlib import Path
from typing import Any


def config(archive: Path) -> dict[str, Any]:
    """Return the configuration of the image: user, environment, entry point."""
    with tarfile.open(archive) as parts:
        found: dict[str, Any] = _json(parts, _manifest(parts)["Config"])["config"]
        return found


def root(archive: Path, folder: Path) -> None:
    """Unpack the layers into `folder`; as root, so that owners and modes are right."""
    with tarfile.open(archive) as parts:
        for name in _manifest(parts)["Layers"]:
            layer = parts.extractfile(name)
            assert layer is not None
            with tarfile.open(fileobj=layer) as files:
                # This is our own image: links that lead out of the folder are intended.
                files.extractall(folder, filter="fully_trusted")  # noqa: S202


def texts(archive: Path, folder: str) -> list[str]:
    """The content of every file that a layer has directly below `folder`."""
    found = []
    with tarfile.open(archive) as parts:
        for name in _manifest(parts)["Layers"]:
            layer = parts.extractfile(name)
            assert layer is not None
            with tarfile.open(fileobj=layer) as files:
                for member in files:
                    content = files.extractfile(member) if member.name.startswith(folder) and member.isfile() else None
                    found += [content.read().decode()] if content else []
    return found


def _manifest(parts: tarfile.TarFile) -> dict[str, Any]:
    found: dict[str, Any] = _json(parts, "manifest.json")[0]
    return found


def _json(parts: tarfile.TarFile, name: str) -> Any:
    file = parts.extractfile(name)
    assert file is not None
    return json.loads(file.read())
