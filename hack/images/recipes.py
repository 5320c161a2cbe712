"""The images of the project, and the tag of each: a hash of every file of the checkout that the image is built from."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from hack.lib import cache

ROOT = Path(__file__).resolve().parents[2]
SUITE = "trixie"
"""The Debian release of every image: Python 3.13, Postgres 17, RabbitMQ 4.0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One image.

    Attributes:
        dockerfile: its steps, as a path below the checkout.
        inputs: the files and folders that its steps copy.
        version: the start of its tag.
    """

    name: str
    dockerfile: str
    inputs: tuple[str, ...]
    version: str

    @property
    def reference(self) -> str:
        """The name and tag of the image; the same inputs give the same tag."""
        files = [ROOT / self.dockerfile, *(file for part in self.inputs for file in _files(ROOT / part))]
        facts = [SUITE, *(f"{file.relative_to(ROOT)}:{file.stat().st_mode & 0o111:o}" for file in sorted(files))]
        return f"localhost/{self.name}:{self.version}-{cache.content_key(facts, files)}"


def recipes() -> dict[str, Recipe]:
    """Every image, by its short name."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        "dtq": Recipe(
            name="dtq",
            dockerfile="Dockerfile",
            inputs=(
                *("pyproject.toml", "uv.lock", "README.md", "LICENSE", "services", "operator", "db"),
                *("hack/uv.txt", "hack/images/rootfs"),
            ),
            version=project["version"],
        ),
        "postgres": Recipe(
            name="dtq-demo-postgres",
            dockerfile="hack/images/postgres/Dockerfile",
            inputs=("hack/images/postgres/start",),
            version="17",
        ),
        "rabbitmq": Recipe(
            name="dtq-demo-rabbitmq", dockerfile="hack/images/rabbitmq/Dockerfile", inputs=(), version="4.0"
        ),
    }


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return [file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
