"""The fault matrix: what must happen when a fault hits a step of a task's life, and which tests show it.

A test is named by its place, `tests/db/test_races.py::test_…`; `faults:KIND` stands for the random schedules with that
fault, which `make faults` runs over real processes and the checker judges.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

STEPS: Final[Mapping[str, str]] = {
    "V": "validate",
    "I": "insert",
    "P": "publish",
    "C": "confirm",
    "D": "deliver",
    "L": "claim",
    "R": "run",
    "F": "finish",
    "A": "acknowledge",
    "Y": "retry",
    "X": "dead letter",
    "Z": "reap",
}
UNTOUCHED: Final = "not affected"

_TRANSITIONS: Final = "tests/db/test_transitions.py::test_"
_RACES: Final = "tests/db/test_races.py::test_"
_UPKEEP: Final = "tests/db/test_upkeep.py::test_"
_LIFE: Final = "tests/system/test_life.py::test_"
_DOUBT: Final = "tests/faults/test_doubt.py::test_"
_BROKER: Final = "tests/broker/test_"
_WILD: Final = "tests/faults/test_wild_handlers.py::test_"
_API: Final = "tests/api/test_"
_OPERATOR: Final = "tests/operator/test_"

WALK: Final = "tests/faults/test_failpoints.py::test_nothing_is_lost_at_any_step"
DUPLICATE: Final = f"{_TRANSITIONS}a_delivery_that_comes_again_claims_nothing"
FENCE: Final = f"{_TRANSITIONS}only_the_holder_of_worker_and_attempt_may_finish"
GRACE: Final = f"{_TRANSITIONS}a_retry_waits_for_its_delay_and_the_relay_for_the_grace"
MISSING_LETTER: Final = f"{_UPKEEP}a_missing_dead_letter_is_published_once"
REAPED_ONCE: Final = f"{_UPKEEP}two_reapers_take_each_task_back_once"


@dataclass(frozen=True, slots=True, kw_only=True)
class Cells:
    """Some steps that a fault meets in the same way.

    Attributes:
        steps: their letters.
        answer: what must happen.
        tests: what shows it.
    """

    steps: str
    answer: str
    tests: tuple[str, ...]


def _cells(steps: str, answer: str, *tests: str) -> Cells:
    return Cells(steps=steps, answer=answer, tests=tests)


MATRIX: Final[Mapping[str, tuple[Cells, ...]]] = {
    "kill -9 of the actor": (
        _cells(
            "VI",
            "outcome unknown: a retry with the same key resolves it",
            WALK,
            "faults:kill",
            f"{_DOUBT}a_task_whose_storing_got_no_answer_is_in_doubt",
        ),
        _cells(
            "PC",
            "stays in the outbox, the relay publishes",
            WALK,
            "faults:kill",
            f"{_UPKEEP}two_relays_never_pick_the_same_task",
        ),
        _cells("DL", "delivered again", WALK, "faults:kill", f"{_RACES}a_claim_storm_runs_every_task_exactly_once"),
        _cells(
            "R",
            "lease expires, runs again",
            f"{_LIFE}a_task_whose_worker_is_killed_runs_again_and_succeeds",
            WALK,
            "faults:kill",
        ),
        _cells("F", "recorded once, or runs again", FENCE, WALK, "faults:kill"),
        _cells("A", "delivered again and dropped", DUPLICATE, WALK, "faults:kill"),
        _cells("Y", "the relay publishes after the grace", GRACE, WALK, "faults:kill"),
        _cells("X", "the relay publishes the copy", MISSING_LETTER, WALK, "faults:kill"),
        _cells("Z", "another reaper takes the tasks back", REAPED_ONCE, WALK, "faults:kill"),
    ),
    "SIGTERM of the actor": (
        _cells("VIPC", "open requests are answered", "faults:term"),
        _cells(
            "DL",
            "stops, requeues, claims nothing new",
            "tests/broker/test_consumer.py::test_draining_gives_every_delivery_back_at_once",
            "faults:term",
        ),
        _cells(
            "RFA",
            "ends within its grace, recorded, exit 0",
            f"{_LIFE}a_worker_that_is_told_to_stop_ends_what_it_runs_and_exits_with_0",
            "faults:term",
        ),
        _cells(
            "YXZ",
            "published by the process or by the relay",
            f"{_TRANSITIONS}a_drained_last_attempt_gives_the_task_one_more",
            "faults:term",
        ),
    ),
    "broker restart": (
        _cells("VI", UNTOUCHED, f"{_LIFE}in_accept_mode_a_task_waits_for_the_broker", "faults:broker-restart"),
        _cells(
            "PC",
            "refused and taken back, or left to the relay",
            f"{_LIFE}without_a_broker_nothing_is_accepted_and_nothing_is_left",
            f"{_API}broker_outages.py::test_while_the_broker_is_stopped_one_refuses_and_one_keeps",
            f"{_BROKER}link.py::test_links_come_back_by_themselves_and_nothing_confirmed_is_lost",
            "faults:broker-restart",
            "faults:broker-kill",
        ),
        _cells(
            "DLA", "delivered again, dropped by its claim", DUPLICATE, "faults:broker-restart", "faults:broker-kill"
        ),
        _cells("RF", UNTOUCHED, "faults:broker-restart", "faults:broker-kill"),
        _cells("Y", "the relay publishes", GRACE, "faults:broker-kill"),
        _cells("X", "the relay publishes the copy", MISSING_LETTER, "faults:broker-kill"),
        _cells("Z", "the relay publishes", "faults:broker-kill"),
    ),
    "broker partition or slow broker": (
        _cells("VI", UNTOUCHED, "faults:net-latency"),
        _cells(
            "PC",
            "bounded: refused, or left to the relay",
            f"{_DOUBT}a_publisher_whose_connection_is_dead_gets_a_new_one_long_before_the_heartbeat",
            f"{_BROKER}link.py::test_a_broker_that_does_not_answer_holds_nobody_up",
            f"{_API}broker_outages.py::test_a_broker_that_is_frozen_is_waited_for_no_longer_than_the_publish_timeout",
            "faults:net-blackhole",
            "faults:net-half-close",
            "faults:broker-freeze",
        ),
        _cells("DLA", "delivered again, dropped by its claim", DUPLICATE, "faults:net-half-close", "faults:net-reset"),
        _cells("RF", UNTOUCHED, "faults:net-blackhole", "faults:broker-freeze"),
        _cells("YXZ", "the relay publishes", GRACE, MISSING_LETTER, "faults:net-blackhole", "faults:net-drip"),
    ),
    "memory or disk alarm": (
        _cells(
            "VI",
            "refused with 503 before anything is stored",
            f"{_API}broker_outages.py::test_a_broker_short_of_memory_is_told_apart_and_recovers",
            "faults:broker-alarm",
        ),
        _cells(
            "PC",
            "refused and taken back, or left to the relay",
            f"{_BROKER}link.py::test_a_blocked_publisher_is_refused_in_time_while_consuming_goes_on",
            "faults:broker-alarm",
        ),
        _cells("DLRFA", "not affected: consuming has a separate connection", "faults:broker-alarm"),
        _cells("YXZ", "the relay publishes when the alarm is over", "faults:broker-alarm"),
    ),
    "queue overflow": (
        _cells(
            "IPC",
            "refused by the broker: taken back and 503",
            f"{_DOUBT}a_task_that_the_broker_refused_and_that_was_taken_back_is_in_no_doubt",
            f"{_BROKER}publisher.py::test_a_full_queue_refuses_and_goes_on_once_there_is_room",
            f"{_API}broker_outages.py::test_a_full_queue_refuses_and_leaves_nothing",
            "faults:broker-overflow",
        ),
        _cells(
            "YXZ",
            "refused by the broker: the relay tries again, nothing is dropped",
            f"{_BROKER}publisher.py::test_a_queue_that_nobody_consumes_takes_messages_again_once_its_limit_is_gone",
            f"{_UPKEEP}a_dead_letter_that_the_broker_refused_stays_due",
            "faults:broker-overflow",
        ),
    ),
    "queue deleted, vhost wiped": (
        _cells(
            "PC",
            "declared again, or returned: taken back or left to the relay",
            f"{_LIFE}a_queue_deleted_by_hand_comes_back_without_a_restart",
            f"{_BROKER}publisher.py::test_a_queue_deleted_by_hand_is_mended_by_the_publish_that_finds_it_missing",
            f"{_API}broker_outages.py::test_a_queue_or_exchange_deleted_by_hand_is_declared_again_by_the_next_task",
            "faults:broker-queue-deleted",
            "faults:broker-wiped",
        ),
        _cells(
            "DLYX",
            "lost messages are published again, dead letters too",
            f"{_UPKEEP}the_copies_that_a_lost_queue_held_are_due_again",
            f"{_TRANSITIONS}tasks_that_the_broker_lost_are_published_again",
            f"{_TRANSITIONS}a_lost_retry_keeps_its_due_time",
            "faults:broker-wiped",
        ),
    ),
    "database restart": (
        _cells(
            "VI",
            "503, or `OutcomeUnknown`",
            f"{_DOUBT}a_database_that_cannot_be_reached_leaves_nothing_in_doubt",
            f"{_API}database_outages.py::test_a_stopped_database_makes_the_api_unready_and_not_dead",
            "faults:postgres-restart",
            "faults:net-answers-lost",
        ),
        _cells(
            "PC",
            "published again, dropped by its claim",
            f"{_DOUBT}a_task_whose_undoing_got_no_answer_is_in_doubt_and_never_promised",
            "faults:postgres-restart",
            "faults:postgres-terminated",
        ),
        _cells(
            "DLA",
            "held unacknowledged until the claim is committed",
            "faults:postgres-restart",
            "faults:postgres-terminated",
        ),
        _cells("R", UNTOUCHED, "faults:postgres-restart"),
        _cells("F", "tried again until the lease ends", FENCE, "faults:postgres-restart", "faults:postgres-freeze"),
        _cells("YXZ", "tried again by the loops", REAPED_ONCE, "faults:postgres-restart"),
    ),
    "database failover, read-only": (
        _cells(
            "VIPC",
            "503; connections are reopened",
            f"{_API}database_outages.py::test_a_database_that_became_read_only_is_unhealthy_and_is_left_when_it_is_over",
            "faults:postgres-read-only",
        ),
        _cells("DLA", "held unacknowledged until the claim is committed", "faults:postgres-read-only"),
        _cells("FYXZ", "tried again, fenced", FENCE, "faults:postgres-read-only"),
    ),
    "serialization failure, deadlock": (
        _cells(
            "VIPC",
            "cannot come: batches lock their rows in one order",
            f"{_RACES}batches_with_the_same_keys_in_another_order_never_deadlock",
        ),
        _cells(
            "LFYXZ",
            "cannot come: batches lock their rows in one order",
            f"{_RACES}parallel_storms_on_the_same_rows_never_deadlock",
        ),
    ),
    "pool exhausted, too few connections": (
        _cells(
            "VI",
            "503 in time",
            f"{_API}database_outages.py::test_an_exhausted_pool_is_told_in_time_and_enqueuing_goes_on",
            f"{_API}database_outages.py::test_a_locked_table_is_waited_for_no_longer_than_the_lock_timeout",
            "faults:postgres-limited",
            "faults:postgres-locked",
        ),
        _cells("PCDLYX", "tried again", "faults:postgres-limited", "faults:postgres-locked"),
        _cells("F", "a connection of its own", "faults:postgres-limited"),
        _cells(
            "Z",
            "a connection of its own",
            f"{_UPKEEP}a_relay_passes_over_a_row_that_is_locked",
            "faults:postgres-limited",
        ),
    ),
    "clock skew of an hour": (
        _cells(
            "VI",
            "the database's clock decides",
            f"{_API}enqueue.py::test_a_time_in_the_past_means_at_once",
            "faults:clock",
        ),
        _cells(
            "LFYZ",
            "the database's clock decides",
            f"{_TRANSITIONS}a_message_that_is_a_little_early_is_claimed",
            "faults:clock",
        ),
        _cells(
            "R",
            "timeouts use the monotonic clock",
            "tests/faults/test_clock.py::test_a_wrong_clock_moves_the_wall_and_leaves_the_monotonic_time_of_time_outs",
            "faults:clock",
        ),
    ),
    "duplicate delivery": (
        _cells(
            "I",
            "the key decides",
            f"{_API}idempotency.py::test_many_at_once_with_one_key_make_one_task",
            f"{_RACES}many_posts_with_one_key_and_body_get_one_id",
        ),
        _cells(
            "DLA",
            "claims nothing, is acknowledged",
            DUPLICATE,
            f"{_RACES}one_of_two_workers_that_claim_the_same_task_wins",
        ),
        _cells("F", "fenced", FENCE),
        _cells("Y", "one row in the outbox", f"{_TRANSITIONS}a_relay_holds_what_it_picked"),
        _cells(
            "X", "one dead letter is recorded", f"{_TRANSITIONS}a_dead_letter_is_noted_once_and_only_for_its_failure"
        ),
        _cells("Z", "taken back once", REAPED_ONCE),
    ),
    "poison message": (
        _cells(
            "DL",
            "acknowledged and counted, never requeued",
            "tests/system/test_poison.py::test_a_message_that_nobody_can_run_is_dropped_and_holds_up_nobody",
            f"{_TRANSITIONS}a_delivery_of_a_terminal_task_claims_nothing",
        ),
        _cells(
            "RFYXZ",
            "fails permanently after three lost workers",
            f"{_UPKEEP}a_task_that_takes_its_workers_down_fails_for_good",
        ),
    ),
    "handler hangs": (
        _cells("RFYX", "ended at its timeout", f"{_WILD}a_handler_that_hangs_is_given_up_at_its_time_out"),
        _cells("Z", "lease expires; a late result is fenced", FENCE, "faults:freeze"),
    ),
    "handler out of memory, segmentation fault": (
        _cells(
            "L",
            "the attempt is counted before it runs",
            f"{_TRANSITIONS}a_claim_counts_the_attempt_and_clears_the_outbox",
        ),
        _cells(
            "R",
            "the child dies, the worker continues",
            f"{_WILD}a_handler_that_takes_its_process_down_has_failed_and_the_next_one_runs",
        ),
        _cells(
            "FYXZ",
            "counted, at most three times",
            f"{_UPKEEP}a_task_that_takes_its_workers_down_fails_for_good",
        ),
    ),
    "huge payload or result": (
        _cells(
            "V",
            "413",
            f"{_API}enqueue.py::test_a_body_of_one_byte_more_is_refused",
            f"{_API}framing.py::test_a_body_in_chunks_may_be_of_the_largest_size_and_not_a_byte_more",
        ),
        _cells(
            "I",
            "one invalid row does not refuse the others",
            f"{_API}enqueue.py::test_a_row_that_postgres_cannot_hold_does_not_refuse_its_neighbours",
        ),
        _cells("F", "fails permanently", f"{_WILD}a_result_that_is_too_large_fails_for_good"),
    ),
    "TaskType deleted or switched off": (
        _cells(
            "VI",
            "refused",
            f"{_API}enqueue.py::test_a_type_that_is_deleted_while_its_task_is_stored_is_refused",
            f"{_API}enqueue.py::test_a_type_that_is_switched_off_behind_the_cache_is_refused",
        ),
        _cells(
            "PCLRFYXZ",
            "what is stored runs on: the row keeps its type",
            f"{_TRANSITIONS}a_type_that_tasks_refer_to_cannot_be_dropped",
        ),
    ),
    "QueueSet changed or gone": (
        _cells(
            "VI",
            "refused, or routed by the new QueueSet",
            f"{_API}enqueue.py::test_a_type_whose_queue_set_is_not_declared_is_refused",
        ),
        _cells(
            "PCDLYX",
            "stored tasks still run",
            f"{_TRANSITIONS}tasks_of_a_set_that_is_gone_still_run",
            f"{_TRANSITIONS}a_paused_set_hands_out_nothing_and_loses_nothing",
        ),
    ),
    "operator down or killed": (
        _cells(
            "VIPCDLRFAYXZ",
            "not affected: the data plane reads only Postgres; the next operator resumes the work",
            f"{_OPERATOR}processes.py::test_work_goes_on_without_operator_and_without_api_server",
            f"{_OPERATOR}processes.py::test_killed_while_things_appear",
            f"{_OPERATOR}processes.py::test_killed_while_things_go",
        ),
    ),
    "Kubernetes API down": (
        _cells(
            "V",
            "cached callers are accepted while their review is cached, others get 503",
            "tests/auth/test_token_review.py"
            "::test_while_the_api_server_is_away_who_is_known_goes_on_and_others_come_back_later",
        ),
        _cells(
            "IPCDLRFAYXZ",
            "not affected; the operator waits, then catches up",
            f"{_OPERATOR}processes.py::test_work_goes_on_without_operator_and_without_api_server",
            f"{_OPERATOR}api_server.py::test_the_api_server_itself_stops_and_comes_back",
        ),
    ),
    "resource deleted while a backend is down": (
        _cells(
            "VI",
            "refused once the backend is back",
            f"{_OPERATOR}deletion.py::test_a_deleted_task_type_is_deactivated_and_its_name_is_free",
        ),
        _cells(
            "PRFX",
            "what is stored runs on: the row keeps its type",
            f"{_TRANSITIONS}a_type_that_tasks_refer_to_cannot_be_dropped",
        ),
        _cells(
            "Z",
            "the finalizer waits for the backend, for a bounded time",
            f"{_OPERATOR}deletion.py::test_a_deletion_waits_for_a_backend_and_ends_once_it_is_back",
            f"{_OPERATOR}deletion.py::test_a_deletion_gives_up_on_a_backend_and_says_so",
        ),
    ),
}
"""Every cell that a fault may touch; what is not named is untouched by it."""


def tests() -> Iterator[str]:
    """Yield every test that is named, once."""
    yield from dict.fromkeys(test for row in MATRIX.values() for cells in row for test in cells.tests)
