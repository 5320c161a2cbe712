"""docs/worker.md: its samples run, and it names nothing that does not exist."""

import asyncio
import re
from pathlib import Path
from uuid import UUID

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from dtq.domain.limits import RESULT_BYTES_MAX, SNOOZE_SECONDS_MAX, SNOOZES_MAX, TRACEBACK_CHARS_MAX
from dtq.handlers import Context, Handler, Mode, PermanentError, RetryLater, Snooze
from dtq.runtime.environment import variable_names
from dtq.runtime.metrics import BrokerMetrics, WorkerMetrics
from dtq.runtime.settings import AllSettings
from dtq_worker.attempt_log import FAILURES_PER_SECOND_MAX

PAGE = (Path(__file__).resolve().parents[2] / "docs/worker.md").read_text()
CONTEXT = Context(
    task_id=UUID(int=1), type="report.build.v1", queue="default", attempt=2, max_attempts=5, timeout_seconds=300.0
)


def handlers() -> dict[str, Handler]:
    """Run every sample of the page; return the handlers by type."""
    found: dict[str, Handler] = {}
    for sample in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        names: dict[str, object] = {}
        exec(compile(sample, "docs/worker.md", "exec", dont_inherit=True), names)
        found |= {handler.type: handler for handler in names.values() if isinstance(handler, Handler)}
    return found


def test_the_samples_do_what_the_page_says() -> None:
    found = handlers()
    assert {type_: handler.mode for type_, handler in found.items()} == {
        "report.build.v1": Mode.ASYNC,
        "image.shrink.v1": Mode.THREAD,
        "number.factor.v1": Mode.PROCESS,
        "invoice.pay.v1": Mode.ASYNC,
    }
    assert asyncio.run(found["report.build.v1"]({"name": "may"}, CONTEXT)) == {"report": "may", "attempt": 2}
    assert found["image.shrink.v1"]({}) == "small"
    assert found["number.factor.v1"]({"number": 6}) == [1, 2, 3, 6]
    pay = found["invoice.pay.v1"]
    assert asyncio.run(pay({"amount": 1})) == "paid"
    with pytest.raises(PermanentError, match="nothing to pay"):
        asyncio.run(pay({"amount": 0}))
    with pytest.raises(RetryLater, match="closed") as told:
        asyncio.run(pay({"amount": 1, "bank_is_closed": True}))
    assert told.value.delay_seconds == 3600
    with pytest.raises(Snooze, match="pending") as snoozed:
        asyncio.run(pay({"amount": 1, "transfer_is_pending": True}))
    assert snoozed.value.delay_seconds == 30


def test_the_bounds_on_the_page_are_those_in_force() -> None:
    assert f"snoozed {SNOOZES_MAX:,} times and for {SNOOZE_SECONDS_MAX // 86_400} days" in PAGE
    assert f"at most {TRACEBACK_CHARS_MAX:,} characters" in PAGE
    assert f"At most {FAILURES_PER_SECOND_MAX} of them" in PAGE


def test_every_variable_and_default_of_the_page_is_real() -> None:
    named = set(re.findall(r"`((?:WORKER_|DB_|RMQ_|QUEUES)[A-Z_]*)", PAGE))
    assert named <= set(variable_names())
    defaults = {str(field.alias): field.default for field in AllSettings.model_fields.values()}
    assert defaults["WORKER_PREFETCH"] == 32
    assert defaults["WORKER_DRAIN"] == 30.0
    assert defaults["WORKER_HTTP_PORT"][1] == 8081
    assert RESULT_BYTES_MAX == 256 * 1024


def test_every_metric_of_the_page_is_real() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry)
    BrokerMetrics(registry)
    real = set(re.findall(r"^# TYPE (\w+)", generate_latest(registry).decode(), re.MULTILINE))
    assert set(re.findall(r"`(dq_\w+)", PAGE)) <= real
