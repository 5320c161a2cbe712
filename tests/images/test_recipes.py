"""A tag is a hash of everything that the steps copy: what a Dockerfile copies and the recipe forgets would go stale."""

import re
from pathlib import Path

import pytest

from hack.images import recipes, sbom

NAMES = sorted(recipes.recipes())


@pytest.mark.parametrize("name", NAMES)
def test_the_tag_covers_all_that_the_steps_copy_and_nothing_besides(name: str) -> None:
    recipe = recipes.recipes()[name]
    copied: set[str] = set()
    for line in (recipes.ROOT / recipe.dockerfile).read_text().splitlines():
        if match := re.match(r"COPY (?!--from)(.+)", line):
            copied |= set(match[1].split()[:-1])
    assert copied == set(recipe.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_what_the_steps_copy_is_sent_to_an_engine(name: str) -> None:
    sent = {line[1:] for line in (recipes.ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    for path in recipes.recipes()[name].inputs:
        assert path in sent or str(Path(path).parent) in sent, path


def test_a_tag_is_stable_and_follows_the_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    before = recipes.recipes()["postgres"].reference
    assert before == recipes.recipes()["postgres"].reference
    for file in ("pyproject.toml", "hack/images/postgres/Dockerfile", "hack/images/postgres/start"):
        copy = tmp_path / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((recipes.ROOT / file).read_bytes())
        copy.chmod((recipes.ROOT / file).stat().st_mode)
    monkeypatch.setattr(recipes, "ROOT", tmp_path)
    assert recipes.recipes()["postgres"].reference == before
    (tmp_path / "hack/images/postgres/start").write_text("changed")
    assert recipes.recipes()["postgres"].reference != before


def test_a_package_of_debian_is_a_component_with_its_origin() -> None:
    record = "Package: libc6\nVersion: 2.41-12\nArchitecture: amd64\nDescription: GNU C Library\n more: text\n"
    assert sbom.debian([record]) == [
        {
            "type": "library",
            "bom-ref": "deb-libc6@2.41-12",
            "name": "libc6",
            "version": "2.41-12",
            "purl": "pkg:deb/debian/libc6@2.41-12?arch=amd64&distro=trixie",
        }
    ]
