"""Writes the generated files of the chart: the table of values in its README, and the snapshots of its tests.

Run it as `python -m hack.chart`; `--check` only compares. The meaning of a value comes from values.yaml, where a
comment `# -- …` precedes it.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from hack.cluster.native import programs

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts/dtq"
SNAPSHOTS = ROOT / "tests/chart/snapshots"
KUBE_VERSION = "1.34.4"
_TABLE = re.compile(r"(?<=<!-- values -->\n).*(?=<!-- /values -->)", re.DOTALL)
_SECRET = re.compile(r"[A-Za-z0-9]{24}(?=$|@)", re.MULTILINE)


def paths(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every documented value with its default; a map that is one value is not entered."""
    for name, value in values.items():
        path = f"{prefix}{name}"
        if isinstance(value, dict) and value and path not in _WHOLE:
            yield from ((inner, default) for inner, default in paths(value, f"{path}."))
        else:
            yield path, value


# Maps that one comment explains as a whole.
_WHOLE = {
    "podSecurityContext",
    "containerSecurityContext",
    "workers.pools",
    *(f"{part}.resources" for part in ("operator", "api", "maintenance", "workers.defaults", "migrations")),
    *(f"demo.{part}.resources" for part in ("postgres", "rabbitmq")),
}


def comments(text: str) -> dict[str, str]:
    """Return the comments of values.yaml, by path."""
    found: dict[str, str] = {}
    stack: list[tuple[int, str]] = []
    said = ""  # the text of a comment, which may continue on the next line
    for line in text.splitlines():
        indent = len(line) - len(line.lstrip())
        if line.lstrip().startswith("# -- "):
            said = line.split("# -- ", 1)[1]
        elif said and line.lstrip().startswith("# "):
            said += " " + line.split("# ", 1)[1]
        elif match := re.match(r"\s*([\w-]+):", line):
            stack = [level for level in stack if level[0] < indent]
            stack.append((indent, match[1]))
            if said:
                found[".".join(name for _, name in stack)] = said
            said = ""
    return found


def table() -> str:
    """The README's table of values."""
    text = (CHART / "values.yaml").read_text()
    said = comments(text)
    rows = ["| Value | Default | Meaning |", "|---|---|---|"]
    for path, default in paths(yaml.safe_load(text)):
        shown = json.dumps(default).replace("|", "\\|")
        rows.append(f"| `{path}` | `{shown}` | {said[path]} |")
    return "\n".join(rows) + "\n"


def snapshot(values: Path) -> str:
    """Return what helm renders from a value set, with generated passwords masked."""
    command = [
        str(programs.ensure(["helm"])["helm"]),
        *("template", "dtq", str(CHART), "--namespace", "dtq", "--kube-version", KUBE_VERSION),
        # The definitions are in crds/ already.
        *("--set", "crds.install=false", "--values", str(values)),
    ]
    rendered = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return _SECRET.sub("MASKED", rendered)


def generated() -> dict[Path, str]:
    """Return the text of each file."""
    readme = CHART / "README.md"
    files = {readme: _TABLE.sub(lambda _: table(), readme.read_text())}
    for values in sorted((CHART / "ci").glob("*-values.yaml")):
        files[SNAPSHOTS / values.name.replace("-values", "")] = snapshot(values)
    return files


def stale() -> dict[Path, str]:
    """Return the files with another text than the generated one, and that text."""
    return {path: text for path, text in generated().items() if not path.exists() or path.read_text() != text}


def main() -> int:
    """Write the files, or print which are stale."""
    parser = argparse.ArgumentParser(
        prog="python -m hack.chart", description="Generate the chart's table and snapshots."
    )
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    check = parser.parse_args().check
    found = stale()
    for path, text in found.items():
        print(f"{'stale' if check else 'wrote'} {path.relative_to(ROOT)}")
        if not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
    return 1 if found and check else 0


if __name__ == "__main__":
    sys.exit(main())
