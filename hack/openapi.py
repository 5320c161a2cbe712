"""Writes `docs/openapi.json` from `dtq_api.openapi`. Run it as `python -m hack.openapi`; `--check` only compares."""

import argparse
import sys
from pathlib import Path

from dtq_api import openapi

FILE = Path(__file__).resolve().parent.parent / "docs" / "openapi.json"


def main() -> int:
    """Write the file, or print that it is stale."""
    parser = argparse.ArgumentParser(prog="python -m hack.openapi", description="Generate docs/openapi.json.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    check = parser.parse_args().check
    stale = not FILE.exists() or FILE.read_bytes() != openapi.text(secured=True)
    if stale:
        print(f"{'stale' if check else 'wrote'} {FILE.name}")
        if not check:
            FILE.parent.mkdir(exist_ok=True)
            FILE.write_bytes(openapi.text(secured=True))
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
