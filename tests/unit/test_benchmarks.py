import asyncio
import json
from pathlib import Path

import pytest

from bench import check, ratios, report
from bench.contestants import CONTESTANTS, DTQ
from bench.http_connection import HttpConnection
from bench.open_loop import OpenLoop
from bench.ratios import Range, Spread, percentile
from bench.record import RECORD, Record, Sample
from bench.tally import FOLDER_VARIABLE, Tally, began

GOAL = Range(name="drain", measure="drain1", against="peer", against_measure="drain1", goal=2.0, floor=0.5)


def a_record(*figures: tuple[int, str, float], errors: tuple[str, ...] = ()) -> Record:
    samples = [Sample(round=n, contestant=who, measure="drain1", count=1, per_second=rate) for n, who, rate in figures]
    return Record(facts={}, samples=tuple(samples), errors=errors)


def test_the_report_is_what_the_record_says() -> None:
    for path, content in report.files(Record.read(RECORD)).items():
        assert path.read_text() == content, f"{path.name} differs: python -m bench.report"


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    record = Record.read(RECORD)
    record.write(tmp_path / "record.json")
    assert Record.read(tmp_path / "record.json") == record
    assert (tmp_path / "record.json").read_text() == RECORD.read_text()


def test_a_ratio_pairs_the_rates_of_a_round_and_its_median_counts() -> None:
    record = a_record((1, DTQ, 10), (1, "peer", 20), (2, DTQ, 90), (2, "peer", 30), (3, DTQ, 4), (3, "peer", 4))
    assert GOAL.ratio(record) == Spread(1.0, 0.5, 3.0)


def test_a_round_in_which_one_of_the_two_failed_does_not_count() -> None:
    assert GOAL.ratio(a_record((1, DTQ, 10), (1, "peer", 20), (2, DTQ, 90))) == Spread(0.5, 0.5, 0.5)
    assert GOAL.ratio(a_record((1, DTQ, 10))) is None


@pytest.mark.parametrize(("share", "value"), [(0.5, 2), (0.75, 3), (0.99, 4), (0.0, 1)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: float) -> None:
    assert percentile([1, 2, 3, 4], share) == value


def test_the_check_names_the_ratio_that_fell_below_its_floor() -> None:
    assert check.verdicts(a_record((1, DTQ, 6), (1, "peer", 10)), [GOAL])[1] == []
    lines, failed = check.verdicts(a_record((1, DTQ, 4), (1, "peer", 10)), [GOAL])
    assert lines == failed
    assert "BELOW" in failed[0]
    assert GOAL.name in failed[0]


def test_floors_follow_the_worst_round_and_leave_the_goals() -> None:
    text = (
        '[[ratio]]\nname = "drain"\nmeasure = "drain1"\ngoal = 2.0\nfloor = 0.5\n\n[[ratio]]\nname = "b"\nfloor = 9\n'
    )
    record = a_record((1, DTQ, 10), (1, "peer", 10), (2, DTQ, 30), (2, "peer", 10))
    assert check.with_floors(text, record, [GOAL]) == text.replace("floor = 0.5", "floor = 0.75")


def test_every_goal_is_of_a_known_contestant_and_figure() -> None:
    wanted, ceilings = ratios.ranges()
    names = {contestant.name for contestant in CONTESTANTS} | set(Record.read(RECORD).facts["limits"])
    assert {goal.against for goal in wanted} <= names
    assert {ceiling.figure for ceiling in ceilings} <= set(ratios.FIGURES)


def test_the_tally_counts_tasks_and_their_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path))
    tally = Tally(tmp_path)
    for _ in range(3):
        began(0)
    assert tally.counts() == [3]
    assert all(wait > 0 for wait in tally.waits_ms())
    tally.forget()
    began(0)
    assert tally.counts() == [1]


class OneConnection(asyncio.Protocol):
    """A server that keeps each request until the test answers it."""

    def __init__(self) -> None:
        self.requests: asyncio.Queue[dict[str, int]] = asyncio.Queue()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.requests.put_nowait(json.loads(data.partition(b"\r\n\r\n")[2])["payload"])

    def answer(self) -> None:
        self.transport.write(b"HTTP/1.1 201 Created\r\ncontent-length: 2\r\n\r\n{}")


async def test_a_request_that_waits_for_a_connection_keeps_the_time_when_it_was_due() -> None:
    slow = OneConnection()
    server = await asyncio.get_running_loop().create_server(lambda: slow, "127.0.0.1", 0)
    async with server:
        connection = await HttpConnection.open(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        load = OpenLoop([connection])
        for due_ns in (1, 2, 3):
            load.due(due_ns)
        sent = []
        for _ in range(3):
            sent.append((await slow.requests.get())["sent_ns"])
            slow.answer()
        await load.finish()
        connection.close()
    assert sent == [1, 2, 3]
    assert (load.accepted, load.refused) == (3, 0)
