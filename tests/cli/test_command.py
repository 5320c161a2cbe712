"""The command itself: help, exit codes, settings, and that no error shows a stack trace or a secret."""

import pytest

from tests.cli.conftest import Dtq

COMMANDS = ("api", "worker", "operator", "migrate", "config", "apply", "delete", "get", "version")


async def test_help_names_every_command(dtq_alone: Dtq) -> None:
    done = await dtq_alone("--help")
    assert done.code == 0
    for command in COMMANDS:
        assert f" {command} " in done.out


@pytest.mark.parametrize("command", COMMANDS)
async def test_each_command_explains_itself_without_any_setting(dtq_alone: Dtq, command: str) -> None:
    done = await dtq_alone(command, "--help", environ={})
    assert (done.code, done.err) == (0, "")
    assert "Usage: " in done.out


async def test_the_version_is_the_distributions(dtq_alone: Dtq) -> None:
    assert (await dtq_alone("version", environ={})).out.startswith("dtq 0.")


@pytest.mark.parametrize("command", ["api", "worker", "operator", "migrate", "config"])
async def test_every_mistake_of_the_environment_is_told_at_once(dtq_alone: Dtq, command: str) -> None:
    wrong = {"DB_DSN": "mysql://u:hunter2@h/d", "RMQ_PORT": "", "WORKER_PREFETCH": "0", "BACKOFFS": "∞"}
    done = await dtq_alone(command, environ=wrong)
    assert done.code == 2
    for name in ("DB_DSN", "RMQ_PORT", "WORKER_PREFETCH", "BACKOFFS"):
        assert f"  {name}: " in done.err
    # Migrations need no RabbitMQ; whatever is set must be right all the same.
    for name in ("RMQ_USER", "RMQ_PASS", "RMQ_HOST"):
        assert (f"  {name}: " in done.err) == (command != "migrate")
    assert "hunter2" not in done.err + done.out
    assert "Traceback" not in done.err


async def test_a_misspelt_setting_is_a_warning(dtq_alone: Dtq) -> None:
    done = await dtq_alone("config", environ=dtq_alone.environ | {"DTQ_RESYNC": "60s"})
    assert done.code == 0
    assert "dtq: warning: DTQ_RESYNC is set, but no setting has that name" in done.err


async def test_config_shows_what_is_in_force_with_secrets_masked(dtq_alone: Dtq) -> None:
    done = await dtq_alone("config")
    assert done.code == 0
    assert "DB_DSN=postgresql://dtq:********@127.0.0.1:9/dtq" in done.out
    assert "RMQ_PASS=********" in done.out
    assert "BACKOFFS=5s,30s,120s,600s,3600s" in done.out
    assert "hunter2" not in done.out


@pytest.mark.parametrize("args", [("migrate",), ("migrate", "--status"), ("get", "tt"), ("apply", "-f", "-")])
async def test_a_database_that_does_not_answer_is_said_in_one_line(dtq_alone: Dtq, args: tuple[str, ...]) -> None:
    manifest = "{apiVersion: dtq.dev/v1alpha1, kind: TaskType, metadata: {name: a.v1}}"
    done = await dtq_alone(*args, stdin=manifest)
    assert done.code == 5
    assert done.err.startswith("dtq: Postgres does not answer")
    assert "hunter2" not in done.err
    assert "Traceback" not in done.err


async def test_a_broker_that_does_not_answer_leaves_nothing_half_done(dtq: Dtq) -> None:
    manifest = (
        "{apiVersion: dtq.dev/v1alpha1, kind: QueueSet, metadata: {name: default}, spec: {queues: [{name: default}]}}"
    )
    done = await dtq("apply", "-f", "-", stdin=manifest, environ=dtq.environ | {"RMQ_PORT": "9"})
    assert done.code == 5
    assert "RabbitMQ does not answer" in done.err
    assert (await dtq("get", "qs")).code == 3


async def test_migrate_applies_once_and_says_what_is_pending(dtq_alone: Dtq, empty_dsn: str) -> None:
    # Without credentials of RabbitMQ, as in the chart's Job.
    environ = {name: value for name, value in dtq_alone.environ.items() if not name.startswith("RMQ_")}
    environ["DB_DSN"] = empty_dsn
    before = await dtq_alone("migrate", "--status", environ=environ)
    assert {line.split()[0] for line in before.out.splitlines()} == {"pending"}
    applied = await dtq_alone("migrate", environ=environ)
    assert applied.out.splitlines() == [line.replace("pending", "applied") for line in before.out.splitlines()]
    again = await dtq_alone("migrate", environ=environ)
    assert again.out == "nothing to apply: the schema is up to date\n"


HANDLERS = {
    "a module that is not there": ("nowhere.handlers", "nowhere.handlers: cannot be imported: ModuleNotFoundError"),
    "a module without handlers": ("json", "no module has a function with @handler"),
}


@pytest.mark.parametrize("case", HANDLERS)
async def test_a_worker_without_handlers_does_not_start(dtq_alone: Dtq, case: str) -> None:
    modules, message = HANDLERS[case]
    done = await dtq_alone("worker", environ=dtq_alone.environ | {"WORKER_HANDLERS": modules})
    assert done.code == 2
    assert message in done.err


async def test_an_unknown_command_shows_the_usage(dtq_alone: Dtq) -> None:
    done = await dtq_alone("enqueu")
    assert done.code == 2
    assert "No such command" in done.err
