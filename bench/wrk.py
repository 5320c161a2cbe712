"""The load of HTTP: as many POSTs as 64 connections of wrk can make."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Final

from bench.group import ProgramError

CONNECTIONS: Final = 64
_SCRIPT: Final = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"type": "bench.noop.v1", "payload": {"sent_ns": 0}}'
done = function(summary, latency)
  io.write(string.format("FIGURES %d %d %d %d %d\\n", summary.requests, summary.duration,
    latency:percentile(50), latency:percentile(99),
    summary.errors.status + summary.errors.timeout + summary.errors.read + summary.errors.connect))
end
"""


def http_load(url: str, seconds: float) -> dict[str, Any]:
    """Load an API; return the answered requests, seconds, percentiles, and the client's CPU seconds.

    Raises:
        ProgramError: wrk is missing, or a request failed.
    """
    if shutil.which("wrk") is None:
        raise ProgramError("wrk is missing: `make packages` installs it")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "post.lua"
        script.write_text(_SCRIPT)
        whole = max(1, round(seconds))
        command = ["wrk", f"-c{CONNECTIONS}", "-t1", f"-d{whole}s", "--latency", "-s", str(script), f"{url}/enqueue"]
        timed = ["bash", "-c", 'TIMEFORMAT="CPU %U %S"; time "$@"', "time", *command]
        done = subprocess.run(timed, check=False, capture_output=True, text=True)
    figures = re.search(r"FIGURES (\d+) (\d+) (\d+) (\d+) (\d+)", done.stdout)
    spent = re.search(r"CPU ([\d.]+) ([\d.]+)", done.stderr)
    if figures is None or spent is None:
        raise ProgramError(f"wrk failed: {done.stdout[-200:]}{done.stderr[-200:]}")
    requests, microseconds, p50_us, p99_us, failed = map(int, figures.groups())
    if failed:
        raise ProgramError(f"{failed} of {requests} requests failed")
    return {
        "count": requests,
        "before": 0,
        "seconds": microseconds / 1e6,
        "cpu_seconds": float(spent[1]) + float(spent[2]),
        "p50_ms": p50_us / 1e3,
        "p99_ms": p99_us / 1e3,
    }
