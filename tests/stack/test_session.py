"""A whole test session: one server for all its processes, nothing left afterwards."""

import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from hack.lib import ports

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "tests" / "stack" / "session_sample.py"


def run_session(folder: Path, *arguments: str) -> tuple[int, list[list[str]]]:
    record = folder / "record"
    record.touch()
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o755)
    own = {"PATH": os.environ["PATH"], "DTQ_SAMPLE_RECORD": str(record), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(SAMPLE), *arguments],
        cwd=ROOT,
        env=own,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert not list(temporary.glob("dtq-test-*")), done.stdout
    return done.returncode, [line.split() for line in record.read_text().splitlines()]


def test_all_processes_share_one_server_which_ends_with_the_session(services_folder: Path) -> None:
    code, rows = run_session(services_folder, "-n", "2")
    assert code == 1, "the sample's failure is reported"
    assert sorted(row[0] for row in rows) == ["0", "1", "2", "3"]
    assert {row[1] for row in rows} == {"gw0", "gw1"}
    [dsn] = {row[2] for row in rows}
    port = urlsplit(dsn).port
    assert port is not None
    assert ports.is_free(port)


def test_no_server_is_started_that_no_test_asks_for(services_folder: Path) -> None:
    code, rows = run_session(services_folder, "-k", "needs_nothing", "--log-cli-level=CRITICAL")
    assert code == 0
    assert rows == []
