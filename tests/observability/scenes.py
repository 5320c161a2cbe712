"""One scene for each alert: series in which it fires, and almost the same series in which it must not.

Series are promtool's: `0+1x60` starts at 0 and adds 1 at each of 60 steps of half a minute. Scenes last half an hour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

STEPS: Final = 80
"""Steps of half a minute: longer than any `for` below and the look at the end."""
Series = Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """When an alert fires and when not, after `minutes`."""

    fires: Series
    quiet: Series
    minutes: int = 30
    alerts: int = 1


def at(value: float) -> str:
    """Stay at a value."""
    return f"{value:g}x{STEPS}" if value < 0 else f"{value:g}+0x{STEPS}"


def rising(step: float, first: float = 0) -> str:
    """Grow by `step` every half minute."""
    return f"{first:g}+{step:g}x{STEPS}"


LOOP: Final = 'dq_loop_last_success_timestamp_seconds{loop="%s"}'
ANSWERS: Final = 'dq_http_responses_total{route="%s",code="%s"}'
FINISHED: Final = 'dq_tasks_finished_total{type="a.v1",outcome="%s"}'
LATENCY: Final = 'dq_enqueue_latency_seconds_bucket{type="a.v1",queue="default",le="%s"}'
RECENT: Final = rising(30)
"""A timestamp that keeps up with the clock."""
LONG_AGO: Final = at(0)

SCENES: Final[Mapping[str, Scene]] = {
    "DtqApiAbsent": Scene(fires={LOOP % "reaper": RECENT}, quiet={LOOP % "relay": RECENT}),
    "DtqApiErrors": Scene(
        fires={ANSWERS % ("enqueue", "201"): rising(9), ANSWERS % ("enqueue", "503"): rising(1)},
        quiet={
            ANSWERS % ("enqueue", "201"): rising(99),
            ANSWERS % ("enqueue", "503"): rising(1),
            ANSWERS % ("readyz", "503"): rising(500),
        },
    ),
    "DtqApiBug": Scene(
        fires={ANSWERS % ("enqueue", "500"): f"0x50 1x{STEPS}"}, quiet={ANSWERS % ("enqueue", "503"): rising(1)}
    ),
    "DtqEnqueueSlow": Scene(
        fires={LATENCY % "1": rising(90), LATENCY % "2.5": rising(100), LATENCY % "+Inf": rising(100)},
        quiet={LATENCY % "1": rising(100), LATENCY % "2.5": rising(100), LATENCY % "+Inf": rising(100)},
    ),
    "DtqRelayStalled": Scene(
        fires={LOOP % "relay": LONG_AGO},
        quiet={LOOP % "relay": RECENT, 'dq_loop_last_success_timestamp_seconds{loop="relay",pod="old"}': LONG_AGO},
    ),
    "DtqReaperStalled": Scene(fires={LOOP % "reaper": LONG_AGO}, quiet={LOOP % "reaper": RECENT}),
    "DtqLoopStalled": Scene(
        fires={LOOP % "pruner": LONG_AGO, LOOP % "scheduler": RECENT},
        quiet={LOOP % "pruner": RECENT, LOOP % "relay": LONG_AGO},
    ),
    "DtqLoopBug": Scene(
        fires={'dq_loop_bugs_total{loop="topology"}': f"0x50 1x{STEPS}"},
        quiet={'dq_loop_failures_total{loop="topology"}': rising(1)},
    ),
    "DtqBadCredentials": Scene(
        fires={'dq_auth_refused_total{reason="invalid"}': rising(60)},
        quiet={
            'dq_auth_refused_total{reason="missing"}': rising(60),
            'dq_auth_refused_total{reason="invalid"}': rising(1),
        },
    ),
    "DtqTokenReviewsFail": Scene(
        fires={'dq_token_reviews_total{result="unavailable"}': rising(1)},
        quiet={'dq_token_reviews_total{result="bad"}': rising(1)},
    ),
    "DtqOutboxLag": Scene(fires={"dq_outbox_lag_seconds": at(31)}, quiet={"dq_outbox_lag_seconds": at(29)}),
    "DtqQueueOld": Scene(
        fires={'dq_queue_oldest_seconds{queue_set="default",queue="high"}': at(901)},
        quiet={'dq_queue_oldest_seconds{queue_set="default",queue="high"}': at(899)},
    ),
    "DtqBrokerDisconnected": Scene(
        fires={'dq_broker_connected{purpose="publish"}': at(0)},
        quiet={'dq_broker_connected{purpose="publish"}': f"1x58 0x2 1x{STEPS}"},
    ),
    "DtqQueueSetNotDeclared": Scene(
        fires={
            'dq_queue_set_declared{queue_set="default"}': at(1),
            'dq_queue_set_declared{queue_set="reports",pod="a"}': at(1),
            'dq_queue_set_declared{queue_set="reports",pod="b"}': at(0),
        },
        quiet={
            'dq_queue_set_declared{queue_set="default"}': at(1),
            'dq_queue_set_declared{queue_set="reports"}': "1x51 0x8",
        },
    ),
    "DtqPublishFails": Scene(
        fires={'dq_publish_total{result="ok"}': rising(9), 'dq_publish_total{result="timeout"}': rising(1)},
        quiet={'dq_publish_total{result="ok"}': rising(99), 'dq_publish_total{result="timeout"}': rising(1)},
    ),
    "DtqBrokerLostTasks": Scene(
        fires={"dq_relay_lost_total": f"0x50 3x{STEPS}"}, quiet={"dq_relay_lost_total": f"0x1 3x{STEPS}"}
    ),
    "DtqDeadLettersStuck": Scene(
        fires={"dq_dead_letters_due": at(1)}, quiet={"dq_dead_letters_due": f"1x29 0x1 1x{STEPS}"}, minutes=25
    ),
    "DtqFailedTasksWait": Scene(
        fires={"dq_tasks_failed": "1001x400"}, quiet={"dq_tasks_failed": "1000x400"}, minutes=90
    ),
    "DtqNoWorkers": Scene(
        fires={
            'dq_queue_waiting_tasks{queue_set="default",queue="high"}': at(3),
            'dq_workers{state="alive"}': at(0),
        },
        quiet={
            'dq_queue_waiting_tasks{queue_set="default",queue="high"}': at(3),
            'dq_workers{state="alive",pod="a"}': at(0),
            'dq_workers{state="alive",pod="b"}': at(1),
        },
    ),
    "DtqWorkersLost": Scene(
        fires={'dq_reaped_total{status="ENQUEUED"}': f"0x50 2x{STEPS}"},
        quiet={'dq_reaped_total{status="ENQUEUED"}': at(2)},
    ),
    "DtqExpiredWorkersHoldTasks": Scene(
        fires={'dq_workers{state="expired"}': at(1)}, quiet={'dq_workers{state="alive"}': at(1)}
    ),
    "DtqLeasesLost": Scene(fires={"dq_leases_lost_total": f"0x50 1x{STEPS}"}, quiet={"dq_leases_lost_total": at(1)}),
    "DtqStaleFinishes": Scene(
        fires={"dq_stale_finishes_total": f"0x50 1x{STEPS}"}, quiet={"dq_stale_finishes_total": at(1)}
    ),
    "DtqTypeFails": Scene(
        fires={FINISHED % "succeeded": rising(4), FINISHED % "failed": rising(3), FINISHED % "timed_out": rising(3)},
        quiet={FINISHED % "succeeded": rising(6), FINISHED % "failed": rising(4), FINISHED % "cancelled": rising(9)},
    ),
    "DtqDeadLetters": Scene(
        fires={'dq_dead_letters_total{type="a.v1"}': rising(1)},
        quiet={'dq_dead_letters_total{type="a.v1"}': f"0x40 5x{STEPS}", 'dq_dead_letters_total{type="b.v1"}': at(99)},
    ),
    "DtqEventLoopBlocked": Scene(
        fires={'dq_event_loop_lag_seconds{instance="w"}': at(1.5)},
        quiet={'dq_event_loop_lag_seconds{instance="w"}': at(0.5)},
    ),
    "DtqOperatorBackendDown": Scene(
        fires={
            'dq_operator_backend_up{backend="postgres"}': at(0),
            'dq_operator_backend_up{backend="rabbitmq"}': at(1),
        },
        quiet={
            'dq_operator_backend_up{backend="postgres"}': at(1),
            'dq_operator_backend_up{backend="rabbitmq"}': at(1),
        },
    ),
    "DtqOperatorSweepOld": Scene(
        fires={"dq_operator_last_sweep_timestamp_seconds": LONG_AGO},
        quiet={"dq_operator_last_sweep_timestamp_seconds": RECENT},
    ),
    "DtqOperatorQueueStuck": Scene(
        fires={"dq_operator_workqueue_oldest_seconds": at(301)},
        quiet={"dq_operator_workqueue_oldest_seconds": at(299)},
    ),
    "DtqTypesNotServed": Scene(
        fires={'dq_operator_task_types_unserved{reason="NoHandler"}': at(2)},
        quiet={
            'dq_operator_task_types_unserved{reason="NoHandler"}': at(0),
            'dq_operator_task_types_unserved{reason="QueueNotConsumed"}': at(0),
        },
    ),
    "DtqResourcesNotReady": Scene(
        fires={'dq_operator_objects{kind="TaskType",ready="false"}': at(2)},
        quiet={
            'dq_operator_objects{kind="TaskType",ready="true"}': at(2),
            'dq_operator_objects{kind="TaskType",ready="false"}': at(0),
        },
    ),
    "DtqDriftKeepsComing": Scene(
        fires={'dq_operator_drift_repairs_total{kind="TaskType"}': rising(1)},
        quiet={'dq_operator_drift_repairs_total{kind="TaskType"}': f"0x20 3x{STEPS}"},
    ),
}
