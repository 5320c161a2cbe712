"""The file docs/metrics.md: every metric of every process, from the code that makes them.

Owns the file. Must never be edited by hand: `python -m hack.metrics` writes it.
"""

import argparse
import sys
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from dtq.runtime.metrics import (
    ApiMetrics,
    BacklogMetrics,
    BrokerMetrics,
    LoopMetrics,
    MaintenanceMetrics,
    OperatorMetrics,
    WorkerMetrics,
)

FILE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
PARTS = (
    ("API", ApiMetrics),
    ("Maintenance", MaintenanceMetrics),
    ("Maintenance: what waits in Postgres", BacklogMetrics),
    ("API and maintenance: loops", LoopMetrics),
    ("Worker", WorkerMetrics),
    ("API, maintenance and worker: RabbitMQ", BrokerMetrics),
    ("Operator", OperatorMetrics),
)
SUFFIXES = {"counter": ("_total",), "histogram": ("_bucket", "_count", "_sum")}
HEAD = """# Metrics

Made by `python -m hack.metrics`. Every process shows its own at `/metrics`: the API at `HTTP_PORT`, or without a
credential at `DTQ_METRICS_PORT`; the worker at `WORKER_HTTP_PORT`; the operator at `DTQ_OPERATOR_HTTP_PORT`;
maintenance in the API, or alone at `DTQ_MAINTENANCE_HTTP_PORT`. Names
begin with `dq_`; labels are few: types and queues that are declared, never ids, payloads or error texts. What the
alerts mean is in [runbook.md](runbook.md).

Counters belong to one process: sum them. The gauges about what waits come from Postgres and are the same in every
replica: take their maximum. Over all processes the counters equal the history:

| `task_events` | Counters |
|---|---|
| `ENQUEUED` | `dq_enqueue_total{status="ok"}` - `dq_enqueue_replayed_total` + `dq_schedule_fired_total` |
| `RUNNING` | `dq_deliveries_total{verdict="claimed"}` |
| `SUCCEEDED` | `dq_tasks_finished_total{outcome="succeeded"}` |
| `RETRY` | `dq_retries_total` + `dq_reaped_total{status="ENQUEUED"}` |
| `FAILED` | `dq_dead_letters_total` + `dq_reaped_total{status="FAILED"}` |
| `CANCELLED` | `dq_tasks_cancelled_total` + `dq_reaped_total{status="CANCELLED"}` |
| `RELEASED` | `dq_released_total` |
| `REDRIVE` | `dq_redriven_total` |
| `DLQ` | `dq_dead_letters_confirmed_total` |

A process that is killed takes what it had counted and nobody had scraped with it; the history does not.
"""


def families() -> list[tuple[str, list[Metric]]]:
    """Return the metrics of each part, by its title."""
    found = []
    for title, kind in PARTS:
        registry = CollectorRegistry()
        kind(registry)
        found.append((title, list(registry.collect())))
    return found


def samples(family: Metric) -> list[str]:
    """Return the names under which a metric is scraped."""
    return [family.name + suffix for suffix in SUFFIXES.get(family.type, ("",))]


def text() -> str:
    """Return the file."""
    lines = [HEAD]
    for title, found in families():
        lines += [f"## {title}", "", "| Metric | Type | Means |", "|---|---|---|"]
        for family in sorted(found, key=lambda one: one.name):
            name = family.name + ("_total" if family.type == "counter" else "")
            lines.append(f"| `{name}` | {family.type} | {family.documentation.replace('|', ', ')} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    """Write the file, or say that it is stale."""
    parser = argparse.ArgumentParser(prog="python -m hack.metrics", description="Generate docs/metrics.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail when the file is stale")
    check = parser.parse_args().check
    stale = not FILE.exists() or FILE.read_text() != text()
    if stale:
        print(f"{'stale' if check else 'wrote'} {FILE.name}")
        if not check:
            FILE.write_text(text())
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
