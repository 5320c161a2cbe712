"""The checker itself: forged histories that it must accept, and for each invariant some that it must reject."""

from dataclasses import replace
from typing import Any

import pytest

from tests.faults.checker import RULES, Counts, check, check_folder
from tests.faults.forge import BEGAN, FAIL, OK, but, call, life, ran, right, row, when, with_task
from tests.faults.history import DeadLetter, Declared, Exit, History, Injected, Metric, Sample, WorkerRow, save

REAPED = "worker lost 1 time while it ran this task, alone each time"
SUSPECTED = "worker lost: this task runs again alone, and the attempt is not counted"
DRAINED = "the worker was stopped before the attempt ended"


def changed(**fields: Any) -> History:
    return replace(right(), **fields)


def taken_back(*, lease_until: float = 25.0, reaped_at: float = 26.0) -> History:
    """Attempt 1 did its work and lost its lease before that was recorded; attempt 2 did it again."""
    history = with_task(
        row("z", 99, attempts=2),
        [
            *life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1), worker="w3"),
            *life(902, "z", ("RETRY", reaped_at, 1), worker="w3", note=REAPED),
            *life(903, "z", ("RUNNING", reaped_at + 1, 2), ("SUCCEEDED", reaped_at + 1.3, 2), worker="w2"),
        ],
        [*ran("z", 1, 20.2, pid=13), *ran("z", 2, reaped_at + 1.1, pid=12)],
    )
    lease = WorkerRow(id="w3", name="host:13", started_at=when(0), lease_expires_at=when(lease_until))
    return replace(history, workers=[*history.workers, lease])


def released_and_claimed_again() -> History:
    events = [
        *life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1), ("RELEASED", 20.2, 0)),
        *life(903, "z", ("RUNNING", 20.5, 1), ("SUCCEEDED", 20.9, 1), worker="w2"),
    ]
    return with_task(row("z", 99), events, ran("z", 1, 20.6, pid=12))


def drained_and_run_again() -> History:
    """A shutdown cut the last attempt short, which gives the task one more, at once."""
    events = [
        *life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1), ("RETRY", 20.2, 1), note=DRAINED),
        *life(903, "z", ("RUNNING", 20.3, 2), ("SUCCEEDED", 20.9, 2), worker="w2"),
    ]
    task = row("z", 99, attempts=2, max_attempts=2)
    asked = [call(99, 20, "z", max_attempts=1)]
    return with_task(task, events, [*ran("z", 1, 20.1, outcome=None), *ran("z", 2, 20.4, pid=12)], asked)


def suspected_and_run_again() -> History:
    """A worker was lost, maybe by another task, which gives the task one more attempt, at once."""
    history = taken_back()
    suspected = [replace(event, note=SUSPECTED) if event.note == REAPED else event for event in history.events]
    events = [
        replace(event, at=when(26.1))
        if event.task_id == "z" and event.attempt == 2 and event.event == "RUNNING"
        else event
        for event in suspected
    ]
    tasks = [replace(task, max_attempts=2) if task.id == "z" else task for task in history.tasks]
    client = [replace(call, max_attempts=1) if call.task_id == "z" else call for call in history.client]
    return replace(history, events=events, tasks=tasks, client=client)


def suspected_and_handed_on() -> History:
    """A worker had no time for a suspect and gave it back, while its own lease held."""
    history = suspected_and_run_again()
    events = [replace(event, id=event.id + 10) if event.id >= 903 else event for event in history.events]
    handed_on = life(903, "z", ("RUNNING", 26.02, 2), ("RELEASED", 26.05, 1), worker="w2", note=SUSPECTED)
    return replace(history, events=[*events, *handed_on])


def redriven() -> History:
    events = [
        *life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1), ("FAILED", 20.2, 1), ("DLQ", 20.3, 1), note="x"),
        *life(904, "z", ("REDRIVE", 21, 1), ("RUNNING", 21.1, 2), ("SUCCEEDED", 21.4, 2)),
    ]
    task = row("z", 99, attempts=2, max_attempts=2, redrives=1, type=FAIL)
    return with_task(task, events, [*ran("z", 1, 20.1, outcome=None), *ran("z", 2, 21.2)])


def undisturbed(retries: float = 1) -> History:
    history = right()
    found = [
        Metric(process="api-0", pid=9, name="dq_enqueue_total", value=6, labels={"status": "ok", "type": OK}),
        Metric(process="w", pid=11, name="dq_tasks_finished_total", value=5, labels={"outcome": "succeeded"}),
        Metric(process="w", pid=11, name="dq_retries_total", value=retries),
        Metric(process="w", pid=11, name="dq_dead_letters_total", value=1),
        Metric(process="w", pid=11, name="dq_tasks_running", value=0),
    ]
    return replace(history, faults=[], metrics=found)


ACCEPTED = {
    "one that is right": right(),
    "a claim that was given back and won by another": released_and_claimed_again(),
    "an attempt cut short by a shutdown": drained_and_run_again(),
    "an attempt cut short by the loss of its worker": suspected_and_run_again(),
    "a suspect that was handed on": suspected_and_handed_on(),
    "work done twice because a lease was lost": taken_back(),
    "a failed task that a person sent again": redriven(),
    "a request in doubt that left nothing": changed(client=[*right().client, call(99, 20)]),
    "a 503 that says that it is in doubt": with_task(
        row("z", 99),
        life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1), ("SUCCEEDED", 20.4, 1)),
        ran("z", 1, 20.2),
        [call(99, 20, status=503, retry_after="1", doubt=True)],
    ),
    "a task of a cron entry": with_task(
        row("z", 99, idempotency_key="\x1fschedule:fault.ok.v1:x:2026-11-24T08:30Z"),
        life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1), ("SUCCEEDED", 20.4, 1)),
        ran("z", 1, 20.2),
        [],
    ),
    "a task that was pruned": changed(tasks=right().tasks[1:]),
    "another body under a key, refused": changed(
        client=[*right().client, call(9, 9, key="k4", payload={"op": 9}, status=409)]
    ),
    "messages destroyed by a fault": changed(
        faults=[*right().faults, Injected(at=BEGAN + 1, until=BEGAN + 1, name="broker-wiped")],
        metrics=[Metric(process="api-0", pid=9, name="dq_relay_lost_total", value=3)],
    ),
    "counts that are exact": undisturbed(),
    "a claim that waited for the faults to end": changed(
        faults=[Injected(at=BEGAN + 1, until=BEGAN + 80, name="broker-kill")],
        events=but(but(right().events, 1, at=when(79)), 2, at=when(79.3)),
        workers=but(right().workers, 0, lease_expires_at=when(90)),
    ),
}

REJECTED = [
    ("I1", "accepted and never stored", changed(client=[*right().client, call(99, 20, "z")])),
    (
        "I1",
        "accepted and still waiting",
        with_task(row("z", 99, "ENQUEUED", 0), life(900, "z", ("ENQUEUED", 20, 0))),
    ),
    (
        "I1",
        "ended far too late",
        changed(events=but(right().events, 2, at=when(500))),
    ),
    ("I2", "a row that nobody asked for", with_task(row("z", 99), [], calls=[])),
    (
        "I2",
        "a row left behind by a 400",
        with_task(row("z", 99), [], calls=[call(99, 20, status=400)]),
    ),
    (
        "I2",
        "a row left behind by a 503 that promised nothing was",
        with_task(row("z", 99), [], calls=[call(99, 20, status=503, retry_after="1")]),
    ),
    ("I2", "two rows of one request", with_task(row("z", 1, payload={"op": 1, "canary": "zq81"}), [], calls=[])),
    ("I2", "a run of an unknown task", changed(handler=[*right().handler, *ran("z", 1, 20)])),
    ("I2", "events without a row", changed(events=[*right().events, *life(900, "z", ("ENQUEUED", 20, 0))])),
    ("I3", "more attempts than allowed", changed(tasks=but(right().tasks, 1, max_attempts=1))),
    ("I3", "more attempts than asked for", changed(client=but(right().client, 1, max_attempts=1))),
    ("I3", "a gap in the attempts", changed(events=but(right().events, 6, attempt=3))),
    ("I3", "an attempt started twice", changed(handler=[*right().handler, *ran("a", 1, 1.3, outcome=None)])),
    ("I3", "a start without a claim", changed(handler=[*right().handler, *ran("a", 2, 1.3, outcome=None)])),
    ("I3", "a row with other attempts than its events", changed(tasks=but(right().tasks, 0, attempts=2))),
    (
        "I4",
        "running after success",
        changed(events=[*right().events, *life(900, "a", ("RUNNING", 20, 2))]),
    ),
    (
        "I4",
        "a redrive of what succeeded",
        changed(events=[*right().events, *life(900, "a", ("REDRIVE", 20, 1))]),
    ),
    ("I4", "a row whose status changed behind its events", changed(tasks=but(right().tasks, 2, status="CANCELLED"))),
    (
        "I5",
        "two successes",
        changed(events=[*right().events, *life(900, "a", ("SUCCEEDED", 20, 1))]),
    ),
    ("I5", "the result of an older attempt", changed(tasks=but(right().tasks, 1, result={"attempt": 1}))),
    ("I5", "a result without success", changed(tasks=but(right().tasks, 2, result={"attempt": 1}))),
    ("I5", "a success by who did not hold it", changed(events=but(right().events, 2, worker_id="w2"))),
    (
        "I5",
        "a success whose handler never ended",
        changed(handler=[*ran("a", 1, 1.2, outcome=None), *right().handler[2:]]),
    ),
    (
        "I5",
        "work done twice though no lease was lost",
        changed(handler=[*right().handler, *ran("b", 1, 2.2)[1:]]),
    ),
    (
        "I6",
        "claimed while another holds",
        changed(events=[*right().events[:2], *life(12, "a", ("RUNNING", 1.2, 2), ("SUCCEEDED", 1.4, 2), worker="w2")]),
    ),
    ("I6", "claimed after the lease", changed(workers=but(right().workers, 0, lease_expires_at=when(10)))),
    ("I6", "taken back while the lease held", taken_back(lease_until=40)),
    (
        "I7",
        "waiting far too long though nothing was broken",
        changed(events=but(but(right().events, 19, at=when(95)), 20, at=when(95.3)), faults=[]),
    ),
    (
        "I7",
        "held far longer than its lease",
        with_task(
            row("z", 99, "RUNNING"), life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1)), ran("z", 1, 20.2)
        ),
    ),
    ("I7", "taken back far too late", taken_back(lease_until=25, reaped_at=60)),
    ("I8", "failed without a dead letter", changed(dlq=[])),
    ("I8", "a dead letter of what succeeded", changed(dlq=[DeadLetter(id="c"), DeadLetter(id="a")])),
    ("I8", "a dead letter of nothing", changed(dlq=[DeadLetter(id="c"), DeadLetter(id="z")])),
    (
        "I9",
        "a confirm of what was never routed",
        changed(metrics=[Metric(process="api-0", pid=9, name="dq_relay_lost_total", value=1)]),
    ),
    ("I10", "one key, two tasks", changed(client=[*right().client, call(4, 9, "a", key="k4", replayed=True)])),
    (
        "I10",
        "another body under a key, accepted",
        changed(client=[*right().client, call(9, 9, "d", key="k4", replayed=True)]),
    ),
    ("I10", "stored twice", changed(client=but(right().client, 4, replayed=False))),
    ("I10", "two rows of one key", with_task(row("z", 4, idempotency_key="k4"), [], calls=[])),
    ("I11", "memory out of bounds", changed(samples=but(right().samples, 70, rss_bytes=10**10))),
    ("I11", "files out of bounds", changed(samples=but(right().samples, 70, fds=10**4))),
    ("I11", "connections out of bounds", changed(samples=but(right().samples, 70, connections=10**4))),
    (
        "I12",
        "never ready again",
        changed(samples=[Sample(at=BEGAN + at, process="api-0", ready=at < 10) for at in range(90)]),
    ),
    (
        "I12",
        "slow ever after",
        changed(
            samples=[
                Sample(at=BEGAN + at, process="system", finished_total=2 * at if at < 18 else 36 + at - 18)
                for at in range(90)
            ]
        ),
    ),
    ("I13", "a request that hung", changed(client=but(right().client, 5, ended_at=BEGAN + 60))),
    ("I13", "a 500", changed(client=but(right().client, 7, status=500))),
    ("I13", "a 503 that does not say when", changed(client=but(right().client, 6, retry_after=None))),
    (
        "I13",
        "a process that ended by itself",
        changed(exits=[Exit(at=BEGAN + 3, process="api-0", pid=9, told="", code=1)]),
    ),
    ("I13", "a liveness that restarts what is well", changed(samples=but(right().samples, 70, alive=False))),
    (
        "I14",
        "nothing accepted without the operator",
        changed(faults=[Injected(at=BEGAN + 30, until=BEGAN + 40, name="operator-down")]),
    ),
    ("I15", "a payload in an error", changed(tasks=but(right().tasks, 2, last_error="bad: zq81"))),
    ("I15", "a payload in a log", changed(logs={"api-0.log": '{"body": "zq81"}'})),
    ("I15", "a payload in an answer", changed(client=but(right().client, 7, error="zq81"))),
    (
        "I15",
        "a payload in a label",
        changed(metrics=[Metric(process="w", pid=1, name="x", value=1, labels={"a": "zq81"})]),
    ),
    ("I16", "told to end, and ended badly", changed(exits=but(right().exits, 0, code=1))),
    ("I16", "told to end, and took its time", changed(exits=but(right().exits, 0, seconds=300.0))),
    (
        "I16",
        "an attempt that never started and counts",
        with_task(
            row("z", 99, attempts=2),
            [
                *life(900, "z", ("ENQUEUED", 20, 0), ("RUNNING", 20.1, 1), ("RETRY", 31, 1), note=REAPED),
                *life(903, "z", ("RUNNING", 32.2, 2), ("SUCCEEDED", 33, 2), worker="w2"),
            ],
            ran("z", 2, 32.3, pid=12),
        ),
    ),
    (
        "I17",
        "a retry that did not wait",
        changed(events=but(right().events, 6, at=when(2.31)), types=but(right().types, 0, delays_seconds=[9.0])),
    ),
    ("I17", "run before its time", changed(client=but(right().client, 8, run_at=when(20)))),
    ("I18", "a queue that is missing", changed(declared=but(right().declared, 0, found=False))),
    ("I18", "a type that was deleted and is there", changed(declared=but(right().declared, 1, found=True))),
    (
        "I18",
        "a queue deleted with messages in it",
        changed(declared=[Declared(kind="queue", name="q", wanted=False, found=False, emptied=True)]),
    ),
    (
        "I19",
        "a type that stands still",
        with_task(row("z", 99, "ENQUEUED", 0, type="other.v1"), life(900, "z", ("ENQUEUED", 20, 0))),
    ),
    ("I20", "a counter that says more", changed(metrics=but(right().metrics, 1, value=2))),
    ("I20", "a counter that says less though nothing was broken", undisturbed(retries=0)),
]


@pytest.mark.parametrize("history", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_what_is_right_is_accepted(history: History) -> None:
    verdict = check(history)
    assert verdict.is_valid, str(verdict)


@pytest.mark.parametrize(
    ("invariant", "history"),
    [(case[0], case[2]) for case in REJECTED],
    ids=[f"{case[0]} {case[1]}" for case in REJECTED],
)
def test_what_is_wrong_is_rejected_by_its_invariant(invariant: str, history: History) -> None:
    verdict = check(history)
    assert verdict.rulings[invariant].violations, str(verdict)


def test_every_invariant_has_histories_of_both_kinds() -> None:
    assert list(RULES) == [f"I{number}" for number in range(1, 21)]
    assert {case[0] for case in REJECTED} == RULES.keys()
    assert check(right()).undecided == []


def test_the_counts_are_those_of_the_history() -> None:
    verdict = check(taken_back())
    assert verdict.counts == Counts(attempted=9, acknowledged=6, ok=6, lost=0, unexpected=0, duplicated=1, recovered=1)
    assert verdict.duplicates == {"lease expired": 1}


def test_a_verdict_says_what_it_could_not_decide_and_shows_few_of_many() -> None:
    calls = [call(n, 1, status=500) for n in range(10)]
    text = str(check(History(client=calls)))
    assert text.startswith("INVALID: 10 attempted, 0 acknowledged")
    assert text.count("I13: call") == 5
    assert "I13: and 5 more" in text
    assert "undecided: I1 I2" in text


def test_a_folder_is_judged(tmp_path: Any) -> None:
    save(right(), tmp_path)
    assert check_folder(tmp_path).is_valid
