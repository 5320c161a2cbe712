"""Plain English: docs, comments and run-time texts use none of the phrases below; ARCHITECTURE's walks name real files.

Only prose is searched: code blocks, code spans and link targets are skipped. Of the string literals, those that people
read at run time are searched: log events, errors, descriptions and help texts.
"""

import ast
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

from dtq_api import problems

ROOT: Final = Path(__file__).parents[2]

PHRASES: Final = (
    (r"(?:some|every|any|no)body|whoever", "whoever redrove", "name the person, process or object"),
    (
        r"(?<!there )(?:is|are|was|were) no (?!longer|more|less|later|earlier|larger|older|newer|such)",
        "the body is no JSON",
        "is not a …, has no …",
    ),
    (r"now and then", "compares rows now and then", "periodically, or the interval"),
    (r"anew|afresh", "register anew", "again, fresh"),
    (r"by (?:itself|themselves)", "it is tried again by itself", "automatically, or nothing"),
    (r"go(?:es)? by", "the mode goes by the QueueSet", "uses, depends on"),
    (r"com(?:es?|ing) to (?:its|their|an) end", "no sweep came to an end, none comes to its end", "ends, finishes"),
    (r"(?:is|are) told (?:so|of)", "a path with a slash is told so", "gets, receives; name the answer"),
    (r"perhaps", "perhaps for each value", "optionally, may"),
    (r"mend(?:s|ed|ing)?", "drift is mended", "repair, fix"),
    (r"for good", "it failed for good", "permanently"),
    (r"behind (?:our|its|their|\w+ \w+'s) backs?", "changed behind its back", "outside the operator"),
    (r"at the most", "256 KiB at the most", "at most"),
    (
        r"(?<!\w )(?:Owns|Must never)",
        "Owns the pool. Must never retry.",
        "one line: what it is responsible for",
    ),
    (r"lanes?|keepers?|rungs?|upkeep", "the keeper of a lane", "dedicated connection, topology declarer, maintenance"),
    (r"doors?|gates?", "the door of the API", "middleware, authenticator"),
)
"""Patterns of whole words, with an example of each and what to write instead."""

GENERATED: Final = {"e2e-report.md", "fault-report.md", "guarantees.md", "metrics.md"}
"""Pages that are made of test names, runs and metrics; `tests/faults/promises.md` is searched instead."""
PAGES: Final = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "charts/**/*.md",
        "db/**/*.md",
        "hack/**/*.md",
        "tests/**/*.md",
        "charts/**/*.txt",
    )
    for path in ROOT.glob(pattern)
    if path.name not in GENERATED
)
COMMENTED: Final = sorted(
    path
    for pattern in (
        "charts/dtq/*.yaml",
        "charts/dtq/ci/*.yaml",
        "charts/dtq/templates/**/*.yaml",
        "charts/dtq/templates/**/*.tpl",
        "examples/*.yaml",
        "examples/**/*.go",
    )
    for path in ROOT.glob(pattern)
)
CODE: Final = ("bench", "db", "hack", "operator", "services", "tests")
"""The folders of Python and SQL."""

PRODUCT: Final = ("db", "operator", "services")
"""The folders whose log events and texts a user or operator of dtq reads at run time."""
ALERTS: Final = sorted((ROOT / "charts/dtq/files").glob("*/*.*"))
"""Alert rules, dashboards and definitions."""
TEXT_PHRASES: Final = (
    (r"go(?:es)? on", "enqueuing goes on", "continues"),
    (r"let(?:s|ting)? go(?: of)?", "let go of by the sweep", "release"),
    (r"(?:is|are|was|were) looked at", "everything is looked at again", "check, reconcile"),
    (r"(?:take|taken|takes|took) (?:back|out)", "tasks taken back", "delete, remove, return"),
    (r"tells? why|is told|are told|has not told|said|says so|nobody knows", "nobody is told", "name the answer"),
    (r"as things stand|just now|at this moment|a stretch of time", "the plan, as things stand now", "the time meant"),
    (r"all is well|answered nonsense|for want of|is not good", "answered nonsense", "the fact"),
    (r"whether [^.:;,\n]+ is unknown", "whether it runs is unknown", "the outcome of … is unknown"),
)
"""Further patterns that run-time texts must not contain, in the form of PHRASES."""
EVENT: Final = re.compile(r"[a-z]+(?: [a-z-]+){1,4}")
"""A log event: a stable name of two to five words. Values are fields."""
LEVELS: Final = {"debug", "info", "warning", "error", "exception", "critical"}

Lines = Iterator[tuple[int, str]]


def phrases(path: Path, numbered: Lines, patterns: Sequence[tuple[str, str, str]] = PHRASES) -> Iterator[str]:
    """Yield each phrase with its place. Phrases may continue on the next line, but not across a blank line."""
    starts, numbers, text = [], [], ""
    for number, line in numbered:
        starts.append(len(text))
        numbers.append(number)
        text += line.strip() + (" " if line.strip() else "\n\n")
    for pattern, _, instead in patterns:
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE if pattern.islower() else 0):
            number = numbers[bisect_right(starts, match.start()) - 1]
            yield f"{path.relative_to(ROOT)}:{number}: {match[0].strip()!r} (write: {instead})"


def page_lines(path: Path) -> Lines:
    """Yield the lines of a Markdown page without code and link targets."""
    text = re.sub(r"^```.*?^```", _blank, path.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`|\]\([^)\n]*\)", "``", text)
    for kind in problems.KINDS.values():  # the page quotes the API's own answers
        text = text.replace(kind.meaning, "")
    yield from enumerate(text.splitlines(), start=1)


def comment_lines(path: Path) -> Lines:
    """Yield the comments of a file that is not Python."""
    mark = {".sql": "--", ".go": "//"}.get(path.suffix, "#")
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        found = re.search(rf"(?:^|\s){mark} ?(.*)", line)
        yield number, re.sub(r"`[^`]*`", "``", found[1]) if found else ""


def python_lines(path: Path) -> Lines:
    """Yield the docstrings and comments of a Python file, in the order of its lines."""
    source = path.read_text()
    found: dict[int, str] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = re.sub(r"`[^`]*`", _blank, node.value.value)
            found |= dict(enumerate([*text.splitlines(), ""], start=node.lineno))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            found[token.start[0]] = re.sub(r"`[^`]*`", "``", token.string.lstrip("# "))
    for number in range(1, len(source.splitlines()) + 1):
        yield number, found.get(number, "")


def _blank(match: re.Match[str]) -> str:
    return "``" + "\n" * match[0].count("\n")


def code_phrases(folder: str) -> list[str]:
    """Return the phrases in docstrings and comments of a folder's code."""
    files = sorted((ROOT / folder).rglob("*"))
    return [
        phrase
        for path in files
        if path.suffix in (".py", ".sql") and path != Path(__file__)
        for phrase in phrases(path, python_lines(path) if path.suffix == ".py" else comment_lines(path))
    ]


def text_lines(source: str) -> Lines:
    """Yield the string literals of Python code, one paragraph each; docstrings and code spans are left out."""
    tree = ast.parse(source)
    nodes = list(ast.walk(tree))
    skipped = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    skipped |= {id(part) for node in nodes if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in nodes:
        if id(node) in skipped:
            continue
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "``" for part in node.values]
            text = "".join(map(str, parts))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            text = node.value
        else:
            continue
        if " " in text:
            yield node.lineno, re.sub(r"`[^`]*`", "``", " ".join(text.split()))
            yield node.lineno, ""


def bad_events(path: Path, source: str) -> Iterator[str]:
    """Yield each call of a logger whose event is not a plain name."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="_log"), attr=level), args=args) if level in LEVELS:
                event = args[0].value if len(args) == 1 and isinstance(args[0], ast.Constant) else None
                if not (isinstance(event, str) and EVENT.fullmatch(event)):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)[:100]}"


def summary_lines(path: Path) -> Lines:
    """Yield the texts of alert rules, dashboards and definitions: the values of the keys that people read."""
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        found = re.search(r"\b(?:summary|description|title|message)\"?: (.*)", line)
        yield number, found[1] if found else ""


def sources(folders: Sequence[str]) -> Iterator[tuple[Path, str]]:
    """Yield the finished Python files of folders with their text."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            yield path, path.read_text()


def loops_over_one(folder: str) -> list[str]:
    """Return the places of loop variables that are called `one`."""
    return [
        f"{path.relative_to(ROOT)}:{node.target.lineno}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension)
        if any(isinstance(name, ast.Name) and name.id == "one" for name in ast.walk(node.target))
    ]


@pytest.mark.parametrize(("example", "instead"), [(example, instead) for _, example, instead in PHRASES])
def test_a_phrase_of_the_table_is_found(example: str, instead: str) -> None:
    found = list(phrases(ROOT / "page.md", iter([(7, "A line before,"), (8, example)])))
    assert any(phrase.startswith("page.md:8: ") and instead in phrase for phrase in found)


@pytest.mark.parametrize(
    "sentence",
    ["There is no broker.", "The lease is no longer valid.", "It owns the pool.", "a keepalive", "goods by mail"],
)
def test_plain_sentences_pass(sentence: str) -> None:
    assert not list(phrases(ROOT / "page.md", iter([(1, sentence)])))


def test_a_phrase_is_found_across_a_line_break_and_not_across_paragraphs() -> None:
    path = ROOT / "page.md"
    assert len(list(phrases(path, iter([(1, "looked at now"), (2, "and then")])))) == 1
    assert not list(phrases(path, iter([(1, "looked at now"), (2, ""), (3, "and then")])))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_page_is_in_plain_english(path: Path) -> None:
    assert not list(phrases(path, page_lines(path)))


@pytest.mark.parametrize("path", COMMENTED, ids=lambda path: str(path.relative_to(ROOT)))
def test_comments_of_the_chart_and_the_examples_are_in_plain_english(path: Path) -> None:
    assert not list(phrases(path, comment_lines(path)))


@pytest.mark.parametrize("folder", CODE)
def test_docstrings_and_comments_are_in_plain_english(folder: str) -> None:
    assert not code_phrases(folder)


@pytest.mark.parametrize("folder", CODE)
def test_loop_variables_name_the_thing(folder: str) -> None:
    assert not loops_over_one(folder)


@pytest.mark.parametrize(("example", "instead"), [(example, instead) for _, example, instead in TEXT_PHRASES])
def test_a_phrase_of_a_run_time_text_is_found(example: str, instead: str) -> None:
    source = f'"""{example}"""\nraise Rejected(\n    "Reason", f"{{name}}: "\n    "{example}")\n'
    found = list(phrases(ROOT / "code.py", text_lines(source), TEXT_PHRASES))
    assert len(found) == 1
    assert found[0].startswith("code.py:3: ")
    assert instead in found[0]


def test_run_time_texts_are_in_plain_english() -> None:
    patterns = PHRASES + TEXT_PHRASES
    folders = (*PRODUCT, "bench", "hack")
    found = [text for path, source in sources(folders) for text in phrases(path, text_lines(source), patterns)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", ALERTS, ids=lambda path: path.name)
def test_alerts_dashboards_and_definitions_are_in_plain_english(path: Path) -> None:
    lines = list(summary_lines(path))
    assert any(line for _, line in lines)
    assert not list(phrases(path, iter(lines), PHRASES + TEXT_PHRASES))


@pytest.mark.parametrize(
    "call",
    [
        '_log.info(f"queue {name} consumed")',
        '_log.info("queue %s consumed", name)',
        '_log.info("queue consumed" if ok else "consumer refused")',
        '_log.info("Queue consumed")',
        '_log.info("queue consumed.")',
        '_log.info("queue consumed: it is declared")',
        '_log.info("tasks that the broker lost are published again")',
        "_log.info(text)",
    ],
)
def test_an_event_that_is_a_sentence_or_has_values_is_found(call: str) -> None:
    assert list(bad_events(ROOT / "code.py", call)) == [f"code.py:1: {call}".replace('"', "'")]


def test_log_events_are_names_with_fields() -> None:
    assert not list(bad_events(ROOT / "code.py", '_log.info("queue consumed", queue=name)'))
    found = [event for path, source in sources(PRODUCT) for event in bad_events(path, source)]
    assert not found, "\n".join(found)


WALK_FILES_MAX: Final = 22
WALKS: Final = ("From POST to SUCCEEDED", "From `kubectl apply` to the row")


def walk(title: str) -> list[str]:
    """Return the files that a walk of ARCHITECTURE.md names, in order."""
    _, found, section = (ROOT / "ARCHITECTURE.md").read_text().partition(f"### {title}, file by file\n")
    assert found
    rows = re.findall(r"^\| \d+ .*$", re.split(r"^#", section, flags=re.MULTILINE)[0], re.MULTILINE)
    return list(dict.fromkeys(re.findall(r"`([\w./-]+/[\w.-]+\.(?:py|sql|yaml))`", "\n".join(rows))))


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_is_short_enough_to_read(title: str) -> None:
    assert 10 < len(walk(title)) <= WALK_FILES_MAX


@pytest.mark.parametrize("file", [file for title in WALKS for file in walk(title)])
def test_a_file_of_a_walk_exists_and_opens_with_what_it_is_for(file: str) -> None:
    path = ROOT / file
    assert path.is_file()
    first = path.read_text().partition("\n")[0]
    opening = {".py": '"""', ".sql": "-- ", ".yaml": "# "}[path.suffix]
    assert first.startswith(opening)
    assert len(first) > len(opening) + 20
