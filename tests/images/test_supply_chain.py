"""What an image is built from is named by its content: the base, uv, and each action of the release."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.images import base, recipes, sbom
from hack.lib.errors import HackError

ROOT = recipes.ROOT
DIGEST = "sha256:" + "ab" * 32
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))


def steps(dockerfile: str) -> str:
    return (ROOT / dockerfile).read_text()


def test_every_image_begins_from_one_base_by_digest() -> None:
    digests = set()
    for recipe in recipes.recipes().values():
        text = steps(recipe.dockerfile)
        (match,) = base.PINNED.finditer(text)
        assert match["image"] == base.IMAGE
        digests.add(match["digest"])
        begins = re.findall(r"^FROM (\S+)", text, re.MULTILINE)
        assert begins[0] == f"${{{base.ARGUMENT}}}"
        assert set(begins[1:]) <= {"scratch"}
    assert len(digests) == 1


def test_the_digest_of_the_base_is_renewed_in_place() -> None:
    before = steps("Dockerfile")
    after = base.pinned(before, DIGEST)
    changed = [(old, new) for old, new in zip(before.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [new for _, new in changed] == [f"ARG {base.ARGUMENT}={base.IMAGE}@{DIGEST}"]
    for digest, text in (("latest", before), ("", before), (DIGEST, "FROM debian:trixie-slim\n")):
        with pytest.raises(HackError, match="the base cannot be pinned"):
            base.pinned(text, digest)


def test_uv_comes_by_hash_wherever_it_is_fetched(tmp_path: Path) -> None:
    wanted = "--require-hashes -r"
    assert wanted in steps("Dockerfile")
    # A checkout whose hashes are those of other content gets no uv.
    for name in ("hack/bootstrap", "hack/uv.txt", "uv.lock", "pyproject.toml"):
        copy = tmp_path / name
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, copy)
    listed = (tmp_path / "hack/uv.txt").read_text()
    assert listed.count("--hash=sha256:") > 1
    (tmp_path / "hack/uv.txt").write_text(re.sub(r"(?<=sha256:)[0-9a-f]{64}", "0" * 64, listed))
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHON3": shutil.which("python3") or "python3"}
    done = subprocess.run(
        [str(tmp_path / "hack/bootstrap")], env=environ, capture_output=True, text=True, check=False, timeout=110
    )
    assert done.returncode != 0
    assert "DO NOT MATCH THE HASHES" in done.stderr, done.stderr
    assert not list((tmp_path / ".cache/dtq").glob("uv-*/bin/uv"))


def test_the_pinned_uv_is_the_one_that_describes_the_image() -> None:
    told = subprocess.run([str(sbom.uv()), "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"^uv==(\S+)", (ROOT / "hack/uv.txt").read_text(), re.MULTILINE)
    assert version
    assert told.split()[1] == version[1]


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: str(file.name))
def test_every_action_is_pinned_by_commit_and_a_job_names_its_rights(file: Path) -> None:
    text = file.read_text()
    used = re.findall(r"uses: (.*)", text)
    assert used
    assert [line for line in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}  # v[\d.]+", line)] == []
    workflow: dict[str, Any] = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            # Values of an event are text that others write: a script reads them as variables.
            assert "${{" not in step.get("run", "")


def test_a_release_is_described_attested_and_signed_by_digest() -> None:
    (file,) = WORKFLOWS
    steps_ = yaml.safe_load(file.read_text())["jobs"]["image"]["steps"]
    actions = [step["uses"].split("@")[0] for step in steps_ if "uses" in step]
    digest = "${{ steps.build.outputs.digest }}"
    for name in ("actions/attest-build-provenance", "actions/attest-sbom"):
        (step,) = [step for step in steps_ if step.get("uses", "").startswith(f"{name}@")]
        assert step["with"]["subject-digest"] == digest
    (signs,) = [step for step in steps_ if "cosign sign" in step.get("run", "")]
    assert signs["env"] == {"DIGEST": digest}
    assert "sigstore/cosign-installer" in actions
    scripts = [step["run"] for step in steps_ if "run" in step]
    assert scripts[0] == "make audit"
    # What the scripts call is there.
    assert "audit:" in (ROOT / "hack/images.mk").read_text()
    assert any("-m hack.images sbom --archive image.tar > dtq.cdx.json" in script for script in scripts)
