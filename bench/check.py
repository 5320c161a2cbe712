"""`python -m bench.check`: a short run of the ratios, which fails if one fell below its floor in `bench/ranges.toml`.

With --set, write the floors from the last full run instead: the smallest ratio of a round, less NOISE.
"""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bench import ratios
from bench.plot import figure
from bench.ratios import RANGES, Range
from bench.record import RECORD, Record
from hack.lib.report import say

NOISE: Final = 0.25
"""How much lower than the smallest round of a full run a ratio may be: a short run is that noisy."""
ROUNDS: Final = 3
SHORT: Final = ("--rounds", f"{ROUNDS}", "--seconds", "1", "--drain", "0.3", "--only", "limit", "concurrent", "single",
                "drain1", "drain2")  # fmt: skip
CONTESTANTS: Final = ("dtq", "pgqueuer", "dramatiq", "celery")
"""The quickest to measure, and one of each kind."""


def verdicts(record: Record, wanted: list[Range]) -> tuple[list[str], list[str]]:
    """Return a line for each ratio that was measured, and the lines of those that are below their floors."""
    lines, failed = [], []
    for goal in wanted:
        ratio = goal.ratio(record)
        if ratio is None:
            continue
        fell = ratio.median < goal.floor
        limits = f"(floor {goal.floor:g}, goal {goal.goal:g})"
        line = f"{'BELOW' if fell else 'ok':5} {figure(ratio.median):>5} {limits} {goal.name}"
        lines.append(line)
        if fell:
            failed.append(line)
    return lines, failed


def with_floors(text: str, record: Record, wanted: list[Range]) -> str:
    """Return the text of `ranges.toml` with floors from a record; a ratio that was not measured keeps its own."""
    for goal in wanted:
        ratio = goal.ratio(record)
        if ratio is not None:
            pattern = rf'(name = "{re.escape(goal.name)}"\n(?:\w+ = .*\n)*?floor = )\S+'
            text = re.sub(pattern, rf"\g<1>{ratio.low * (1 - NOISE):.2g}", text)
    return text


def main() -> int:
    """Run; the exit code is 1 if a ratio fell."""
    parser = argparse.ArgumentParser(prog="python -m bench.check", description=__doc__)
    parser.add_argument("--set", action="store_true", help="write the floors from the last full run")
    given = parser.parse_args()
    wanted, _ = ratios.ranges()
    if given.set:
        RANGES.write_text(with_floors(RANGES.read_text(), Record.read(RECORD), wanted))
        return 0
    with tempfile.TemporaryDirectory(prefix="dtq-bench-check-") as folder:
        path = Path(folder) / "record.json"
        command = [sys.executable, "-m", "bench", *SHORT, "--contestants", *CONTESTANTS, "--record", str(path)]
        subprocess.run(command, check=True)
        record = Record.read(path)
    lines, failed = verdicts(record, wanted)
    for line in [*record.errors, *lines]:
        say(line)
    if failed:
        say(f"{len(failed)} ratios are below their floors: find the change, or explain a new floor in {RANGES.name}.")
    return 1 if failed or record.errors else 0


if __name__ == "__main__":
    sys.exit(main())
