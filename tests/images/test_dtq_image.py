"""dtq's image: it runs without privileges, from a read-only root, and holds nothing unnecessary."""

import json
import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hack.images import builder, sbom, unpack
from hack.images.recipes import recipes

BYTES_MAX = 200_000_000
# A cold build fetches a base and all wheels.
pytestmark = pytest.mark.timeout(1800)
LIBRARIES = ("/usr/lib", "/opt/dtq/lib")


@pytest.fixture(scope="module")
def archive() -> Path:
    return builder.build(recipes()["dtq"], builder.default_folder())


@pytest.fixture(scope="module")
def root(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("root")
    folder.chmod(0o755)
    unpack.root(archive, folder)
    return folder


def run(root: Path, *command: str) -> str:
    """What a command prints in the image's root, as its user, with its environment."""
    done = subprocess.run(
        ["/usr/bin/unshare", "--net", "/usr/sbin/chroot", "--userspec=10001:10001", str(root), *command],
        env={"PATH": "/opt/dtq/bin:/usr/bin", "LANG": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_image_says_how_it_runs(archive: Path) -> None:
    config = unpack.config(archive)
    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["dtq"]
    assert archive.stat().st_size < BYTES_MAX


def test_dtq_and_every_process_load(root: Path) -> None:
    assert run(root, "/opt/dtq/bin/dtq", "version").startswith("dtq ")
    modules = "dtq_api.main, dtq_worker.main, dtq_operator.main, dtq_cli.main, dtq_worker.demo, dtq_db.migrations"
    known = "print(len(ssl.create_default_context().get_ca_certs()), zoneinfo.ZoneInfo('Europe/Berlin'))"
    told = run(root, "/opt/dtq/bin/python", "-c", f"import {modules}, ssl, zoneinfo; {known}")
    assert int(told.split()[0]) > 100


def test_it_holds_no_shell_no_compiler_and_no_package_manager(root: Path) -> None:
    programs = {file.name for folder in ("usr/bin", "usr/sbin", "opt/dtq/bin") for file in (root / folder).iterdir()}
    assert not programs & {
        "sh",
        "bash",
        "dash",
        "gcc",
        "cc",
        "ld",
        "apt",
        "apt-get",
        "dpkg",
        "pip",
        "pip3",
        "uv",
        "perl",
    }


def test_nothing_is_set_uid_or_belongs_to_the_user_that_runs(root: Path) -> None:
    for folder, names, files in os.walk(root):
        for name in (*names, *files):
            state = (Path(folder) / name).lstat()
            assert not (not stat.S_ISLNK(state.st_mode) and state.st_mode & (stat.S_ISUID | stat.S_ISGID)), name
            assert state.st_uid != 10001, name


def test_every_library_finds_what_it_links_to(root: Path) -> None:
    code = (
        "import ctypes, pathlib, sys\n"
        "for file in sorted(pathlib.Path(p) for f in sys.argv[1:] for p in pathlib.Path(f).rglob('*.so*')):\n"
        "    if file.is_file() and 'ld-linux' not in file.name and 'gconv' not in str(file):\n"
        "        try: ctypes.CDLL(str(file), mode=1)\n"
        "        except OSError as error: print(file, error)\n"
    )
    lost = [
        line for line in run(root, "/opt/dtq/bin/python", "-c", code, *LIBRARIES).splitlines() if "cannot open" in line
    ]
    assert not lost


def test_modules_are_compiled_since_nobody_can_write_there_later(root: Path) -> None:
    for source in ("opt/dtq/lib/python3.13/site-packages/dtq/handlers.py", "usr/lib/python3.13/asyncio/base_events.py"):
        path = root / source
        compiled = path.parent / "__pycache__" / f"{path.stem}.cpython-313.pyc"
        # Bit 0 without bit 1: trusted without a look at the source, whose time a layer does not keep.
        assert compiled.read_bytes()[4:8] == b"\x01\x00\x00\x00"


def test_the_bill_of_materials_tells_python_and_debian(archive: Path) -> None:
    bill = json.loads(sbom.of(recipes()["dtq"], archive))
    names = {component["name"] for component in bill["components"]}
    assert {"asyncpg", "aiormq", "kopf", "libc6", "libssl3t64", "python3.13-minimal"} <= names
    assert "pytest" not in names
    assert sbom.of(recipes()["dtq"], archive) == json.dumps(bill, indent=2) + "\n"


def test_the_bill_of_materials_is_written_beside_the_archive_and_of_any_archive(archive: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "hack.images", "build", "dtq"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    bill = archive.with_name(sbom.NAME).read_text()
    elsewhere = shutil.copy(archive, tmp_path / "image.tar")
    command = [sys.executable, "-m", "hack.images", "sbom", "--archive", str(elsewhere)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.rstrip() == bill.rstrip()
