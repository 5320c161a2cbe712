"""A history is read as it was written."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.faults.history import Call, EventRow, History, Lines, Run, load, save, write

CALL = Call(n=1, started_at=1.0, ended_at=2.0, type="a.b.v1", payload={"op": 1}, status=201, task_id="t")


def test_a_history_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    event = EventRow(id=1, task_id="t", event="ENQUEUED", at=datetime(2026, 1, 1, tzinfo=UTC), attempt=0)
    history = History(client=[CALL], events=[event], logs={"api-0.log": "hello"})
    save(history, tmp_path)
    assert load(tmp_path) == history


def test_rows_are_taken_as_postgres_shows_them(tmp_path: Path) -> None:
    row = (
        '{"id": 7, "task_id": "t", "event": "RETRY", "note": "x", "at": "2026-11-24T08:30:00.123456+00:00",'
        ' "attempt": 1, "worker_id": null, "a_later_column": 1}'
    )
    write(tmp_path, "events", [row])
    (event,) = load(tmp_path).events
    assert event.at == datetime(2026, 11, 24, 8, 30, 0, 123456, tzinfo=UTC)


def test_a_line_that_was_cut_off_by_a_kill_never_happened(tmp_path: Path) -> None:
    with Lines[Run](tmp_path / "handler.jsonl") as lines:
        lines.write(Run(task_id="t", attempt=1, pid=1, phase="start", at=1.0))
    with (tmp_path / "handler.jsonl").open("ab") as stream:
        stream.write(b'{"task_id": "t", "att')
    assert [run.phase for run in load(tmp_path).handler] == ["start"]


def test_a_line_that_is_no_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "client.jsonl").write_text('{"n": 1}\n')
    with pytest.raises(ValueError, match=r"client\.jsonl:1: .*required"):
        load(tmp_path)
