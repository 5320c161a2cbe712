"""What the documents say is so: links lead somewhere, manifests parse, handlers load, make targets exist."""

import re
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from dtq.handlers import Handler
from dtq_reconcile.parse import parse

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/**/*.md"), *ROOT.glob("hack/**/*.md")]
)
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a page that are in a language."""
    return [text for name, text in FENCE.findall(page.read_text()) if name == language]


def targets() -> set[str]:
    """Return the targets of the Makefile and its parts."""
    text = "".join(path.read_text() for path in [ROOT / "Makefile", *ROOT.glob("hack/*.mk")])
    return set(re.findall(r"^([a-z0-9-]+):", text, re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    broken = [
        target
        for target, _ in LINK.findall(page.read_text())
        if not target.startswith(("http://", "https://")) and not (page.parent / target).exists()
    ]
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    named = {word for line in re.findall(r"\bmake((?: [a-z][a-z0-9-]+)+)", _code(page)) for word in line.split()}
    assert named <= targets()


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_every_manifest_of_a_page_is_accepted(page: Path) -> None:
    for text in blocks(page, "yaml"):
        if any(
            isinstance(document, dict) and "dtq.dev" in str(document.get("apiVersion"))
            for document in yaml.safe_load_all(text)
        ):
            assert parse(text)


def test_the_handler_of_the_readme_is_one() -> None:
    (text,) = blocks(ROOT / "README.md", "python")
    module = ModuleType("readme")
    exec(compile(text, "README.md", "exec"), module.__dict__)
    assert [value.type for value in vars(module).values() if isinstance(value, Handler)] == ["report.build.v1"]


def _code(page: Path) -> str:
    """What stands in code: fenced, or between backticks."""
    text = page.read_text()
    fenced = "\n".join(body for _, body in FENCE.findall(text))
    return "\n".join([fenced, *re.findall(r"`([^`\n]+)`", text)])
