"""Builds an image: a base from Debian's archive, the steps of the Dockerfile by buildah, an archive in the cache.

Needs Linux and root, but no daemon. The cache holds complete archives only.
"""

import os
import subprocess
from pathlib import Path

from hack.images.base import ARGUMENT
from hack.images.recipes import ROOT, SUITE, Recipe
from hack.lib import apt, cache
from hack.lib.errors import HackError
from hack.lib.report import step

ARCHIVE = "image.tar"
BASE = f"debian:{SUITE}-slim"
"""The base that stands in for that of the Dockerfiles."""
MIRROR = "http://deb.debian.org/debian"
SECURITY_MIRROR = "http://deb.debian.org/debian-security"
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap"}
AUTHORITIES = Path("/usr/local/share/ca-certificates")
"""Certificate authorities that this machine trusts besides the usual ones: its network may need them."""
BUILD_SECONDS = 1800.0


def default_folder() -> Path:
    """${XDG_CACHE_HOME:-~/.cache}/dtq/images: outside the checkout, shared by all checkouts."""
    return cache.default_folder("images")


def build(recipe: Recipe, folder: Path) -> Path:
    """Return the archive of an image, in docker-archive format; build it unless the cache has this content."""
    name, _, tag = recipe.reference.removeprefix("localhost/").partition(":")
    log = folder / f"{name}.log"

    def make(place: Path) -> None:
        if os.geteuid() != 0:
            raise HackError("images are built as root", next_step="sudo, or `docker build` with an engine")
        apt.ensure(log, PACKAGES)
        with step(f"build {recipe.reference}"):
            tool = _Buildah(folder, log)
            tool.have_base()
            tool.build(recipe)
            tool.run("push", "--quiet", recipe.reference, f"docker-archive:{place / ARCHIVE}:{recipe.reference}")

    return cache.entry(folder, name, tag, make) / ARCHIVE


class _Buildah:
    """buildah with storage and policy of its own, apart from the machine's container tools."""

    def __init__(self, folder: Path, log: Path) -> None:
        self._folder = folder
        self._log = log
        self._settings = folder / "settings"
        self._settings.mkdir(parents=True, exist_ok=True)
        (self._settings / "storage.conf").write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/storage-run"\n'
        )
        (self._settings / "registries.conf").write_text('unqualified-search-registries = ["localhost"]\n')

    def have_base(self) -> None:
        """Import the base of the Dockerfiles, which debootstrap makes once."""
        authorities = sorted(AUTHORITIES.glob("*.crt"))
        key = cache.content_key([SUITE, MIRROR, SECURITY_MIRROR], authorities)
        reference = f"localhost/base:{SUITE}-{key}"
        if not self._has(reference):
            base = cache.entry(self._folder / "bases", SUITE, key, self._debootstrap) / "root"
            made = self._read("from", "scratch").strip()
            try:
                self.run("copy", "--quiet", made, str(base), "/")
                self.run("commit", "--quiet", "--timestamp", "0", made, reference)
            finally:
                self.run("rm", made)
        self.run("tag", reference, f"localhost/{BASE}")

    def build(self, recipe: Recipe) -> None:
        """Run the steps of a Dockerfile. File times are not kept, so that the same content gives the same image."""
        self.run(
            *("build", "--isolation", "chroot", "--network", "host", "--pull-never", "--layers", "--timestamp", "0"),
            *("--build-arg", f"{ARGUMENT}=localhost/{BASE}"),
            *("--file", str(ROOT / recipe.dockerfile), "--tag", recipe.reference, str(ROOT)),
        )

    def run(self, command: str, *arguments: str) -> None:
        """Run a command of buildah; its output goes to the log."""
        with self._log.open("a") as log:
            done = subprocess.run(
                ["buildah", command, *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                timeout=BUILD_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            next_step = "read the log, fix the cause, build again"
            raise HackError(f"buildah {command} failed", log=self._log, next_step=next_step)

    def _read(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            ["buildah", command, *arguments], env=self._environment(), capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise HackError(f"buildah {command} failed: {done.stderr.strip()[-500:]}")
        return done.stdout

    def _has(self, reference: str) -> bool:
        command = ["buildah", "inspect", "--type", "image", reference]
        return subprocess.run(command, env=self._environment(), capture_output=True, check=False).returncode == 0

    def _environment(self) -> dict[str, str]:
        return os.environ | {
            "CONTAINERS_STORAGE_CONF": str(self._settings / "storage.conf"),
            "CONTAINERS_REGISTRIES_CONF": str(self._settings / "registries.conf"),
        }

    def _debootstrap(self, place: Path) -> None:
        root = place / "root"
        with step(f"debootstrap {SUITE}"), self._log.open("a") as log:
            done = subprocess.run(
                ["debootstrap", "--variant=minbase", f"--keyring={KEYRING}", SUITE, str(root), MIRROR],
                stdout=log,
                stderr=subprocess.STDOUT,
                timeout=BUILD_SECONDS,
                check=False,
            )
        if done.returncode != 0:
            raise HackError("debootstrap failed", log=self._log, next_step=f"is {MIRROR} within reach?")
        sources = (f"{MIRROR} {SUITE}", f"{MIRROR} {SUITE}-updates", f"{SECURITY_MIRROR} {SUITE}-security")
        (root / "etc/apt/sources.list").write_text("".join(f"deb {source} main\n" for source in sources))
        own = root / "usr/local/share/ca-certificates"
        own.mkdir(parents=True)
        for file in AUTHORITIES.glob("*.crt"):
            (own / file.name).write_bytes(file.read_bytes())
