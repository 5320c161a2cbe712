"""`dtq apply`, `get` and `delete`: what is printed, what is done, and that a dry run does nothing."""

import json

import asyncpg
import pytest

from tests.cli.conftest import Dtq
from tests.support.addresses import BrokerVhost

SET = """
apiVersion: dtq.dev/v1alpha1
kind: QueueSet
metadata: {name: default}
spec:
  queues: [{name: default}]
  retry: {delaysSeconds: [5]}
  deletionPolicy: DeleteIfEmpty
"""
TYPE = """
---
apiVersion: dtq.dev/v1alpha1
kind: TaskType
metadata: {name: report.build.v1}
spec:
  concurrency: {limit: 2, key: customer.id}
  rateLimit: {tasks: 10, perSeconds: 60}
  deletionPolicy: Delete
"""
QUEUES = {"tasks.default", "tasks.retry.default.5s", "tasks.dlq"}


def queues(vhost: BrokerVhost) -> set[str]:
    """Return the names of the queues that the broker has."""
    return {queue["name"] for queue in vhost.management.call("GET", f"/api/queues/{vhost.vhost}")}


async def test_a_dry_run_prints_the_plan_and_changes_nothing(dtq: Dtq, broker_vhost: BrokerVhost) -> None:
    done = await dtq("apply", "--dry-run", "-f", "-", stdin=SET)
    assert done.code == 0, done.err
    assert done.out.splitlines()[0] == "queueset/default: would claim default"
    assert all("would " in line for line in done.out.splitlines())
    assert queues(broker_vhost) == set()
    shown = await dtq("get", "qs")
    assert (shown.code, shown.out) == (3, "")
    assert "use `dtq apply -f FILE`" in shown.err


async def test_what_is_applied_is_there_and_a_second_time_changes_nothing(dtq: Dtq, broker_vhost: BrokerVhost) -> None:
    manifests = dtq.write("both.yaml", TYPE + "---" + SET)
    done = await dtq("apply", "-f", manifests)
    assert done.code == 0, done.err
    assert "queueset/default: create default" in done.out, "queue sets go first, wherever they stand"
    assert done.out.index("queueset/default") < done.out.index("tasktype/report.build.v1: create")
    assert queues(broker_vhost) == QUEUES
    again = await dtq("apply", "-f", manifests)
    assert again.out.splitlines() == ["queueset/default: unchanged", "tasktype/report.build.v1: unchanged"]
    table = await dtq("get", "tt")
    assert table.out.splitlines()[0].split() == ["NAME", "QUEUESET", "QUEUE", "ATTEMPTS", "TIMEOUT", "ACTIVE"]
    assert table.out.splitlines()[1].split() == ["report.build.v1", "default", "default", "5", "300s", "yes"]
    (row,) = json.loads((await dtq("get", "tasktypes", "report.build.v1", "-o", "json")).out)
    assert row["concurrency"] == {"limit": 2, "key": "customer.id"}
    assert row["rate_limit"] == {"tasks": 10, "perSeconds": 60}
    assert (await dtq("get", "tt", "-o", "name")).out == "report.build.v1\n"


async def test_an_edit_says_which_fields_it_changes(dtq: Dtq) -> None:
    both = SET + TYPE
    assert (await dtq("apply", "-f", "-", stdin=both)).code == 0
    edited = await dtq("apply", "-f", "-", stdin=both.replace("limit: 2", "limit: 3"))
    assert edited.out.splitlines()[1] == "tasktype/report.build.v1: update report.build.v1 (concurrency)"


async def test_a_set_that_rabbitmq_refuses_leaves_no_rows(dtq: Dtq, broker_vhost: BrokerVhost) -> None:
    permit(broker_vhost, r"^tasks\..*")
    reports = SET.replace("name: default}", "name: reports}", 1).replace("spec:", "spec:\n  namespace: reports")
    refused = await dtq("apply", "-f", "-", stdin=reports)
    assert refused.code == 2, refused.out
    assert "grant configure" in refused.err
    assert (await dtq("get", "qs")).code == 3, "what RabbitMQ refuses is not in force"
    assert (await dtq("apply", "-f", "-", stdin=SET)).code == 0
    permit(broker_vhost, ".*")
    assert (await dtq("apply", "-f", "-", stdin=reports)).code == 0
    assert (await dtq("get", "qs", "-o", "name")).out.split() == ["default", "reports"]


async def test_an_edit_that_rabbitmq_refuses_leaves_the_former_spec_in_force(
    dtq: Dtq, broker_vhost: BrokerVhost
) -> None:
    assert (await dtq("apply", "-f", "-", stdin=SET)).code == 0
    permit(broker_vhost, r"^tasks\.(direct|dlx|dlq|default|retry\.default.*)$")
    more = SET.replace("[{name: default}]", "[{name: default}, {name: low}]")
    refused = await dtq("apply", "-f", "-", stdin=more)
    assert refused.code == 2, refused.out
    assert "'tasks.low'" in refused.err
    (row,) = json.loads((await dtq("get", "qs", "-o", "json")).out)
    assert [queue["name"] for queue in row["queues"]] == ["default"]


async def test_a_queue_with_waiting_tasks_is_removed_only_with_a_place_for_them(dtq: Dtq, dsn: str) -> None:
    two = SET.replace("[{name: default}]", "[{name: default}, {name: low}]")
    assert (await dtq("apply", "-f", "-", stdin=two + TYPE)).code == 0
    connection = await asyncpg.connect(dsn)
    await connection.execute(
        "INSERT INTO tasks (id, type, queue, status, payload, needs_publish, publish_at)"
        " VALUES (gen_random_uuid(), 'report.build.v1', 'low', 'ENQUEUED', '{}', true, now())"
    )
    await connection.close()
    refused = await dtq("apply", "-f", "-", stdin=SET)
    assert refused.code == 4
    assert "InUse: tasks wait in queues that the manifest removes: low (1)" in refused.err
    deleted = await dtq("delete", "-f", "-", stdin=two)
    assert deleted.code == 4
    moving = SET + "  onRemoval: {policy: MoveTo, queue: default}\n"
    done = await dtq("apply", "-f", "-", stdin=moving)
    assert done.code == 0, done.err
    (row,) = json.loads((await dtq("get", "qs", "-o", "json")).out)
    assert ([queue["name"] for queue in row["queues"]], row["removal_queue"]) == (["default"], "default")


def permit(vhost: BrokerVhost, configure: str) -> None:
    """Change what our user may declare."""
    rights = {"configure": configure, "write": ".*", "read": ".*"}
    vhost.management.call("PUT", f"/api/permissions/{vhost.vhost}/{vhost.user}", rights)


async def test_delete_follows_each_policy_and_is_safe_to_repeat(dtq: Dtq, broker_vhost: BrokerVhost) -> None:
    both = SET + TYPE
    assert (await dtq("apply", "-f", "-", stdin=both)).code == 0
    tried = await dtq("delete", "--dry-run", "-f", "-", stdin=TYPE)
    assert (tried.code, tried.out.splitlines()[0]) == (0, "tasktype/report.build.v1: would delete report.build.v1")
    assert (await dtq("get", "tt", "report.build.v1")).code == 0
    done = await dtq("delete", "-f", "-", stdin=both)
    assert done.code == 0, done.err
    assert done.out.index("tasktype/") < done.out.index("queueset/"), "task types go before what they refer to"
    assert queues(broker_vhost) == set()
    again = await dtq("delete", "-f", "-", stdin=both)
    assert (again.code, set(again.out.splitlines())) == (
        0,
        {
            "tasktype/report.build.v1: not declared by dtq apply: nothing to do",
            "queueset/default: not declared by dtq apply: nothing to do",
        },
    )


async def test_a_type_whose_queue_set_is_missing_is_refused_and_not_stored(dtq: Dtq) -> None:
    done = await dtq("apply", "-f", "-", stdin=TYPE)
    assert done.code == 4
    assert "tasktype/report.build.v1: refused: QueueSetNotFound" in done.err
    assert (await dtq("get", "tt")).code == 3


async def test_a_folder_is_read_whole(dtq: Dtq) -> None:
    dtq.write("all/b.yaml", SET)
    dtq.write("all/a.yml", TYPE)
    dtq.write("all/notes.txt", "{")
    assert (await dtq("apply", "-f", "all")).code == 0


async def test_if_absent_makes_what_is_missing_and_leaves_the_rest_as_it_is(dtq: Dtq) -> None:
    both = SET + TYPE
    made = await dtq("apply", "--if-absent", "-f", "-", stdin=both)
    assert made.code == 0, made.err
    assert "tasktype/report.build.v1: create report.build.v1" in made.out
    assert (await dtq("apply", "-f", "-", stdin=both.replace("limit: 2", "limit: 3"))).code == 0
    # The first would reset what was applied since, and the second would be refused.
    other = both.replace("name: default}]", "name: default, type: Classic}]")
    assert (await dtq("apply", "--dry-run", "-f", "-", stdin=other)).code == 4
    kept = await dtq("apply", "--if-absent", "-f", "-", stdin=other)
    assert (kept.code, kept.err) == (0, "")
    assert kept.out.splitlines() == [
        "queueset/default: already declared, kept unchanged",
        "tasktype/report.build.v1: already declared, kept unchanged",
    ]
    (row,) = json.loads((await dtq("get", "tasktypes", "-o", "json")).out)
    assert row["concurrency"]["limit"] == 3


WRONG = {
    "no yaml": ("{", "not valid YAML"),
    "a scalar": ("just words", "document 2: is not an object"),
    "another kind": ("{apiVersion: v1, kind: Secret, metadata: {name: x}}", "Secret/x: is v1 Secret; dtq supports"),
    "another version": (TYPE.replace("v1alpha1", "v9"), "is dtq.dev/v9 TaskType"),
    "a misspelt field": (TYPE.replace("rateLimit", "rateLimits"), "unknown field: remove it, or correct its spelling"),
    "a vhost of its own": (SET + "  vhost: others\n", "spec.vhost: unknown field"),
    "a number as text": (TYPE.replace("limit: 2", 'limit: "2"'), "spec.concurrency.limit"),
    "a boolean as text": (TYPE + '  active: "TRUE"\n', "spec.active"),
    "below a bound": (TYPE.replace("perSeconds: 60", "perSeconds: 0"), "spec.rateLimit.perSeconds"),
    "a key path": (TYPE.replace("customer.id", "customer..id"), "spec.concurrency.key"),
    "a key given twice": (TYPE + "  queue: a\n  queue: b\n", "'queue' is given twice"),
    "an alias": ("a: &a [1]\nb: *a\n", "aliases are not allowed"),
    "an object of python": ("!!python/object/apply:os.getcwd []", "is not an object"),
    "a bad name": (TYPE.replace("report.build.v1", "Report"), "Report"),
}


@pytest.mark.parametrize("wrong", WRONG)
async def test_a_wrong_manifest_is_refused_whole(dtq: Dtq, broker_vhost: BrokerVhost, wrong: str) -> None:
    text, message = WRONG[wrong]
    done = await dtq("apply", "-f", "-", stdin=SET + "\n---\n" + text)
    assert done.code == 2, done.out
    assert message in done.err
    assert "Traceback" not in done.err
    assert queues(broker_vhost) == set(), "one wrong document keeps the others from being applied"


async def test_a_file_that_cannot_be_read_is_named(dtq_alone: Dtq) -> None:
    done = await dtq_alone("apply", "-f", "nowhere.yaml")
    assert (done.code, done.out) == (2, "")
    assert "cannot read nowhere.yaml" in done.err


async def test_a_kind_or_output_that_is_not_known_shows_the_usage(dtq_alone: Dtq) -> None:
    for args in (("get", "pods"), ("get", "tt", "-o", "yml")):
        done = await dtq_alone(*args)
        assert done.code == 2
        assert "dtq get tasktypes|queuesets" in done.err
